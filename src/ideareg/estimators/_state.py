"""A fitted estimator as data: a JSON header and named arrays, and back."""

from __future__ import annotations

import dataclasses
from os import PathLike
from typing import Any

import jax
import numpy as np
from sklearn.base import is_classifier
from sklearn.utils.validation import check_is_fitted

from ideareg import kernels, persistence
from ideareg._numerics import numerics
from ideareg._rows import Scaling
from ideareg.blocks import Warp
from ideareg.classification import Tuned
from ideareg.estimators._attributes import describe_warps
from ideareg.estimators._document import (
    Arrays,
    labels_spec,
    plain,
    restore_classes,
    restore_columns,
    take,
    unplain,
)
from ideareg.estimators._settings import read_settings
from ideareg.kernels.base import FunctionKernel
from ideareg.kernels.stretched import Stretched
from ideareg.labels import Calibration
from ideareg.local import Local
from ideareg.readout import AbstractHead, ExactHead, Posterior, PrimalHead, SparseHead
from ideareg.recipe import FittedWarp
from ideareg.shooting import Trajectory
from ideareg.tails import Tails
from ideareg.training import Model
from ideareg.uncertainty import Predictor, WarpPosterior
from ideareg.unseen import Residuals

KERNEL_CLASSES = {name: getattr(kernels, name) for name in kernels.__all__ if name[0].isupper()}
# Parameters that are not data; a loaded model has their defaults.
NOT_SAVED = ("callback", "random_state")
HEADS = {"exact": ExactHead, "sparse": SparseHead, "primal": PrimalHead}
KERNEL_PARAMETERS = ("kernel", "warp_kernel")


def kernel_spec(value: Any, name: str) -> Any:
    """Return a kernel parameter as JSON.

    Raises
    ------
    TypeError
        For a function of the user's own: a file cannot carry code.
    """
    if isinstance(value, str | int | float | bool | type(None)):
        return value
    if dataclasses.is_dataclass(value) and type(value).__name__ in KERNEL_CLASSES:
        if isinstance(value, FunctionKernel):
            value = value.function
        else:
            fields = dataclasses.fields(value)
            parts = {f.name: kernel_spec(getattr(value, f.name), name) for f in fields}
            return {"class": type(value).__name__, **parts}
    if isinstance(value, tuple | list):
        return [kernel_spec(part, name) for part in value]
    if hasattr(value, "shape"):
        return {"array": np.asarray(value, dtype=np.float64).tolist()}
    raise TypeError(
        f"save: {name} holds a function of your own, and a model file carries data, not code. "
        "Use a kernel of ideareg.kernels, or keep the model in memory."
    )


def kernel_from_spec(spec: Any) -> Any:
    """Rebuild what `kernel_spec` described; only classes of `ideareg.kernels` exist here."""
    if isinstance(spec, list):
        return tuple(kernel_from_spec(part) for part in spec)
    if not isinstance(spec, dict):
        return spec
    if set(spec) == {"array"}:
        return np.asarray(spec["array"], dtype=np.float64)
    parts = dict(spec)
    name = parts.pop("class", None)
    if name not in KERNEL_CLASSES:
        raise ValueError(f"model file: unknown kernel {name!r}")
    return KERNEL_CLASSES[name](**{key: kernel_from_spec(part) for key, part in parts.items()})


def _named_leaves(warp: FittedWarp) -> list[tuple[str, Any]]:
    parts = (warp.model, warp.predictor.trajectory, warp.predictor.posterior, warp.predictor.spread)
    paths, _ = jax.tree_util.tree_flatten_with_path(parts)
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in paths]


def _scales(model: Any) -> dict[str, Scaling]:
    """Return the maps of inputs and targets by their names in a file."""
    if is_classifier(model):
        return {"_scale_x": model._scale_x}
    bends = {_bend_name(w.bend): model._bends[w.bend] for w in model.warps_ if w.bend}
    return {"_scale_x": model._scale_x, "_scale_y": model._scale_y, **bends}


def _bend_name(bend: float) -> str:
    return f"_bend{bend:g}"


def _restore_scale(name: str, columns: int, arrays: Arrays) -> Scaling:
    wanted = Scaling.of(np.ones((1, columns)), np.ones(1))._asdict()
    return Scaling(**{part: take(arrays, f"{name}.{part}", a) for part, a in wanted.items()})


def estimator_state(model: Any) -> tuple[dict[str, Any], Arrays]:
    """Return header and arrays of a fitted `WarpingRegressor` or `WarpingClassifier`."""
    parameters = model.get_params(deep=False)
    for name in NOT_SAVED:
        parameters.pop(name)
    for name in KERNEL_PARAMETERS:
        parameters[name] = kernel_spec(parameters[name], name)
    arrays: Arrays = {}
    for scale, scaling in _scales(model).items():
        for name, value in scaling._asdict().items():
            arrays[f"{scale}.{name}"] = np.asarray(value)
    warps = []
    for j, warp in enumerate(model.warps_):
        for name, leaf in _named_leaves(warp):
            arrays[f"warp{j}{name}"] = np.asarray(leaf)
        kind = next(k for k, head in HEADS.items() if type(warp.model.head) is head)
        described = {
            "nu": warp.nu,
            "weight": warp.weight,
            "bend": warp.bend,
            "local": warp.local and [warp.local.share, warp.local.length],
            "tails": list(warp.tails),
            "head": kind,
            "ledger": warp.ledger,
            "history": warp.history,
        }
        if warp.local is not None:
            left = warp.local.residuals  # of the same rows after every warp
            arrays |= {"local.rows": left.rows, "local.weight": left.weight}
            arrays[f"warp{j}.residuals"] = left.values
        if warp.tuned is not None:
            arrays[f"warp{j}.shift"] = warp.tuned.calibration.shift
            arrays[f"warp{j}.offset"] = warp.tuned.offset
            tuned = warp.tuned.log_length, warp.tuned.ridge, warp.tuned.calibration.scale
            described["tuned"] = [float(number) for number in tuned]
        warps.append(plain(described))
    for name, values in model.cv_results_.items():
        arrays[f"cv.{name}"] = np.asarray(values)
    names = getattr(model, "feature_names_in_", None)
    header = {
        "parameters": plain(parameters),
        "n_features": int(model.n_features_in_),
        "feature_names": None if names is None else [str(name) for name in names],
        "scores": plain([model.score_, model.baseline_score_]),
        "iterations": int(model.n_iter_),
        "warps": warps,
    }
    if is_classifier(model):
        header["classes"] = labels_spec(model.classes_)
    else:
        header["one_output"] = bool(model._one_output)
    return header, arrays


def restore_estimator(cls: type, header: dict[str, Any], arrays: Arrays) -> Any:
    """Rebuild a fitted estimator; every array is checked by name and shape.

    Raises
    ------
    ValueError
        If the header or an array does not fit together.
    """
    try:
        parameters = unplain(header["parameters"])
        for name in KERNEL_PARAMETERS:
            parameters[name] = kernel_from_spec(parameters[name])
        model = cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in parameters.items()})
        settings = read_settings(model)
        restore_columns(model, header)
        if is_classifier(model):
            outputs = restore_classes(model, header)
        else:
            model._one_output = bool(header["one_output"])
            outputs = arrays["_scale_y.mean"].size
            bends = {float(warp.get("bend", 0.0)) for warp in header["warps"]} - {0.0}
            model._scale_y = _restore_scale("_scale_y", outputs, arrays)
            model._bends = {b: _restore_scale(_bend_name(b), outputs, arrays) for b in bends}
        columns = (model.n_features_in_, outputs)
        model._scale_x = _restore_scale("_scale_x", columns[0], arrays)
        model.warps_ = [
            _restore_warp(f"warp{j}", unplain(warp), settings, arrays, columns)
            for j, warp in enumerate(header["warps"])
        ]
        if not model.warps_ or any((w.tuned is None) == is_classifier(model) for w in model.warps_):
            raise ValueError("model file: its warps are not those of such a model")
        model.score_, model.baseline_score_ = unplain(header["scores"])
        model.n_iter_ = int(header["iterations"])
        model.cv_results_ = {k[3:]: v for k, v in arrays.items() if k.startswith("cv.")}
        describe_warps(model)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"model file: its parts do not fit together ({error!r})") from error
    return model


def _restore_warp(
    prefix: str, header: dict[str, Any], settings: Any, arrays: Arrays, columns: tuple[int, int]
) -> FittedWarp:
    skeleton = _skeleton(prefix, settings, header["head"], arrays, columns)
    paths, structure = jax.tree_util.tree_flatten_with_path(skeleton)
    leaves = [take(arrays, prefix + jax.tree_util.keystr(path), leaf) for path, leaf in paths]
    model, *parts = jax.tree_util.tree_unflatten(structure, leaves)
    tuned = None
    if "tuned" in header:
        length, ridge, scale = take({"tuned": np.asarray(header["tuned"])}, "tuned", np.ones(3))
        shift, offset = (
            take(arrays, f"{prefix}.{name}", np.ones(columns[1])) for name in ("shift", "offset")
        )
        tuned = Tuned(float(length), float(ridge), Calibration(float(scale), shift), offset)
    nu, weight = float(header["nu"]), float(header["weight"])
    predictor = Predictor(model.warp, *parts)
    books, history, bend = header["ledger"], header["history"], float(header.get("bend", 0.0))
    local = None
    if header.get("local") is not None:
        local = _restore_local(prefix, header["local"], predictor, arrays, columns[1])
    tails = Tails()
    if "tails" in header:
        tails = Tails(*map(float, header["tails"]))
        if not (len(header["tails"]) == 2 and tails.freedom > 2 and 0 < tails.level < np.inf):
            raise ValueError("model file: the tails of its noise make no sense")
    return FittedWarp(model, predictor, nu, weight, books, history, tuned, bend, local, tails)


def _restore_local(
    prefix: str, numbers: Any, predictor: Predictor, arrays: Arrays, outputs: int
) -> Local:
    share, length = take({"local": np.asarray(numbers)}, "local", np.ones(2)).tolist()
    n, width = len(arrays["local.weight"]), predictor.warp.control_points.shape[1]
    rows, weight = take(arrays, "local.rows", np.ones((n, width))), arrays["local.weight"]
    take(arrays, "local.weight", np.ones(n))
    if not (0 <= share < 1 and length > 0 and n > 0 and (weight > 0).all()):
        raise ValueError("model file: its corrections by near rows make no sense")
    values = take(arrays, f"{prefix}.residuals", np.ones((n, outputs)))
    return Local(predictor, Residuals(rows, values, weight), share, length)


def _skeleton(
    prefix: str, settings: Any, kind: str, arrays: Arrays, columns: tuple[int, int]
) -> tuple[Model, Trajectory, Posterior, WarpPosterior]:
    """Return modules of the structure and shapes that a file should hold; the values are ones."""

    def size(name: str, axis: int) -> int:
        shape = arrays[prefix + name].shape
        if len(shape) != 2:
            raise ValueError(f"model file: array {prefix + name!r} should be a matrix")
        return int(shape[axis])

    features, outputs = columns
    control, width = size("[0].warp.momentum", 0), size("[0].warp.momentum", 1)
    points = size("[2].points", 0)
    directions = size("[3].stages", 1)
    if width < features:
        raise ValueError("model file: its warp has fewer columns than the data")
    one, lengths, places = np.ones(()), np.ones(width), np.ones((control, width))
    warp = Warp(
        settings.warp_kernel, settings.integrator, settings.depth, places, places, lengths,
        one, one, np.ones(control),
    )  # fmt: skip
    common = (settings.kernel, lengths, one, one, one)
    centres, present = np.ones((points, width)), np.ones(points)
    head: AbstractHead
    if kind == "primal":
        M, R = size("[0].head.root", 0), size("[0].head.root", 1)
        k = size("[0].head.coefficients", 1)
        coefficients = np.ones((M, R)), np.ones((R, k)), np.ones(k)
        head = PrimalHead(*common, np.ones((M, width)), np.ones(M), *coefficients)
    elif kind == "sparse":
        head = SparseHead(*common, centres, present, one)
    elif kind == "exact":
        head = ExactHead(*common)
    else:
        raise ValueError(f"model file: unknown head {kind!r}")
    # A regressor of least loss explains no variance: its factor has no rows.
    explained = points if size("[2].factor", 0) else 0
    dual, factor = np.ones((points, outputs)), np.ones((explained, points))
    posterior = Posterior(
        Stretched(settings.kernel, lengths), centres, dual, factor, one, one, present
    )
    with numerics():
        shapes = jax.eval_shape(lambda w: w.trajectory(), warp)
    trajectory = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
    parameters = sum(stage.size for stage in jax.tree.leaves(trajectory.stages))
    spread = WarpPosterior(
        np.ones((parameters, directions)), np.ones((outputs, points, directions)), one
    )
    return Model(warp, head), trajectory, posterior, spread


class SavingMixin:
    """Saving to, and loading from, a file of data."""

    def save(self, path: str | PathLike[str]) -> None:
        """Write the fitted model to one file that `ideareg.load` reads: data only, no pickle."""
        persistence.write(path, type(self).__name__, *self.get_state())

    def get_state(self) -> tuple[dict[str, Any], Arrays]:
        """Return the fitted model as a JSON-able header and named arrays."""
        check_is_fitted(self)
        return estimator_state(self)

    @classmethod
    def from_state(cls, header: dict[str, Any], arrays: Arrays) -> Any:
        """Rebuild a fitted model from `get_state`."""
        return restore_estimator(cls, header, arrays)
