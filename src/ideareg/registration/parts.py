"""Several things to be brought together at once: images, labels, landmarks, curves, surfaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ideareg.registration.images import Image, check_images
from ideareg.registration.shapes import Shape, as_shape, check_pair


class Parts(NamedTuple):
    """What a fit is given.

    Attributes
    ----------
    images : tuple of pair of Image
        Source and target of each; the targets lie on one grid.
    shapes : tuple of pair of Shape
        Source and target of each.
    weights : tuple of float
        Of each image, and of each shape.
    """

    images: tuple[tuple[Image, Image], ...]
    shapes: tuple[tuple[Shape, Shape], ...]
    weights: tuple[float, ...]


def as_parts(source: Any, target: Any, weights: Sequence[float] | None) -> Parts:
    """Return checked parts from one shape or image, or from lists of them.

    Raises
    ------
    ValueError
        If the lists differ in length or kind, hold no image among several parts, the images lie
        on several grids, or the weights are not one positive number for each part.
    """
    many = isinstance(source, list) and any(isinstance(part, Image) for part in source)
    sources = source if many else [source]
    targets = target if many else [target]
    if not isinstance(targets, list) or len(targets) != len(sources):
        raise ValueError("source is a list of parts: target must be one of the same length.")
    images, shapes = [], []
    for k, (one, other) in enumerate(zip(sources, targets, strict=True)):
        names = (f"source[{k}]", f"target[{k}]") if many else ("source", "target")
        if isinstance(one, Image) != isinstance(other, Image):
            raise ValueError(f"{names[0]} and {names[1]}: an image goes with an image.")
        if isinstance(one, Image):
            check_images(one, other)
            images.append((one, other))
            for image, first, name in zip(images[-1], images[0], names, strict=True):
                _check_grid(image, first, name)
        else:
            pair = as_shape(one, names[0]), as_shape(other, names[1])
            check_pair(*pair)
            shapes.append(pair)
    if images and any(pair[0].dimension != images[0][0].dimension for pair in shapes):
        raise ValueError("the shapes beside an image need as many coordinates as it has axes.")
    given = [1.0] * len(sources) if weights is None else [float(w) for w in weights]
    if len(given) != len(sources) or not all(0 < w < np.inf for w in given):
        raise ValueError(
            f"weights must be {len(sources)} positive numbers, one a part, got {weights}."
        )
    # Those of images first.
    order = sorted(range(len(given)), key=lambda k: not isinstance(sources[k], Image))
    return Parts(tuple(images), tuple(shapes), tuple(given[k] for k in order))


def _check_grid(image: Image, first: Image, name: str) -> None:
    """Refuse an image that lies elsewhere than the first one of its side."""
    alike = image.shape == first.shape and all(
        np.allclose(getattr(image, part), getattr(first, part))
        for part in ("spacing", "origin", "direction")
    )
    if not alike:
        raise ValueError(
            f"{name}: images that are brought together at once lie on one grid, the same shape, "
            "spacing, origin and direction as the first one; resample it to that."
        )
