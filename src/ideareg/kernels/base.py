"""What every kernel can do, written once: batching, tiling, algebra and printing.

A kernel is defined for one pair of points. `AbstractKernel` is scalar; `AbstractOperatorKernel`
maps a pair to a matrix that acts on vectors. The verb they share is ``apply(X, Y, P)``, the sums
:math:`\\sum_j K(x_i, y_j) p_j`; ``Y=None`` stands for "the same points as ``X``, by index".
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ideareg._types import Diagonals, Matrix, Point, Points, Rows, Scalar

# Entries of one tile of a Gram matrix: small enough to stay in a processor's cache while it is
# used, large enough to fill an accelerator: on an H100 it halves the time of a product.
TILE_ENTRIES, ACCELERATOR_TILE_ENTRIES = 2**20, 2**26


def real_array(value: Any) -> Any:
    """Return ``value`` as a floating-point array; integers become floats so that they can learn.

    What is not a JAX array yet stays in NumPy, so that 0.1 is not rounded to float32 where a kernel
    is made outside a float64 scope and used inside one.
    """
    array = value if isinstance(value, jax.Array) else np.asarray(value)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


def check_positive(owner: object, *, allow_zero: bool = False, **values: Array) -> None:
    """Raise ValueError for an entry that is not positive; traced values pass unseen."""
    for name, value in values.items():
        if isinstance(value, jax.core.Tracer):
            continue
        array = np.asarray(value)
        if not np.all(array >= 0 if allow_zero else array > 0):
            raise ValueError(
                f"{type(owner).__name__}: {name} must be {'>= 0' if allow_zero else 'positive'}, "
                f"got {array.tolist()}."
            )


def map_row_tiles(f: Callable[[Array], Array], X: Points, columns: int, tile: int | None) -> Array:
    """Apply a row-wise ``f`` to ``X`` tile by tile; reverse mode recomputes tiles, if several."""
    n = len(X)
    if tile is None:
        entries = TILE_ENTRIES if jax.default_backend() == "cpu" else ACCELERATOR_TILE_ENTRIES
        tile = max(entries // max(columns, 1), 8)
    if n <= tile:
        return f(X)
    count = -(-n // tile)
    tile = -(-n // count)  # equal tiles need the least padding
    # Padding repeats a real row: a user's kernel may not be defined at the origin.
    padded = jnp.pad(X, ((0, count * tile - n), (0, 0)), mode="edge")
    tiles = jax.lax.map(jax.checkpoint(f, prevent_cse=False), padded.reshape(count, tile, -1))
    return tiles.reshape(count * tile, *tiles.shape[2:])[:n]


def _show(value: Any) -> str:
    if isinstance(value, jax.core.Tracer) or not hasattr(value, "dtype"):
        return getattr(value, "__name__", None) or repr(value)
    if value.size > 8 or not jnp.issubdtype(value.dtype, jnp.floating):
        return f"{value.dtype}{list(value.shape)}"
    return str(np.round(np.asarray(value, float), 6).tolist())


class _Printable(eqx.Module):
    # NumPy scalars on the left must leave the multiplication to the kernel.
    __array_ufunc__ = None

    def __repr__(self) -> str:
        shown = (f"{f.name}={_show(getattr(self, f.name))}" for f in dataclasses.fields(self))
        return f"{type(self).__name__}({', '.join(shown)})"


class AbstractKernel(_Printable):
    r"""Scalar positive semi-definite kernel :math:`k(x, y)`, symmetric.

    A subclass needs ``__call__`` for one pair of points; it overrides ``gram`` where a whole matrix
    is cheaper, and ``apply`` where no matrix is needed. Kernels add, multiply and scale. As the
    kernel of a flow it means :math:`k(x, y) I`.
    """

    @abc.abstractmethod
    def __call__(self, x: Point, y: Point) -> Scalar:
        """Return k(x, y) for two points of shape (d,)."""

    def gram(self, X: Points, Y: Rows | None = None) -> Matrix:
        """Return the matrix k(x_i, y_j), shape (n, m); ``Y=None`` means the points ``X``."""
        Y = X if Y is None else Y
        return jax.vmap(lambda x: jax.vmap(lambda y: self(x, y))(Y))(X)

    def apply(
        self, X: Points, Y: Rows | None, P: Float[Array, "m *c"], tile: int | None = None
    ) -> Float[Array, "n *c"]:
        r"""Return :math:`\sum_j k(x_i, y_j) p_j` without the matrix.

        Parameters
        ----------
        X : Array, shape (n, d)
        Y : Array, shape (m, d), or None for ``X`` itself
        P : Array, shape (m, c) or (m,)
        tile : int, optional
            Rows of the matrix in memory at a time; by default as many as fit a processor's cache,
            or fill an accelerator.

        Returns
        -------
        Array, shape (n, c) or (n,)
        """
        Z = X if Y is None else Y
        return map_row_tiles(lambda rows: self.gram(rows, Z) @ P, X, len(Z), tile)

    def diagonal(self, X: Points) -> Diagonals:
        """Return the diagonal of ``gram(X)``, shape (n,), in O(n)."""
        return jax.vmap(lambda x: self(x, x))(X)

    def __add__(self, other: Any) -> AbstractKernel:
        kernel = _scalar_kernel(other)
        return NotImplemented if kernel is None else Sum(self, kernel)

    def __radd__(self, other: Any) -> AbstractKernel:
        kernel = _scalar_kernel(other)
        return NotImplemented if kernel is None else Sum(kernel, self)

    def __mul__(self, other: Any) -> AbstractKernel:
        if _is_number(other):
            return Scaled(self, other)
        kernel = _scalar_kernel(other)
        return NotImplemented if kernel is None else Product(self, kernel)

    def __rmul__(self, other: Any) -> AbstractKernel:
        if _is_number(other):
            return Scaled(self, other)
        kernel = _scalar_kernel(other)
        return NotImplemented if kernel is None else Product(kernel, self)


class AbstractOperatorKernel(_Printable):
    r"""Kernel with values in :math:`\mathbb R^{d\times d}`, with :math:`K(x, y) = K(y, x)^T`.

    Built from scalar kernels, which ``map_kernels`` reaches; that is how scaling is done.
    """

    @abc.abstractmethod
    def __call__(self, x: Point, y: Point) -> Float[Array, "d d"]:
        """Return K(x, y) for two points of shape (d,)."""

    @abc.abstractmethod
    def gram(self, X: Points, Y: Rows | None = None) -> Float[Array, "nd md"]:
        """Return the block matrix; row ``i * d + a`` is coordinate ``a`` at point ``i``."""

    @abc.abstractmethod
    def apply(
        self, X: Points, Y: Rows | None, P: Rows, tile: int | None = None
    ) -> Float[Array, "n d"]:
        """Return the sums over j of K(x_i, y_j) p_j, shape (n, d), without the matrix."""

    @abc.abstractmethod
    def diagonal(self, X: Points) -> Diagonals:
        """Return the diagonal blocks of ``gram(X)``, shape (n, d, d)."""

    @abc.abstractmethod
    def map_kernels(self, f: Callable[[AbstractKernel], AbstractKernel]) -> AbstractOperatorKernel:
        """Return a copy with ``f`` applied to each scalar kernel inside."""

    def __mul__(self, other: Any) -> AbstractOperatorKernel:
        if not _is_number(other) and _scalar_kernel(other) is None:
            return NotImplemented
        return self.map_kernels(lambda kernel: kernel * other)

    def __rmul__(self, other: Any) -> AbstractOperatorKernel:
        return self.__mul__(other)


Kernel: TypeAlias = AbstractKernel | AbstractOperatorKernel


class AbstractFeatureKernel(AbstractKernel):
    r"""Kernel of finite rank, :math:`k(x, y) = \psi(x)^T\psi(y)`, applied through its features."""

    @abc.abstractmethod
    def features(self, x: Point) -> Float[Array, " F"]:
        """Return psi(x), shape (F,), for one point."""

    def feature_matrix(self, X: Points) -> Float[Array, "n F"]:
        """Return the rows psi(x_i), shape (n, F)."""
        return jax.vmap(self.features)(X)

    def __call__(self, x: Point, y: Point) -> Scalar:
        """Return k(x, y) for two points of shape (d,)."""
        return self.features(x) @ self.features(y)

    def gram(self, X: Points, Y: Rows | None = None) -> Matrix:
        """Return the matrix k(x_i, y_j), shape (n, m)."""
        return self.feature_matrix(X) @ self.feature_matrix(X if Y is None else Y).T

    def apply(
        self, X: Points, Y: Rows | None, P: Float[Array, "m *c"], tile: int | None = None
    ) -> Float[Array, "n *c"]:
        """Return psi(X) (psi(Y)^T P): cost (n + m) F, so tiles are not needed."""
        left = self.feature_matrix(X)
        right = left if Y is None else self.feature_matrix(Y)
        return left @ (right.T @ P)

    def diagonal(self, X: Points) -> Diagonals:
        """Return |psi(x_i)|^2, shape (n,)."""
        return jnp.square(self.feature_matrix(X)).sum(1)


class Sum(AbstractKernel):
    """The kernel k1 + k2."""

    left: AbstractKernel
    right: AbstractKernel

    def __call__(self, x: Point, y: Point) -> Scalar:
        """Return k(x, y) for two points of shape (d,)."""
        return self.left(x, y) + self.right(x, y)

    def gram(self, X: Points, Y: Rows | None = None) -> Matrix:
        """Return the matrix k(x_i, y_j), shape (n, m)."""
        return self.left.gram(X, Y) + self.right.gram(X, Y)

    def apply(
        self, X: Points, Y: Rows | None, P: Float[Array, "m *c"], tile: int | None = None
    ) -> Float[Array, "n *c"]:
        """Apply each part by its own cheapest way."""
        return self.left.apply(X, Y, P, tile) + self.right.apply(X, Y, P, tile)

    def diagonal(self, X: Points) -> Diagonals:
        """Return the diagonal of ``gram(X)``, shape (n,)."""
        return self.left.diagonal(X) + self.right.diagonal(X)

    def __repr__(self) -> str:
        return f"{self.left!r} + {self.right!r}"


class Product(AbstractKernel):
    """The kernel k1 k2."""

    left: AbstractKernel
    right: AbstractKernel

    def __check_init__(self) -> None:
        # A nugget is tied to row numbers, which a tile of a product does not know.
        if contains_nugget((self.left, self.right)):
            raise ValueError("Product: a Nugget cannot be a factor; add it to the product instead.")

    def __call__(self, x: Point, y: Point) -> Scalar:
        """Return k(x, y) for two points of shape (d,)."""
        return self.left(x, y) * self.right(x, y)

    def gram(self, X: Points, Y: Rows | None = None) -> Matrix:
        """Return the matrix k(x_i, y_j), shape (n, m)."""
        return self.left.gram(X, Y) * self.right.gram(X, Y)

    def diagonal(self, X: Points) -> Diagonals:
        """Return the diagonal of ``gram(X)``, shape (n,)."""
        return self.left.diagonal(X) * self.right.diagonal(X)

    def __repr__(self) -> str:
        return " * ".join(_factor(kernel) for kernel in (self.left, self.right))


class Scaled(AbstractKernel):
    """The kernel c k with a learnable c > 0."""

    kernel: AbstractKernel
    scale: Scalar = eqx.field(converter=real_array)

    def __check_init__(self) -> None:
        check_positive(self, scale=self.scale)

    def __call__(self, x: Point, y: Point) -> Scalar:
        """Return k(x, y) for two points of shape (d,)."""
        return self.scale * self.kernel(x, y)

    def gram(self, X: Points, Y: Rows | None = None) -> Matrix:
        """Return the matrix k(x_i, y_j), shape (n, m)."""
        return self.scale * self.kernel.gram(X, Y)

    def apply(
        self, X: Points, Y: Rows | None, P: Float[Array, "m *c"], tile: int | None = None
    ) -> Float[Array, "n *c"]:
        """Scale the weights, not the matrix."""
        return self.kernel.apply(X, Y, self.scale * P, tile)

    def diagonal(self, X: Points) -> Diagonals:
        """Return the diagonal of ``gram(X)``, shape (n,)."""
        return self.scale * self.kernel.diagonal(X)

    def __repr__(self) -> str:
        return f"{_show(self.scale)} * {_factor(self.kernel)}"


class Nugget(AbstractKernel):
    r"""Index-based nugget :math:`r\,\delta_{ij}`: on the diagonal of ``gram(X)``, zero elsewhere.

    It belongs to row numbers, not to places, so duplicated rows are allowed and new points feel
    nothing.

    Examples
    --------
    >>> Nugget(0.5).gram(jnp.zeros((2, 1))).tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """

    nugget: Scalar = eqx.field(converter=real_array)

    def __check_init__(self) -> None:
        check_positive(self, allow_zero=True, nugget=self.nugget)

    def __call__(self, x: Point, y: Point) -> Scalar:
        """Return 0: two points as such are never the same row."""
        return jnp.zeros_like(self.nugget)

    def gram(self, X: Points, Y: Rows | None = None) -> Matrix:
        """Return r I for ``Y=None`` and zeros otherwise."""
        return self.nugget * (jnp.eye(len(X)) if Y is None else jnp.zeros((len(X), len(Y))))

    def apply(
        self, X: Points, Y: Rows | None, P: Float[Array, "m *c"], tile: int | None = None
    ) -> Float[Array, "n *c"]:
        """Return r P for ``Y=None`` and zeros otherwise."""
        return self.nugget * P if Y is None else jnp.zeros((len(X), *P.shape[1:]), P.dtype)

    def diagonal(self, X: Points) -> Diagonals:
        """Return the diagonal of ``gram(X)``, shape (n,)."""
        return jnp.full(len(X), self.nugget)


def contains_nugget(kernel: Any) -> bool:
    """Return whether a `Nugget` is a part of ``kernel``."""
    parts = jax.tree.leaves(kernel, is_leaf=lambda part: isinstance(part, Nugget))
    return any(isinstance(part, Nugget) for part in parts)


class FunctionKernel(AbstractKernel):
    """A user's own symmetric function of two points; see `as_kernel`.

    Where points coincide it needs finite derivatives, and a kink should have derivative 0: beware
    of ``jnp.linalg.norm`` (NaN) and ``jnp.abs`` (1).
    """

    function: Callable[[Point, Point], Scalar] = eqx.field(
        # A module keeps its arrays learnable; a plain function becomes part of the structure.
        converter=lambda f: f if isinstance(f, eqx.Module) else jax.tree_util.Partial(f)
    )

    def __call__(self, x: Point, y: Point) -> Scalar:
        """Return k(x, y) for two points of shape (d,)."""
        return jnp.asarray(self.function(x, y))

    def __repr__(self) -> str:
        return f"FunctionKernel({_show(getattr(self.function, 'func', self.function))})"


def as_kernel(kernel: Kernel | Callable[[Point, Point], Scalar]) -> Any:
    """Return a kernel unchanged, and wrap a function of two points as a scalar kernel.

    Raises
    ------
    TypeError
        If ``kernel`` is neither.

    Examples
    --------
    >>> as_kernel(lambda x, y: jnp.exp(-jnp.square(x - y).sum())).gram(jnp.zeros((1, 2))).item()
    1.0
    """
    if isinstance(kernel, AbstractOperatorKernel):
        return kernel
    scalar = _scalar_kernel(kernel)
    if scalar is None:
        raise TypeError(
            f"kernel must be a kernel or a function of two points, got {type(kernel).__name__}; "
            "try ideareg.kernels.Gaussian()."
        )
    return scalar


def _scalar_kernel(other: Any) -> AbstractKernel | None:
    if isinstance(other, AbstractKernel):
        return other
    if callable(other) and not isinstance(other, AbstractOperatorKernel | type):
        return FunctionKernel(other)
    return None


def _is_number(other: Any) -> bool:
    return eqx.is_array_like(other) and jnp.ndim(other) == 0


def _factor(kernel: AbstractKernel) -> str:
    return f"({kernel!r})" if isinstance(kernel, Sum) else repr(kernel)
