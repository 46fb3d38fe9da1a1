"""The relaxed least-action problem: its three forms, what is optimal, how it is deployed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ideareg import kernels as ik
from ideareg.hamiltonian import State
from ideareg.integrators import SymplecticEuler
from ideareg.relaxation import Relaxation, Slack, relax
from ideareg.shooting import shoot

pytestmark = pytest.mark.usefixtures("double_precision")

N, D, L = 6, 2, 5
NUMBERS = {"nu": 0.7, "penalty": 0.3, "nugget": 0.2, "head_nugget": 0.15}


def data(outputs=1, seed=4):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(N, D))
    X[1] = X[0] + 1e-3
    path = np.concatenate([X[None], rng.normal(size=(L, N, D))])
    return path, rng.normal(size=(N, outputs))


def residual_network(loss="squared"):
    return Relaxation(ik.Activation("tanh"), ik.Activation("sigmoid"), **NUMBERS, loss=loss)


@pytest.mark.parametrize("loss", ["squared", "optimal_recovery"])
def test_three_forms_agree_at_their_optima(loss):
    problem = residual_network(loss)
    path, Y = data(outputs=2)
    reduced = problem.value(path, Y)
    slack, weights = problem.best_slack(path, Y), problem.best_weights(path, Y)
    np.testing.assert_allclose(problem.slack_value(path, Y, slack), reduced, rtol=1e-13)
    np.testing.assert_allclose(problem.weight_value(path[0], Y, weights), reduced, rtol=1e-13)
    # The network retraces the path: its slack makes up for what its weights cannot do.
    np.testing.assert_allclose(problem.network_path(path[0], weights), path, atol=1e-13)


def test_eliminated_unknowns_are_optimal():
    """Stationary in each of them, and a minimum: nothing near is better."""
    problem = residual_network()
    path, Y = data()
    best = problem.best_slack(path, Y)
    slope = jax.grad(lambda s: problem.slack_value(path, Y, s))(best)
    assert all(np.abs(leaf).max() < 1e-12 for leaf in slope)
    rng = np.random.default_rng(0)
    for size in (1e-3, 1.0):
        other = Slack(*(leaf + size * rng.normal(size=leaf.shape) for leaf in best))
        assert problem.slack_value(path, Y, other) > problem.slack_value(path, Y, best)


def test_identities_of_weights_and_slack():
    """Ridge regression in weight space, without any kernel."""
    problem = residual_network()
    path, Y = data()
    weights, p = problem.best_weights(path, Y), np.asarray(problem.momenta(path))
    r = NUMBERS["nugget"]
    for s in range(L):
        psi = np.column_stack([np.tanh(path[s]), np.ones(N)])
        ridge = np.linalg.solve(psi.T @ psi + r * np.eye(D + 1), psi.T @ (path[s + 1] - path[s]))
        np.testing.assert_allclose(weights.w[s], ridge.T, atol=1e-13)
        np.testing.assert_allclose(weights.w[s], p[s].T @ psi / L, atol=1e-13)
        left = (path[s + 1] - path[s] - psi @ ridge) / np.sqrt(r)
        np.testing.assert_allclose(weights.z[s], left, atol=1e-13)
        np.testing.assert_allclose(weights.z[s], np.sqrt(r) * p[s] / L, atol=1e-13)


def test_nugget_of_the_head_adds_to_its_ridge():
    path, Y = data()
    problem = Relaxation(ik.Gaussian(), ik.Gaussian(), **NUMBERS)
    still = np.repeat(path[:1], 2, axis=0)
    lam, rho = NUMBERS["penalty"], NUMBERS["head_nugget"]
    K = np.asarray(ik.Gaussian().gram(path[0]))
    expected = lam * Y[:, 0] @ np.linalg.solve(K + (lam + rho) * np.eye(N), Y[:, 0])
    np.testing.assert_allclose(problem.value(still, Y), expected, rtol=1e-14)


def test_weight_form_needs_features():
    with pytest.raises(TypeError, match="feature kernel"):
        Relaxation(ik.Gaussian(), ik.Gaussian()).best_weights(*data())
    with pytest.raises(ValueError, match="loss must be one of"):
        Relaxation(ik.Gaussian(), ik.Gaussian(), loss="hinge")
    with pytest.raises(ValueError, match="depth"):
        relax(Relaxation(ik.Gaussian(), ik.Gaussian()), *data(), depth=0)


@pytest.fixture(scope="module")
def trained():
    with jax.enable_x64(True):
        path, Y = data()
        problem = Relaxation(ik.Gaussian(), ik.Gaussian(), **NUMBERS)
        return relax(problem, path[0], Y, L), Y


def test_training_path_is_the_flow_with_nugget(trained):
    """Stationary: the discrete Hamiltonian recursion, from the first momentum alone."""
    relaxed, _ = trained
    assert relaxed.gradient_norm < 1e-5
    np.testing.assert_allclose(relaxed.trajectory().q, relaxed.path, atol=1e-5)


def test_deployment_is_the_flow_without_nugget(trained):
    relaxed, _ = trained
    X, h, kernel = np.asarray(relaxed.path[0]), 1 / L, ik.Gaussian()
    path = relaxed.trajectory()
    x = np.random.default_rng(1).normal(size=(4, D))
    moved = np.concatenate([x, X])
    for q, p in zip(path.q[:-1], path.p[:-1], strict=True):
        moved = moved + h * np.asarray(kernel.gram(moved, q) @ p)
    np.testing.assert_allclose(relaxed.flow(x), moved[:4], atol=1e-13)
    np.testing.assert_allclose(
        relaxed.predict(x), kernel.gram(moved[:4], relaxed.path[-1]) @ relaxed.dual, atol=1e-12
    )
    # The rows themselves are deployed away from where training took them: that is the slack.
    assert np.abs(moved[4:] - relaxed.path[-1]).max() > 0.05


def test_ghost_with_zero_momentum_is_a_test_point(trained):
    relaxed, _ = trained
    path = relaxed.trajectory()
    ghosts = np.random.default_rng(1).normal(size=(3, D))
    state = State(
        jnp.concatenate([path.initial.q, ghosts]),
        jnp.concatenate([path.initial.p, jnp.zeros_like(ghosts)]),
    )
    together = shoot(relaxed.problem.hamiltonian, state, L, SymplecticEuler())
    np.testing.assert_array_equal(together.p[:, N:], 0.0)
    np.testing.assert_allclose(together.q[-1, N:], relaxed.flow(ghosts), atol=1e-14)
    np.testing.assert_allclose(together.q[:, :N], path.q, atol=1e-14)


# ------------------------------------------------------------------ robustness of the value

SQUARE = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [0.5, 0.5], [0.5, 0.5]])
LABELS = np.array([1, 1, -1, -1, 1, -1.0])[:, None]
GAPS = (0.2, 0.1, 0.05, 0.01, 0.0)


def merging(r, rho=0.1):
    """The value as two points of opposite labels merge, each solve going on from the last."""
    problem = Relaxation(ik.Gaussian(), ik.Gaussian(), 1.0, 1.0, r, rho, "optimal_recovery")
    values, start = [], None
    for gap in GAPS:
        X = SQUARE.copy()
        X[5, 0] += gap
        found = relax(problem, X, LABELS, 6, start=start)
        start = found.path
        values.append(float(found.value))
    return np.array(values)


@pytest.mark.parametrize("r", [0.1, 1e-2])
def test_value_is_bounded_and_lipschitz_as_opposite_labels_merge(r):
    values = merging(r)
    assert values.max() <= 1.0 * (LABELS**2).sum() / 0.1
    gaps = np.array(GAPS[:-1])
    bound = np.sqrt(2 * values.max() / r) * gaps + gaps**2 / (2 * r)
    assert (np.abs(values[:-1] - values[-1]) <= bound).all()


def test_value_is_lipschitz_in_the_targets():
    """The square root of the value changes by at most the root of λ/ρ times the distance."""
    problem = Relaxation(ik.Gaussian(), ik.Gaussian(), 1.0, 1.0, 0.1, 0.1, "optimal_recovery")
    start = relax(problem, SQUARE, LABELS, 4)
    rng = np.random.default_rng(0)
    for size in (1e-2, 0.1):
        step = size * rng.normal(size=LABELS.shape)
        other = relax(problem, SQUARE, LABELS + step, 4, start=start.path)
        change = abs(float(other.value) ** 0.5 - float(start.value) ** 0.5)
        assert change <= np.sqrt(1 / 0.1) * np.linalg.norm(step)


def test_value_falls_as_the_nugget_grows():
    path, Y = data()
    values = [
        float(Relaxation(ik.Gaussian(), ik.Gaussian(), 0.7, 0.3, r, 0.15).value(path, Y))
        for r in (1e-3, 1e-2, 0.1, 1.0)
    ]
    assert (np.diff(values) < 0).all()
