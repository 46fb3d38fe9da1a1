r"""How far two curves or surfaces are apart, when none of their points correspond.

A cell with centre c and direction n (an edge vector, or the normal of a triangle as long as its
area is large) acts on fields. As a *current* it is oriented, as a *varifold* it is not:

.. math:: \langle\mu,\mu'\rangle = \sum_{ij}k(c_i,c'_j)\,n_i\cdot n'_j
          \quad\text{or}\quad \sum_{ij}k(c_i,c'_j)\frac{(n_i\cdot n'_j)^2}{|n_i||n'_j|}.

The loss is :math:`|\mu-\mu'|^2`, relative to the target's [1]_ [2]_. It does not see how a shape
is cut into cells, up to their size.

References
----------
.. [1] Vaillant, Glaunes, "Surface matching via currents", IPMI 2005.
.. [2] Charon, Trouve, "The varifold representation of nonoriented shapes for diffeomorphic
   registration", SIAM Journal on Imaging Sciences 6, 2013.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ideareg._types import Points, Scalar
from ideareg.kernels import AbstractKernel
from ideareg.kernels.base import map_row_tiles
from ideareg.registration.shapes import Shape

ATTACHMENTS = ("varifold", "current")


class Cells(NamedTuple):
    """Centres and directions of cells, each of shape (m, d)."""

    centres: Float[Array, "m d"]
    directions: Float[Array, "m d"]


def cells_of(points: Points, cells: Int[Array, "m c"]) -> Cells:
    """Return centres and directions of edges (m, 2) or triangles (m, 3).

    Examples
    --------
    >>> found = cells_of(jnp.eye(3), jnp.array([[0, 1, 2]]))
    >>> found.directions.tolist()
    [[0.5, 0.5, 0.5]]
    """
    corners = points[cells]
    centres = corners.mean(axis=1)
    first = corners[:, 1] - corners[:, 0]
    if cells.shape[1] == 2:
        return Cells(centres, first)
    return Cells(centres, jnp.cross(first, corners[:, 2] - corners[:, 0]) / 2)


def inner_product(kernel: AbstractKernel, one: Cells, other: Cells, oriented: bool) -> Scalar:
    """Return the inner product of two currents (``oriented``) or varifolds, tile by tile.

    Parameters
    ----------
    kernel : scalar kernel
        k, between centres.
    one, other : Cells
    oriented : bool

    Returns
    -------
    Array, shape ()
    """
    d = one.centres.shape[1]
    mine, theirs = one.directions, other.directions
    if not oriented:
        # Divided by the root of its length on either side, so that the square is what it should.
        mine, theirs = _halved(mine), _halved(theirs)

    def rows(tile: Array) -> Array:
        cosines = tile[:, d:] @ theirs.T
        weight = cosines if oriented else jnp.square(cosines)
        return (kernel.gram(tile[:, :d], other.centres) * weight).sum(1)

    both = jnp.concatenate([one.centres, mine], axis=1)
    return map_row_tiles(rows, both, len(theirs), None).sum()


def _halved(directions: Array) -> Array:
    return directions / jnp.square(directions).sum(1, keepdims=True) ** 0.25


class Attachment(eqx.Module):
    r"""The loss :math:`s\,|\mu_q - \mu'|^2/|\mu'|^2` of moved points q.

    Attributes
    ----------
    kernel : scalar kernel
        k, between centres of cells.
    cells : Array of int, shape (m, 2) or (m, 3)
        Of the points that move.
    target : Cells
    oriented : bool
        Currents (True) or varifolds (False).
    norm : Array, shape ()
        Square norm of the target.
    scale : Array, shape ()
        s; a square length gives the loss the units of that of landmarks.
    """

    kernel: AbstractKernel
    cells: Int[Array, "m c"]
    target: Cells
    oriented: bool = eqx.field(static=True)
    norm: Scalar
    scale: Scalar

    @classmethod
    def between(
        cls, source: Shape, target: Shape, name: str, kernel: AbstractKernel, dtype: Any = float
    ) -> Attachment:
        """Return the loss of points of ``source`` on ``target``.

        Raises
        ------
        ValueError
            If ``name`` is neither "varifold" nor "current", or the target's current vanishes.

        Examples
        --------
        >>> from ideareg.kernels import Gaussian
        >>> line = Shape.of([[0.0, 0.0], [1.0, 0.0]], [[0, 1]])
        >>> back = Shape.of([[1.0, 0.0], [0.0, 0.0]], [[0, 1]])
        >>> losses = [Attachment.between(line, back, name, Gaussian()) for name in ATTACHMENTS]
        >>> [round(float(loss(line.points)), 6) for loss in losses]  # in units of radius² = 1/4
        [0.0, 1.0]
        """
        if name not in ATTACHMENTS:
            raise ValueError(f"attachment must be one of {', '.join(ATTACHMENTS)}, got {name!r}.")
        assert source.cells is not None and target.cells is not None
        goal = cells_of(jnp.asarray(target.points, dtype), jnp.asarray(target.cells))
        oriented = name == "current"
        norm = inner_product(kernel, goal, goal, oriented)
        if not float(norm) > 0:
            raise ValueError(
                "the target's current vanishes: its cells cancel; orient them consistently, or use "
                "attachment='varifold'."
            )
        scale = jnp.asarray(target.radius**2, dtype)
        return cls(kernel, jnp.asarray(source.cells), goal, oriented, norm, scale)

    def __call__(self, q: Points) -> Scalar:
        """Return the loss of points q, shape (n, d)."""
        moved = cells_of(jnp.asarray(q), self.cells)
        own = inner_product(self.kernel, moved, moved, self.oriented)
        cross = inner_product(self.kernel, moved, self.target, self.oriented)
        return self.scale * ((own - 2 * cross) / self.norm + 1)
