"""Least action by shooting against closed forms, and the limit of infinite depth."""

import jax.numpy as jnp
import numpy as np
import pytest

from ideareg import kernels as ik
from ideareg._types import Result
from ideareg.claims.layers import landmarks
from ideareg.hamiltonian import State
from ideareg.integrators import RK4
from ideareg.leastaction import Distance, LeastAction, Regression, solve
from ideareg.limit import depth_study

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.fixture(scope="module")
def study():
    import jax

    with jax.enable_x64(True):
        return depth_study(landmarks(), (5, 10, 20))


def force(ham, q, p):
    return np.asarray(ham.force(State(q, p)))


@pytest.mark.parametrize("nugget", [0.0, 0.1])
def test_stationary_path_obeys_the_recursion_with_a_minus_sign(nugget):
    """p_{s+1} = p_s - h H_q(q_{s+1}, p_{s+1}); with a plus it is far from true."""
    problem = landmarks(nugget=nugget)
    best = solve(problem, 10)
    assert best.result is Result.converged and best.gap < 1e-12
    t, h = best.trajectory, 0.1
    kicks = [h * force(problem.hamiltonian, t.q[s + 1], t.p[s + 1]) for s in range(9)]
    np.testing.assert_allclose(np.diff(t.p[:-1], axis=0), kicks, atol=1e-13)
    assert np.abs(np.diff(t.p[:-1], axis=0) + kicks).max() > 0.05


def test_path_is_stationary_among_all_paths():
    """The direct problem: minimise over every point of the path, without momenta."""
    import jax

    problem = landmarks()
    best = solve(problem, 6)

    def direct(inner):
        q = jnp.concatenate([problem.start[None], inner])
        total = problem.loss(q[-1])
        for s in range(6):
            step = q[s + 1] - q[s]
            total += 3 * jnp.vdot(step, jnp.linalg.solve(problem.kernel.gram(q[s]), step))
        return total

    inner = jnp.asarray(best.trajectory.q[1:])
    np.testing.assert_allclose(direct(inner), best.value, rtol=1e-13)
    np.testing.assert_allclose(jax.grad(direct)(inner), 0.0, atol=1e-10)


def test_constants_of_the_limit(study):
    """Figures of an independent NumPy implementation."""
    np.testing.assert_allclose(study.constant, 0.1751, atol=5e-5)
    excess = [row.excess for row in study.rows]
    np.testing.assert_allclose(excess, [0.1996, 0.1877, 0.1814], atol=5e-5)
    errors = np.abs(np.array(excess) - study.constant)
    np.testing.assert_allclose(errors[:-1] / errors[1:], 2.0, atol=0.1)  # halved with h


def test_momenta_and_norms_converge_like_one_over_depth(study):
    for name, expected in {"momentum_error": 1.31, "spread": 0.0767}.items():
        values = np.array([getattr(row, name) for row in study.rows])
        assert (np.diff(values) > 0).all() and (values < expected).all()
        assert values[-1] > 0.9 * expected
    remainders = [row.remainder for row in study.rows]
    assert max(remainders) < 0.1


def test_exact_value_of_linear_stretching():
    """K = x x', one point 1 -> e^a: the action of L layers is L²/2 (e^(a/L) - 1)²."""
    a, L = 0.5, 7
    target = np.array([[np.exp(a)]])
    problem = LeastAction(ik.Linear(), np.ones((1, 1)), Distance(target, 1e9), 1.0)
    discrete, limit = solve(problem, L), solve(problem, 100, RK4())
    np.testing.assert_allclose(discrete.value, 0.5 * L**2 * np.expm1(a / L) ** 2, rtol=1e-7)
    np.testing.assert_allclose(limit.value, 0.5 * a**2, rtol=1e-7)


def test_swap_has_two_minimisers_of_one_value():
    """Two points that change places in the plane pass on either side of each other."""
    X = np.array([[-1.0, 0.0], [1.0, 0.0]])
    problem = LeastAction(ik.Gaussian(), X, Distance(-X, 50.0), 1.0, nugget=0.01)
    guess = np.array([[2.0, 4.0], [-2.0, -4.0]])
    up, down = (solve(problem, 20, start=guess * [1, sign]) for sign in (1, -1))
    np.testing.assert_allclose([up.value, down.value], 8.914842673, rtol=1e-9)
    np.testing.assert_allclose(up.momentum, down.momentum * [1, -1], atol=1e-9)
    assert abs(up.momentum[0, 1]) > 0.1


def test_regression_loss_is_the_best_ridge():
    rng = np.random.default_rng(1)
    q, Y = rng.normal(size=(9, 2)), rng.normal(size=(9, 2))
    loss = Regression(ik.Gaussian(), Y, 0.3)
    K, Z = np.asarray(ik.Gaussian().gram(q)), np.asarray(loss.dual(q))
    direct = 0.3 * np.vdot(Z, K @ Z) + ((K @ Z - Y) ** 2).sum()
    np.testing.assert_allclose(loss(q), direct, rtol=1e-12)
    recovery = Regression(ik.Gaussian(), Y, 0.3, "optimal_recovery")
    np.testing.assert_allclose(0.3 * recovery(q), direct, rtol=1e-12)


def test_many_unknowns_go_by_lbfgs(monkeypatch):
    from ideareg import leastaction

    dense = solve(landmarks(), 5)
    monkeypatch.setattr(leastaction, "LARGEST_DENSE", 3)
    sparse = solve(landmarks(), 5)
    assert sparse.result is Result.converged
    np.testing.assert_allclose(sparse.momentum, dense.momentum, atol=1e-8)


def test_bad_arguments():
    with pytest.raises(ValueError, match="depth must be a number of layers >= 1"):
        solve(landmarks(), 0)
    with pytest.raises(ValueError, match="name must be squared or optimal_recovery"):
        Regression(ik.Gaussian(), np.zeros((2, 1)), 0.1, "hinge")


def test_single_precision_is_refused():
    import jax

    with jax.enable_x64(False), pytest.raises(ValueError, match="single precision"):
        solve(landmarks(), 3)


def test_failure_is_reported():
    """Three layers of so little penalty have no momentum recursion that could be solved."""
    best = solve(landmarks(nu=1e-4), 3, max_iter=2)
    assert best.result is Result.max_steps and best.gap > 1e-6
