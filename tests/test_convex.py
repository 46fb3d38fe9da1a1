"""Regressors of least convex loss: scikit-learn, optimality conditions, finite differences."""

import jax
import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge
from sklearn.svm import LinearSVC

from ideareg import kernels as ik
from ideareg.convex import risk, solve
from ideareg.pointwise import (
    POINTWISE,
    AbstractBoxed,
    EpsilonInsensitive,
    Hinge,
    Logistic,
    Softmax,
    SquaredHinge,
)

pytestmark = pytest.mark.usefixtures("double_precision")

N, RIDGE = 24, 0.05
LOSSES = [Hinge(), SquaredHinge(), EpsilonInsensitive(0.2), Logistic(), Softmax()]
names = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)


@pytest.fixture(scope="module")
def data():
    """Points, two columns of labels, integer weights (one of them 0)."""
    rng = np.random.default_rng(0)
    q = rng.normal(size=(N, 2))
    first = np.sign(q[:, 0] + 0.5 * q[:, 1] ** 2 - 0.3)
    return q, np.stack([first, np.sign(q[:, 1])], 1), rng.permutation(np.repeat([1, 2, 3, 0], 6))


def targets(loss, Y):
    if isinstance(loss, Softmax):
        return np.stack([Y[:, 0] > 0, Y[:, 0] <= 0], 1).astype(float)
    return Y * [1.0, 0.7] if isinstance(loss, EpsilonInsensitive) else Y


def objective(loss, gram, Z, Y, weight):
    f = gram @ Z
    return RIDGE * np.vdot(Z, f) + weight @ np.asarray(loss.value(f, Y))


def test_registry_is_complete():
    assert {type(loss) for loss in LOSSES} == set(POINTWISE.values())


@names
def test_no_neighbour_is_better(loss, data):
    q, Y, weight = data
    Y, gram = targets(loss, Y), np.asarray(ik.Gaussian().gram(q))
    Z = np.asarray(solve(loss, gram, Y, weight, RIDGE))
    least, rng = objective(loss, gram, Z, Y, weight), np.random.default_rng(1)
    for size in (1.0, 1e-2, 1e-4):
        for _ in range(10):
            assert least <= objective(loss, gram, Z + size * rng.normal(size=Z.shape), Y, weight)
    np.testing.assert_array_equal(Z[weight == 0], 0)
    np.testing.assert_allclose(risk(loss, gram, Y, weight, RIDGE), least, rtol=1e-13)


@names
def test_strong_duality(loss, data):
    """The primal value is that of the dual program: no other certificate is needed."""
    q, Y, weight = data
    Y, gram = targets(loss, Y), np.asarray(ik.Gaussian().gram(q))
    Z = np.asarray(solve(loss, gram, Y, weight, RIDGE))
    if isinstance(loss, AbstractBoxed):
        box = loss.dual(Y, weight, RIDGE)
        dual = (box.linear * Z - 0.5 * box.diagonal * Z**2 - box.band * np.abs(Z)).sum()
        dual = 2 * RIDGE * (dual - 0.5 * np.vdot(Z, gram @ Z))
        np.testing.assert_allclose(dual, objective(loss, gram, Z, Y, weight), rtol=1e-10)
        assert ((box.lower <= Z) & (box.upper >= Z)).all()
    else:
        slope = jax.grad(lambda f: loss.value(f, Y) @ weight)(gram @ Z)
        np.testing.assert_allclose(2 * RIDGE * Z, -slope, atol=1e-12)


@pytest.mark.parametrize("ridge", [1.0, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("loss", LOSSES[:3], ids=lambda loss: type(loss).__name__)
def test_ill_conditioned_kernels_and_small_ridges(loss, ridge):
    """Where methods that stay on the bounds stall: the primal value is still that of the dual."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    Y = np.where(np.hypot(*X.T) + 0.3 * rng.normal(size=60) < 1.2, 1.0, -1.0)[:, None]
    weight, gram = rng.integers(0, 3, size=60).astype(float), np.asarray(ik.Gaussian().gram(X))
    Z, box = np.asarray(solve(loss, gram, Y, weight, ridge)), loss.dual(Y, weight, ridge)
    dual = (box.linear * Z - 0.5 * box.diagonal * Z**2 - box.band * np.abs(Z)).sum()
    dual = 2 * ridge * (dual - 0.5 * np.vdot(Z, gram @ Z))
    np.testing.assert_allclose(dual, risk(loss, gram, Y, weight, ridge), rtol=1e-10)


@pytest.mark.parametrize("loss", [Hinge(), SquaredHinge()], ids=["hinge", "squared_hinge"])
def test_satisfied_rows_have_the_dual_zero_exactly(loss, data):
    q, Y, weight = data
    gram = np.asarray(ik.Gaussian().gram(q))
    Z = np.asarray(solve(loss, gram, Y, weight, RIDGE))
    satisfied = (Y * (gram @ Z) > 1 + 1e-9) | (weight == 0)[:, None]
    assert 0 < satisfied.sum() < satisfied.size
    np.testing.assert_array_equal(Z[satisfied], 0)
    within = (Y * (gram @ Z) < 1 - 1e-9) & (weight > 0)[:, None]
    if isinstance(loss, Hinge):
        cap = np.broadcast_to(weight[:, None] / (2 * RIDGE), Z.shape)
        np.testing.assert_array_equal(np.abs(Z[within]), cap[within])


def test_rows_within_epsilon_have_the_dual_zero_exactly(data):
    q, _, weight = data
    loss, gram = EpsilonInsensitive(0.2), np.asarray(ik.Gaussian().gram(q))
    Y = np.sin(2 * q)
    Z = np.asarray(solve(loss, gram, Y, weight, RIDGE))
    within = np.abs(gram @ Z - Y) < 0.2 - 1e-9
    assert 0 < within.sum() < within.size
    np.testing.assert_array_equal(Z[within], 0)


@pytest.mark.parametrize("loss", [Hinge(), SquaredHinge()], ids=["hinge", "squared_hinge"])
def test_it_is_the_support_vector_machine(loss, data):
    q, Y, weight = data
    gram = np.asarray(ik.Gaussian().gram(q))
    values, Q = np.linalg.eigh(gram)
    features = Q * np.sqrt(np.maximum(values, 0))
    machine = LinearSVC(
        loss=type(loss).__name__.replace("SquaredH", "squared_h").replace("Hinge", "hinge"),
        C=1 / (2 * RIDGE), fit_intercept=False, dual=True, tol=1e-10, max_iter=10**6,
    )  # fmt: skip
    machine.fit(features, Y[:, 0], sample_weight=weight)
    Z = np.asarray(solve(loss, gram, Y[:, :1], weight, RIDGE))
    np.testing.assert_allclose((gram @ Z)[:, 0], machine.decision_function(features), atol=1e-5)


def test_no_band_and_a_large_cap_is_nearly_interpolation(data):
    """ε = 0 and a small ridge: absolute deviations, which kernel interpolation makes 0."""
    q, _, _ = data
    gram, Y = np.asarray(ik.Matern12().gram(q)), np.sin(2 * q[:, :1])
    Z = solve(EpsilonInsensitive(0.0), gram, Y, np.ones(N), 1e-6)
    ridge = KernelRidge(kernel="precomputed", alpha=1e-12).fit(gram, Y)
    np.testing.assert_allclose(Z, ridge.dual_coef_, rtol=1e-6)


@names
def test_weights_are_repeated_rows(loss, data):
    q, Y, weight = data
    index = np.repeat(np.arange(N), weight)

    def charge(q, Y, weight):
        return risk(loss, ik.Gaussian().gram(q), targets(loss, Y), weight, RIDGE)

    repeated = charge(q[index], Y[index], np.ones(len(index)))
    np.testing.assert_allclose(charge(q, Y, weight), repeated, rtol=1e-9)


@names
def test_envelope_gradient_by_the_warped_rows(loss, data):
    """∂R/∂qᵢ = −2λ Σⱼ (Zᵢ·Zⱼ) ∂₁k(qᵢ, qⱼ), against finite differences; 0 where Zᵢ is."""
    q, Y, weight = data
    Y, k = targets(loss, Y), ik.Gaussian()

    def charge(q):
        return risk(loss, k.gram(q), Y, weight, RIDGE)

    gradient = np.asarray(jax.grad(charge)(q))
    Z = np.asarray(solve(loss, k.gram(q), Y, weight, RIDGE))
    np.testing.assert_array_equal(gradient[(Z == 0).all(1)], 0)
    rng = np.random.default_rng(3)
    for _ in range(3):
        direction = rng.normal(size=q.shape)
        slope = (charge(q + 1e-5 * direction) - charge(q - 1e-5 * direction)) / 2e-5
        np.testing.assert_allclose(np.vdot(gradient, direction), slope, rtol=1e-5, atol=1e-6)
