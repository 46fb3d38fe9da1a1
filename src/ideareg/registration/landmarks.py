r"""Matching of corresponding points by one initial momentum.

With the loss of registration the boundary condition of a geodesic is

.. math:: q(1) - Y + \tfrac\nu2p(1) = 0,

and ν = 0 is exact matching. A path of least action gives the first guess, Newton's method on this
condition the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array
from numpy.typing import NDArray
from scipy.optimize import root

from ideareg._linalg import cholesky_with_jitter
from ideareg._types import Result
from ideareg.hamiltonian import Hamiltonian, State
from ideareg.integrators import AbstractIntegrator
from ideareg.kernels import Kernel
from ideareg.registration.paths import columns, gram, straighten
from ideareg.shooting import shoot

Floats = NDArray[np.float64]

# Up to this many unknowns Newton's method forms its matrix.
LARGEST_DENSE = 600
# Newton's method stops when its last step was this much smaller than what is asked of the gap.
FINER = 1e-2
# A residual where the flow is not defined.
FAR = 1e6
# From a near guess, Newton's method with one matrix takes at most so many steps.
NEAR = 12
# A hard pair gets a second, longer descent when Newton's method does not get home from the first.
ROUNDS = (100, 2000)


class Match(NamedTuple):
    """A geodesic between landmarks.

    Attributes
    ----------
    momentum : ndarray, shape (n, d)
        p(0).
    gap : float
        Largest entry of the boundary condition's residual, in units of the points.
    result : Result
    iterations : int
        Evaluations of the boundary condition.
    """

    momentum: Floats
    gap: float
    result: Result
    iterations: int


class _Problem(eqx.Module):
    """The boundary condition as a function of whitened momentum z, with p(0) = C⁻ᵀz."""

    kernel: Kernel
    X: Any
    Y: Any
    nu: Any
    whitening: Any  # C, with C Cᵀ = Γ(X, X)
    depth: int = eqx.field(static=True)
    integrator: AbstractIntegrator

    def momentum(self, z: Any) -> Array:
        z = columns(self.kernel, jnp.reshape(z, jnp.shape(self.X)))
        return solve_triangular(self.whitening.T, z, lower=False).reshape(jnp.shape(self.X))

    def gap(self, z: Any) -> Array:
        p = self.momentum(z)
        return _miss(self.kernel, self.X, p, self.Y, self.nu, self.depth, self.integrator)


@eqx.filter_jit
def _whitening(kernel: Kernel, X: Any) -> Array:
    return cholesky_with_jitter(gram(kernel, X), 0.0)[0]


@eqx.filter_jit
def _gap(problem: _Problem, z: Any) -> Array:
    return problem.gap(z)


@eqx.filter_jit
def _jacobian(problem: _Problem, z: Any) -> Array:
    _, push = jax.linearize(problem.gap, z)
    return jax.vmap(push, out_axes=1)(jnp.eye(z.size))


def _miss(
    kernel: Kernel, X: Any, p: Any, Y: Any, nu: Any, depth: int, integrator: AbstractIntegrator
) -> Array:
    """Return by how much momenta p at X miss the boundary condition, shape (n d,)."""
    end = shoot(Hamiltonian(kernel), State(X, p), depth, integrator).final
    return (end.q - Y + nu / 2 * end.p).ravel()


@eqx.filter_jit
def _misses(kernel: Kernel, X: Any, p: Any, Y: Any, *how: Any) -> Array:
    return jax.lax.map(lambda pair: _miss(kernel, X, *pair, *how), (p, Y))


@eqx.filter_jit
def _derivatives(kernel: Kernel, X: Any, p: Any, Y: Any, *how: Any) -> tuple[Array, Array]:
    """Return the derivatives of each miss with respect to X and to p, both (m, n d, n d)."""
    unit = jnp.eye(X.size).reshape(X.size, *X.shape)

    def one(pair: tuple[Array, Array]) -> tuple[Array, Array]:
        at, target = pair
        _, push = jax.linearize(lambda x, p: _miss(kernel, x, p, target, *how), X, at)
        rest = jnp.zeros_like(X)
        return (
            jax.vmap(lambda e: push(e, rest), out_axes=1)(unit),
            jax.vmap(lambda e: push(rest, e), out_axes=1)(unit),
        )

    return jax.lax.map(one, (p, Y))


def match(
    kernel: Kernel,
    X: Floats,
    Y: Floats,
    nu: float,
    depth: int,
    integrator: AbstractIntegrator,
    *,
    momentum: Floats | None = None,
    tol: float = 1e-8,
) -> Match:
    """Return the geodesic that brings X to Y, exactly or at a price.

    Parameters
    ----------
    kernel : kernel
        Γ.
    X, Y : ndarray, shape (n, d)
    nu : float
        Weight of the action against the sum of square distances; 0 matches exactly.
    depth : int
        Number of time steps.
    integrator : AbstractIntegrator
    momentum : ndarray, shape (n, d), optional
        First guess of p(0), from which Newton's method starts at once.
    tol : float
        Largest accepted gap, relative to the extent of Y or the way there, which is larger.

    Returns
    -------
    Match
    """
    C = np.asarray(_whitening(kernel, X))
    problem = _Problem(kernel, X, Y, np.asarray(nu), C, depth, integrator)
    goal = tol * _size(X, Y)
    best: Match | None = None
    for most in ROUNDS if momentum is None else (0,):
        guess = straighten(kernel, X, Y, nu, most) if momentum is None else momentum
        found = _newton(problem, guess, goal)
        if best is None or found.gap < best.gap:
            best = found
        if best.result is Result.converged:
            break
    assert best is not None
    return best


def match_each(
    kernel: Kernel,
    X: Floats,
    Y: Floats,
    nu: float,
    depth: int,
    integrator: AbstractIntegrator,
    momenta: Floats,
    *,
    tol: float = 1e-8,
) -> tuple[Floats, NDArray[np.bool_], Floats]:
    """Return the geodesics from X to each of many targets, from near guesses, and how they vary.

    A matrix each, computed once, serves for the steps of Newton's method and for the derivative;
    all targets share the compiled functions.

    Parameters
    ----------
    kernel, X, nu, depth, integrator, tol
        As in `match`.
    Y : ndarray, shape (m, n, d)
    momenta : ndarray, shape (m, n, d)
        Guesses.

    Returns
    -------
    momenta : ndarray, shape (m, n, d)
    found : ndarray of bool, shape (m,)
        Whether the gap is within the tolerance; where it is not, the guess is returned.
    slopes : ndarray, shape (m, n d, n d)
        Derivatives of the momenta with respect to X, of first order in the way from the guess.
    """
    how = (np.asarray(nu), depth, integrator)
    goals = tol * np.array([_size(X, target) for target in Y])
    by_start, by_momentum = map(np.asarray, _derivatives(kernel, X, momenta, Y, *how))
    p, sound = momenta, np.isfinite(by_momentum).all(axis=(1, 2))
    by_momentum = np.where(sound[:, None, None], by_momentum, np.eye(X.size))
    for _ in range(NEAR):
        gap = np.asarray(_misses(kernel, X, p, Y, *how))
        found = sound & (np.abs(gap).max(axis=1) <= goals)  # not where the gap is NaN
        if found.all():
            break
        step = np.linalg.solve(by_momentum, gap[..., None]).reshape(p.shape)
        p = np.where(found[:, None, None], p, p - step)
    slopes = -np.linalg.solve(by_momentum, by_start)
    return np.where(found[:, None, None], p, momenta), found, slopes


def _size(X: Floats, Y: Floats) -> float:
    """Return the extent of the targets, or the way there if that is longer."""
    return float(max(np.abs(Y - X).max(), np.abs(Y - Y.mean(axis=0)).max())) or 1.0


def _remembers_the_last(function: Callable[[Floats], Floats]) -> Callable[[Floats], Floats]:
    """Return a function that keeps its last value: SciPy asks twice where it starts."""
    last: list[tuple[Floats, Floats]] = []

    def remembering(z: Floats) -> Floats:
        if not last or not np.array_equal(last[0][0], z):
            last[:] = [(z.copy(), function(z))]
        return last[0][1].copy()

    return remembering


def _newton(problem: _Problem, p: Floats, goal: float) -> Match:
    """Solve the boundary condition from the guess p: fast, and where that fails, damped."""
    z = np.asarray(problem.whitening.T @ columns(problem.kernel, p)).ravel()
    size = _size(problem.X, problem.Y)
    count = 0

    @_remembers_the_last
    def gap(z: Floats) -> Floats:
        nonlocal count
        count += 1
        return np.nan_to_num(np.asarray(_gap(problem, z)) / size, nan=FAR)

    @_remembers_the_last
    def jacobian(z: Floats) -> Floats:
        return np.nan_to_num(np.asarray(_jacobian(problem, z)) / size)

    dense: dict[str, Any] = {"jac": jacobian, "tol": max(FINER * goal / size, 1e-14)}
    methods = (("hybr", dense), ("lm", dense))
    large = (("krylov", {"tol": goal / size}),)
    best, least = z, float(np.abs(gap(z)).max())
    for method, options in methods if z.size <= LARGEST_DENSE else large:
        if least * size <= goal:
            break
        outcome = root(gap, best, method=method, **options)
        reached = float(np.abs(gap(outcome.x)).max())
        if reached < least:
            best, least = np.asarray(outcome.x), reached
    result = Result.converged if least * size <= goal else Result.max_steps
    if least >= FAR:
        result = Result.not_finite
    return Match(np.asarray(problem.momentum(best)), least * size, result, count)
