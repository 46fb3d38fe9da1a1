"""Kernels that are made equivariant by averaging over a group."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ideareg._types import Diagonals, Point, Points, Rows, Scalar
from ideareg.kernels.base import AbstractKernel, real_array
from ideareg.kernels.equivariant import scalar_base
from ideareg.kernels.matrix import AbstractSummable, KernelMap


class Averaged(AbstractSummable):
    r"""A scalar kernel made equivariant by averaging over a group, or over a quadrature of one.

    .. math:: K(x, x') = \sum_{g,g'}w_gw_{g'}\,\rho_g^T\,k(gx, g'x')\,\rho_{g'}

    with orthogonal matrices ρ for the action on outputs; functions obey
    :math:`f(gx) = \rho_gf(x)`. Interpolation with it is interpolation with k of the data and all
    their images; ridge regression likewise, with λ/|G| for λ.

    Parameters
    ----------
    kernel : scalar kernel or function of two points
        k, as :math:`kI` on the outputs.
    inputs, outputs : array, shapes (G, d, d) and (G, e, e)
        The actions; ``group.matrices()``, ``haar_so3(4).on_points(k)``, or your own. Without
        ``outputs`` functions are invariant and scalar.
    weights : array, shape (G,), optional
        Of the quadrature; equal by default.
    invariant : bool
        Whether k(gx, gx') = k(x, x'), as for radial kernels and orthogonal actions: one sum over
        the group is then enough.

    Raises
    ------
    ValueError
        If shapes do not fit, or ``outputs`` are not orthogonal.

    Examples
    --------
    >>> from ideareg.kernels import Gaussian
    >>> from ideareg.kernels.groups import cyclic
    >>> turns = cyclic(3).matrices()
    >>> K = Averaged(Gaussian(), turns, turns, invariant=True)
    >>> (3 * K.gram(jnp.ones((1, 3)))).round(4).tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """

    kernel: AbstractKernel
    inputs: Float[Array, "G d d"]
    outputs: Float[Array, "G e e"]
    weights: Float[Array, " G"]
    invariant: bool = eqx.field(static=True)

    def __init__(
        self, kernel: Any, inputs: Any, outputs: Any = None, weights: Any = None, *,
        invariant: bool = False,
    ) -> None:  # fmt: skip
        self.kernel = scalar_base(kernel)
        self.inputs = _square_matrices("inputs", inputs)
        n = len(self.inputs)
        trivial: Any = np.ones((n, 1, 1))
        equal: Any = np.full(n, 1 / n)
        self.outputs = trivial if outputs is None else _square_matrices("outputs", outputs)
        self.weights = equal if weights is None else real_array(weights)
        if len(self.outputs) != n or self.weights.shape != (n,):
            raise ValueError(
                f"Averaged: {n} actions on inputs, {len(self.outputs)} on outputs and weights of "
                f"shape {self.weights.shape}; give one each per element."
            )
        size = self.outputs @ np.swapaxes(self.outputs, 1, 2)
        if np.abs(size - np.eye(self.outputs.shape[1])).max() > 1e-8:
            raise ValueError("Averaged: the actions on outputs must be orthogonal matrices.")
        self.invariant = invariant

    @property
    def n_outputs(self) -> int:
        """Entries of a row of outputs."""
        return int(self.outputs.shape[1])

    def _terms(self) -> tuple[Array, Array, Array, Array, Array]:
        """Return actions on x, on x', on outputs from the left and right, and weights."""
        A, B, w = (jnp.asarray(part) for part in (self.inputs, self.outputs, self.weights))
        if self.invariant:
            eye = jnp.broadcast_to(jnp.eye(A.shape[1]), A.shape)
            return eye, A, jnp.broadcast_to(jnp.eye(B.shape[1]), B.shape), B, w
        n = len(A)
        left, right = jnp.repeat(jnp.arange(n), n), jnp.tile(jnp.arange(n), n)
        return A[left], A[right], B[left], B[right], w[left] * w[right]

    def _sum(self, term: Any, start: Array) -> Array:
        def add(total: Array, parts: Any) -> tuple[Array, None]:
            return total + term(*parts), None

        return jax.lax.scan(jax.checkpoint(add, prevent_cse=False), start, self._terms())[0]

    def __call__(self, x: Point, y: Point) -> Float[Array, "e e"]:
        """Return K(x, y), shape (e, e)."""
        return self.gram(x[None], y[None])

    def gram(self, X: Points, Y: Rows | None = None) -> Float[Array, "ne me"]:
        """Return the block matrix, shape (n e, m e)."""
        Z, e = X if Y is None else Y, self.n_outputs

        def term(a: Array, b: Array, left: Array, right: Array, w: Scalar) -> Array:
            return w * jnp.kron(self.kernel.gram(X @ a.T, Z @ b.T), left.T @ right)

        return self._sum(term, jnp.zeros((len(X) * e, len(Z) * e), X.dtype))

    def apply(
        self, X: Points, Y: Rows | None, P: Rows, tile: int | None = None
    ) -> Float[Array, "n e"]:
        """Return the sums over j of K(x_i, y_j) p_j, shape (n, e), without the matrix."""
        Z = X if Y is None else Y

        def term(a: Array, b: Array, left: Array, right: Array, w: Scalar) -> Array:
            return w * self.kernel.apply(X @ a.T, Z @ b.T, P @ (left.T @ right).T, tile)

        return self._sum(term, jnp.zeros((len(X), self.n_outputs), X.dtype))

    def diagonal(self, X: Points) -> Diagonals:
        """Return the diagonal blocks, shape (n, e, e)."""
        return jax.lax.map(lambda x: self(x, x), X)

    def map_kernels(self, f: KernelMap) -> Averaged:
        """Return a copy with ``f`` applied to the scalar kernel."""
        return eqx.tree_at(lambda kernel: kernel.kernel, self, f(self.kernel))


def _square_matrices(name: str, matrices: Any) -> Any:
    array = np.asarray(matrices, dtype=float)
    if array.ndim != 3 or array.shape[1] != array.shape[2] or not array.size:
        raise ValueError(
            f"Averaged: {name} must be square matrices (G, d, d), got shape {array.shape}."
        )
    return array
