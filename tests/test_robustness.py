"""Certificates against what the maps do: bounds hold, and no search gets below a radius."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import make_problem, sample

from ideareg import kernels as ik
from ideareg._rows import Scaling
from ideareg.hamiltonian import Hamiltonian, State
from ideareg.integrators import INTEGRATORS, RK4
from ideareg.kernels.smoothness import smoothness
from ideareg.kernels.stretched import Stretched
from ideareg.robustness import (
    bounds,
    certified_radius,
    continuous_lipschitz,
    flow_growth,
    gradients,
    lipschitz_bound,
)
from ideareg.shooting import shoot, transport
from ideareg.uncertainty import conclude, predict_mean

pytestmark = pytest.mark.usefixtures("double_precision")

D = 2
LENGTHS = np.array([0.7, 1.9])


def smooth_kernels():
    """Kernels with the sharp value of their slope, or None where the bound is not sharp."""
    return {
        "gaussian": (ik.Gaussian(LENGTHS), 1 / LENGTHS**2),
        "matern32": (ik.Matern32(LENGTHS), 3 / LENGTHS**2),
        "matern52": (ik.Matern52(LENGTHS), 5 / 3 / LENGTHS**2),
        "rational": (ik.RationalQuadratic(LENGTHS, 0.6), 1 / LENGTHS**2),
        "linear": (ik.Linear(LENGTHS), 1 / LENGTHS**2),
        "biased": (2.0 * ik.Gaussian() + ik.Constant(0.3), np.full(D, 2.0)),
        "product": (ik.Gaussian(LENGTHS) * (3.0 * ik.Gaussian()), 3 / LENGTHS**2 + 3),
        "stretched": (Stretched(ik.Matern52(), LENGTHS), 5 / 3 / LENGTHS**2),
        "tanh": (ik.Activation("tanh"), np.ones(D)),
        "sigmoid": (ik.Activation("sigmoid"), np.full(D, 1 / 16)),
        "softplus": (ik.Activation("softplus"), None),
        "fourier": (ik.RandomFourier(8, D, key=0, length_scale=1.3), None),
    }


@pytest.mark.parametrize("name", smooth_kernels())
def test_slope_and_bend_bound_the_feature_map(name):
    """Squared lengths of feature differences are k(x, x) - 2 k(x, y) + k(y, y)."""
    kernel, sharp = smooth_kernels()[name]
    bound = smoothness(kernel, D)
    if sharp is not None:
        np.testing.assert_allclose(bound.slope, sharp, rtol=1e-6)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, D)) * 0.7
    U = rng.normal(size=(40, D)) * np.geomspace(1e-2, 2, 40)[:, None]

    def gap(points, signs):
        gram = np.asarray(jax.vmap(lambda *p: kernel.gram(jnp.stack(p)))(*points))
        return np.sqrt(np.maximum(np.einsum("i,nij,j->n", signs, gram, signs), 0))

    once = gap((X, X + U), np.array([1.0, -1.0]))
    assert (once <= np.sqrt(U**2 @ bound.slope) * (1 + 1e-6)).all()
    # The second difference is that of the second derivative, averaged over the step.
    twice = gap((X - U, X, X + U), np.array([1.0, -2.0, 1.0]))
    assert (twice <= U**2 @ bound.bend * (1 + 1e-6) + 1e-7).all()
    if sharp is not None and name not in ("product", "biased", "tanh", "sigmoid", "linear"):
        tight = (once / np.sqrt(U**2 @ bound.slope)).max()
        assert tight > 0.99


def test_operator_kernels():
    A = np.array([[2.0, 1.0], [1.0, 2.0]])
    np.testing.assert_allclose(smoothness(ik.Separable(ik.Gaussian(), A), D).slope, 3.0)
    both = ik.Diagonal((ik.Gaussian(0.5), ik.Gaussian(2.0)))
    np.testing.assert_allclose(smoothness(both, D).slope, 4.0)
    total = ik.Isotropic(ik.Gaussian()) + both
    np.testing.assert_allclose(smoothness(total, D).slope, 5.0)


@pytest.mark.parametrize(
    "kernel",
    [ik.Laplacian(), ik.Matern12(), ik.Polynomial(), ik.as_kernel(lambda x, y: x @ y)],
    ids=lambda kernel: type(kernel).__name__,
)
def test_no_bound_is_claimed_where_none_is_known(kernel):
    assert np.isinf(smoothness(kernel, D).slope).all()
    assert np.isinf(smoothness(ik.Gaussian() + kernel, D).slope).all()
    assert np.isinf(smoothness(kernel * ik.Gaussian(), D).bend).all()


class Case:
    """A fitted model that warps strongly, in standardised units."""

    def __init__(self, head, integrator, depth=3):
        self.rows = sample(outputs=2)
        problem = make_problem(head, integrator, rows=self.rows, nu=1.0, size=0.6, depth=depth)
        self.fitted = conclude(problem.model, self.rows)
        self.at = sample(6, seed=7).X


@pytest.fixture(scope="module", params=sorted(INTEGRATORS))
def case(request):
    with jax.enable_x64(True):
        return Case("exact", request.param)


METRICS = [np.ones(D), np.array([3.0, 0.2])]


@pytest.mark.parametrize("metric", METRICS, ids=["euclidean", "weighted"])
def test_flow_growth_bounds_the_layers(case, metric):
    """First and second derivatives of the map that predictions really go through."""
    growth = flow_growth(case.fitted, metric)
    assert 1 < growth.slope < np.inf

    def along(x, u):
        return jax.jvp(lambda x: case.fitted.flow(x[None])[0], (x,), (u,))[1]

    rng = np.random.default_rng(3)
    root = np.sqrt(metric)
    for x in np.vstack([case.at, case.rows.X]):
        u = rng.normal(size=D)
        u /= np.linalg.norm(root * u)
        first, second = jax.jit(lambda x, u: jax.jvp(lambda x: along(x, u), (x,), (u,)))(x, u)
        assert np.linalg.norm(root * first) <= growth.slope * (1 + 1e-12)
        assert np.linalg.norm(root * second) <= growth.bend


def test_flow_bound_is_sharp_for_a_linear_flow():
    """One point under the linear kernel in one dimension: every layer is a dilation."""
    rows = sample()
    problem = make_problem(rows=rows, integrator="leapfrog", size=0.6)
    warp = problem.model.warp
    fitted = conclude(problem.model, rows)
    state = fitted.trajectory.initial
    assert flow_growth(fitted, np.ones(D)).slope <= continuous_lipschitz(
        warp.hamiltonian, state
    ) * (1 + 0.5)


def test_continuous_flow_stays_below_its_bound():
    rng = np.random.default_rng(5)
    for nugget in (0.0, 0.3):
        ham = Hamiltonian(ik.Gaussian(0.8), nugget)
        state = State(rng.normal(size=(5, D)), 0.4 * rng.normal(size=(5, D)))
        path = shoot(ham, state, 60, RK4())
        X = rng.normal(size=(50, D))
        Y = X + rng.normal(size=(50, D)) * np.geomspace(1e-4, 1, 50)[:, None]
        a, b = (np.asarray(transport(ham, RK4(), path, Z)) for Z in (X, Y))
        ratio = np.linalg.norm(a - b, axis=1) / np.linalg.norm(X - Y, axis=1)
        assert 1 < ratio.max() <= continuous_lipschitz(ham, state)


def test_implicit_layers_without_a_solution_have_no_bound():
    problem = make_problem(integrator="implicit_midpoint", size=3.0, nu=0.1, depth=1)
    assert np.isinf(flow_growth(conclude(problem.model, problem.rows), np.ones(D)).slope)


def test_no_warp_leaves_the_head_alone():
    problem = make_problem(nu=np.inf, depth=2)
    fitted = conclude(problem.model, problem.rows)
    assert flow_growth(fitted, np.ones(D)) == (1.0, 0.0)
    K = np.asarray(fitted.posterior.kernel.gram(fitted.posterior.points))
    norm = np.sqrt(fitted.posterior.dual[:, 0] @ K @ fitted.posterior.dual[:, 0])
    np.testing.assert_allclose(lipschitz_bound(bounds(fitted)), norm * np.sqrt(5 / 3), rtol=1e-9)


def test_regressor_stays_below_its_bounds(case):
    found = bounds(case.fitted)
    assert len(found) == 4
    rng = np.random.default_rng(2)
    X = rng.normal(size=(60, D))
    U = rng.normal(size=(60, D)) * np.geomspace(1e-3, 2, 60)[:, None]
    before, after = (np.asarray(predict_mean(case.fitted, Z)) for Z in (X, X + U))
    slope = np.asarray(gradients(case.fitted, X))
    linear = np.einsum("nkd,nd->nk", slope, U)
    for bound in found:
        far = np.sqrt(U**2 @ bound.metric)[:, None]
        assert (np.abs(after - before) <= bound.slope * far).all()
        assert (np.abs(after - before - linear) <= bound.bend * far**2 / 2 + 1e-12).all()
    least = lipschitz_bound(found)
    assert (least <= found[-1].slope).all()


def test_certified_radius_of_a_known_function():
    """A plane: the gradient says all, and the radius is tolerance over slope."""
    from ideareg.robustness import Bound

    flat = [Bound(np.ones(D), np.array([5.0]), np.array([0.0]))]
    gradient = np.array([[[3.0, 4.0]], [[0.0, 0.0]]])
    radius = certified_radius(
        [(1.0, flat)], gradient, np.array([[2.0], [2.0]]), lambda r: np.ones((2, D))
    )
    np.testing.assert_allclose(radius[0], 0.4, rtol=1e-12)
    assert radius[1] == np.inf
    curved = [Bound(np.ones(D), np.array([np.inf]), np.array([2.0]))]
    radius = certified_radius(
        [(1.0, curved)], gradient, np.array([[6.0], [4.0]]), lambda r: np.ones((2, D))
    )
    np.testing.assert_allclose(radius, [1.0, 2.0], rtol=1e-12)
    none = [Bound(np.ones(D), np.array([np.inf]), np.array([np.inf]))]
    nothing = certified_radius([(1.0, none)], gradient, np.ones((2, 1)), lambda r: np.ones((2, D)))
    np.testing.assert_array_equal(nothing, 0.0)


@pytest.mark.parametrize("power", [0.0, 0.3, 1.0, 1.6, 2.0])
def test_steepest_slope_of_a_bent_column(power):
    scaling = Scaling(np.array([0.5]), np.array([power]), np.zeros(1), np.array([2.0]), np.array([True]))
    at = np.linspace(-3, 3, 13)[:, None]
    for radius in (1e-6, 0.4, 2.0):
        steepest = scaling.steepest(at, np.full(len(at), radius))
        inside = at + np.linspace(-radius, radius, 201)
        values = scaling.forward(inside.reshape(-1, 1)).reshape(inside.shape)
        measured = (np.diff(values) / np.diff(inside)).max(1)
        assert (measured <= steepest[:, 0] * (1 + 1e-6)).all()
        np.testing.assert_allclose(measured, steepest[:, 0], rtol=0.03)
