"""Energies, equations of motion and conserved quantities of the points."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from ideareg import kernels as ik
from ideareg.hamiltonian import Hamiltonian, State, angular_momentum, linear_momentum

pytestmark = pytest.mark.usefixtures("double_precision")


def random_state(n=5, d=2, seed=0):
    rng = np.random.default_rng(seed)
    return State(rng.normal(size=(n, d)), rng.normal(size=(n, d)))


WARPS = {
    "gaussian": lambda: ik.Gaussian(0.8),
    "matern12": lambda: ik.Matern12(),
    "matern52": lambda: ik.Matern52([0.5, 2.0]),
    "tanh": lambda: ik.Activation("tanh"),
    "sum": lambda: ik.Gaussian() + 0.5 * ik.Linear(),
    "separable": lambda: ik.Separable(ik.Gaussian(), np.array([[2.0, 0.5], [0.5, 1.0]])),
    "diagonal": lambda: ik.Diagonal([ik.Gaussian(), ik.Linear()]) + ik.Matern32(),
    "function": lambda: lambda x, y: jnp.exp(-jnp.square(x - y).sum()),
}


@pytest.mark.parametrize("name", WARPS)
def test_field_is_the_symplectic_gradient_of_the_energy(name):
    ham, state = Hamiltonian(WARPS[name](), nugget=0.3), random_state()
    gradient = eqx.filter_jit(eqx.filter_grad(ham.energy))(state)
    field = eqx.filter_jit(ham.field)(state)
    np.testing.assert_allclose(field.q, gradient.p, atol=1e-12)
    np.testing.assert_allclose(field.p, -gradient.q, atol=1e-12)
    np.testing.assert_allclose(ham.drift(state), field.q, atol=1e-12)


def test_energy_is_the_quadratic_form_of_the_gram_matrix():
    kernel = ik.Separable(ik.Gaussian(), np.array([[2.0, 0.5], [0.5, 1.0]]))
    state = random_state()
    p = state.p.ravel()
    expected = 0.5 * p @ (kernel.gram(state.q) + 0.3 * jnp.eye(10)) @ p
    assert Hamiltonian(kernel, 0.3).energy(state) == pytest.approx(float(expected), rel=1e-13)


def test_gaussian_force_in_closed_form():
    state = random_state()
    q, p = np.asarray(state.q), np.asarray(state.p)
    difference = q[:, None] - q[None]
    k = np.exp(-0.5 * (difference**2).sum(-1))
    expected = np.einsum("ij,ijd->id", (p @ p.T) * k, difference)
    np.testing.assert_allclose(Hamiltonian(ik.Gaussian()).force(state), expected, atol=1e-13)


def test_passive_points_feel_no_nugget():
    state, x = random_state(), random_state(seed=1).q
    velocity = Hamiltonian(ik.Gaussian(), nugget=7.0).velocity(x, state)
    np.testing.assert_allclose(velocity, ik.Gaussian().gram(x, state.q) @ state.p, atol=1e-13)


def test_coinciding_points_have_finite_derivatives():
    state = State(np.zeros((3, 2)), np.arange(6.0).reshape(3, 2))
    for kernel in (ik.Matern12(), ik.Matern32(), ik.Laplacian(), ik.Gaussian()):
        np.testing.assert_array_equal(Hamiltonian(kernel).force(state), 0)


def test_momenta():
    state = State([[1.0, 2.0], [0.0, 1.0]], [[3, 4], [5, 6]])
    assert linear_momentum(state).tolist() == [8, 10]
    assert angular_momentum(state).tolist() == [[0, -7], [7, 0]]


def test_errors():
    with pytest.raises(ValueError, match="nugget must be >= 0"):
        Hamiltonian(ik.Gaussian(), nugget=-1.0)
    with pytest.raises(ValueError, match="nugget=r"):
        Hamiltonian(ik.with_nugget(ik.Gaussian(), 0.1))
    with pytest.raises(TypeError, match="kernel must be"):
        Hamiltonian(3)
