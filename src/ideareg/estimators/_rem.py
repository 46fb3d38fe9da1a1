"""The parameters of REM estimators in their final types."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from sklearn.base import is_classifier

from ideareg.convolution import Plan
from ideareg.estimators._settings import _check_real, check_integer
from ideareg.kernelmachine import Settings
from ideareg.kernels.equivariant import window_points
from ideareg.kernels.groups import AbstractGroup, Group, quarter_turns, square_symmetries
from ideareg.kernels.rotations import Haar, Rotations
from ideareg.refinement import Refinement
from ideareg.views import View

DTYPES = ("float32", "float64")
GROUPS: dict[str, Any] = {
    "p4": quarter_turns,
    "p4m": square_symmetries,
    "c8": lambda sides: Rotations(sides, 8),
    "c16": lambda sides: Rotations(sides, 16),
}
# Grids less wide than this have no layers; from the second width on, the first layer halves them.
LEAST_SIDE, HALVED_SIDE = 3, 16
# Points that the last layer leaves along the longer axis, about, and its pooling per stride.
LAST_SIDE, LAST_SIGMA = 5, 0.73


def check_dtype(dtype: Any) -> str:
    """Return the name of the type of the layers."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of 'float32', 'float64', got {dtype!r}.")
    return str(dtype)


def read_settings(model: Any, columns: int) -> Settings:
    """Check the parameters of an estimator for rows of ``columns`` pixels; set ``image_shape_``."""
    space = read_space(model)
    *sides, channels = (
        grid(model.image_shape, columns) if space is None else (1, *_points(space, columns))
    )
    if model.image_shape is None and space is None and channels > 1:
        warnings.warn(
            f"image_shape is None and X has {columns} columns, no square: rows go to the read-out "
            "as they are, without layers; give the image_shape if they are images.",
            stacklevel=4,
        )
    check_integer("n_centres", model.n_centres, 1)
    for name in ("gamma", "ridge"):
        value = getattr(model, name)
        if value is not None:
            _check_real(name, value, least=0.0, strict=True)
    model.image_shape_ = (*sides, channels)
    shape = (sides[0], sides[1])
    layers: tuple[Any, ...] = plans(model, shape) if space is None else views(model, space)
    return Settings(
        shape, channels, layers, space,
        read_group(model.group, shape, channels), bool(model.periodic), int(model.n_centres),
        model.gamma, model.ridge, _read_refinement(model, layers),
    )  # fmt: skip


def _read_refinement(model: Any, layers: tuple[Any, ...]) -> Refinement | None:
    check_integer("refine_epochs", model.refine_epochs, 0)
    if model.refine_epochs == 0:
        return None
    if not layers:
        raise ValueError(
            f"refine_epochs={model.refine_epochs} trains layers, and rows of shape "
            f"{model.image_shape_} have none: give the image_shape, or set refine_epochs=0."
        )
    return Refinement(int(model.refine_epochs), is_classifier(model))


def read_space(model: Any) -> Group | None:
    """Return the group whose points rows are functions on, in place of a grid."""
    if model.space is None:
        return None
    if not isinstance(model.space, Group):
        raise TypeError(
            f"space must be a group of permutations of ideareg.kernels.groups, got {model.space!r}."
        )
    grids = {"image_shape": None, "stride": None, "sigma": None, "periodic": False}
    for name, absent in grids.items():
        if getattr(model, name) is not absent:
            raise ValueError(
                f"{name} is for grids, and space={model.space!r} is in place of one: leave "
                f"{name}={absent}, or space=None."
            )
    if isinstance(model.group, str):
        raise ValueError(
            f"group={model.group!r} turns images on a grid, and space={model.space!r} is in place "
            "of one: leave group=None, since predictions are invariant to the space's own group."
        )
    return model.space


def _points(space: Group, columns: int) -> tuple[int, int]:
    """Return how many points and channels rows of ``columns`` entries have."""
    channels, rest = divmod(columns, space.n_points)
    if rest or not channels:
        raise ValueError(
            f"space has {space.n_points} points, which do not divide the {columns} columns of X: "
            "a row holds the channels of each point, one point after the other."
        )
    return space.n_points, channels


def grid(image_shape: Any, columns: int) -> tuple[int, int, int]:
    """Return height, width and channels of rows of ``columns`` pixels."""
    if image_shape is None:
        side = math.isqrt(columns)
        return (side, side, 1) if side**2 == columns else (1, 1, columns)
    shape = tuple(np.atleast_1d(np.asarray(image_shape, dtype=object)).tolist())
    if len(shape) not in (2, 3):
        raise ValueError(
            "image_shape must be (height, width) or (height, width, channels), with height 1 for "
            f"a series; got {image_shape!r}."
        )
    for value in shape:
        check_integer("image_shape", value, 1)
    if math.prod(shape) != columns:
        raise ValueError(
            f"image_shape={image_shape!r} has {math.prod(shape)} pixels, but rows of X have "
            f"{columns} columns."
        )
    return (shape[0], shape[1], shape[2] if len(shape) == 3 else 1)


def read_group(group: Any, sides: tuple[int, int], channels: int) -> AbstractGroup | Haar | None:
    """Return the group that moves images of these sides, or vectors that their channels are."""
    if group is None:
        return None
    if isinstance(group, str):
        if group not in GROUPS:
            raise ValueError(f"group must be one of {', '.join(map(repr, GROUPS))}, got {group!r}.")
        return GROUPS[group](sides)
    if isinstance(group, Haar):
        group.act(np.zeros((1, channels)), 0, channels)  # raises where channels are no vectors
        return group
    if not isinstance(group, AbstractGroup):
        raise TypeError(
            "group must be a name or a group of ideareg.kernels.groups, or a quadrature such as "
            f"haar_so3, got {group!r}."
        )
    if group.n_points != math.prod(sides) or (len(group.shape) > 1 and group.shape != sides):
        raise ValueError(
            f"group acts on a grid of shape {group.shape}, but the images have {sides}."
        )
    return group


def plans(model: Any, sides: tuple[int, int]) -> tuple[Plan, ...]:
    """Return the layers; what the shape leaves no room for is left out."""
    depth = len(_numbers("n_patches", model.n_patches))
    given = {}
    for name in ("n_patches", "window", "stride"):
        given[name] = _numbers(name, getattr(model, name))
        for value in given[name]:
            check_integer(name, value, 1)
    for name in ("sharpness", "sigma"):
        given[name] = _numbers(name, getattr(model, name))
        for value in given[name]:
            _check_real(name, value, least=0.0, strict=name == "sharpness")
    for name, values in given.items():
        if len(values) != depth and getattr(model, name) is not None:
            raise ValueError(
                f"{name} has {len(values)} values, but n_patches makes {depth} layers: give one "
                "for each layer."
            )
    found: list[Plan] = []
    side = max(sides)
    if side < LEAST_SIDE:
        return ()
    for i in range(depth):
        last = i == depth - 1 and depth > 1
        stride = 2 if side >= HALVED_SIDE else 1
        if last:
            stride = max(1, round(side / LAST_SIDE))
        stride = given["stride"][i] if given["stride"] else stride
        sigma = (LAST_SIGMA if last else 0.5) * stride
        sigma = given["sigma"][i] if given["sigma"] else sigma
        numbers = int(given["window"][i]), int(given["n_patches"][i]), float(given["sharpness"][i])
        found.append(Plan(*numbers, int(stride), float(sigma), centred=i == 0))
        side = -(-side // stride)
    return tuple(found)


def views(model: Any, space: Group) -> tuple[View, ...]:
    """Return the layers of a space."""
    counts, sharpness = (_numbers(n, getattr(model, n)) for n in ("n_patches", "sharpness"))
    windows = list(model.window)
    for name, values in (("window", windows), ("sharpness", sharpness)):
        if len(values) != len(counts):
            raise ValueError(
                f"{name} has {len(values)} values, but n_patches makes {len(counts)} layers: give "
                "one for each layer."
            )
    found: list[View] = []
    for count, window, alpha in zip(counts, windows, sharpness, strict=True):
        check_integer("n_patches", count, 1)
        _check_real("sharpness", alpha, least=0.0, strict=True)
        points = window_points(space, window)
        unseen = np.setdiff1d(np.arange(space.n_points), space.table[:, points])
        if len(unseen):
            raise ValueError(
                f"window: no element of the space brings {window!r} to the points "
                f"{unseen[:5].tolist()}, which would not be seen: add one of them, or take None "
                "for all points."
            )
        found.append(View(points, int(count), float(alpha)))
    return tuple(found)


def _numbers(name: str, values: Any) -> tuple[Any, ...]:
    return () if values is None else tuple(np.atleast_1d(np.asarray(values, object)).tolist())
