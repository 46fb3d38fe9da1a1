"""A fitted REM estimator as data: a JSON header and named arrays, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import is_classifier

from ideareg.convolution import Layers, PatchLayer
from ideareg.estimators._document import (
    Arrays,
    labels_spec,
    plain,
    restore_classes,
    restore_columns,
    take,
    unplain,
)
from ideareg.estimators._rem import check_dtype, read_settings
from ideareg.kernelmachine import Extractor, Machine, Settings
from ideareg.kernels.groups import Group
from ideareg.kernels.rotations import Haar, Rotations
from ideareg.labels import Calibration
from ideareg.nystrom import Regressor, Standard
from ideareg.views import ViewLayer, view_indices

# Parameters that are not plain values; groups are written as arrays.
NOT_SAVED = ("random_state", "group", "space")
LAYER_ARRAYS = ("inducing", "whitening", "rows", "columns")
VIEW_ARRAYS = ("inducing", "whitening", "bias")


def machine_arrays(model: Any) -> tuple[dict[str, Any], Arrays]:
    """Return header and arrays of a fitted estimator."""
    parameters = model.get_params(deep=False)
    for name in NOT_SAVED:
        parameters.pop(name)
    machine: Machine = model.machine_
    arrays: Arrays = {"mean": machine.standard.mean}
    names = LAYER_ARRAYS if model.space is None else VIEW_ARRAYS
    for i, layer in enumerate(machine.extractor.layers):
        arrays |= {f"layer{i}.{name}": np.asarray(getattr(layer, name)) for name in names}
    regressor = machine.regressor
    arrays |= {name: getattr(regressor, name) for name in ("centres", "dual", "explained")}
    columns = getattr(model, "feature_names_in_", None)
    header: dict[str, Any] = {
        "parameters": plain(parameters),
        "group": _group_spec("group", model.group, arrays),
        "space": _group_spec("space", model.space, arrays),
        "n_features": int(model.n_features_in_),
        "feature_names": None if columns is None else [str(name) for name in columns],
        "image_shape": [int(n) for n in model.image_shape_],
        "layers": [
            [layer.alpha, layer.centred, bool(model.periodic)] for layer in machine.extractor.layers
        ],
        "scale": float(machine.standard.scale),
        "chosen": [float(regressor.gamma), float(regressor.ridge), float(model.score_)],
    }
    if is_classifier(model):
        header["classes"] = labels_spec(model.classes_)
        header["calibration"] = float(model._calibration.scale)
        arrays |= {"shift": model._calibration.shift, "offset": model._offset}
    else:
        header["one_output"] = bool(model._one_output)
        arrays |= {"y.mean": model._mean, "y.spread": model._spread}
        arrays["amplitude"] = model._amplitude
    return header, arrays


def _group_spec(name: str, group: Any, arrays: Arrays) -> Any:
    if isinstance(group, Rotations):
        return {"turns": group.n}
    if isinstance(group, Haar):
        arrays[name], arrays[f"{name}.weights"] = group.matrices, group.weights
        return {"dim": group.matrices.shape[1]}
    if isinstance(group, Group):
        arrays[name] = group.table.astype(np.int64)
        return {"shape": list(group.shape)}
    return group


def _group_of(name: str, spec: Any, arrays: Arrays, sides: tuple[int, int]) -> Any:
    if not isinstance(spec, dict):
        return spec
    if "turns" in spec:
        return Rotations(sides, int(spec["turns"]))
    if "dim" in spec:
        d, n = int(spec["dim"]), len(arrays[name])
        weights = take(arrays, f"{name}.weights", np.ones(n))
        return Haar(take(arrays, name, np.ones((n, d, d))), weights)
    return Group(arrays[name], tuple(spec["shape"]))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def restore(cls: type, header: dict[str, Any], arrays: Arrays) -> Any:
    """Rebuild a fitted estimator; every array is checked by name and shape.

    Raises
    ------
    ValueError
        If the header or an array does not fit together.
    """
    try:
        parameters = unplain(header["parameters"])
        model = cls(**{name: _tuples(value) for name, value in parameters.items()})
        height, width, channels = header["image_shape"]
        model.group = _group_of("group", header["group"], arrays, (height, width))
        model.space = _group_of("space", header.get("space"), arrays, (height, width))
        restore_columns(model, header)
        settings = read_settings(model, model.n_features_in_)
        if [height, width, channels] != list(model.image_shape_):
            raise ValueError("model file: its image shape is not that of its parameters")
        if is_classifier(model):
            outputs = restore_classes(model, header)
            shift, model._offset = (
                take(arrays, name, np.ones(outputs)) for name in ("shift", "offset")
            )
            model._calibration = Calibration(float(header["calibration"]), shift)
        else:
            model._one_output = bool(header["one_output"])
            outputs = arrays["amplitude"].size
            like = np.ones(outputs)
            model._mean, model._spread = (take(arrays, f"y.{n}", like) for n in ("mean", "spread"))
            model._amplitude = take(arrays, "amplitude", like)
        model.gamma_, model.ridge_, model.score_ = map(float, unplain(header["chosen"]))
        model.machine_ = _machine(model, settings, header, arrays, outputs)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"model file: its parts do not fit together ({error!r})") from error
    return model


def _machine(
    model: Any, settings: Settings, header: dict[str, Any], arrays: Arrays, outputs: int
) -> Machine:
    dtype = check_dtype(model.dtype)
    if len(header["layers"]) != len(settings.plans):
        raise ValueError("model file: its layers are not those of its parameters")
    layers, d = (_patch_layers if settings.space is None else _view_layers)(
        settings, header["layers"], arrays, dtype
    )
    m = len(arrays["centres"])
    explained = 0 if is_classifier(model) else m
    extractor = Extractor(layers, settings.group, settings.channels)
    regressor = Regressor(
        take(arrays, "centres", np.ones((m, d), dtype)), model.gamma_, model.ridge_,
        take(arrays, "dual", np.ones((m, outputs))),
        take(arrays, "explained", np.ones((explained, m))), extractor.weights,
    )  # fmt: skip
    standard = Standard(take(arrays, "mean", np.ones(d, dtype)), float(header["scale"]))
    return Machine(extractor, standard, regressor)


def _patch_layers(
    settings: Settings, said: list[Any], arrays: Arrays, dtype: str
) -> tuple[Layers, int]:
    """Return the layers on a grid, and how many numbers come out of the last."""
    sides, channels = settings.sides, settings.channels
    layers: list[PatchLayer] = []
    for i, (plan, (alpha, centred, periodic)) in enumerate(zip(settings.plans, said, strict=True)):
        window = [min(plan.window, side) for side in sides]
        out = [-(-side // plan.stride) for side in sides]
        count = int(arrays[f"layer{i}.inducing"].shape[-1])
        shapes = (*window, channels, count), (count, count), (out[0], sides[0]), (out[1], sides[1])
        parts = {
            name: take(arrays, f"layer{i}.{name}", np.ones(shape, dtype))
            for name, shape in zip(LAYER_ARRAYS, shapes, strict=True)
        }
        kind = {"alpha": float(alpha), "centred": bool(centred), "periodic": bool(periodic)}
        layers.append(PatchLayer(**parts, **kind))
        sides, channels = (out[0], out[1]), count
    return tuple(layers), sides[0] * sides[1] * channels


def _view_layers(
    settings: Settings, said: list[Any], arrays: Arrays, dtype: str
) -> tuple[Layers, int]:
    """Return the layers on a space, and how many numbers come out of the last."""
    channels = settings.channels
    layers: list[ViewLayer] = []
    for i, index in enumerate(view_indices(settings.plans, settings.space)):
        count = int(arrays[f"layer{i}.inducing"].shape[-1])
        shapes = (index.shape[2] * channels + 1, count), (count, count), ()
        parts = {
            name: take(arrays, f"layer{i}.{name}", np.ones(shape, dtype))
            for name, shape in zip(VIEW_ARRAYS, shapes, strict=True)
        }
        kind = {"alpha": float(said[i][0]), "centred": False, "index": index.astype(np.int32)}
        layers.append(ViewLayer(**parts, **kind))
        channels = count
    return tuple(layers), channels
