"""The objective and the descent on it: gradients, stationarity, and what interrupts a descent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import make_problem, sample

from ideareg import training
from ideareg._types import Result
from ideareg.losses import loss_value
from ideareg.readout import Batch
from ideareg.training import descend, pack, unpack, value_and_gradient

pytestmark = pytest.mark.usefixtures("double_precision")

RECORDED = {"loss", "data_term", "action", "gradient_norm", "seconds"}


@pytest.fixture(scope="module")
def problem():
    return make_problem()


def test_pack_and_unpack_are_inverse(problem):
    theta = np.random.default_rng(2).normal(size=len(pack(problem.model)))
    np.testing.assert_array_equal(pack(unpack(theta, problem.model)), theta)


def test_parts_add_up(problem):
    theta = pack(make_problem(size=0.5).model)
    args = pack(problem.free), problem.model, problem.rows, "evidence"
    value, _, parts = value_and_gradient(theta + 0.1, *args)
    np.testing.assert_allclose(value, sum(parts), rtol=1e-14)
    assert all(part > 0 for part in parts[1:])


@pytest.mark.parametrize(
    "head, integrator",
    [
        ("exact", "symplectic_euler"),
        ("sparse", "implicit_midpoint"),
        pytest.param("sparse", "symplectic_euler", marks=pytest.mark.slow),
        pytest.param("exact", "rk4", marks=pytest.mark.slow),
        pytest.param("exact", "stormer_verlet", marks=pytest.mark.slow),
        pytest.param("sparse", "leapfrog", marks=pytest.mark.slow),
    ],
)
def test_gradient_matches_finite_differences(head, integrator):
    problem = make_problem(head, integrator, size=0.5)
    theta, free = pack(problem.model), pack(problem.free)
    rng = np.random.default_rng(3)
    theta = theta + 0.1 * rng.normal(size=len(theta))
    args = free, problem.model, problem.rows, problem.loss
    _, gradient, _ = value_and_gradient(theta, *args)
    h = 1e-5
    for _ in range(4):
        direction = rng.normal(size=len(theta))
        ahead, behind = (value_and_gradient(theta + s * direction, *args)[0] for s in (h, -h))
        slope = (ahead - behind) / (2 * h)
        np.testing.assert_allclose(gradient @ direction, slope, rtol=2e-6, atol=1e-6)


def test_what_is_not_free_stays(problem):
    fixed = make_problem(points=problem.model.warp.control_points, learn_head=False)
    descent = descend(fixed, max_iter=5)
    moved = pack(descent.model) != pack(fixed.model)
    np.testing.assert_array_equal(moved, pack(fixed.free) > 0)


def test_descent_descends_and_keeps_books(problem):
    descent = descend(problem, max_iter=12)
    assert descent.history.keys() == RECORDED
    assert {len(values) for values in descent.history.values()} == {descent.iterations}
    loss = descent.history["loss"]
    assert loss == sorted(loss, reverse=True) and loss[-1] < loss[0] - 1
    theta = pack(descent.model)
    value, _, _ = value_and_gradient(
        theta, pack(problem.free), problem.model, problem.rows, problem.loss
    )
    np.testing.assert_allclose(value, loss[-1], rtol=1e-13)
    assert all(isinstance(leaf, np.ndarray | np.generic) for leaf in jax.tree.leaves(descent.model))


def test_iteration_limit_is_reported(problem):
    descent = descend(problem, max_iter=2)
    assert descent.result is Result.max_steps and descent.iterations == 2


def test_two_descents_agree_to_the_last_bit(problem):
    first, second = (descend(problem, max_iter=8) for _ in range(2))
    np.testing.assert_array_equal(pack(first.model), pack(second.model))


def test_boundary_condition_at_the_optimum(monkeypatch):
    """Control points on the rows, head held still: ν p(1) = −∂ℓ/∂q(1)."""
    monkeypatch.setattr(training, "RELATIVE_DECREASE", 0.0)
    # Far apart, so that the jitter of the whitening is small against the Gram matrix.
    grid = 1.2 * np.stack(np.meshgrid(np.arange(3.0), np.arange(3.0)), -1).reshape(-1, 2)
    rows = Batch(grid, sample(9).Y, np.ones(9))
    nu = 0.2
    problem = make_problem(
        rows=rows, points=grid, nu=nu, depth=8, integrator="rk4", loss="squared",
        learn_head=False, noise=0.3,
    )  # fmt: skip
    descent = descend(problem, max_iter=200, gtol=1e-9)
    head, path = descent.model.head, descent.model.warp.trajectory()

    def loss(q):
        terms = head.terms(lambda _: q, rows)
        return loss_value("squared", terms, head.noise, 9.0, 1)

    push = -jax.grad(loss)(path.q[-1]) / nu
    scale = jnp.abs(push).max()
    assert scale > 0.1
    np.testing.assert_allclose(path.p[-1] / scale, push / scale, atol=2e-5)
    assert descent.terminal_residual < 1e-5


def test_interruption_keeps_the_best_iterate(problem):
    def interrupt(iteration, record):
        if iteration == 3:
            raise KeyboardInterrupt

    descent = descend(problem, max_iter=20, callback=interrupt)
    assert descent.result is Result.interrupted
    assert descent.iterations == len(descent.history["loss"]) == 3
    np.testing.assert_array_equal(pack(descent.model), pack(descend(problem, max_iter=3).model))


def test_callback_stops(problem):
    seen = []
    descent = descend(
        problem, max_iter=20, callback=lambda i, record: seen.append(record) or i == 2
    )
    assert descent.result is Result.converged and descent.iterations == len(seen) == 2
    assert seen[0].keys() == RECORDED


def spoil(monkeypatch, wrong):
    """Make the evaluations for which ``wrong(count)`` holds return NaN."""
    honest, count = training.value_and_gradient, iter(range(10**6))

    def spoilt(*args):
        value, gradient, parts = honest(*args)
        return (value * np.nan, gradient, parts) if wrong(next(count)) else (value, gradient, parts)

    monkeypatch.setattr(training, "value_and_gradient", spoilt)


def test_a_nan_on_the_way_is_survived(problem, monkeypatch):
    clean = descend(problem, max_iter=12)
    spoil(monkeypatch, lambda count: count in (2, 6))
    descent = descend(problem, max_iter=12)
    assert descent.result in (Result.converged, Result.max_steps)
    start = descent.history["loss"][0]
    assert np.isfinite(descent.history["loss"]).all()
    assert start - descent.history["loss"][-1] > 0.5 * (start - clean.history["loss"][-1])


def test_nothing_but_nan_leaves_the_start_and_says_so(problem, monkeypatch):
    spoil(monkeypatch, lambda count: True)
    descent = descend(problem, max_iter=12)
    assert descent.result is Result.not_finite
    np.testing.assert_array_equal(pack(descent.model), pack(problem.model))


def test_no_warp_has_no_residual_and_does_not_move():
    problem = make_problem(nu=np.inf)
    descent = descend(problem, max_iter=5)
    assert descent.terminal_residual == 0.0
    np.testing.assert_array_equal(descent.model.warp.momentum, problem.model.warp.momentum)
