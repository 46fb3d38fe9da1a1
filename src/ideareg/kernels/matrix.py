"""Operator-valued kernels: how the coordinates of a warp are coupled.

A scalar kernel k already acts as k(x, y) I through ``apply``; these say more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ideareg._types import Diagonals, Point, Points, Rows, Scalar
from ideareg.kernels.base import (
    AbstractKernel,
    AbstractOperatorKernel,
    Kernel,
    Nugget,
    as_kernel,
    real_array,
)

KernelMap = Callable[[AbstractKernel], AbstractKernel]


def _require_scalar(owner: object, kernel: Any) -> None:
    if not isinstance(kernel, AbstractKernel):
        raise TypeError(
            f"{type(owner).__name__}: expected a scalar kernel, got {type(kernel).__name__}."
        )


class AbstractSummable(AbstractOperatorKernel):
    """Operator-valued kernel that adds to any other kernel."""

    def __add__(self, other: Any) -> OperatorSum:
        return OperatorSum(self, as_operator(other))

    def __radd__(self, other: Any) -> OperatorSum:
        return OperatorSum(as_operator(other), self)


class Isotropic(AbstractSummable):
    """The kernel k(x, y) I, with one output coordinate per input coordinate."""

    kernel: AbstractKernel = eqx.field(converter=as_kernel)

    def __check_init__(self) -> None:
        _require_scalar(self, self.kernel)

    def __call__(self, x: Point, y: Point) -> Float[Array, "d d"]:
        """Return K(x, y) for two points of shape (d,)."""
        return self.kernel(x, y) * jnp.eye(len(x))

    def gram(self, X: Points, Y: Rows | None = None) -> Float[Array, "nd md"]:
        """Return the block matrix, shape (n d, m d)."""
        return jnp.kron(self.kernel.gram(X, Y), jnp.eye(X.shape[1]))

    def apply(
        self, X: Points, Y: Rows | None, P: Rows, tile: int | None = None
    ) -> Float[Array, "n d"]:
        """Return the sums over j of k(x_i, y_j) p_j, shape (n, d)."""
        return self.kernel.apply(X, Y, P, tile)

    def diagonal(self, X: Points) -> Diagonals:
        """Return the diagonal blocks, shape (n, d, d)."""
        return self.kernel.diagonal(X)[:, None, None] * jnp.eye(X.shape[1])

    def map_kernels(self, f: KernelMap) -> Isotropic:
        """Return a copy with ``f`` applied to the scalar kernel."""
        return Isotropic(f(self.kernel))


class Separable(AbstractSummable):
    """The kernel k(x, y) A with a positive semi-definite matrix A that couples coordinates.

    Raises
    ------
    ValueError
        If ``A`` is not square, symmetric and positive semi-definite.

    Examples
    --------
    >>> from ideareg.kernels import Gaussian
    >>> K = Separable(Gaussian(), jnp.array([[2.0, 1.0], [1.0, 2.0]]))
    >>> K.apply(jnp.zeros((1, 2)), None, jnp.array([[1.0, 0.0]])).tolist()
    [[2.0, 1.0]]
    """

    kernel: AbstractKernel = eqx.field(converter=as_kernel)
    A: Float[Array, "d d"] = eqx.field(converter=real_array)

    def __check_init__(self) -> None:
        _require_scalar(self, self.kernel)
        if self.A.ndim != 2 or self.A.shape[0] != self.A.shape[1]:
            raise ValueError(f"Separable: A must be a square matrix, got shape {self.A.shape}.")
        if isinstance(self.A, jax.core.Tracer):
            return
        A = np.asarray(self.A, float)
        slack = 1e-6 * np.abs(A).max(initial=0.0)
        if np.abs(A - A.T).max(initial=0.0) > slack or np.linalg.eigvalsh(A).min() < -slack:
            raise ValueError(
                "Separable: A must be symmetric and positive semi-definite; build it as B @ B.T."
            )

    def __call__(self, x: Point, y: Point) -> Float[Array, "d d"]:
        """Return K(x, y) for two points of shape (d,)."""
        return self.kernel(x, y) * self.A

    def gram(self, X: Points, Y: Rows | None = None) -> Float[Array, "nd md"]:
        """Return the block matrix, shape (n d, m d)."""
        return jnp.kron(self.kernel.gram(X, Y), self.A)

    def apply(
        self, X: Points, Y: Rows | None, P: Rows, tile: int | None = None
    ) -> Float[Array, "n d"]:
        """Return the sums over j of k(x_i, y_j) A p_j, shape (n, d)."""
        return self.kernel.apply(X, Y, P @ self.A.T, tile)

    def diagonal(self, X: Points) -> Diagonals:
        """Return the diagonal blocks, shape (n, d, d)."""
        return self.kernel.diagonal(X)[:, None, None] * self.A

    def map_kernels(self, f: KernelMap) -> Separable:
        """Return a copy with ``f`` applied to the scalar kernel."""
        return Separable(f(self.kernel), self.A)


def _scalar_kernels(kernels: Iterable[Any]) -> tuple[AbstractKernel, ...]:
    return tuple(as_kernel(kernel) for kernel in kernels)


class Diagonal(AbstractSummable):
    """One scalar kernel for each output coordinate, the coordinates uncoupled."""

    kernels: tuple[AbstractKernel, ...] = eqx.field(converter=_scalar_kernels)

    def __check_init__(self) -> None:
        for kernel in self.kernels:
            _require_scalar(self, kernel)

    def __call__(self, x: Point, y: Point) -> Float[Array, "d d"]:
        """Return K(x, y) for two points of shape (d,)."""
        return jnp.diag(jnp.stack([kernel(x, y) for kernel in self.kernels]))

    def gram(self, X: Points, Y: Rows | None = None) -> Float[Array, "nd md"]:
        """Return the block matrix, shape (n d, m d)."""
        grams = jnp.stack([kernel.gram(X, Y) for kernel in self.kernels])
        d, n, m = grams.shape
        return jnp.einsum("anm,ab->namb", grams, jnp.eye(d)).reshape(n * d, m * d)

    def apply(
        self, X: Points, Y: Rows | None, P: Rows, tile: int | None = None
    ) -> Float[Array, "n d"]:
        """Return the sums over j of K(x_i, y_j) p_j, shape (n, d)."""
        if P.shape[1] != len(self.kernels):
            raise ValueError(
                f"Diagonal: {len(self.kernels)} kernels cannot act on {P.shape[1]} coordinates; "
                "give one kernel per coordinate."
            )
        columns = zip(self.kernels, P.T, strict=True)
        return jnp.stack([kernel.apply(X, Y, p, tile) for kernel, p in columns], axis=1)

    def diagonal(self, X: Points) -> Diagonals:
        """Return the diagonal blocks, shape (n, d, d)."""
        entries = jnp.stack([kernel.diagonal(X) for kernel in self.kernels], axis=1)
        return entries[:, :, None] * jnp.eye(len(self.kernels))

    def map_kernels(self, f: KernelMap) -> Diagonal:
        """Return a copy with ``f`` applied to each scalar kernel."""
        return Diagonal(tuple(f(kernel) for kernel in self.kernels))


class OperatorSum(AbstractSummable):
    """The kernel K1 + K2 of two operator-valued kernels."""

    left: AbstractOperatorKernel
    right: AbstractOperatorKernel

    def __call__(self, x: Point, y: Point) -> Float[Array, "d d"]:
        """Return K(x, y) for two points of shape (d,)."""
        return self.left(x, y) + self.right(x, y)

    def gram(self, X: Points, Y: Rows | None = None) -> Float[Array, "nd md"]:
        """Return the block matrix, shape (n d, m d)."""
        return self.left.gram(X, Y) + self.right.gram(X, Y)

    def apply(
        self, X: Points, Y: Rows | None, P: Rows, tile: int | None = None
    ) -> Float[Array, "n d"]:
        """Return the sums over j of K(x_i, y_j) p_j, shape (n, d)."""
        return self.left.apply(X, Y, P, tile) + self.right.apply(X, Y, P, tile)

    def diagonal(self, X: Points) -> Diagonals:
        """Return the diagonal blocks, shape (n, d, d)."""
        return self.left.diagonal(X) + self.right.diagonal(X)

    def map_kernels(self, f: KernelMap) -> OperatorSum:
        """Return a copy with ``f`` applied to each scalar kernel on both sides."""
        return OperatorSum(self.left.map_kernels(f), self.right.map_kernels(f))

    def __repr__(self) -> str:
        return f"{self.left!r} + {self.right!r}"


def as_operator(kernel: Any) -> AbstractOperatorKernel:
    """Return an operator-valued kernel: itself, or k I for a scalar kernel or function k."""
    kernel = as_kernel(kernel)
    return Isotropic(kernel) if isinstance(kernel, AbstractKernel) else kernel


def with_nugget(kernel: Any, nugget: Scalar | float) -> Kernel:
    r"""Return the kernel plus :math:`r\,\delta_{ij}` on the diagonal of ``gram(X)`` only.

    Parameters
    ----------
    kernel : kernel or function of two points
    nugget : scalar
        r >= 0.

    Examples
    --------
    >>> from ideareg.kernels import Gaussian
    >>> with_nugget(Gaussian(), 0.5).gram(jnp.zeros((2, 1))).tolist()
    [[1.5, 1.0], [1.0, 1.5]]
    """
    total: Kernel = as_kernel(kernel) + Nugget(real_array(nugget))
    return total
