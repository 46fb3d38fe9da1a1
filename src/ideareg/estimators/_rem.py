"""The parameters of REM estimators in their final types, and a fitted one as data and back."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_classifier

from ideareg.convolution import PatchLayer, Plan
from ideareg.estimators._settings import _check_real, check_integer
from ideareg.estimators._state import (
    _labels,
    _labels_spec,
    _plain,
    _take,
    _unplain,
    restore_columns,
)
from ideareg.kernelmachine import Extractor, Machine, Settings
from ideareg.kernels.groups import AbstractGroup, Group, quarter_turns, square_symmetries
from ideareg.kernels.rotations import Rotations
from ideareg.labels import Calibration
from ideareg.nystrom import Regressor, Standard

Arrays = dict[str, NDArray[Any]]

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
    *sides, channels = grid(model.image_shape, columns)
    if model.image_shape is None and channels > 1:
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
    return Settings(
        shape, channels, plans(model, shape), read_group(model.group, shape), bool(model.periodic),
        int(model.n_centres), model.gamma, model.ridge,
    )  # fmt: skip


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


def read_group(group: Any, sides: tuple[int, int]) -> AbstractGroup | None:
    """Return the group that moves images of these sides."""
    if group is None:
        return None
    if isinstance(group, str):
        if group not in GROUPS:
            raise ValueError(f"group must be one of {', '.join(map(repr, GROUPS))}, got {group!r}.")
        return GROUPS[group](sides)
    if not isinstance(group, AbstractGroup):
        raise TypeError(
            f"group must be a name or a group of ideareg.kernels.groups, got {group!r}."
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


def _numbers(name: str, values: Any) -> tuple[Any, ...]:
    return () if values is None else tuple(np.atleast_1d(np.asarray(values, object)).tolist())


# ---------------------------------------------------------------- files

NOT_SAVED = ("random_state", "group")
LAYER_ARRAYS = ("inducing", "whitening", "rows", "columns")


def machine_arrays(model: Any) -> tuple[dict[str, Any], Arrays]:
    """Return header and arrays of a fitted estimator."""
    parameters = model.get_params(deep=False)
    for name in NOT_SAVED:
        parameters.pop(name)
    machine: Machine = model.machine_
    arrays: Arrays = {"mean": machine.standard.mean}
    for i, layer in enumerate(machine.extractor.layers):
        arrays |= {f"layer{i}.{name}": np.asarray(getattr(layer, name)) for name in LAYER_ARRAYS}
    regressor = machine.regressor
    arrays |= {name: getattr(regressor, name) for name in ("centres", "dual", "explained")}
    names = getattr(model, "feature_names_in_", None)
    header: dict[str, Any] = {
        "parameters": _plain(parameters),
        "group": _group_spec(model.group, arrays),
        "n_features": int(model.n_features_in_),
        "feature_names": None if names is None else [str(name) for name in names],
        "image_shape": [int(n) for n in model.image_shape_],
        "layers": [
            [layer.alpha, layer.centred, layer.periodic] for layer in machine.extractor.layers
        ],
        "scale": float(machine.standard.scale),
        "chosen": [float(regressor.gamma), float(regressor.ridge), float(model.score_)],
    }
    if is_classifier(model):
        header["classes"] = _labels_spec(model.classes_)
        header["calibration"] = float(model._calibration.scale)
        arrays |= {"shift": model._calibration.shift, "offset": model._offset}
    else:
        header["one_output"] = bool(model._one_output)
        arrays |= {"y.mean": model._mean, "y.spread": model._spread}
        arrays["amplitude"] = model._amplitude
    return header, arrays


def _group_spec(group: Any, arrays: Arrays) -> Any:
    if isinstance(group, Rotations):
        return {"turns": group.n}
    if isinstance(group, Group):
        arrays["group"] = group.table.astype(np.int64)
        return {"shape": list(group.shape)}
    return group


def _group_of(spec: Any, arrays: Arrays, sides: tuple[int, int]) -> Any:
    if not isinstance(spec, dict):
        return spec
    if "turns" in spec:
        return Rotations(sides, int(spec["turns"]))
    return Group(arrays["group"], tuple(spec["shape"]))


def restore(cls: type, header: dict[str, Any], arrays: Arrays) -> Any:
    """Rebuild a fitted estimator; every array is checked by name and shape.

    Raises
    ------
    ValueError
        If the header or an array does not fit together.
    """
    try:
        parameters = _unplain(header["parameters"])
        model = cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in parameters.items()})
        height, width, channels = header["image_shape"]
        model.group = _group_of(header["group"], arrays, (height, width))
        restore_columns(model, header)
        settings = read_settings(model, model.n_features_in_)
        if [height, width, channels] != list(model.image_shape_):
            raise ValueError("model file: its image shape is not that of its parameters")
        if is_classifier(model):
            model.classes_ = _labels(header["classes"])
            outputs = 1 if len(model.classes_) == 2 else len(model.classes_)
            shift, model._offset = (
                _take(arrays, name, np.ones(outputs)) for name in ("shift", "offset")
            )
            model._calibration = Calibration(float(header["calibration"]), shift)
        else:
            model._one_output = bool(header["one_output"])
            outputs = arrays["amplitude"].size
            like = np.ones(outputs)
            model._mean, model._spread = (_take(arrays, f"y.{n}", like) for n in ("mean", "spread"))
            model._amplitude = _take(arrays, "amplitude", like)
        model.gamma_, model.ridge_, model.score_ = map(float, _unplain(header["chosen"]))
        model.machine_ = _machine(model, settings, header, arrays, outputs)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"model file: its parts do not fit together ({error!r})") from error
    return model


def _machine(
    model: Any, settings: Settings, header: dict[str, Any], arrays: Arrays, outputs: int
) -> Machine:
    dtype = check_dtype(model.dtype)
    sides, channels = settings.sides, settings.channels
    layers: list[PatchLayer] = []
    if len(header["layers"]) != len(settings.plans):
        raise ValueError("model file: its layers are not those of its parameters")
    for i, (plan, (alpha, centred, periodic)) in enumerate(
        zip(settings.plans, header["layers"], strict=True)
    ):
        window = [min(plan.window, side) for side in sides]
        out = [-(-side // plan.stride) for side in sides]
        count = int(arrays[f"layer{i}.inducing"].shape[-1])
        shapes = (*window, channels, count), (count, count), (out[0], sides[0]), (out[1], sides[1])
        inducing, whitening, rows, columns = (
            _take(arrays, f"layer{i}.{name}", np.ones(shape, dtype))
            for name, shape in zip(LAYER_ARRAYS, shapes, strict=True)
        )
        said = float(alpha), bool(centred), bool(periodic)
        layers.append(PatchLayer(inducing, whitening, rows, columns, *said))
        sides, channels = (out[0], out[1]), count
    d, m = sides[0] * sides[1] * channels, len(arrays["centres"])
    explained = 0 if is_classifier(model) else m
    centres = _take(arrays, "centres", np.ones((m, d), dtype))
    regressor = Regressor(
        centres, model.gamma_, model.ridge_, _take(arrays, "dual", np.ones((m, outputs))),
        _take(arrays, "explained", np.ones((explained, m))),
    )  # fmt: skip
    standard = Standard(_take(arrays, "mean", np.ones(d, dtype)), float(header["scale"]))
    return Machine(Extractor(tuple(layers), settings.group, settings.channels), standard, regressor)
