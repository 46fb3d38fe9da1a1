"""Certificates against what the maps do: bounds hold, and no search gets below a radius."""

import jax
import numpy as np
import pytest
from helpers import make_problem, sample

from ideareg import WarpingRegressor, nugget_path
from ideareg import kernels as ik
from ideareg._rows import Scaling
from ideareg.hamiltonian import Hamiltonian, State
from ideareg.integrators import INTEGRATORS, RK4
from ideareg.kernels.smoothness import smoothness
from ideareg.kernels.stretched import Stretched
from ideareg.robustness import (
    Bound,
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
        count = len(points)
        gram = np.asarray(kernel.gram(np.concatenate(points))).reshape(count, 40, count, 40)
        gram = np.einsum("anbn->nab", gram)
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

        def along(X, U):
            return jax.jvp(self.fitted.flow, (X,), (U,))[1]

        self.derivatives = jax.jit(lambda X, U: jax.jvp(lambda X: along(X, U), (X,), (U,)))


# Layers of one explicit step: bounded alike, so one of them is enough in a hurry.
ALIKE = ("leapfrog", "symplectic_euler")


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.slow] * (name in ALIKE)) for name in INTEGRATORS],
)
def case(request):
    with jax.enable_x64(True):
        return Case("exact", request.param)


METRICS = [np.ones(D), np.array([3.0, 0.2])]


@pytest.mark.parametrize("metric", METRICS, ids=["euclidean", "weighted"])
def test_flow_growth_bounds_the_layers(case, metric):
    """First and second derivatives of the map that predictions really go through."""
    growth = flow_growth(case.fitted, metric)
    assert 1 < growth.slope < np.inf
    root = np.sqrt(metric)
    u = np.random.default_rng(3).normal(size=D)
    u /= np.linalg.norm(root * u)
    X = np.vstack([case.at, case.rows.X])
    first, second = case.derivatives(X, np.broadcast_to(u, X.shape))
    assert (np.linalg.norm(root * first, axis=1) <= growth.slope * (1 + 1e-12)).all()
    assert (np.linalg.norm(root * second, axis=1) <= growth.bend).all()


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
    one = np.ones(1)
    scaling = Scaling(0.5 * one, power * one, 0 * one, 2.0 * one, one > 0)
    at = np.linspace(-3, 3, 13)[:, None]
    for radius in (1e-6, 0.4, 2.0):
        steepest = scaling.steepest(at, np.full(len(at), radius))
        inside = at + np.linspace(-radius, radius, 201)
        values = scaling.forward(inside.reshape(-1, 1)).reshape(inside.shape)
        measured = (np.diff(values) / np.diff(inside)).max(1)
        assert (measured <= steepest[:, 0] * (1 + 1e-6)).all()
        np.testing.assert_allclose(measured, steepest[:, 0], rtol=0.03)


# ------------------------------------------------------------------ the estimator


def table(n=60, seed=0, outputs=1):
    rng = np.random.default_rng(seed)
    X = np.column_stack([rng.normal(size=n), np.exp(rng.normal(size=n)), np.full(n, 3.0)])
    Y = np.tanh(3 * X[:, :1] + np.arange(outputs)) + 0.2 * np.log(X[:, 1:2])
    return X, (Y[:, 0] if outputs == 1 else Y)


def regressor(**changes):
    small = {"nu": 1.0, "n_control_points": 5, "max_iter": 15, "local": False, "random_state": 0}
    return WarpingRegressor(**{**small, **changes})


MODELS = {
    "matern52": {},
    "matern32": {"kernel": "matern32", "warp_kernel": "matern52", "nugget": 0.1},
    "stack": {"nu": (np.inf, 1.0), "n_folds": 2, "max_iter": 8},
    "two": {"outputs": 2, "n_inducing": 8, "head": "sparse"},
}


@pytest.fixture(scope="module", params=MODELS)
def fitted(request):
    changes = dict(MODELS[request.param])
    X, y = table(outputs=changes.pop("outputs", 1))
    return regressor(**changes).fit(X, y), table(12, seed=1)[0]


def test_no_attack_beats_the_certified_radius(fitted):
    model, X = fitted
    units = "standardized" if model.kernel == "matern32" else "input"
    certified = model.certified_radius(X, 0.3, units=units)
    attacked = model.attacked_radius(X, 0.3, units=units)
    assert (certified > 0).all()
    assert (attacked >= certified).all()
    # Within a factor of ten of the truth, for some rows at least.
    assert (certified / attacked).max() > 0.1


def test_random_steps_within_the_radius_change_little(fitted):
    model, X = fitted
    before, rng = model.predict(X), np.random.default_rng(0)
    for tolerance in (1e-3, 0.1, 1.0):
        radius = model.certified_radius(X, tolerance)
        for _ in range(5):
            step = rng.normal(size=X.shape)
            step *= (radius / np.linalg.norm(step, axis=1))[:, None]
            assert (np.abs(model.predict(X + step) - before) <= tolerance).all()


def test_certificate_is_sharp_in_the_limit():
    X, y = table()
    model, at = regressor().fit(X, y), table(6, seed=1)[0]
    small = model.certified_radius(at, 1e-6) / model.attacked_radius(at, 1e-6)
    assert ((small > 0.9) & (small <= 1)).all()


def test_sign_cannot_change_within_the_margin():
    X, y = table()
    model = regressor().fit(X, np.sign(y))
    decision = model.predict(X)
    radius = model.certified_radius(X, np.abs(decision))
    assert (radius > 0).all()
    step = np.random.default_rng(0).normal(size=X.shape)
    step *= 0.999 * (radius / np.linalg.norm(step, axis=1))[:, None]
    assert (np.sign(model.predict(X + step)) == np.sign(decision)).all()


def test_lipschitz_constant_bounds_predictions(fitted):
    model, X = fitted
    forward = model._scale_x.forward
    values, Z = model.predict(X).reshape(len(X), -1), forward(X)
    far = np.linalg.norm(Z[:, None] - Z[None], axis=-1)[..., None]
    change = np.abs(values[:, None] - values[None])
    assert (change <= np.asarray(model.lipschitz_) * far + 1e-12).all()
    assert np.shape(model.lipschitz_) == values.shape[1:] if values.shape[1] > 1 else True


def test_wrong_questions_are_refused(fitted):
    model, X = fitted
    with pytest.raises(ValueError, match="units must be one of"):
        model.certified_radius(X, 0.1, units="metres")
    with pytest.raises(ValueError, match="non-negative"):
        model.certified_radius(X, -0.1)
    with pytest.raises(ValueError, match="shape"):
        model.certified_radius(X, np.ones(5))


def test_nugget_used_says_what_was_added(fitted):
    model, _ = fitted
    used, jitter = model.nugget_used_, 1e-6
    assert used["flow"] == model.nugget
    np.testing.assert_allclose(used["whitening"], model.nugget + jitter)
    assert used["inducing"] == (1e-7 if model.head == "sparse" else 0.0)
    np.testing.assert_allclose(used["head"], model.noise_, rtol=1e-12)


def test_fit_with_a_nugget_is_deployed_without():
    """Control points leave the flow that carries rows: the same points as rows go elsewhere."""
    X, y = table()
    gaps = {}
    for r in (0.0, 0.5):
        model = regressor(nugget=r, integrator="leapfrog", depth=2, max_iter=5).fit(X, y)
        first = model.warps_[0].predictor
        present = first.warp.present > 0
        trained = np.asarray(first.trajectory.q[-1])[present, : model.n_features_in_]
        carried = model._scale_x.forward(model.transform(model.control_points_))
        varies = model._scale_x.varies
        gaps[r] = np.abs(trained - carried)[:, varies].max()
    assert gaps[0.0] < 1e-9
    assert gaps[0.5] > 0.05


def test_nugget_path():
    X, y = table()
    path = nugget_path(regressor(max_iter=5), X, y, (0.0, 0.3), cv=2)
    np.testing.assert_array_equal(path["nugget"], [0.0, 0.3])
    assert all(np.isfinite(column).all() and column.shape == (2,) for column in path.values())
    again = regressor(max_iter=5, nugget=0.3).fit(X, y)
    np.testing.assert_allclose(path["lipschitz"][1], again.lipschitz_)
    np.testing.assert_allclose(path["action"][1], again.ledger_["action"])
