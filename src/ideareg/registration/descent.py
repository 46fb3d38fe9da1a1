r"""Registration of shapes without correspondence: a descent on the initial momentum.

.. math:: \min_{p_0}\ \frac\nu2p_0^T\Gamma(c,c)p_0 + \ell(\varphi(X,1))

over the momentum of control points c, as p₀ = C⁻ᵀz with CCᵀ = Γ(c, c), so that the action is
½ν|z|². The points X of the shape ride along.
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
from scipy.optimize import OptimizeResult, minimize

from ideareg._linalg import cholesky_with_jitter
from ideareg._numerics import compiled
from ideareg._types import Points, Result, Scalar
from ideareg.adjoint import for_reverse_mode
from ideareg.hamiltonian import Hamiltonian, State
from ideareg.integrators import AbstractIntegrator
from ideareg.kernels import Kernel
from ideareg.registration.paths import columns
from ideareg.shooting import shoot, transport

Floats = NDArray[np.float64]

MEMORY = 20
# Of Γ(c, c), relative to its largest entry.
WHITENING_JITTER = 1e-6
# A loss below so many roundings of a square length is 0.
ROUNDING = 100


class Descended(NamedTuple):
    """The end of a descent.

    Attributes
    ----------
    momentum : ndarray, shape (c, d)
    gap : float
        Largest entry of the objective's gradient in z, relative to the objective at the start.
    result : Result
    iterations : int
    """

    momentum: Floats
    gap: float
    result: Result
    iterations: int


class Problem(eqx.Module):
    """The objective, as a function of whitened momentum.

    Attributes
    ----------
    kernel : kernel
    control_points : Array, shape (c, d)
    points : Array, shape (n, d), or None
        What rides along; None for the control points themselves.
    loss : callable
        ℓ, from points (n, d) to a number.
    nu : scalar
    depth : int
    integrator : AbstractIntegrator
    """

    kernel: Kernel
    control_points: Any
    points: Any
    loss: Callable[[Points], Scalar]
    nu: Any
    depth: int = eqx.field(static=True)
    integrator: AbstractIntegrator

    def whitening(self) -> Array:
        """Return C."""
        G = self.kernel.gram(jnp.asarray(self.control_points))
        return cholesky_with_jitter(G, WHITENING_JITTER * jnp.diagonal(G).max())[0]

    def momentum(self, z: Any, C: Any) -> Array:
        """Return p₀ = C⁻ᵀz."""
        shape = jnp.shape(self.control_points)
        z = columns(self.kernel, jnp.reshape(z, shape))
        return solve_triangular(C.T, z, lower=False).reshape(shape)

    def value(self, z: Any, C: Any) -> Scalar:
        """Return the objective."""
        ham = for_reverse_mode(Hamiltonian(self.kernel), self.integrator)
        start = State(self.control_points, self.momentum(z, C))
        path = shoot(ham, start, self.depth, self.integrator)
        moved = path.final.q
        if self.points is not None:
            moved = transport(ham, self.integrator, path, self.points)
        return self.nu / 2 * jnp.vdot(z, z) + self.loss(moved)


@compiled
def _value_and_gradient(problem: Problem, z: Any, C: Any) -> tuple[Scalar, Array]:
    return jax.value_and_grad(problem.value)(z, C)


@eqx.filter_jit
def _whitening(problem: Problem) -> Array:
    return problem.whitening()


def descend(
    problem: Problem, *, momentum: Floats | None = None, max_iter: int = 200, tol: float = 1e-5
) -> Descended:
    """Minimise the objective by L-BFGS.

    Parameters
    ----------
    problem : Problem
    momentum : ndarray, shape (c, d), optional
        First guess of p₀; zero by default.
    max_iter : int
    tol : float
        The descent ends when the objective falls by less than this share of its first value.

    Returns
    -------
    Descended
    """
    C = _whitening(problem)
    c = np.asarray(problem.control_points)
    z0 = np.zeros(c.size)
    points = c if problem.points is None else np.asarray(problem.points)
    rounding = ROUNDING * np.finfo(c.dtype).eps * points.var(axis=0).sum()
    if float(_value_and_gradient(problem, z0.astype(c.dtype), C)[0]) <= rounding:
        return Descended(np.zeros(c.shape), 0.0, Result.converged, 0)  # they are one shape
    if momentum is not None:
        z0 = np.asarray(C.T @ columns(problem.kernel, momentum), dtype=np.float64).ravel()
    found = least(lambda z: _value_and_gradient(problem, z.astype(c.dtype), C), z0, max_iter, tol)
    finite = np.isfinite(found.fun)
    result = Result.converged if found.success and finite else Result.max_steps
    p = np.asarray(problem.momentum(found.x.astype(c.dtype), C), dtype=np.float64)
    return Descended(p, float(np.abs(found.jac).max(initial=0.0)), result, int(found.nit))


def least(
    value_and_gradient: Callable[[Floats], tuple[Any, Any]], start: Floats, max_iter: int,
    tol: float, memory: int = MEMORY,
) -> OptimizeResult:  # fmt: skip
    """Minimise a function of a vector by L-BFGS, in units of its value at 0.

    The descent ends when the function falls by less than ``tol`` of these.
    """
    scale = max(float(value_and_gradient(np.zeros(start.shape))[0]), 1e-300)
    worst = 1.0

    def evaluate(z: Floats) -> tuple[float, Floats]:
        nonlocal worst
        found, gradient = value_and_gradient(z)
        value, slope = float(found) / scale, np.asarray(gradient, dtype=np.float64).ravel() / scale
        if not (np.isfinite(value) and np.isfinite(slope).all()):
            return 10 * worst, np.zeros(z.shape)  # the search must come back
        worst = max(worst, abs(value))
        return value, slope

    options = {"maxiter": max_iter, "maxcor": memory, "ftol": tol, "gtol": 1e-12}
    return minimize(evaluate, start, jac=True, method="L-BFGS-B", options=options)
