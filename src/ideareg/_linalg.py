"""Distances, factorisations and fixed points that kernels and flows are built from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from ideareg._types import Flag, Matrix, Points, Rows, Scalar

Z = TypeVar("Z")
_Attempt = tuple[Array, Array, Array, Array]

UNROLLED_DIMS = 32
# Triangles up to this size are inverted by substitution, larger ones by halves.
SMALL_TRIANGLE = 64
JITTER_ATTEMPTS = 12
KRYLOV_TOL = 1e-14


def transposed(A: Matrix) -> Matrix:
    """Return the transpose, laid out row by row in memory rather than read by columns.

    Left to itself XLA makes a transpose part of what uses it. On a CPU, products from the left and
    sums over columns then take twice as long.
    """
    # The barrier lets loops transpose once what they do not change.
    return with_layout_constraint(jax.lax.optimization_barrier(A.T), Layout((0, 1)))


def lower_inverse(L: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Return the inverse of a lower triangular matrix.

    By halves it is mostly products, and three times as fast as substitution.

    Examples
    --------
    >>> lower_inverse(jnp.array([[2.0, 0.0], [1.0, 1.0]])).tolist()
    [[0.5, 0.0], [-0.5, 1.0]]
    """
    n = len(L)
    if n <= SMALL_TRIANGLE:
        return solve_triangular(L, jnp.eye(n, dtype=L.dtype), lower=True)
    half = n // 2
    A, B = lower_inverse(L[:half, :half]), lower_inverse(L[half:, half:])
    corner = -(B @ L[half:, :half]) @ A
    return jnp.block([[A, jnp.zeros((half, n - half), L.dtype)], [corner, B]])


def accumulate_differences(f: Callable[[Array], Array], X: Points, Y: Rows) -> Matrix:
    r"""Return the matrix :math:`\sum_k f(x_{ik} - y_{jk})` for an elementwise ``f``.

    Parameters
    ----------
    f : callable
        Elementwise function.
    X, Y : Array, shapes (n, d) and (m, d)

    Returns
    -------
    Array, shape (n, m)

    Examples
    --------
    >>> accumulate_differences(jnp.abs, jnp.array([[0.0, 1.0]]), jnp.array([[2.0, 2.0]])).item()
    3.0
    """
    d = X.shape[1]
    if 0 < d <= UNROLLED_DIMS:
        # An unrolled sum fuses into one pass over (n, m); a broadcast sum may store (n, m, d).
        # With each coordinate of Y contiguous that pass is twice as fast on a CPU. X goes the same
        # way: computed in two places, equal points could differ by a rounding, and kinks by more.
        A, B = transposed(X), transposed(Y)
        total = f(A[0][:, None] - B[0])
        for k in range(1, d):
            total = total + f(A[k][:, None] - B[k])
        return total
    return f(X[:, None, :] - Y[None, :, :]).sum(-1)


@jax.custom_jvp
def squared_distances(X: Points, Y: Rows) -> Matrix:
    r"""Return :math:`|x_i - y_j|^2`, free of cancellation and exactly zero for equal points.

    The value sums explicit differences. The derivative
    :math:`2(x\cdot dx - dx\cdot y - x\cdot dy + y\cdot dy)` is matrix products, so reverse mode
    costs two of them.

    Parameters
    ----------
    X, Y : Array, shapes (n, d) and (m, d)

    Returns
    -------
    Array, shape (n, m)

    Examples
    --------
    >>> squared_distances(jnp.array([[0.0, 0.0]]), jnp.array([[3.0, 4.0]])).item()
    25.0
    """
    return accumulate_differences(jnp.square, X, Y)


@squared_distances.defjvp
def _squared_distances_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    X, Y = primals
    dX, dY = tangents
    # Only differences matter, so a common origin near the data keeps the products from cancelling.
    origin = jax.lax.stop_gradient(Y.sum(0) / max(len(Y), 1))
    A, B = X - origin, Y - origin
    rows = (A * dX).sum(1)[:, None] - dX @ B.T
    columns = (B * dY).sum(1)[None, :] - A @ dY.T
    return squared_distances(X, Y), 2 * (rows + columns)


def cholesky_with_jitter(
    A: Float[Array, "n n"], jitter: Scalar | float
) -> tuple[Float[Array, "n n"], Scalar, Flag]:
    r"""Factor :math:`A + \epsilon I = LL^T`, raising :math:`\epsilon` tenfold until it succeeds.

    Differentiable; the part of the jitter that had to be added on top counts as a constant.

    Parameters
    ----------
    A : Array, shape (n, n)
        Symmetric.
    jitter : scalar
        First attempt. May be 0: escalation then starts at the rounding level of ``A``.

    Returns
    -------
    L : Array, shape (n, n)
        Lower triangular.
    used : Array, shape ()
        The jitter that worked; compare it with ``jitter`` and report it.
    ok : Array, shape ()
        False if ``A`` is not finite or stayed indefinite; ``L`` is then NaN.

    Examples
    --------
    >>> L, used, ok = cholesky_with_jitter(jnp.ones((2, 2)), 0.0)
    >>> bool(ok), bool(used > 0)
    (True, True)
    """
    dtype = jnp.result_type(A, jitter)
    return _cholesky(jnp.asarray(A, dtype), jnp.asarray(jitter, dtype))


@jax.custom_jvp
def _cholesky(A: Array, jitter: Array) -> tuple[Array, Array, Array]:
    identity = jnp.eye(len(A), dtype=A.dtype)
    rounding = jnp.finfo(A.dtype).eps * jnp.abs(jnp.diagonal(A)).max(initial=0.0)
    solvable = jnp.isfinite(A).all()

    def factor(epsilon: Array, attempt: Array) -> _Attempt:
        L = jnp.linalg.cholesky(A + epsilon * identity)
        return L, epsilon, jnp.isfinite(L).all(), attempt

    def unfinished(state: _Attempt) -> Array:
        _, _, ok, attempt = state
        return ~ok & solvable & (attempt < JITTER_ATTEMPTS)

    def escalate(state: _Attempt) -> _Attempt:
        attempt = state[-1] + 1
        return factor(jnp.maximum(jitter, rounding) * 10.0**attempt, attempt)

    L, used, ok, _ = jax.lax.while_loop(unfinished, escalate, factor(jitter, jnp.array(0)))
    return L, used, ok


@_cholesky.defjvp
def _cholesky_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> Any:
    L, used, ok = _cholesky(*primals)
    dA, djitter = tangents
    dS = 0.5 * (dA + dA.T) + djitter * jnp.eye(len(L), dtype=L.dtype)
    inner = solve_triangular(L, solve_triangular(L, dS, lower=True).T, lower=True)
    # dL = L tril(L^-1 dS L^-T) with the diagonal halved.
    dL = L @ (jnp.tril(inner) - 0.5 * jnp.diag(jnp.diagonal(inner)))
    no_tangent = np.zeros(ok.shape, jax.dtypes.float0)
    return (L, used, ok), (dL, djitter, no_tangent)


def _relative_change(new: Any, old: Any, start: Any) -> Array:
    def leaf(a: Array, b: Array, c: Array) -> Array:
        scale = jnp.maximum(jnp.abs(a).max(initial=0.0), jnp.abs(c).max(initial=0.0))
        change = jnp.abs(a - b).max(initial=0.0)
        return jnp.where(change == 0, 0.0, change / jnp.where(scale > 0, scale, 1.0))

    changes = jax.tree.leaves(jax.tree.map(leaf, new, old, start))
    return jnp.stack(changes).max()


def _iterate(step: Callable[[Z], Z], start: Z, tol: float, max_steps: int) -> tuple[Z, Array]:
    """Repeat ``step`` until no leaf changes by more than ``tol`` of its own size."""
    dtype = jnp.result_type(*jax.tree.leaves(start))
    tol = max(tol, 16 * float(jnp.finfo(dtype).eps))
    infinity = jnp.array(jnp.inf, dtype)

    def settled(change: Array, previous: Array) -> Array:
        # Rounding may keep the change just above tol: stop when it no longer falls there.
        return (change <= tol) | ((change <= 1e3 * tol) & (change >= previous))

    def unfinished(state: tuple[Z, Array, Array, Array]) -> Array:
        _, change, previous, count = state
        return ~settled(change, previous) & ~jnp.isnan(change) & (count < max_steps)

    def body(state: tuple[Z, Array, Array, Array]) -> tuple[Z, Array, Array, Array]:
        z, change, _, count = state
        new = step(z)
        return new, _relative_change(new, z, start).astype(dtype), change, count + 1

    state = (start, infinity, infinity, jnp.array(0))
    z, change, previous, _ = jax.lax.while_loop(unfinished, body, state)
    return z, settled(change, previous)


def _norm(tree: Any) -> Array:
    return jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(tree)))


def fixed_point(
    F: Callable[[Z], Z], z0: Z, *, tol: float = 1e-14, max_steps: int = 300
) -> tuple[Z, Flag]:
    r"""Solve :math:`z = F(z)` by iteration; differentiable by the implicit function theorem.

    Derivatives solve :math:`(I - F'(z))\,\dot z = \dot F` (and its transpose) by Bi-CGSTAB, so they
    need neither the iterates nor their number. They become NaN, never quietly wrong, where that
    fails. ``F`` may close over traced values.

    Parameters
    ----------
    F : callable
        Contraction on pytrees of real arrays.
    z0 : pytree
        First guess; no derivative passes through it.
    tol : float
        Largest change, relative to the size of each leaf; never taken below rounding level.
    max_steps : int
        Bound on the evaluations of ``F``.

    Returns
    -------
    z : pytree
    converged : Array, shape ()

    Examples
    --------
    >>> z, converged = fixed_point(jnp.cos, jnp.array(1.0))
    >>> round(z.item(), 4), converged.item()
    (0.7391, True)
    """
    z0 = jax.tree.map(jnp.asarray, z0)

    def residual(z: Z) -> Z:
        return jax.tree.map(jnp.subtract, z, F(z))

    def solve(_: Callable[[Z], Z], start: Z) -> tuple[Z, Array]:
        z, converged = _iterate(F, start, tol, max_steps)
        # As a number, because custom_root gives its extra output a tangent of the same type.
        return z, converged.astype(float)

    def krylov(matvec: Callable[[Z], Z], b: Z) -> Z:
        # Bi-CGSTAB rather than the same iteration: near the end of its reach, where F barely
        # contracts, that one takes hundreds of steps.
        x, _ = jax.scipy.sparse.linalg.bicgstab(matvec, b, tol=KRYLOV_TOL, maxiter=max_steps)
        gap = _norm(jax.tree.map(jnp.subtract, b, matvec(x)))
        solved = gap <= 1e4 * max(KRYLOV_TOL, float(jnp.finfo(gap.dtype).eps)) * _norm(b)
        return jax.tree.map(lambda leaf: jnp.where(solved, leaf, jnp.nan), x)

    def tangent_solve(linear: Callable[[Z], Z], b: Z) -> Z:
        return jax.lax.custom_linear_solve(linear, b, krylov, transpose_solve=krylov)

    z, converged = jax.lax.custom_root(residual, z0, solve, tangent_solve, has_aux=True)
    return jax.tree.map(lambda leaf: _trusted(leaf, converged), z), converged > 0


@jax.custom_jvp
def _trusted(z: Array, converged: Array) -> Array:
    """Return ``z``; its derivative is NaN unless ``converged``."""
    return z


@_trusted.defjvp
def _trusted_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Any]) -> tuple[Array, Array]:
    z, converged = primals
    return z, tangents[0] * jnp.where(converged > 0, 1.0, jnp.nan).astype(z.dtype)
