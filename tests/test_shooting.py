"""The flow: closed forms, invariants, memory, inverse, features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp
from scipy.linalg import expm
from scipy.optimize import root

from ideareg import kernels as ik
from ideareg._types import Result
from ideareg.hamiltonian import Hamiltonian, State
from ideareg.integrators import INTEGRATORS, RK4, ImplicitMidpoint, SymplecticEuler, get_integrator
from ideareg.shooting import inverse_transport, shoot, transport, transport_path

pytestmark = pytest.mark.usefixtures("double_precision")

EXACT = RK4()


def random_state(n=5, d=2, size=0.5, seed=0):
    rng = np.random.default_rng(seed)
    return State(rng.normal(size=(n, d)), size * rng.normal(size=(n, d)))


def test_k1_constant_kernel_translates():
    state, x = random_state(), random_state(seed=1).q
    ham = Hamiltonian(ik.Constant())
    path = shoot(ham, state, 3, EXACT)
    shift = state.p.sum(0)
    for s in range(4):
        np.testing.assert_allclose(path.q[s], state.q + s / 3 * shift, atol=1e-13)
    np.testing.assert_allclose(transport(ham, EXACT, path, x), x + shift, atol=1e-13)


def test_k1_single_point_moves_straight():
    state = random_state(1)
    path = shoot(Hamiltonian(2.0 * ik.Matern52()), state, 4, ImplicitMidpoint())
    np.testing.assert_allclose(path.final.q, state.q + 2 * state.p, atol=1e-13)


def test_k2_linear_kernel():
    X = np.array([[1.0, 0], [0, 1], [1, 1]])
    p = np.array([[0.3, 0.1], [-0.2, 0.4], [0.1, -0.3]])
    ham = Hamiltonian(ik.Linear())
    path = shoot(ham, State(X, p), 100, EXACT)
    A = p.T @ X
    phi = expm(A - A.T) @ expm(A.T)
    printed = [[1.484948240454, -0.145778398527], [-0.278955064138, 1.137673925049]]
    np.testing.assert_allclose(phi, printed, atol=1e-12)
    x = random_state(seed=1).q
    np.testing.assert_allclose(path.final.q, X @ phi.T, atol=1e-10)
    np.testing.assert_allclose(transport(ham, EXACT, path, x), x @ phi.T, atol=1e-10)
    np.testing.assert_allclose(path.final.p, p @ np.linalg.inv(phi), atol=1e-10)
    np.testing.assert_allclose(2 * path.energies, 0.22, atol=1e-10)
    W = A - A.T
    middle = path.p[50].T @ path.q[50]
    np.testing.assert_allclose(middle, expm(W / 2) @ A @ expm(-W / 2), atol=1e-10)


def test_k3_affine_kernel():
    state, x = random_state(5, 3, 0.3), random_state(4, 3, seed=1).q
    ham = Hamiltonian(ik.Linear() + ik.Constant())
    path = shoot(ham, state, 200, EXACT)

    def reduced(_, z):
        A, E = z[:9].reshape(3, 3), z[12:21].reshape(3, 3)
        b, c = z[9:12], z[21:]
        dA = A @ A.T - A.T @ A + np.outer(b, b)
        return np.concatenate([dA.ravel(), -A.T @ b, (A @ E).ravel(), A @ c + b])

    A, b = np.asarray(state.p.T @ state.q), np.asarray(state.p.sum(0))
    z0 = np.concatenate([A.ravel(), b, np.eye(3).ravel(), np.zeros(3)])
    z = solve_ivp(reduced, (0, 1), z0, method="DOP853", rtol=1e-13, atol=1e-13).y[:, -1]
    moved = x @ z[12:21].reshape(3, 3).T + z[21:]
    np.testing.assert_allclose(transport(ham, EXACT, path, x), moved, atol=1e-10)
    np.testing.assert_allclose(2 * path.energies, (A**2).sum() + (b**2).sum(), atol=1e-10)


def minimal_action(kernel, q0, q1, p_guess, nugget=0.0, depth=200):
    """Solve q(1) = q1 for p(0) and return the action, i.e. the energy."""
    ham = Hamiltonian(kernel, nugget)
    q0, q1 = np.reshape(q0, (-1, 1)), np.asarray(q1)

    @jax.jit
    def miss(p):
        return shoot(ham, State(q0, p.reshape(q0.shape)), depth, EXACT).final.q.ravel() - q1

    jacobian = jax.jit(jax.jacfwd(miss))
    found = root(
        lambda p: np.asarray(miss(p)), p_guess, jac=lambda p: np.asarray(jacobian(p)), tol=1e-13
    )
    assert np.abs(miss(found.x)).max() < 1e-11
    return float(ham.energy(State(q0, found.x.reshape(q0.shape))))


def test_k4_one_point():
    def stretched(x, y):
        return ((1 + 0.3 * jnp.sin(x)) * (1 + 0.3 * jnp.sin(y)))[0] * jnp.exp(-((x - y) ** 2)[0])

    action = minimal_action(stretched, [0.2], [1.5], [1.0])
    length = quad(lambda q: 1 / (1 + 0.3 * np.sin(q)), 0.2, 1.5, epsabs=1e-13)[0]
    assert action == pytest.approx(length**2 / 2, abs=1e-10)


@pytest.mark.parametrize(
    ("kernel", "profile", "nugget", "printed"),
    [
        (ik.Laplacian, lambda s: np.exp(-s), 0.0, 0.493336504225),
        (ik.Gaussian, lambda s: np.exp(-(s**2) / 2), 0.0, 0.641787254522),
        (ik.Gaussian, lambda s: np.exp(-(s**2) / 2), 0.2, None),
    ],
)
def test_k5_two_points(kernel, profile, nugget, printed):
    length = quad(lambda q: 1 / np.sqrt(1 + nugget - profile(2 * q)), 0.4, 1, epsabs=1e-13)[0]
    if printed is not None:
        assert length**2 == pytest.approx(printed, abs=1e-12)
    action = minimal_action(kernel(), [-1, 1], [-0.4, 0.4], [0.6, -0.6], nugget)
    assert action == pytest.approx(length**2, abs=1e-10)


def test_k6_peakons():
    q = np.array([[-4.043700829403], [-1.049822124499]])
    p = np.array([[2.40625], [1.09375]])
    x = np.array([[-5.0], [-2.5], [0.0]])
    ham = Hamiltonian(ik.Laplacian())
    path = shoot(ham, State(q, p), 400, EXACT)
    np.testing.assert_allclose(path.final.q.ravel(), [-1.630276136813, 0.353897563186], atol=1e-10)
    np.testing.assert_allclose(path.final.p.ravel(), [2.154930659183, 1.345069340817], atol=1e-10)
    np.testing.assert_allclose(path.energies, 3.625, atol=1e-10)
    moved = transport(ham, EXACT, path, x).ravel()
    np.testing.assert_allclose(
        moved, [-4.569350309431, -1.243936652772, 0.729772821045], atol=1e-10
    )


def test_momentum_is_carried_by_the_inverse_transpose_of_the_flow():
    ham, state = Hamiltonian(ik.Gaussian()), random_state()
    path = shoot(ham, state, 200, EXACT)

    @jax.jit
    def pull_back(x, p):
        return jax.vjp(lambda x: transport(ham, EXACT, path, x), x)[1](p)[0]

    np.testing.assert_allclose(pull_back(state.q, path.final.p), state.p, atol=1e-10)
    np.testing.assert_allclose(path.energies, path.energies[0], atol=1e-10)


def test_action_of_symplectic_euler_is_the_weight_decay_of_the_network():
    ham, state = Hamiltonian(ik.Activation("tanh")), random_state(6)
    path = shoot(ham, state, 5, SymplecticEuler())
    features = jax.vmap(ham.kernel.feature_matrix)(path.q[:-1])
    weights = path.h * jnp.einsum("snd,snf->sdf", path.p[:-1], features)
    assert path.action == pytest.approx(float(5 / 2 * jnp.square(weights).sum()), rel=1e-12)
    x = random_state(4, seed=1).q
    moved = x
    for w in weights:
        moved = moved + ham.kernel.feature_matrix(moved) @ w.T
    np.testing.assert_allclose(transport(ham, SymplecticEuler(), path, x), moved, atol=1e-12)


@pytest.mark.parametrize("name", ["symplectic_euler", "rk4"])
def test_kernel_path_and_feature_path_agree(name):
    integrator, state, x = get_integrator(name), random_state(), random_state(seed=1).q
    ends = []
    for kernel in (ik.Activation("tanh"), lambda x, y: jnp.tanh(x) @ jnp.tanh(y) + 1):
        ham = Hamiltonian(kernel, 0.1)
        path = shoot(ham, state, 4, integrator)
        ends.append(np.concatenate([path.q[-1], path.p[-1], transport(ham, integrator, path, x)]))
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-13)


@pytest.mark.parametrize("name", INTEGRATORS)
def test_inverse_undoes_the_discrete_flow(name):
    integrator, x = get_integrator(name), random_state(7, seed=1).q
    ham = Hamiltonian(ik.Gaussian(), 0.1)
    path = shoot(ham, random_state(), 5, integrator)
    there = transport(ham, integrator, path, x)
    back = inverse_transport(ham, integrator, path, there)
    assert back.outcome is Result.converged and back.stats["layers_failed"] == 0
    assert np.abs(there - x).max() > 0.1
    np.testing.assert_allclose(back.value, x, atol=1e-12)


def test_inverse_of_a_folding_layer_is_refused():
    ham = Hamiltonian(ik.Gaussian(0.1))
    integrator = SymplecticEuler()
    path = shoot(ham, State([[0.0]], [[3.0]]), 1, integrator)
    solution = inverse_transport(ham, integrator, path, jnp.array([[0.1]]), max_steps=30)
    assert solution.outcome is Result.max_steps and solution.stats["layers_failed"] == 1


def test_path_visits_every_layer():
    ham, state, x = Hamiltonian(ik.Gaussian()), random_state(), random_state(seed=1).q
    path = shoot(ham, state, 4, EXACT, horizon=2.0)
    visited = transport_path(ham, EXACT, path, x)
    assert visited.shape == (5, 5, 2) and path.h == 0.5
    np.testing.assert_array_equal(visited[0], x)
    np.testing.assert_allclose(visited[-1], transport(ham, EXACT, path, x), atol=1e-14)
    half = shoot(ham, state, 2, EXACT, horizon=1.0)
    np.testing.assert_allclose(half.final.q, path.q[2], atol=1e-14)


def test_no_layers_no_motion():
    ham, state, x = Hamiltonian(ik.Gaussian()), random_state(), random_state(seed=1).q
    path = shoot(ham, state, 0, EXACT)
    np.testing.assert_array_equal(path.final.q, state.q)
    np.testing.assert_array_equal(transport(ham, EXACT, path, x), x)
    np.testing.assert_array_equal(inverse_transport(ham, EXACT, path, x).value, x)
    assert path.converged and path.energies.shape == (1,)


def test_nugget_lets_points_leave_the_flow():
    state = random_state()
    apart = []
    for nugget in (0.0, 0.5):
        ham = Hamiltonian(ik.Gaussian(), nugget)
        path = shoot(ham, state, 10, EXACT)
        apart.append(np.abs(transport(ham, EXACT, path, state.q) - path.final.q).max())
    assert apart[0] < 1e-13 and apart[1] > 0.1


def test_duplicated_points_stay_together():
    state = State(np.zeros((2, 2)), np.ones((2, 2)))
    path = shoot(Hamiltonian(ik.Matern32(), 0.1), state, 5, ImplicitMidpoint())
    assert path.converged
    np.testing.assert_array_equal(path.final.q[0], path.final.q[1])


def test_memory_of_the_gradient_does_not_hold_a_matrix_per_layer():
    n, integrator = 200, ImplicitMidpoint()
    state = random_state(n)

    def loss(p, depth):
        ham = Hamiltonian(ik.Gaussian())
        path = shoot(ham, State(state.q, p), depth, integrator)
        return jnp.square(transport(ham, integrator, path, state.q)).sum()

    memory = []
    for depth in (8, 64):
        compiled = jax.jit(jax.grad(loss), static_argnums=1).lower(state.p, depth).compile()
        memory.append(compiled.memory_analysis().temp_size_in_bytes)
    per_layer = (memory[1] - memory[0]) / 56
    assert per_layer < 0.1 * n * n * 8


def test_single_precision_is_kept():
    state = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), random_state())
    for name in ("stormer_verlet", "rk4"):
        path = shoot(Hamiltonian(ik.Gaussian()), state, 3, get_integrator(name))
        assert path.q.dtype == jnp.float32 and path.converged


def test_errors():
    ham, state = Hamiltonian(ik.Gaussian()), random_state()
    with pytest.raises(ValueError, match="depth must be"):
        shoot(ham, state, -1, EXACT)
    with pytest.raises(ValueError, match="one shape"):
        shoot(ham, State(state.q, state.p[:2]), 1, EXACT)
