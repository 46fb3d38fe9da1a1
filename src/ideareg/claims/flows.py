"""Claims on flows: what can be written down, what is conserved, how integrators converge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import quad
from scipy.linalg import expm

from ideareg import kernels as ik
from ideareg._types import Points
from ideareg.claims.claim import Claim, largest, row, some_state
from ideareg.hamiltonian import Hamiltonian, State, angular_momentum, linear_momentum
from ideareg.integrators import INTEGRATORS, RK4, ImplicitMidpoint, SymplecticEuler, get_integrator
from ideareg.leastaction import LeastAction
from ideareg.shooting import Trajectory, shoot, transport


def closed_forms() -> Iterator[Claim]:
    """Flows that can be written down."""
    name, exact, x = "closed forms", RK4(), some_state(seed=1).q
    state, ham = some_state(), Hamiltonian(ik.Constant())
    moved = transport(ham, exact, shoot(ham, state, 3, exact), x) - x - state.p.sum(0)
    yield row(name, "constant kernel: translation", largest(moved), 0, 1e-10)

    X = np.array([[1.0, 0], [0, 1], [1, 1]])
    p = np.array([[0.3, 0.1], [-0.2, 0.4], [0.1, -0.3]])
    ham = Hamiltonian(ik.Linear())
    path = shoot(ham, State(X, p), 100, exact)
    A = p.T @ X
    phi = expm(A - A.T) @ expm(A.T)
    off = largest(
        path.final.q - X @ phi.T, transport(ham, exact, path, x) - x @ phi.T,
        path.final.p - p @ np.linalg.inv(phi),
    )  # fmt: skip
    yield row(name, "linear kernel: linear network, matrix exponentials", off, 0, 1e-10)

    ham = Hamiltonian(ik.Linear() + ik.Constant())
    path = shoot(ham, some_state(5, 3, 0.3), 200, exact)
    yield row(
        name, "affine kernel: the norm of (A, b) is kept",
        largest(path.energies - path.energies[0]), 0, 1e-10,
    )  # fmt: skip

    for kernel, title, value in (
        (ik.Laplacian(), "exponential", 0.493336504225),
        (ik.Gaussian(), "Gaussian", 0.641787254522),
    ):
        problem = LeastAction(kernel, np.array([[-1.0], [1.0]]), _no_loss, 1.0)
        yield row(name, f"two points, {title} kernel: action", _pair_action(problem), value, 1e-10)

    ham = Hamiltonian(ik.Laplacian())
    q = np.array([[-4.043700829403], [-1.049822124499]])
    path = shoot(ham, State(q, np.array([[2.40625], [1.09375]])), 400, exact)
    rows = transport(ham, exact, path, jnp.array([[-5.0], [-2.5], [0.0]])).ravel()
    off = largest(
        path.final.q.ravel() - np.array([-1.630276136813, 0.353897563186]),
        path.final.p.ravel() - np.array([2.154930659183, 1.345069340817]),
        rows - np.array([-4.569350309431, -1.243936652772, 0.729772821045]),
    )
    yield row(name, "peakons of Camassa-Holm, passive points included", off, 0, 1e-10)


def _no_loss(q: Points) -> Any:
    """Nothing is wanted of the end: the flow is shot, not optimised."""
    return 0.0 * q.sum()


def _pair_action(problem: LeastAction) -> float:
    """Return the action of the flow that brings ±1 to ±0.4, by bisection on its one momentum."""
    from scipy.optimize import brentq

    @jax.jit
    def flow(size: Any) -> Trajectory:
        return problem.trajectory(jnp.array([[1.0], [-1.0]]) * size, 200, RK4())

    size = brentq(lambda a: float(flow(a).q[-1, 1, 0]) - 0.4, 0.1, 2.0, xtol=1e-15, rtol=1e-14)
    return float(flow(size).energies[0])


def one_point() -> Iterator[Claim]:
    """One particle on a line feels only the metric."""

    def kernel(x: Any, y: Any) -> Any:
        return ((1 + 0.3 * jnp.sin(x)) * (1 + 0.3 * jnp.sin(y)))[0] * jnp.exp(-((x - y) ** 2)[0])

    path = shoot(Hamiltonian(kernel), State([[0.2]], [[1.0]]), 200, RK4())
    end = float(path.final.q[0, 0])
    length = quad(lambda q: 1 / (1 + 0.3 * np.sin(q)), 0.2, end, epsabs=1e-13)[0]
    measured = float(jnp.sqrt(2 * path.energies[0])) - length
    yield row("closed forms", "one point: distance is the integral of 1/√g", measured, 0, 1e-10)


def invariants() -> Iterator[Claim]:
    """What the continuous flow keeps."""
    name, state, ham = "conserved quantities", some_state(), Hamiltonian(ik.Gaussian())
    path = shoot(ham, state, 200, RK4())
    yield row(name, "energy", largest(path.energies - path.energies[0]), 0, 1e-10)
    end, start = path.final, path.initial
    yield row(
        name,
        "sum of the momenta",
        largest(linear_momentum(end) - linear_momentum(start)),
        0,
        1e-12,
    )
    turned = angular_momentum(end) - angular_momentum(start)
    yield row(name, "angular momentum", largest(turned), 0, 1e-10)
    pulled = jax.vjp(lambda x: transport(ham, RK4(), path, x), start.q)[1](end.p)[0]
    yield row(
        name, "momentum is carried by the inverse transpose of the flow",
        largest(pulled - start.p), 0, 1e-9,
    )  # fmt: skip
    still = State(start.q, start.p.at[0].set(0.0))
    ghost = shoot(ham, still, 20, RK4())
    yield row(name, "zero momentum stays zero", largest(ghost.p[:, 0]), 0, 0.0)


def integrators() -> Iterator[Claim]:
    """Order of each scheme, and reversal."""
    name, state = "integrators", some_state(4)
    ham = Hamiltonian(ik.Gaussian(), 0.1)
    fine = shoot(ham, state, 400, RK4()).final.q
    for scheme in INTEGRATORS:
        if scheme == "geodesic":
            continue  # its control points follow RK4
        integrator = get_integrator(scheme)
        depths = (20, 40) if scheme == "rk4" else (80, 160)
        errors = [largest(shoot(ham, state, L, integrator).final.q - fine) for L in depths]
        order = float(np.log2(errors[0] / errors[1]))
        yield row(name, f"order of {scheme}", order, integrator.order, 0.05)
    there, _, _ = ImplicitMidpoint().advance(ham, state, 0.2)
    back, _, _ = ImplicitMidpoint().advance(ham, there, -0.2)
    yield row(
        name,
        "implicit midpoint undoes itself",
        largest(back.q - state.q, back.p - state.p),
        0,
        1e-12,
    )


def features() -> Iterator[Claim]:
    """Kernels with features: the flow in weight space."""
    name, state = "feature space", some_state()
    ham = Hamiltonian(ik.Activation("tanh"))
    plain = Hamiltonian(lambda x, y: jnp.tanh(x) @ jnp.tanh(y) + 1)
    ends = [shoot(h, state, 4, SymplecticEuler()).final for h in (ham, plain)]
    off = largest(ends[0].q - ends[1].q, ends[0].p - ends[1].p)
    yield row(name, "kernel path and feature path agree", off, 0, 1e-12)
    path = shoot(ham, state, 400, RK4())
    psi = ik.Activation("tanh").feature_matrix
    weights = [np.asarray(p.T @ psi(q)) for q, p in zip(path.q, path.p, strict=True)]
    norms = np.array([(w**2).sum() for w in weights])
    yield row(name, "the norm of the weights is constant", largest(norms - norms[0]), 0, 1e-9)
