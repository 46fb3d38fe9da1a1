"""Several things to be brought together at once: an image, landmarks, curves and surfaces."""

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
    image : pair of Image, or None
        Source and target.
    shapes : tuple of pair of Shape
        Source and target of each.
    weights : tuple of float
        Of the image, if there is one, and of each shape.
    """

    image: tuple[Image, Image] | None
    shapes: tuple[tuple[Shape, Shape], ...]
    weights: tuple[float, ...]


def as_parts(source: Any, target: Any, weights: Sequence[float] | None) -> Parts:
    """Return checked parts from one shape or image, or from lists of them.

    Raises
    ------
    ValueError
        If the lists differ in length or kind, hold two images or none among several, or the
        weights are not one positive number for each part.
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
        else:
            pair = as_shape(one, names[0]), as_shape(other, names[1])
            check_pair(*pair)
            shapes.append(pair)
    if len(images) > 1:
        raise ValueError("give one image, with any number of shapes beside it.")
    if images and any(pair[0].dimension != images[0][0].dimension for pair in shapes):
        raise ValueError("the shapes beside an image need as many coordinates as it has axes.")
    given = [1.0] * len(sources) if weights is None else [float(w) for w in weights]
    if len(given) != len(sources) or not all(0 < w < np.inf for w in given):
        raise ValueError(
            f"weights must be {len(sources)} positive numbers, one a part, got {weights}."
        )
    # That of the image first.
    order = sorted(range(len(given)), key=lambda k: not isinstance(sources[k], Image))
    return Parts(images[0] if images else None, tuple(shapes), tuple(given[k] for k in order))
