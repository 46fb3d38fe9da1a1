"""What files of fitted estimators are made of: plain values, labels, arrays that are checked."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

# Kinds of labels that a file can hold, by the kind of their dtype.
LABELS: dict[str, Any] = dict(U=str, O=object, i=np.int64, u=np.int64, f=float, b=bool)


def plain(value: Any) -> Any:
    """Return tuples as lists and NumPy numbers as Python's, with inf as a string."""
    if isinstance(value, tuple | list | np.ndarray):
        return [plain(part) for part in value]
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return {"float": repr(value)}
    return value


def unplain(value: Any) -> Any:
    """Return what `plain` described; tuples stay lists."""
    if isinstance(value, list):
        return [unplain(part) for part in value]
    if isinstance(value, dict):
        if set(value) == {"float"} and value["float"] in ("inf", "-inf", "nan"):
            return float(value["float"])
        return {key: unplain(part) for key, part in value.items()}
    return value


def labels_spec(classes: NDArray[Any]) -> dict[str, Any]:
    """Return labels as JSON.

    Raises
    ------
    TypeError
        For labels that are neither text nor numbers.
    """
    kind, values = classes.dtype.kind, classes.tolist()
    if kind not in LABELS or (kind == "O" and not all(isinstance(v, str) for v in values)):
        raise TypeError(
            f"save: labels must be text, numbers or booleans, got {classes.dtype} with "
            f"{values[0]!r}."
        )
    return {"kind": kind, "values": values}


def labels(spec: Any) -> NDArray[Any]:
    """Return the labels that `labels_spec` described, after checking that they are some."""
    classes = np.asarray(spec["values"], dtype=LABELS[spec["kind"]])
    if classes.ndim != 1 or len(classes) < 2 or not (classes[:-1] < classes[1:]).all():
        raise ValueError("model file: its labels are not sorted and distinct")
    return classes


def restore_classes(model: Any, header: dict[str, Any]) -> int:
    """Set the classes of a classifier, and return how many scores it gives a row."""
    model.classes_ = labels(header["classes"])
    return 1 if len(model.classes_) == 2 else len(model.classes_)


def restore_columns(model: Any, header: dict[str, Any]) -> None:
    """Set how many columns the model was fitted on, and their names if they had any."""
    model.n_features_in_ = int(header["n_features"])
    if header["feature_names"] is not None:
        model.feature_names_in_ = np.asarray(header["feature_names"], dtype=object)


def take(arrays: Arrays, name: str, like: Any) -> NDArray[Any]:
    """Return an array after checking that it is finite and has the shape and type of ``like``."""
    array, like = arrays[name], np.asarray(like)
    if array.shape != like.shape or array.dtype != like.dtype:
        raise ValueError(
            f"model file: array {name!r} has shape {array.shape} and type {array.dtype}, "
            f"where {like.shape} and {like.dtype} fit the others"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"model file: array {name!r} holds values that are not finite")
    return array
