r"""Groups that act on the points of a space, and on functions there.

A finite group is a table of permutations, :math:`g\cdot i` for each element g and point i; it moves
a function f on the points by :math:`(gf)(i) = f(g^{-1}i)`. Points of a grid are numbered row by
row, as a flattened array is, and channels come last: a row of data has ``n_points * channels``
entries.
"""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]

# Elements of a group that is closed from generators, and entries of a table (a quarter GiB).
MAX_ORDER = 10_000
MAX_ENTRIES = 2**26


class AbstractGroup(abc.ABC):
    """What a kernel asks of a group: where an element finds the values of a moved function."""

    shape: tuple[int, ...]

    @property
    def n_points(self) -> int:
        """Number of points of the space."""
        return math.prod(self.shape)

    @property
    @abc.abstractmethod
    def order(self) -> int:
        """Number of elements."""

    @property
    @abc.abstractmethod
    def actions(self) -> int:
        """Number of elements, the first ones, that `act` moves functions by."""

    @abc.abstractmethod
    def product(self, g: int, elements: Any = None) -> Ints:
        """Return the elements gh for h in ``elements`` (an array of any shape; all by default)."""

    @abc.abstractmethod
    def sample(self, points: Ints) -> tuple[Ints, Floats | None]:
        r"""Return how :math:`x(g\cdot i)` is read off x, for every element g and the points i.

        Returns
        -------
        index : ndarray, shape (order, len(points), taps)
        weight : ndarray of the same shape, or None for a single tap of weight 1
        """

    @abc.abstractmethod
    def act(self, X: Any, element: int, channels: int = 1) -> Any:
        """Return gX for rows X of shape (n, n_points * channels)."""

    @abc.abstractmethod
    def act_on_outputs(self, F: Any, element: int, outputs: Ints) -> Any:
        """Return gF for functions F, shape (n, len(outputs), c), on (sets of) elements."""

    def _check_rows(self, X: Any, channels: int) -> None:
        wanted = self.n_points * channels
        if np.ndim(X) != 2 or np.shape(X)[1] != wanted:
            raise ValueError(
                f"X has shape {np.shape(X)}, but the group acts on rows of {wanted} entries "
                f"({self.n_points} points of shape {self.shape}, {channels} channels)."
            )


class Group(AbstractGroup):
    """A finite group of permutations.

    Parameters
    ----------
    table : array of int, shape (order, n_points)
        ``table[g, i]`` is the image of point i under element g.
    shape : tuple of int, optional
        Of the space, for a grid; ``(n_points,)`` by default.

    Raises
    ------
    ValueError
        If a row is no permutation, two rows are equal, or a product of two rows is missing.

    Examples
    --------
    >>> Group([[0, 1, 2], [1, 2, 0], [2, 0, 1]]).order
    3
    """

    def __init__(self, table: Any, shape: Sequence[int] | None = None) -> None:
        rows = _permutations("table", table)
        self.shape = _shape_of(rows, shape)
        self.table = rows
        self._index_elements()
        # A few rows generate the others, and nothing else if the table is closed.
        chosen: list[Ints] = []
        found = _closure(rows[:0], rows.shape[1], len(rows))
        for row in rows:
            if found is not None and row.tobytes() not in found:
                chosen.append(row)
                found = _closure(np.stack(chosen), rows.shape[1], len(rows))
        if found is None or len(found) != len(rows):
            raise ValueError(
                "table is not a group: a product of two of its rows is missing; "
                "close it with from_generators(table)."
            )

    @classmethod
    def _trusted(cls, table: Ints, shape: tuple[int, ...]) -> Group:
        """Make a group from a table that is one by construction."""
        group = cls.__new__(cls)
        group.table, group.shape = table, shape
        group._index_elements()
        return group

    def __repr__(self) -> str:
        return f"Group(order={self.order}, shape={self.shape})"

    @property
    def order(self) -> int:
        """Number of elements."""
        return len(self.table)

    @property
    def actions(self) -> int:
        """All of them."""
        return self.order

    def _index_elements(self) -> None:
        """Find points whose images tell elements apart, and sort the elements by them."""
        chosen: list[int] = []
        codes = np.zeros(len(self.table), dtype=np.int64)
        for point in range(self.table.shape[1]):
            _, finer = np.unique(codes * self.n_points + self.table[:, point], return_inverse=True)
            if finer.max(initial=0) > codes.max(initial=0):
                chosen.append(point)
            codes = finer.astype(np.int64)
            if codes.max(initial=0) == len(self.table) - 1:
                break
        else:
            if codes.max(initial=0) < len(self.table) - 1:
                raise ValueError("table has two equal rows: each element must be there once.")
        self._base = np.array(chosen, dtype=int)
        images = {row.tobytes(): g for g, row in enumerate(self.table[:, self._base])}
        self._images = images

    def _find(self, images: Ints) -> Ints:
        """Return the elements with these images of the base points, -1 where there is none."""
        flat = np.ascontiguousarray(images, dtype=self.table.dtype).reshape(-1, len(self._base))
        found = np.array([self._images.get(row.tobytes(), -1) for row in flat], dtype=int)
        return found.reshape(images.shape[:-1])

    @property
    def identity(self) -> int:
        """The element that moves nothing."""
        return int(self._find(self._base))

    def product(self, g: int, elements: Any = None) -> Ints:
        """Return the elements gh for h in ``elements`` (an array of any shape; all by default)."""
        h = np.arange(self.order) if elements is None else np.asarray(elements)
        return self._find(self.table[g][self.table[h][..., self._base]])

    def inverse(self, g: int) -> int:
        """Return the element that undoes g."""
        return int(self._find(np.argsort(self.table[g])[self._base]))

    def stabiliser(self, point: int = 0) -> Ints:
        """Return the elements that leave ``point`` where it is: a subgroup."""
        return np.flatnonzero(self.table[:, point] == point)

    def multiples(self, stride: int) -> Ints:
        """Return the elements that move point 0 by multiples of ``stride`` along each axis.

        Raises
        ------
        ValueError
            If they are no subgroup; a stride that divides every side of a grid gives one.
        """
        if stride < 1:
            raise ValueError(f"stride must be a positive integer, got {stride}.")
        moved = np.stack(np.unravel_index(self.table[:, 0], self.shape), axis=-1)
        chosen = np.flatnonzero((moved % stride == 0).all(-1))
        for g in chosen:
            if not np.isin(self.product(int(g), chosen), chosen).all():
                raise ValueError(
                    f"stride {stride} leaves no subgroup on shape {self.shape}; "
                    "choose one that divides every side."
                )
        return chosen

    def regular(self) -> Group:
        """Return the group acting on itself from the left: its elements are the points.

        This is the space that the layers after the first live on, as ``outputs`` of a `REM` kernel
        without pooling do.
        """
        _check_size(self.order, self.order)
        table = np.stack([self.product(g) for g in range(self.order)])
        return Group._trusted(table.astype(np.int32), (self.order,))

    def sample(self, points: Ints) -> tuple[Ints, None]:
        """Return the images of the points, shape (order, len(points), 1), and no weights."""
        return self.table[:, points, None], None

    def act(self, X: Any, element: int, channels: int = 1) -> Any:
        """Return gX for rows X of shape (n, n_points * channels)."""
        self._check_rows(X, channels)
        rows = X.reshape(len(X), self.n_points, channels)
        return rows[:, np.argsort(self.table[element])].reshape(X.shape)

    def act_on_outputs(self, F: Any, element: int, outputs: Ints) -> Any:
        """Return gF; each output stands for a set of elements, a row of ``outputs``."""
        moved = np.sort(self.product(element, outputs), axis=1)
        places = {row.tobytes(): o for o, row in enumerate(np.sort(outputs, axis=1))}
        try:
            target = np.array([places[row.tobytes()] for row in moved])
        except KeyError:
            raise ValueError(
                f"element {element} does not map the outputs to each other: with a stride, only "
                "those of the subgroup do."
            ) from None
        return F[:, np.argsort(target)]

    def matrices(self, channels: int = 1) -> Floats:
        """Return the actions on rows as matrices, shape (order, d, d) with d = n_points * channels.

        Raises
        ------
        ValueError
            If they would not fit the budget of entries.
        """
        d = self.n_points * channels
        _check_size(self.order * d, d)
        eye = np.eye(d)
        return np.stack([self.act(eye, g, channels).T for g in range(self.order)])


def _check_size(order: int, n_points: int) -> None:
    if order * n_points > MAX_ENTRIES:
        raise ValueError(
            f"a table of {order} x {n_points} entries is over the limit of {MAX_ENTRIES}; "
            "take a smaller grid or a smaller group."
        )


def _permutations(name: str, rows: Any) -> Ints:
    array = np.asarray(rows)
    if array.ndim != 2 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"{name} must be a non-empty integer array (elements, points), got "
            f"{array.dtype}{list(array.shape)}."
        )
    _check_size(*array.shape)
    if (np.sort(array, axis=1) != np.arange(array.shape[1])).any():
        raise ValueError(f"{name}: every row must be a permutation of 0..{array.shape[1] - 1}.")
    return np.ascontiguousarray(array, dtype=np.int32)


def from_generators(
    generators: Any, shape: Sequence[int] | None = None, max_order: int = MAX_ORDER
) -> Group:
    """Return the group that permutations generate, the identity first.

    Parameters
    ----------
    generators : array of int, shape (k, n_points)
    shape : tuple of int, optional
        Of the space.
    max_order : int
        Where to give up: a few permutations of many points generate very many.

    Raises
    ------
    ValueError
        If a row is no permutation, or there are more than ``max_order`` elements.

    Examples
    --------
    >>> from_generators([[1, 2, 3, 0], [3, 2, 1, 0]]).order
    8
    """
    steps = _permutations("generators", generators)
    found = _closure(steps, steps.shape[1], max_order)
    if found is None:
        raise ValueError(
            f"the generators make more than max_order={max_order} elements; raise it, or take a "
            "subgroup."
        )
    table = np.stack(list(found.values()))
    _check_size(*table.shape)
    return Group._trusted(table, _shape_of(table, shape))


def _closure(steps: Ints, n_points: int, most: int) -> dict[bytes, Ints] | None:
    """Return all products of the steps, the identity first; None if they are more than ``most``."""
    start: Ints = np.arange(n_points, dtype=np.int32)
    found, frontier = {start.tobytes(): start}, [start]
    while frontier:
        reached = []
        for element, step in itertools.product(frontier, steps):
            new = step[element]
            if new.tobytes() not in found:
                found[new.tobytes()] = new
                reached.append(new)
            if len(found) > most:
                return None
        frontier = reached
    return found


def _shape_of(table: Ints, shape: Sequence[int] | None) -> tuple[int, ...]:
    sides = table.shape[1:] if shape is None else grid_sides(shape)
    if math.prod(sides) != table.shape[1]:
        raise ValueError(
            f"the group permutes {table.shape[1]} points, which do not fill shape {sides}."
        )
    return sides


def cyclic(n: int) -> Group:
    """Return the n rotations of n points on a circle, as on a periodic time series."""
    return translations((n,))


def dihedral(n: int) -> Group:
    """Return D_n, the rotations and reflections of n points on a circle.

    Element ``2 t + s`` is the reflection i → -i, if s = 1, and then the rotation by t.

    Examples
    --------
    >>> dihedral(5).order
    10
    """
    i = np.arange(n)
    return _semidirect((n,), [i, -i % n])


def translations(shape: Sequence[int]) -> Group:
    """Return the translations of a periodic grid, of any number of dimensions.

    Element t brings point 0 to point t.

    Examples
    --------
    >>> translations((4, 6)).order
    24
    """
    return _semidirect(shape, [np.arange(math.prod(grid_sides(shape)))])


def grid_sides(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape as a tuple, once it is one."""
    sides = tuple(shape)
    if not sides or any(not isinstance(n, int | np.integer) or n < 1 for n in sides):
        raise ValueError(f"shape must hold positive integers, one per axis, got {shape!r}.")
    return tuple(int(n) for n in sides)


def _square(shape: Sequence[int] | int) -> int:
    sides = (shape, shape) if isinstance(shape, int) else grid_sides(shape)
    if len(sides) != 2 or sides[0] != sides[1] or sides[0] < 1:
        raise ValueError(
            f"quarter turns act on square grids only, got shape {sides}; crop or pad the images."
        )
    return int(sides[0])


def _turns(n: int, mirrored: bool, centred: bool) -> list[Ints]:
    """Return the quarter turns, and mirrored ones, about point 0 or the centre of the frame."""
    shift = n - 1 if centred else 0
    i, j = np.divmod(np.arange(n * n), n)
    turns = []
    for _ in range(4):
        turns.append(i % n * n + j % n)
        i, j = shift - j, i
    if mirrored:
        row, column = np.divmod(np.arange(n * n), n)
        mirror = row * n + (shift - column) % n
        turns += [turn[mirror] for turn in turns]
    return turns


def _about_centre(n: int, mirrored: bool) -> Group:
    return Group._trusted(np.stack(_distinct(_turns(n, mirrored, True))), (n, n))


def _distinct(turns: Iterable[Ints]) -> list[Ints]:
    # Those of very small spaces repeat.
    return list({turn.tobytes(): turn.astype(np.int32) for turn in turns}.values())


def quarter_turns(shape: Sequence[int] | int) -> Group:
    """Return C4, the quarter turns of a square image about its centre.

    Examples
    --------
    >>> import numpy as np
    >>> quarter_turns(2).act(np.array([[1, 2, 3, 4]]), 1).tolist()
    [[2, 4, 1, 3]]
    """
    return _about_centre(_square(shape), mirrored=False)


def square_symmetries(shape: Sequence[int] | int) -> Group:
    """Return D4, the quarter turns and reflections of a square image about its centre."""
    return _about_centre(_square(shape), mirrored=True)


def p4(shape: Sequence[int] | int) -> Group:
    """Return the translations and quarter turns of a periodic square grid.

    Element ``4 t + r`` turns about point 0, r times, and then brings point 0 to point t.
    """
    n = _square(shape)
    return _semidirect((n, n), _turns(n, False, False))


def p4m(shape: Sequence[int] | int) -> Group:
    """Return the translations, quarter turns and reflections of a periodic square grid.

    Element ``8 t + s`` is symmetry s of D4 about point 0, then the translation by t.
    """
    n = _square(shape)
    return _semidirect((n, n), _turns(n, True, False))


def _semidirect(shape: Sequence[int], turns: Iterable[Ints]) -> Group:
    """Return the translations of a periodic grid times maps that leave point 0 in place."""
    sides = grid_sides(shape)
    turns = _distinct(turns)
    n = math.prod(sides)
    _check_size(n * len(turns), n)
    points = np.stack(np.unravel_index(np.arange(n), sides))
    table = np.empty((n, len(turns), n), dtype=np.int32)
    for s, turn in enumerate(turns):
        turned = points[:, turn]
        moved = (turned[:, None, :] + points[:, :, None]) % np.array(sides)[:, None, None]
        table[:, s] = np.ravel_multi_index(tuple(moved), sides)
    return Group._trusted(table.reshape(-1, n), sides)
