"""Shapes: points in the plane or in space, and how they are joined to curves or surfaces."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# A cell smaller than this share of the largest one has no direction to speak of.
DEGENERATE = 1e-12


class Shape(NamedTuple):
    """Points, and the cells that join them.

    Attributes
    ----------
    points : ndarray, shape (n, d)
    cells : ndarray of int, shape (m, 2) or (m, 3), or None
        Edges of a curve or triangles of a surface, as rows of ``points``; None for landmarks, which
        correspond to those of another shape one by one.

    Examples
    --------
    >>> Shape.of([[0, 0], [1, 0], [0, 1]], [[0, 1], [1, 2]]).sizes().round(3).tolist()
    [1.0, 1.414]
    """

    points: Floats
    cells: Integers | None = None

    @classmethod
    def of(cls, points: Any, cells: Any = None, name: str = "shape") -> Shape:
        """Check points and cells, and return the shape.

        Raises
        ------
        ValueError
            If there are no points, or some are not finite; if a cell is degenerate, or names a row
            that is not there.
        """
        array = np.asarray(points, dtype=np.float64)
        if array.ndim != 2 or 0 in array.shape:
            raise ValueError(
                f"{name}: points need the shape (n, d) with n and d at least 1, got {array.shape}."
            )
        if not np.isfinite(array).all():
            rows = np.flatnonzero(~np.isfinite(array).all(axis=1))
            raise ValueError(
                f"{name}: points in rows {rows[:5].tolist()} are NaN or infinite; leave them out, "
                "in both shapes if they correspond."
            )
        if cells is None:
            return cls(array)
        shape = cls(array, _checked_cells(cells, len(array), array.shape[1], name))
        shape._refuse_degenerate(name)
        return shape

    @property
    def dimension(self) -> int:
        """The number d of coordinates."""
        return self.points.shape[1]

    @property
    def kind(self) -> str:
        """What it is called in messages."""
        if self.cells is None:
            return "landmarks"
        return "curve" if self.cells.shape[1] == 2 else "surface"

    @property
    def radius(self) -> float:
        """The root mean square distance of the points from their centroid."""
        centred = self.points - self.points.mean(axis=0)
        return float(np.sqrt((centred**2).sum(axis=1).mean()))

    def moved(self, points: Any) -> Shape:
        """Return the same cells on other points."""
        return Shape(np.asarray(points, dtype=np.float64), self.cells)

    def sizes(self) -> Floats:
        """Return the length of each edge or the area of each triangle, shape (m,)."""
        if self.cells is None:
            raise ValueError("landmarks have no cells to measure.")
        corners = self.points[self.cells]
        sides = corners[:, 1:] - corners[:, :1]
        gram = np.einsum("mad,mbd->mab", sides, sides)
        # The volume of a simplex, in any number of dimensions.
        return np.sqrt(np.maximum(np.linalg.det(gram), 0)) / (self.cells.shape[1] - 1)

    def _refuse_degenerate(self, name: str) -> None:
        sizes = self.sizes()
        bad = np.flatnonzero(sizes <= DEGENERATE * sizes.max())
        if len(bad):
            raise ValueError(
                f"{name}: cells {bad[:5].tolist()} have no extent (of {len(sizes)}, {len(bad)} "
                "such); leave them out, they carry no length or area."
            )


def _checked_cells(cells: Any, count: int, dimension: int, name: str) -> Integers:
    array = np.asarray(cells)
    if array.ndim != 2 or array.shape[1] not in (2, 3) or not len(array):
        raise ValueError(
            f"{name}: cells need the shape (m, 2) for edges or (m, 3) for triangles with m at "
            f"least 1, got {array.shape}."
        )
    if array.shape[1] == 3 and dimension != 3:
        raise ValueError(f"{name}: triangles need points in 3 dimensions, got {dimension}.")
    if not np.issubdtype(array.dtype, np.integer) or array.min() < 0 or array.max() >= count:
        raise ValueError(
            f"{name}: cells must be integers from 0 to {count - 1}, the rows of points, got "
            f"{array.dtype} from {array.min()} to {array.max()}."
        )
    return array.astype(np.int64)


def as_shape(value: Any, name: str) -> Shape:
    """Return a checked `Shape` from one, from a pair (points, cells), or from landmarks (n, d)."""
    if isinstance(value, tuple) and len(value) == 2:
        return Shape.of(*value, name=name)
    return Shape.of(value, name=name)


def check_pair(source: Shape, target: Shape) -> None:
    """Refuse two shapes that cannot be compared.

    Raises
    ------
    ValueError
        If they differ in dimension or kind, or are landmarks of different number.
    """
    if source.dimension != target.dimension:
        raise ValueError(
            f"source has {source.dimension} coordinates and target {target.dimension}; shapes to "
            "be registered need the same."
        )
    if source.kind != target.kind:
        raise ValueError(
            f"source is a {source.kind} and target a {target.kind}: give both cells of one kind, "
            "or neither, if their points correspond."
        )
    if source.cells is None and len(source.points) != len(target.points):
        raise ValueError(
            f"source has {len(source.points)} landmarks and target {len(target.points)}: landmarks "
            "correspond one by one; for other shapes give (points, cells)."
        )
