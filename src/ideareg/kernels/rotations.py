"""Rotations: turns of images by interpolation, and quadratures of the rotations of space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import roots_legendre

from ideareg.kernels.groups import AbstractGroup, Floats, Ints, grid_sides


class Rotations(AbstractGroup):
    r"""Translations of a periodic image and turns by :math:`2\pi/n`, by bilinear interpolation.

    Translations act exactly. Turns by other than quarters do not map the pixels to each other, so
    equivariance under them holds up to the interpolation: `equivariance_error` measures it.

    Parameters
    ----------
    shape : (height, width)
    n : int
        Turns of the full circle: 8 for C8, 16 for C16.

    Examples
    --------
    >>> Rotations((28, 28), 8).order
    6272
    """

    def __init__(self, shape: Sequence[int], n: int) -> None:
        sides = grid_sides(shape)
        if len(sides) != 2:
            raise ValueError(f"Rotations act on images (height, width), got shape {shape!r}.")
        if n < 1:
            raise ValueError(f"n must be a number of turns >= 1, got {n}.")
        self.shape, self.n = sides, int(n)

    @property
    def order(self) -> int:
        """Number of elements; element ``n t + r`` is turn r, then the translation by t."""
        return self.n * self.n_points

    @property
    def actions(self) -> int:
        """The turns."""
        return self.n

    def _turn(self, r: int, offsets: Floats) -> Floats:
        angle = 2 * np.pi * r / self.n
        # Rounded, so that quarter turns meet the pixels exactly.
        c, s = np.round(np.cos(angle), 15), np.round(np.sin(angle), 15)
        return offsets @ np.array([[c, -s], [s, c]]).T

    def sample(self, points: Ints) -> tuple[Ints, Floats]:
        """Return four pixels and weights for each element and point, taken as seen from point 0."""
        sides = np.array(self.shape)
        offsets = np.stack(np.unravel_index(np.asarray(points), self.shape), axis=-1)
        offsets = (offsets + sides // 2) % sides - sides // 2
        at = np.stack([self._turn(r, offsets) for r in range(self.n)])
        pixels, weight = _bilinear(at)
        start = np.stack(np.unravel_index(np.arange(self.n_points), self.shape), axis=-1)
        moved = (pixels[None] + start[:, None, None, None, :]) % sides
        index = np.ravel_multi_index(tuple(np.moveaxis(moved, -1, 0)), self.shape)
        weight = np.broadcast_to(weight, index.shape)
        flat = (self.order, len(offsets), 4)
        return index.reshape(flat).astype(np.int32), weight.reshape(flat)

    def act(self, X: Any, element: int, channels: int = 1) -> Any:
        """Turn images about their centre, with zeros outside the frame; 0 <= element < n."""
        return self._turned(X, element, channels, 0.0)

    def _turned(self, X: Any, element: int, channels: int, outside: float) -> Any:
        self._check_rows(X, channels)
        r = self._pure_turn(element)
        sides = np.array(self.shape)
        centre = (sides - 1) / 2
        grid = np.stack(np.unravel_index(np.arange(self.n_points), self.shape), axis=-1)
        pixels, weight = _bilinear(self._turn(-r, grid - centre) + centre)
        inside: Any = ((pixels >= 0) & (pixels < sides)).all(-1)
        pixels = np.clip(pixels, 0, sides - 1)
        index = np.ravel_multi_index(tuple(np.moveaxis(pixels, -1, 0)), self.shape)
        rows = X.reshape(len(X), self.n_points, channels)
        seen = np.where(inside[..., None], rows[:, index], outside)
        return (seen * weight[None, :, :, None]).sum(2).reshape(X.shape)

    def act_on_outputs(self, F: Any, element: int, outputs: Ints) -> Any:
        """Turn the field of outputs and shift its orientations; NaN is outside the frame."""
        r = self._pure_turn(element)
        everything = np.arange(self.order)
        if outputs.shape[1] == 1 and np.array_equal(outputs[:, 0], everything):
            fields = F.reshape(len(F), self.n_points, self.n, -1)
            fields = np.roll(fields, r, axis=2)
        elif np.array_equal(outputs, everything.reshape(-1, self.n)):
            fields = F.reshape(len(F), self.n_points, 1, -1)
        else:
            raise ValueError(
                "the action on outputs is known without a stride, and without pooling or pooled "
                "over the turns."
            )
        flat = fields.reshape(len(F), -1)
        return self._turned(flat, element, flat.shape[1] // self.n_points, np.nan).reshape(F.shape)

    def stabiliser(self, point: int = 0) -> Ints:
        """Return the turns about point 0."""
        if point != 0:
            raise ValueError(f"Rotations turn about point 0, got point {point}.")
        return np.arange(self.n)

    def product(self, g: int, elements: Any = None) -> Ints:
        """Return gh where that is an element: for g a translation, or h a turn."""
        h = np.arange(self.order) if elements is None else np.asarray(elements)
        t, r = divmod(g, self.n)
        s, turns = np.divmod(h, self.n)
        if r and s.any():
            raise ValueError("a turn of a translation of the grid is no translation of the grid.")
        here, there = np.unravel_index(t, self.shape), np.unravel_index(s, self.shape)
        moved = [(a + b) % side for a, b, side in zip(here, there, self.shape, strict=True)]
        return np.ravel_multi_index(tuple(moved), self.shape) * self.n + (turns + r) % self.n

    def _pure_turn(self, element: int) -> int:
        if not 0 <= element < self.n:
            raise ValueError(f"element must be a turn, 0..{self.n - 1}, got {element}.")
        return element


def _bilinear(at: Floats) -> tuple[Ints, Floats]:
    """Return the four pixels around each place, (..., 4, 2), and their weights, (..., 4)."""
    corner = np.floor(at).astype(int)
    part = at - corner
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    weight = np.where(corners, part[..., None, :], 1 - part[..., None, :]).prod(-1)
    return corner[..., None, :] + corners, weight


class Haar(NamedTuple):
    """A quadrature of the Haar measure.

    Attributes
    ----------
    matrices : ndarray, shape (G, d, d)
        Rotations.
    weights : ndarray, shape (G,)
        Positive, of sum 1.
    """

    matrices: Floats
    weights: Floats

    @property
    def actions(self) -> int:
        """Number of rotations."""
        return len(self.weights)

    def act(self, X: Any, element: int, channels: int = 1) -> Any:
        """Return rows X with every d channels of a point, a vector, turned.

        Raises
        ------
        ValueError
            If the channels of a point are no vectors.
        """
        d = self.matrices.shape[1]
        if channels % d or np.shape(X)[1] % channels:
            raise ValueError(
                f"X has shape {np.shape(X)} and points of {channels} channels, but the rotations "
                f"turn vectors of {d}."
            )
        return (X.reshape(-1, d) @ self.matrices[element].T.astype(X.dtype)).reshape(X.shape)

    def on_points(self, k: int) -> Floats:
        """Return the actions on rows that hold k points, one after the other."""
        return np.kron(np.eye(k)[None], self.matrices).astype(np.float64)


def haar_so2(n: int) -> Haar:
    """Return n equal turns of the plane: exact for trigonometric polynomials of degree < n.

    Examples
    --------
    >>> round(float(haar_so2(3).weights.sum()), 12)
    1.0
    """
    if n < 1:
        raise ValueError(f"n must be a number of turns >= 1, got {n}.")
    angle = 2 * np.pi * np.arange(n) / n
    c, s = np.cos(angle), np.sin(angle)
    return Haar(np.stack([[c, -s], [s, c]]).transpose(2, 0, 1), np.full(n, 1 / n))


def haar_so3(degree: int) -> Haar:
    """Return rotations of space that average matrix elements up to ``degree`` exactly.

    A product rule in Euler angles: equal steps in the first and third, Gauss-Legendre in the cosine
    of the second; (degree + 1)² (degree // 2 + 1) rotations.

    Examples
    --------
    >>> haar_so3(2).matrices.shape
    (18, 3, 3)
    """
    if degree < 0:
        raise ValueError(f"degree must be >= 0, got {degree}.")
    from scipy.spatial.transform import Rotation

    turns = 2 * np.pi * np.arange(degree + 1) / (degree + 1)
    nodes, weight = roots_legendre(degree // 2 + 1)
    grid = np.meshgrid(turns, np.arccos(nodes), turns, indexing="ij")
    angles = np.stack([axis.ravel() for axis in grid], axis=-1)
    weights = np.broadcast_to(weight[None, :, None], grid[0].shape).ravel()
    return Haar(Rotation.from_euler("ZYZ", angles).as_matrix(), weights / weights.sum())
