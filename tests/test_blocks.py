"""The warp: whitening, the identity as an ordinary value, padding that nobody notices, inverse."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ideareg import kernels as ik
from ideareg.blocks import Warp, action
from ideareg.integrators import INTEGRATORS, RK4, SymplecticEuler

pytestmark = pytest.mark.usefixtures("double_precision")

M, D = 6, 2
SEPARABLE = ik.Separable(ik.Gaussian(), np.array([[1.0, 0.5], [0.5, 2.0]]))


def make(kernel=None, integrator=None, depth=3, temper=0.5, size=0.6, **changes):
    rng = np.random.default_rng(0)
    parts = {
        "momentum": size * rng.normal(size=(M, D)),
        "control_points": 1.5 * rng.normal(size=(M, D)),
        "log_scale": np.array([0.1, -0.2]),
        "nugget": np.float64(0.0),
        "present": np.ones(M),
        **changes,
    }
    kernel = ik.Gaussian() if kernel is None else kernel
    return Warp(kernel, integrator or SymplecticEuler(), depth, temper=np.float64(temper), **parts)


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(1).normal(size=(8, D))


@pytest.mark.parametrize("kernel", [ik.Gaussian(), ik.Matern52(), SEPARABLE])
@pytest.mark.parametrize("temper, nugget", [(0.5, 0.0), (2.0, 0.1)])
def test_whitening_makes_the_action_half_the_norm(kernel, temper, nugget):
    warp = make(kernel, temper=temper, nugget=np.float64(nugget))
    nu, energy = temper**-2, warp.hamiltonian.energy(warp.initial_state())
    # Up to the jitter of the whitening, relative to the smallest eigenvalue of the Gram matrix.
    np.testing.assert_allclose(nu * energy, action(warp), rtol=1e-3)
    assert action(warp) == pytest.approx(0.5 * (warp.momentum**2).sum())


def test_the_nugget_acts_on_control_points_alone(X):
    warp = make(depth=1, nugget=np.float64(0.5))
    start, path = warp.initial_state(), warp.trajectory()
    np.testing.assert_allclose(warp(X), X + warp.hamiltonian.velocity(X, start), atol=1e-14)
    np.testing.assert_allclose(path.q[-1] - warp(start.q), 0.5 * start.p, atol=1e-14)


def test_temper_zero_is_the_identity_and_has_no_gradient(X):
    def moved(z, temper):
        warp = eqx.tree_at(lambda w: (w.momentum, w.temper), make(), (z, temper))
        return jnp.sin(warp(X)).sum(), warp(X)

    z = make().momentum
    gradient, image = jax.jit(jax.grad(moved, has_aux=True))(z, 0.0)
    np.testing.assert_array_equal(image, X)
    assert (gradient == 0).all()


def test_zero_momentum_is_the_identity_but_has_a_gradient(X):
    def moved(z):
        warp = eqx.tree_at(lambda w: w.momentum, make(), z)
        return jnp.sin(warp(X)).sum(), warp(X)

    gradient, image = jax.jit(jax.grad(moved, has_aux=True))(jnp.zeros((M, D)))
    np.testing.assert_array_equal(image, X)
    assert jnp.abs(gradient).max() > 1e-3


@pytest.mark.parametrize("kernel", [ik.Gaussian(), SEPARABLE])
@pytest.mark.parametrize("place", [0.0, 0.3])
def test_padded_control_points_are_inert(X, kernel, place):
    warp = make(kernel)
    padded = make(
        kernel,
        momentum=np.vstack([warp.momentum, np.full((3, D), 7.0)]),
        control_points=np.vstack([warp.control_points, np.full((3, D), place)]),
        present=np.append(np.ones(M), np.zeros(3)),
    )
    np.testing.assert_allclose(padded(X), warp(X), rtol=1e-14, atol=1e-14)
    np.testing.assert_array_equal(padded.initial_state().p[M:], 0.0)
    assert action(padded) == pytest.approx(action(warp), rel=1e-14)


def test_padded_columns_are_inert(X):
    def widen(A):
        return np.hstack([A, np.zeros((len(A), 2))])

    warp = make()
    padded = make(
        momentum=widen(warp.momentum),
        control_points=widen(warp.control_points),
        log_scale=np.append(warp.log_scale, [0.0, 3.0]),
    )
    image = padded(widen(X))
    np.testing.assert_array_equal(image[:, D:], 0.0)
    np.testing.assert_allclose(image[:, :D], warp(X), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("integrator", INTEGRATORS.values(), ids=INTEGRATORS)
def test_inverse_undoes_the_warp(X, integrator):
    warp = make(integrator=integrator(), depth=4, size=0.8)
    image = warp(X)
    assert np.abs(image - X).max() > 0.1
    back = warp.inverse(image)
    assert back.outcome.name == "converged"
    np.testing.assert_allclose(back.value, X, atol=1e-10)


def test_depth_zero_is_no_warp(X):
    warp = make(depth=0)
    assert warp(X) is X
    assert warp.along(warp.trajectory())(X) is X
    assert warp.inverse(X).value is X


def test_coinciding_control_points_stay_finite(X):
    points = np.zeros((M, D))
    assert np.isfinite(make(control_points=points, temper=0.1)(X)).all()


def test_an_operator_valued_kernel_couples_the_coordinates(X):
    """A multiple of I is the scalar kernel; A couples the coordinates."""
    isotropic = make(ik.Separable(ik.Gaussian(), np.eye(D)), RK4())
    np.testing.assert_allclose(isotropic(X), make(integrator=RK4())(X), atol=1e-12)
    one = np.zeros((M, D))
    one[0, 0] = 1.0
    assert np.abs(make(SEPARABLE, momentum=one)(X) - X)[:, 1].max() > 1e-3
