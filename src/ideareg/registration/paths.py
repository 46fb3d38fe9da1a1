r"""Least action over whole paths: slow points, and no shooting into the dark.

.. math:: \min_q\ \nu\,\frac L2\sum_s\Delta q_s^T\Gamma(m_s,m_s)^{-1}\Delta q_s + |q_L-Y|^2,
          \qquad m_s=\tfrac12(q_s+q_{s+1}),

or, for ν = 0, least action among the paths that end at Y. The action of a straight path is finite
and only falls from there, where shooting with a wrong momentum ends anywhere. The minimiser is a
second-order approximation of the geodesic, and so a first guess for Newton's method on it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.optimize import minimize

from ideareg._linalg import cholesky_with_jitter
from ideareg._types import Scalar
from ideareg.kernels import AbstractOperatorKernel, Kernel

Floats = NDArray[np.float64]

STEPS = 10
# On the diagonal of Γ, relative to its largest entry.
JITTER = 1e-10
MEMORY = 10
# A round of descent ends when the action falls by less than this share.
RELATIVE_DECREASE = 1e-6


def columns(kernel: Kernel, V: Any) -> Any:
    """Return vectors (n, d) as the columns on which ``kernel.gram`` acts."""
    return V.reshape(-1, 1) if isinstance(kernel, AbstractOperatorKernel) else V


@eqx.filter_jit
def gram(kernel: Kernel, X: Any) -> Float[Array, "N N"]:
    """Return Γ(X, X) with a jitter that keeps points which nearly coincide apart."""
    G = kernel.gram(X)
    return G + JITTER * jnp.diagonal(G).max() * jnp.eye(len(G), dtype=G.dtype)


class _Coordinates(NamedTuple):
    """Paths as a start plus coordinates w in which the action is nearly a sphere.

    With Γ held at the first points, each of its eigenvectors has a problem of its own in time,
    whose Hessian is a tridiagonal matrix.
    """

    start: Any  # (L + 1, n, d)
    modes: Any  # (N, N), eigenvectors of Γ(X, X)
    times: Any  # (N, T, T), inverse roots of the Hessians

    def path(self, w: Any) -> Any:
        inner = jnp.einsum("kst,tkc->skc", self.times, w)
        moved = jnp.einsum("nk,skc->snc", self.modes, inner)
        return self.start.at[1 : len(moved) + 1].add(moved.reshape(-1, *self.start.shape[1:]))


def _coordinates(kernel: Kernel, X: Floats, Y: Floats, nu: float) -> _Coordinates:
    values, modes = eigh(np.asarray(gram(kernel, X)))
    values = np.maximum(values, JITTER * values[-1])
    free = STEPS if nu else STEPS - 1
    laplacian = STEPS * (2 * np.eye(free) - np.eye(free, k=1) - np.eye(free, k=-1))
    end = np.zeros((free, free))
    displacement = modes.T @ columns(kernel, Y - X)
    if nu:
        laplacian[-1, -1], end[-1, -1] = STEPS, 1.0
        # A smoothed displacement: the minimiser, were Γ to stay what it is.
        displacement = (values / (values + nu / 2))[:, None] * displacement
    hessians = [(nu or 1.0) / value * laplacian + 2 * end for value in values]
    times = np.stack([np.linalg.inv(np.linalg.cholesky(H)).T for H in hessians])
    arrived = (modes @ displacement).reshape(X.shape)
    start = X + np.linspace(0, 1, STEPS + 1)[:, None, None] * arrived
    return _Coordinates(jnp.asarray(start), modes, times)


def _momenta(kernel: Kernel, path: Array) -> tuple[Array, Scalar]:
    """Return L Γ(m)⁻¹Δq of each step, and the action."""

    def step(ends: tuple[Array, Array]) -> tuple[Array, Array]:
        a, b = ends
        C, _, _ = cholesky_with_jitter(gram(kernel, (a + b) / 2), 0.0)
        half = solve_triangular(C, columns(kernel, b - a), lower=True)
        p = solve_triangular(C.T, half, lower=False)
        return STEPS * p.reshape(a.shape), STEPS / 2 * jnp.vdot(half, half)

    p, actions = jax.lax.map(step, (path[:-1], path[1:]))
    return p, actions.sum()


@eqx.filter_jit
def _objective(
    kernel: Kernel, at: _Coordinates, w: Any, target: Any, nu: Any
) -> tuple[Scalar, Array]:
    def value(w: Array) -> Scalar:
        path = at.path(w)
        action = _momenta(kernel, path)[1]
        return jnp.where(nu > 0, nu, 1.0) * action + ((path[-1] - target) ** 2).sum()

    return jax.value_and_grad(value)(w)


@eqx.filter_jit
def _first_momentum(kernel: Kernel, at: _Coordinates, w: Any) -> Array:
    """Return p(0), from the momenta in the middle of the first two steps."""
    p, _ = _momenta(kernel, at.path(w))
    return 1.5 * p[0] - 0.5 * p[1]


def _floor(kernel: Kernel, X: Floats, Y: Floats, nu: float) -> float:
    r"""Return a value that no path is below: to move a point by D costs :math:`D^2/2\Gamma`."""
    stiff = float(np.diagonal(np.asarray(gram(kernel, X))).max())
    furthest = ((Y - X) ** 2).sum(axis=1).max()
    return float((nu or 1.0) * furthest / (2 * stiff + nu))


def straighten(kernel: Kernel, X: Floats, Y: Floats, nu: float, max_iter: int) -> Floats:
    """Return the first momentum of a path of least action from X to, or near, Y.

    Parameters
    ----------
    kernel : kernel
        Γ.
    X, Y : ndarray, shape (n, d)
    nu : float
        Price of the action against the square distance at the end; 0 means to end at Y.
    max_iter : int
        Bound on the iterations of L-BFGS.

    Returns
    -------
    ndarray, shape (n, d)
    """
    at = _coordinates(kernel, X, Y, nu)
    free = at.times.shape[1]
    shape = (free, at.modes.shape[0], columns(kernel, X).shape[1])
    scale = _floor(kernel, X, Y, nu)
    if scale == 0:
        return np.zeros(X.shape)

    def evaluate(w: Floats) -> tuple[float, Floats]:
        value, gradient = _objective(kernel, at, w.reshape(shape), Y, nu)
        return float(value) / scale, np.asarray(gradient, dtype=np.float64).ravel() / scale

    options = {"maxiter": max_iter, "maxcor": MEMORY, "ftol": RELATIVE_DECREASE, "gtol": 1e-12}
    found = minimize(
        evaluate, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", options=options
    )
    return np.asarray(_first_momentum(kernel, at, found.x.reshape(shape)))
