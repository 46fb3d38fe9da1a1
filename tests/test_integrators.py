"""One-step maps: order, structure, reversibility, invariants, gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from ideareg._linalg import fixed_point
from ideareg.hamiltonian import Hamiltonian, State, angular_momentum, linear_momentum
from ideareg.integrators import INTEGRATORS, RK4, SymplecticEuler, get_integrator
from ideareg.kernels import Gaussian
from ideareg.shooting import shoot, transport

pytestmark = pytest.mark.usefixtures("double_precision")

# Maps of all particles alike; "geodesic" moves those without momentum by a scheme of their own.
MAPS = [name for name in INTEGRATORS if name != "geodesic"]
SYMPLECTIC = [name for name, kind in INTEGRATORS.items() if kind.symplectic]


def start(n=4, d=2, size=0.5, seed=3):
    rng = np.random.default_rng(seed)
    return State(rng.normal(size=(n, d)), size * rng.normal(size=(n, d)))


def slope(errors):
    return np.log2(errors[-2] / errors[-1])


@functools.cache
def end_of_flow(integrator, depth):
    """Positions, momenta and passive points at time 1 of one fixed flow."""
    ham = Hamiltonian(Gaussian(), nugget=0.1)
    path = shoot(ham, start(), depth, integrator)
    assert path.converged
    x = transport(ham, integrator, path, start(seed=4).q)
    return np.concatenate([path.final.q, path.final.p, x])


@pytest.mark.parametrize("name", INTEGRATORS)
def test_order(name):
    integrator, goal = get_integrator(name), end_of_flow(RK4(), 800)
    depths = (20, 40) if name == "rk4" else (80, 160)
    errors = [np.linalg.norm(end_of_flow(integrator, depth) - goal) for depth in depths]
    assert slope(errors) == pytest.approx(integrator.order, abs=0.05)


def symplectic_defect(integrator, h=0.2):
    ham, state = Hamiltonian(Gaussian(), nugget=0.1), start(3)
    flat, unflatten = ravel_pytree(state)
    staggered = isinstance(integrator, SymplecticEuler)

    def step(z):
        state = unflatten(z)
        if not staggered:
            return ravel_pytree(integrator.advance(ham, state, h)[0])[0]
        # The canonical pair of this scheme is (q_s, p_{s-1}); the new pair is (q_{s+1}, p_s).
        p, _ = fixed_point(lambda new: state.p + h * ham.force(State(state.q, new)), state.p)
        return ravel_pytree(State(integrator.advance(ham, State(state.q, p), h)[0].q, p))[0]

    J = jax.jit(jax.jacfwd(step))(flat)
    n = len(flat) // 2
    omega = np.block([[np.zeros((n, n)), np.eye(n)], [-np.eye(n), np.zeros((n, n))]])
    return np.abs(J.T @ omega @ J - omega).max()


@pytest.mark.parametrize("name", MAPS)
def test_symplectic_form(name):
    integrator = get_integrator(name)
    defect = symplectic_defect(integrator)
    if integrator.symplectic:
        assert defect < 1e-12
    else:
        assert defect > {"rk4": 1e-6, "leapfrog": 1e-3}[name]


@pytest.mark.parametrize("name", SYMPLECTIC)
def test_energy_drift_falls_at_the_order_and_stays_bounded(name):
    ham, state = Hamiltonian(Gaussian(), nugget=0.1), start()
    integrator = get_integrator(name)
    drifts = []
    for depth in (80, 160):
        energies = shoot(ham, state, depth, integrator).energies
        drifts.append(np.abs(energies - energies[0]).max())
    assert slope(drifts) == pytest.approx(integrator.order, abs=0.1)
    long = shoot(ham, state, 800, integrator, horizon=10.0).energies
    assert np.abs(long - long[0]).max() < 5 * drifts[0]


@pytest.mark.parametrize(("name", "defect"), [("implicit_midpoint", 1e-12), ("leapfrog", None)])
def test_reversal(name, defect):
    ham, state, x = Hamiltonian(Gaussian()), start(), start(seed=4).q
    integrator = get_integrator(name)
    there, stages, _ = integrator.advance(ham, state, 0.2)
    back, returning, _ = integrator.advance(ham, there, -0.2)
    error = np.abs(ravel_pytree(back)[0] - ravel_pytree(state)[0]).max()
    if defect is None:
        assert error > 1e-3
        return
    assert error < defect
    moved = integrator.carry(ham, stages, x, 0.2)
    np.testing.assert_allclose(integrator.carry(ham, returning, moved, -0.2), x, atol=defect)


def test_stormer_verlet_reverses_with_its_steps():
    ham, state = Hamiltonian(Gaussian()), start()
    integrator = get_integrator("stormer_verlet")
    there, _, _ = integrator.advance(ham, state, 0.2)
    back, _, _ = integrator.advance(ham, there, -0.2)
    np.testing.assert_allclose(back.q, state.q, atol=1e-12)
    np.testing.assert_allclose(back.p, state.p, atol=1e-12)


@pytest.mark.parametrize("name", INTEGRATORS)
def test_momenta_are_kept(name):
    ham, state = Hamiltonian(Gaussian(), nugget=0.2), start()
    integrator = get_integrator(name)
    path = shoot(ham, state, 20, integrator)
    states = jax.vmap(State)(path.q, path.p)
    total = jax.vmap(linear_momentum)(states)
    np.testing.assert_allclose(total, total[:1].repeat(21, 0), atol=1e-12)
    turning = jax.vmap(angular_momentum)(states)
    drift = np.abs(turning - turning[:1]).max()
    # A quadratic invariant: kept by the symplectic schemes, up to their order by the others.
    assert drift < (1e-12 if integrator.symplectic else 1e-2)


@pytest.mark.parametrize("name", MAPS)
def test_a_passive_point_is_a_particle_without_momentum(name):
    ham, state, x = Hamiltonian(Gaussian(), nugget=0.3), start(), start(3, seed=4).q
    integrator = get_integrator(name)
    joined = State(jnp.concatenate([state.q, x]), jnp.concatenate([state.p, jnp.zeros((3, 2))]))
    alone, crowd = (shoot(ham, s, 5, integrator) for s in (state, joined))
    np.testing.assert_allclose(crowd.q[:, :4], alone.q, atol=1e-13)
    np.testing.assert_array_equal(crowd.p[:, 4:], 0)
    np.testing.assert_allclose(transport(ham, integrator, alone, x), crowd.q[-1, 4:], atol=1e-13)


def test_geodesic_samples_the_continuous_flow():
    ham, state, x = Hamiltonian(Gaussian()), start(), start(seed=4).q
    integrator = get_integrator("geodesic")
    path, fine = shoot(ham, state, 4, integrator), shoot(ham, state, 8, RK4())
    np.testing.assert_allclose(path.q, fine.q[::2], atol=1e-14)
    np.testing.assert_allclose(path.p, fine.p[::2], atol=1e-14)
    assert np.abs(path.energies / path.energies[0] - 1).max() < 1e-4
    layers = x
    for s in range(4):
        layers = layers + 0.25 * Gaussian().gram(layers, fine.q[2 * s + 1]) @ fine.p[2 * s + 1]
    np.testing.assert_allclose(transport(ham, integrator, path, x), layers, atol=1e-14)


def test_symplectic_euler_is_the_adjoint_recursion():
    """p_s = (I + h grad v_{s+1}(q_{s+1}))^T p_{s+1}: momentum is back-propagation."""
    ham, integrator = Hamiltonian(Gaussian(), nugget=0.1), get_integrator("symplectic_euler")
    path = shoot(ham, start(), 10, integrator)
    for s in range(10):
        after = State(path.q[s + 1], path.p[s + 1])
        _, pull_back = jax.vjp(lambda x: x + path.h * ham.velocity(x, after), after.q)  # noqa: B023
        np.testing.assert_allclose(pull_back(after.p)[0], path.p[s], atol=1e-12)
        np.testing.assert_allclose(
            path.q[s + 1], path.q[s] + path.h * ham.drift(State(path.q[s], path.p[s])), atol=1e-13
        )


@pytest.mark.parametrize("name", INTEGRATORS)
def test_gradients_match_finite_differences(name):
    integrator, x = get_integrator(name), start(3, seed=4).q

    @jax.jit
    def loss(inputs):
        state, scale, nugget, x = inputs
        ham = Hamiltonian(Gaussian(scale), nugget)
        path = shoot(ham, state, 3, integrator)
        moved = transport(ham, integrator, path, x)
        return jnp.sin(moved).sum() + jnp.cos(path.final.p).sum() + path.energies.sum()

    inputs = (start(), jnp.array([0.8, 1.2]), jnp.array(0.1), x)
    flat, unflatten = ravel_pytree(inputs)
    direction = np.random.default_rng(5).normal(size=flat.shape)
    step = 1e-4
    a, b, c, d = (loss(unflatten(flat + t * step * direction)) for t in (-2, -1, 1, 2))
    expected = (a - 8 * b + 8 * c - d) / (12 * step)
    reverse = ravel_pytree(jax.jit(jax.grad(loss))(inputs))[0] @ direction
    np.testing.assert_allclose(reverse, expected, rtol=1e-9)


def test_steps_too_large_are_reported():
    ham = Hamiltonian(Gaussian(0.1))
    state = State([[0.0], [0.1]], [[3.0], [3.0]])
    for name in SYMPLECTIC:
        assert not shoot(ham, state, 1, get_integrator(name)).converged
    integrator = get_integrator("implicit_midpoint")
    assert jnp.isnan(integrator.carry(ham, state, state.q + 0.01, 1.0)).all()


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="symplectic_euler, implicit_midpoint, stormer_verlet"):
        get_integrator("euler")
