"""Automatic relevance determination around any kernel: one unit of length per coordinate."""

from __future__ import annotations

import equinox as eqx
from jaxtyping import Array, Float

from ideareg._types import Diagonals, Matrix, Point, Points, Rows, Scalar
from ideareg.kernels.base import (
    AbstractKernel,
    AbstractOperatorKernel,
    Kernel,
    check_positive,
    real_array,
)


class Stretched(AbstractKernel):
    r"""The kernel :math:`k(x/\ell, y/\ell)`: what makes a user's own kernel learn its lengths.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from ideareg.kernels import Gaussian
    >>> blind = Stretched(Gaussian(), jnp.array([1.0, 1e9]))
    >>> round(blind(jnp.array([0.0, 0.0]), jnp.array([0.0, 9.0])).item(), 6)
    1.0
    """

    kernel: AbstractKernel
    length_scale: Float[Array, "*d"] = eqx.field(converter=real_array)

    def __check_init__(self) -> None:
        check_positive(self, length_scale=self.length_scale)

    def __call__(self, x: Point, y: Point) -> Scalar:
        """Return k(x, y) for two points of shape (d,)."""
        return self.kernel(x / self.length_scale, y / self.length_scale)

    def gram(self, X: Points, Y: Rows | None = None) -> Matrix:
        """Return the matrix k(x_i, y_j), shape (n, m)."""
        return self.kernel.gram(*self._stretch(X, Y))

    def apply(
        self, X: Points, Y: Rows | None, P: Float[Array, "m *c"], tile: int | None = None
    ) -> Float[Array, "n *c"]:
        """Return the sums over j of k(x_i, y_j) p_j."""
        return self.kernel.apply(*self._stretch(X, Y), P, tile)

    def diagonal(self, X: Points) -> Diagonals:
        """Return the diagonal of ``gram(X)``, shape (n,)."""
        return self.kernel.diagonal(X / self.length_scale)

    def _stretch(self, X: Points, Y: Rows | None) -> tuple[Points, Rows | None]:
        return X / self.length_scale, None if Y is None else Y / self.length_scale


def stretch(kernel: Kernel, length_scale: Float[Array, "*d"]) -> Kernel:
    """Return ``kernel`` with each scalar kernel in it `Stretched`."""
    if isinstance(kernel, AbstractOperatorKernel):
        return kernel.map_kernels(lambda k: Stretched(k, length_scale))
    return Stretched(kernel, length_scale)
