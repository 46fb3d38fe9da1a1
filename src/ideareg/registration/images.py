"""Images: values on a grid that lies somewhere in space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from ideareg.registration.affine import Affine

Floats = NDArray[np.float64]

# The least number of pixels along an axis, the same of a coarsened image, and the most axes.
FEWEST, COARSEST, AXES = 8, 12, 3
# Each is an image of its own while a map is sought.
MOST_LABELS = 64


class Image(NamedTuple):
    """Values on a regular grid, and where the grid lies.

    Axis k of the array is axis k of all coordinates: pixel (i, j) of a picture lies at row i and
    column j, in that order. The place of an index is ``origin + direction @ (spacing * index)``.

    Attributes
    ----------
    values : ndarray, shape (n_1, ..., n_d)
        With d = 2 or 3.
    spacing : ndarray, shape (d,)
        Distance of pixels along each axis, in physical units.
    origin : ndarray, shape (d,)
        Where pixel (0, ..., 0) lies.
    direction : ndarray, shape (d, d)
        Column k is the unit vector along axis k; the columns are orthogonal.
    mask : ndarray of bool, shape (n_1, ..., n_d), or None
        Pixels that count; None is all.
    placed : bool
        Whether origin and direction were said, or are guesses.
    labels : bool
        Whether values name regions, as of a segmentation: then they are never mixed, 0 is no
        region, and images are compared by how their regions overlap.

    Examples
    --------
    >>> image = Image.of(np.eye(8), spacing=0.5, origin=[1.0, 0.0])
    >>> image.to_physical([[2.0, 4.0]]).tolist()
    [[2.0, 2.0]]
    """

    values: Floats
    spacing: Floats
    origin: Floats
    direction: Floats
    mask: NDArray[np.bool_] | None = None
    placed: bool = False
    labels: bool = False

    @classmethod
    def of(
        cls, values: Any, spacing: Any = None, origin: Any = None, direction: Any = None,
        mask: Any = None, name: str = "image", labels: bool = False,
    ) -> Image:  # fmt: skip
        """Check values and geometry, and return the image.

        Parameters
        ----------
        values : array, shape (n_1, ..., n_d)
        spacing : number or array of shape (d,), optional
            1 by default.
        origin : array, shape (d,), optional
            0 by default.
        direction : array, shape (d, d), optional
            The identity by default.
        mask : array of bool, optional
            Where values count; elsewhere they may be NaN.
        name : str
            What messages call it.
        labels : bool
            Whether values name regions.

        Raises
        ------
        ValueError
            If the image has not 2 or 3 axes of at least 8 pixels, is constant or not finite where
            it counts, or the geometry is not one.
        """
        array = np.asarray(values, dtype=np.float64)
        d = array.ndim
        if not 2 <= d <= AXES or min(array.shape) < FEWEST:
            raise ValueError(
                f"{name}: an image needs 2 or {AXES} axes of at least {FEWEST} pixels, got the "
                f"shape {array.shape}; for colours, register their mean or one channel."
            )
        if mask is not None:
            mask = np.asarray(mask, dtype=bool)
            if mask.shape != array.shape or not mask.any():
                raise ValueError(
                    f"{name}: the mask needs the shape {array.shape} and at least one pixel that "
                    f"counts, got {mask.shape} with {int(mask.sum())}."
                )
            array = np.where(mask | np.isfinite(array), array, 0.0)
        if not np.isfinite(array).all():
            raise ValueError(
                f"{name}: {int((~np.isfinite(array)).sum())} values are NaN or infinite; fill them "
                "in, or give a mask of the pixels that count, Image.of(values, mask=...)."
            )
        placed = origin is not None and direction is not None
        geometry = _geometry(d, spacing, origin, direction, name)
        image = cls(array, *geometry, mask, placed, bool(labels))
        counted = image.counted
        if np.ptp(counted) == 0:
            raise ValueError(f"{name}: all values are the same, so there is nothing to align.")
        names = np.unique(counted) if labels else np.zeros(0)
        if len(names) > MOST_LABELS or (names % 1 != 0).any():
            raise ValueError(
                f"{name}: {len(names)} different values, like {names[len(names) // 2]:g}, are no "
                f"labels, which are at most {MOST_LABELS} whole numbers; leave labels=False for "
                "an image."
            )
        return image

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of pixels along each axis."""
        return self.values.shape

    @property
    def dimension(self) -> int:
        """Number of axes."""
        return self.values.ndim

    @property
    def kind(self) -> str:
        """The word "image"."""
        return "image"

    @property
    def counted(self) -> Floats:
        """Values where they count, shape (m,)."""
        return self.values.ravel() if self.mask is None else self.values[self.mask]

    @property
    def lengths(self) -> Floats:
        """Distance of the first and last pixel along each axis, shape (d,)."""
        return self.spacing * (np.array(self.shape) - 1)

    @property
    def radius(self) -> float:
        """Root mean square distance of the pixels from the middle."""
        n = np.array(self.shape)
        return float(np.sqrt((self.spacing**2 * (n**2 - 1) / 12).sum()))

    @property
    def frame(self) -> Affine:
        """The map from the image's own axes, in physical units from its first pixel, to space."""
        return Affine(self.direction, self.origin)

    def to_physical(self, index: Any) -> Floats:
        """Return where indices, shape (m, d), lie; they need not be whole."""
        return self.frame(np.asarray(index, dtype=np.float64) * self.spacing)

    def to_index(self, points: Any) -> Floats:
        """Return the indices, shape (m, d), of points in space; they need not be whole."""
        return self.frame.inverse()(np.asarray(points, dtype=np.float64)) / self.spacing

    def points(self) -> Floats:
        """Return where the pixels lie, shape (n_1 ... n_d, d)."""
        return self.to_physical(np.indices(self.shape).reshape(self.dimension, -1).T)

    def at(self, points: Any, order: int = 1) -> Floats:
        """Return interpolated values at points of space, shape (m,); outside, those of the border.

        Parameters
        ----------
        points : array, shape (m, d)
        order : int
            Of the spline: 0 is the nearest pixel, as always for labels; 1 is linear.
        """
        order = 0 if self.labels else order
        return map_coordinates(self.values, self.to_index(points).T, order=order, mode="nearest")

    def with_values(self, values: Any) -> Image:
        """Return other values on the same grid."""
        return self._replace(values=np.asarray(values, dtype=np.float64).reshape(self.shape))

    def region(self, name: float) -> Image:
        """Return 1 where a label is and 0 elsewhere, as an image."""
        return self.with_values(self.values == name)._replace(labels=False)

    def coarser(self, factor: int) -> Image:
        """Return every k-th pixel of the smoothed image, the first one in the same place.

        Labels are not smoothed.
        """
        if factor == 1:
            return self
        every = (slice(None, None, factor),) * self.dimension
        if self.labels:
            mask = None if self.mask is None else self.mask[every]
            spacing = factor * self.spacing
            return self._replace(values=self.values[every], spacing=spacing, mask=mask)
        smooth, mask = gaussian_filter(self.values, factor / 2), self.mask
        if mask is not None:
            # Pixels that do not count must not leak into those that do.
            share = gaussian_filter(mask.astype(np.float64), factor / 2)
            smooth = gaussian_filter(self.values * mask, factor / 2) / np.maximum(share, 1e-6)
            mask = mask[every]
        return self._replace(values=smooth[every], spacing=factor * self.spacing, mask=mask)


def _geometry(
    d: int, spacing: Any, origin: Any, direction: Any, name: str
) -> tuple[Floats, Floats, Floats]:
    steps = np.ones(d) if spacing is None else np.asarray(spacing, dtype=np.float64)
    steps = np.broadcast_to(steps, (d,)) if steps.ndim == 0 else steps
    start = np.zeros(d) if origin is None else np.asarray(origin, dtype=np.float64)
    axes = np.eye(d) if direction is None else np.asarray(direction, dtype=np.float64)
    if steps.shape != (d,) or not (np.isfinite(steps).all() and (steps > 0).all()):
        raise ValueError(f"{name}: spacing must be {d} positive numbers, got {spacing!r}.")
    if start.shape != (d,) or not np.isfinite(start).all():
        raise ValueError(f"{name}: origin must be {d} finite numbers, got {origin!r}.")
    if axes.shape != (d, d) or not np.allclose(axes.T @ axes, np.eye(d), atol=1e-6):
        raise ValueError(
            f"{name}: direction must be a ({d}, {d}) matrix with orthogonal columns of length 1, "
            f"got {direction!r}."
        )
    return steps, start, axes


def as_image(value: Any, name: str) -> Image:
    """Return a checked `Image` from one, or from an array of its values."""
    return value if isinstance(value, Image) else Image.of(value, name=name)


def check_images(source: Image, target: Image) -> None:
    """Refuse two images of which it is not known how they lie to each other.

    Raises
    ------
    ValueError
        If they differ in dimension, or in spacing or shape without origin and direction, or one
        has labels and the other values.
    """
    if source.labels != target.labels:
        raise ValueError("a map of labels goes with another one: say labels=True of both or none.")
    if source.dimension != target.dimension:
        raise ValueError(
            f"source has {source.dimension} axes and target {target.dimension}; images to be "
            "registered need the same."
        )
    same = np.allclose(source.spacing, target.spacing) and source.shape == target.shape
    if not same and not (source.placed and target.placed):
        raise ValueError(
            f"source has the shape {source.shape} and spacing {source.spacing.tolist()}, target "
            f"{target.shape} and {target.spacing.tolist()}, and nothing says how they lie: give "
            "both their place, Image.of(values, spacing=..., origin=..., direction=...), or "
            "resample one of them."
        )


def determinants(target: Image, places: Floats) -> Floats:
    """Return determinants of a map of the target's pixels, by central differences.

    Parameters
    ----------
    target : Image
    places : ndarray, shape (n, d)
        Where each pixel goes.

    Returns
    -------
    ndarray, shape of the target
        Positive where neighbouring pixels keep their order.

    Examples
    --------
    >>> image = Image.of(np.eye(8))
    >>> float(determinants(image, 2 * image.points()).min())
    4.0
    """
    field = places.reshape(*target.shape, target.dimension)
    axes = tuple(range(target.dimension))
    slopes = np.stack(np.gradient(field, *target.spacing, axis=axes), axis=-1)
    return np.linalg.det(slopes @ target.direction.T)


def factors(shape: Sequence[int]) -> list[int]:
    """Return by how much to coarsen at each resolution, coarse first: 8, 4, 1 if they may.

    Examples
    --------
    >>> factors((256, 256)), factors((64, 48))
    ([8, 4, 1], [4, 1])
    """
    return [k for k in (8, 4, 1) if k == 1 or min(shape) // k >= COARSEST]
