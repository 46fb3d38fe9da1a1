"""What a fitted registration does to points, images and space."""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from ideareg._numerics import scoped
from ideareg.registration.affine import Affine
from ideareg.registration.flows import Flow, GridFlow
from ideareg.registration.images import Image
from ideareg.registration.saving import save
from ideareg.registration.shapes import Shape

Floats = NDArray[np.float64]


class Transform(BaseEstimator):
    """An affine map and a flow after it.

    Attributes
    ----------
    flow_ : PointFlow or GridFlow
    affine_ : Affine
    source_ : Shape or Image
        A shape after the affine map, or the source image as it was.
    target_ : Image
        Of images only.
    """

    flow_: Flow
    affine_: Affine
    source_: Any
    warped_source_: Any
    target_: Image

    @scoped
    def transform_points(self, X: Any) -> Floats:
        """Push points forward: from the space of the source to that of the target.

        Parameters
        ----------
        X : array, shape (m, d)
            In physical coordinates, for images too; see `Image.to_physical`.

        Returns
        -------
        ndarray, shape (m, d)
        """
        return self._flow().forward(self.affine_(self._points(X)))

    @scoped
    def inverse(self, Y: Any) -> Floats:
        """Push points backward: from the space of the target to that of the source.

        Undoes `transform_points`: to rounding for shapes, for images up to the time step, which
        is far less than a pixel.

        Parameters
        ----------
        Y : array, shape (m, d)

        Returns
        -------
        ndarray, shape (m, d)

        Raises
        ------
        ArithmeticError
            If a step of the flow cannot be undone.
        """
        return self.affine_.inverse()(self._flow().backward(self._points(Y)))

    @scoped
    def transform_image(self, image: Any = None, like: Image | None = None, order: int = 1) -> Any:
        """Pull an image back: the value at y is that of the source at ``inverse(y)``.

        What is seen moves forward, as points do.

        Parameters
        ----------
        image : Image or array, optional
            In the space of the source; an array lies as the source image does. The source image
            by default.
        like : Image, optional
            The grid of the answer; by default the target's, or the image's own after a fit of
            shapes.
        order : int
            Of the interpolation: 1 or 3, or 0, the value of the nearest pixel, for labels of any
            numbers.

        Returns
        -------
        ndarray, shape of ``like``
            In float64, labels too; ``astype`` makes them integers without loss. Points that come
            from outside the image get the value at its border.

        Raises
        ------
        ValueError
            If a fit of shapes is given no image, or one whose dimension is another.
        """
        flow, source = self._flow(), self.source_
        if image is None or not isinstance(image, Image):
            if not isinstance(source, Image):
                raise ValueError("transform_image after a fit of shapes needs an Image.")
            image = source if image is None else source.with_values(image)
        if image.dimension != flow.dimension:
            raise ValueError(f"the image has {image.dimension} axes, the fit {flow.dimension}.")
        grid = getattr(self, "target_", image) if like is None else like
        places = self.affine_.inverse()(flow.backward(grid.points()))
        return image.at(places, order).reshape(grid.shape)

    @scoped
    def jacobian_determinant(self, X: Any) -> Floats:
        """Return by how much the push-forward stretches volume at points of the source's space.

        Positive everywhere, unless the time steps are too long for the flow.

        Parameters
        ----------
        X : array, shape (m, d)

        Returns
        -------
        ndarray, shape (m,)
        """
        slopes = self._flow().slopes(self.affine_(self._points(X)))
        return np.linalg.det(slopes) * np.linalg.det(self.affine_.matrix)

    def displacement_field(self, *axes: Any) -> Floats:
        """Return where the push-forward takes each node of a grid, minus the node.

        Parameters
        ----------
        *axes : arrays, shapes (n_1,), ..., (n_d,)
            Coordinates of the nodes along each axis.

        Returns
        -------
        ndarray, shape (n_1, ..., n_d, d)
        """
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).astype(np.float64)
        rows = grid.reshape(-1, grid.shape[-1])
        return (self.transform_points(rows) - rows).reshape(grid.shape)

    @scoped
    def geodesic(self, t: float) -> Floats:
        """Return the source at time t: at 0 after the affine map, at 1 at the target.

        Other times extrapolate.

        Returns
        -------
        ndarray
            Points of the shape pushed forward, shape (n, d); or the image pulled back to the grid
            of the target.
        """
        flow, source = self._flow(), self.source_
        if isinstance(source, Image):
            assert isinstance(flow, GridFlow)
            there = flow.backward(self.target_.points(), float(t))
            return source.at(self.affine_.inverse()(there)).reshape(self.target_.shape)
        return flow.forward(source.points, float(t))

    @scoped
    def trajectories(self, X: Any) -> Floats:
        """Return points pushed forward step by step, shape (depth + 1, m, d), for pictures."""
        return self._flow().steps(self.affine_(self._points(X)))

    def save(self, path: str | PathLike[str]) -> None:
        """Write the fit to one file, which `ideareg.load` reads without any other data.

        Parameters
        ----------
        path : path-like
            Replaced, whole or not at all.

        Raises
        ------
        TypeError
            If a kernel is a function of the user's own, which a file cannot carry.
        OSError
            If the file cannot be written.
        """
        self._flow()
        save(self, path)

    def _flow(self) -> Flow:
        check_is_fitted(self, "flow_")
        return self.flow_

    def _points(self, X: Any) -> Floats:
        points = Shape.of(X, name="points").points
        expected = self._flow().dimension
        if points.shape[1] != expected:
            raise ValueError(f"points have {points.shape[1]} coordinates, the fit had {expected}.")
        return points
