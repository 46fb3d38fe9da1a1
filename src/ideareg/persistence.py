"""One safe file per model: named arrays and a JSON document, in the safetensors format.

A file is checked before any of it is used, and nothing in it is ever executed: no pickle, no
class names to import. The digest tells accidents, not malice: whoever can rewrite a file can
rewrite its digest too, so the checks hold without it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse_arrays
from safetensors.numpy import save as pack_arrays

Arrays = dict[str, np.ndarray]
Model = tuple[str, dict[str, Any], Arrays]

FORMAT = "ideareg-model"
FORMAT_VERSION = 1
DTYPES = {"F64": "float64", "F32": "float32", "I64": "int64", "BOOL": "bool", "U8": "uint8"}

MAX_FILE_BYTES = 4 << 30
MAX_HEADER_BYTES = 16 << 20
MAX_ARRAYS = 10_000
MAX_DIMENSIONS = 8
MAX_NAME = 200

# A training on the way, which is no model.
CHECKPOINT = "Checkpoint"
# What a file may turn into. A kind outside this table is refused; nothing else is ever imported.
LOADERS = {
    "WarpingRegressor": ("ideareg.estimators.warping", "WarpingRegressor.from_state"),
    "WarpingClassifier": ("ideareg.estimators.classifier", "WarpingClassifier.from_state"),
    "HeteroscedasticRegressor": (
        "ideareg.estimators.heteroscedastic",
        "HeteroscedasticRegressor.from_state",
    ),
    "REMClassifier": ("ideareg.estimators.rem", "REMClassifier.from_state"),
    "REMRegressor": ("ideareg.estimators.rem", "REMRegressor.from_state"),
    "TablePipeline": ("ideareg.tables", "pipeline_from_state"),
    "Registration": ("ideareg.registration.registration", "Registration.from_state"),
}


class ModelFileError(ValueError):
    """A file that cannot be read as a model: the message says why and what to do."""


# ---------------------------------------------------------------- files, whole or not at all


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Write to a temporary file beside ``path`` that takes its place at the end, or vanishes.

    Parameters
    ----------
    path : path-like
        The file to make or replace. A symbolic link stays; what it points to is replaced.

    Yields
    ------
    BinaryIO
        An open file. If the block raises, it is removed and ``path`` is as it was.

    Raises
    ------
    OSError
        If the folder does not exist or cannot be written; the message names it.
    """
    target = _writable_target(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        stream = temporary.open("xb")
    except OSError as error:
        raise type(error)(f"cannot write to {target.parent}: {error.strerror}") from error
    try:
        with stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise what `replacing` would raise for ``path``, before the work whose result goes there."""
    target = _writable_target(path)
    probe = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        probe.open("xb").close()
        probe.unlink()
    except OSError as error:
        raise type(error)(f"cannot write to {target.parent}: {error.strerror}") from error


def _writable_target(path: str | os.PathLike[str]) -> Path:
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder; name a file in it")
    if target.exists() and not target.is_file():
        raise OSError(f"cannot write {path}: it is not a regular file")
    if target.exists() and not os.access(target, os.W_OK):
        # A rename would succeed here, against the wish of whoever protected the file.
        raise PermissionError(f"cannot write {path}: the file is read-only")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {target.parent}")
    return target


# ---------------------------------------------------------------- write


def write(
    path: str | os.PathLike[str], kind: str, header: Mapping[str, Any], arrays: Mapping[str, Any]
) -> None:
    """Write a model to one file, whole or not at all.

    Parameters
    ----------
    path : path-like
        Where to write; an existing file is replaced.
    kind : str
        What the model is, one of the keys of ``LOADERS``.
    header : mapping
        Plain values: strings, numbers (also infinite or NaN), booleans, None, lists and dicts.
    arrays : mapping of str to array
        Arrays of float64, float32, int64, bool or uint8.

    Raises
    ------
    TypeError
        For a value or a dtype that the format does not hold.
    OSError
        If the file cannot be written; then nothing is left behind.
    """
    plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    for name, array in plain.items():
        if array.dtype.name not in DTYPES.values():
            raise TypeError(
                f"array {name!r} has dtype {array.dtype}: a model file holds "
                f"{', '.join(DTYPES.values())}"
            )
    listing = [
        {"name": name, "shape": list(array.shape), "dtype": array.dtype.name}
        for name, array in sorted(plain.items())
    ]
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "library_version": library_version(),
        "kind": kind,
        "header": _encode(header),
        "arrays": listing,
    }
    document["sha256"] = _digest(document, plain)
    # One entry of metadata: the writer keeps several in no order, and equal models should give
    # equal files.
    data = pack_arrays(plain, {"ideareg": _text(document)})
    with replacing(path) as stream:
        stream.write(data)


def library_version() -> str:
    """Return the version of the installed library, or "unknown" for a bare source tree."""
    try:
        return version("ideareg")
    except PackageNotFoundError:
        return "unknown"


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, allow_nan=False, sort_keys=True)


def _digest(document: dict[str, Any], arrays: Arrays) -> str:
    """Return the SHA-256 of all arrays and of all that is said of them."""
    rest = {key: value for key, value in document.items() if key != "sha256"}
    digest = hashlib.sha256(_text(rest).encode())
    for name in sorted(arrays):
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def _encode(value: Any) -> Any:
    """Return ``value`` in strict JSON, where infinities and NaN become {"float": "inf"}."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        if any(not isinstance(key, str) for key in value):
            raise TypeError(f"a model header needs text keys, got {list(value)}")
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a model header cannot hold a {type(value).__name__}: {value!r}")


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if isinstance(value, dict):
        if value.keys() == {"float"} and value["float"] in ("inf", "-inf", "nan"):
            return float(value["float"])
        return {key: _decode(item) for key, item in value.items()}
    return value


# ---------------------------------------------------------------- read


def read(path: str | os.PathLike[str]) -> Model:
    """Read and check a file that `write` made.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    kind : str
    header : dict
    arrays : dict of str to ndarray

    Raises
    ------
    ModelFileError
        If the file is truncated, damaged, of a newer format, or no model file at all.
    OSError
        If there is no such file or it cannot be opened.
    """
    place = Path(path)
    _refuse(place, place.is_dir(), "is a folder, not a model file")
    size = place.stat().st_size
    _refuse(place, size > MAX_FILE_BYTES, f"has {size} bytes, more than a model file may have")
    data = place.read_bytes()
    declared = _declared(place, data)
    metadata = declared.pop("__metadata__", None)
    _refuse(
        place,
        not isinstance(metadata, dict) or not isinstance(metadata.get("ideareg"), str),
        "is a safetensors file, but not one that ideareg wrote",
    )
    document = _document(place, metadata["ideareg"])
    _check_listing(place, document, declared)
    try:
        arrays = parse_arrays(data)
    except SafetensorError as error:
        raise ModelFileError(f"{place} is damaged ({error}): save the model again") from error
    _refuse(
        place,
        _digest(document, arrays) != document.get("sha256"),
        "was changed after it was written (its SHA-256 does not match): save the model again",
    )
    return document["kind"], _decode(document["header"]), arrays


def load(path: str | os.PathLike[str]) -> Any:
    """Load a saved model.

    Parameters
    ----------
    path : path-like
        A file that the ``save`` of an estimator or ``ideareg fit --out`` wrote.

    Returns
    -------
    WarpingRegressor, HeteroscedasticRegressor, WarpingClassifier, REMClassifier, REMRegressor,
    Registration or sklearn.pipeline.Pipeline
        The fitted model. No code in the file is run, and none of the training code is needed.

    Raises
    ------
    ModelFileError
        If the file is truncated, damaged, of a newer format, or no model file at all.
    OSError
        If there is no such file or it cannot be opened.
    """
    kind, header, arrays = read(path)
    if kind == CHECKPOINT:
        raise ModelFileError(
            f"{path} is a checkpoint of a training, no model: fit(..., checkpoint=...) goes on "
            "from it"
        )
    if kind not in LOADERS:
        raise ModelFileError(
            f"{path} holds a {kind!r}, which this ideareg ({library_version()}) does not know: "
            "upgrade ideareg"
        )
    module, function = LOADERS[kind]
    from_state = attrgetter(function)(importlib.import_module(module))
    try:
        return from_state(header, arrays)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ModelFileError(f"{path} holds an inconsistent {kind}: {error}") from error


def _refuse(path: Path, wrong: bool, why: str) -> None:
    if wrong:
        raise ModelFileError(f"{path} {why}")


def _declared(path: Path, data: bytes) -> dict[str, Any]:
    """Return what the file says of its arrays, after checking that it has that many bytes."""
    _refuse(path, not data, "is empty, so it is not a model file")
    no_model = "is not a model file: expected one that ideareg saved"
    _refuse(path, len(data) < 10 or data[8:9] != b"{", no_model)
    length = int.from_bytes(data[:8], "little")
    _refuse(path, length > MAX_HEADER_BYTES, no_model)
    truncated = "is truncated: copy it again, or save the model again"
    _refuse(path, len(data) < 8 + length, truncated)
    try:
        declared = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is damaged: its header is not JSON") from error
    ends = [0]
    for name, entry in declared.items():
        if name != "__metadata__":
            ends.append(_check_entry(path, name, entry))
    _refuse(path, len(ends) > MAX_ARRAYS, f"names more than {MAX_ARRAYS} arrays")
    _refuse(path, len(data) < 8 + length + max(ends), truncated)
    return declared


def _check_entry(path: Path, name: str, entry: Any) -> int:
    """Check one declared array and return the offset at which its bytes end."""
    damaged = f"is damaged: the declaration of array {name[:MAX_NAME]!r} makes no sense"
    _refuse(path, not name or len(name) > MAX_NAME or not isinstance(entry, dict), damaged)
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    for numbers in (shape, offsets):
        _refuse(path, not isinstance(numbers, list) or len(numbers) > MAX_DIMENSIONS, damaged)
        whole = all(type(n) is int and 0 <= n <= MAX_FILE_BYTES for n in numbers)
        _refuse(path, not whole, damaged)
    dtype = DTYPES.get(str(entry.get("dtype")))
    _refuse(path, dtype is None, f"holds array {name!r} of unexpected type {entry.get('dtype')!r}")
    size = math.prod(shape) * np.dtype(dtype).itemsize
    _refuse(path, len(offsets) != 2 or offsets[1] - offsets[0] != size, damaged)
    return offsets[1]


def _document(path: Path, text: str) -> dict[str, Any]:
    """Parse the JSON document and check its version first: a newer one may differ in the rest."""
    damaged = "is damaged: its description of the model is not what ideareg writes"
    try:
        document = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} {damaged}") from error
    _refuse(path, not isinstance(document, dict) or document.get("format") != FORMAT, damaged)
    found = document.get("format_version")
    _refuse(path, type(found) is not int or found < 1, damaged)
    _refuse(
        path,
        found > FORMAT_VERSION,
        f"was written by a newer ideareg (format {found}; this one reads up to {FORMAT_VERSION}): "
        "upgrade ideareg",
    )
    types = {"kind": str, "header": dict, "arrays": list}
    _refuse(path, any(not isinstance(document.get(k), t) for k, t in types.items()), damaged)
    return document


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _check_listing(path: Path, document: dict[str, Any], declared: dict[str, Any]) -> None:
    """Check that the arrays in the file are those that the document lists."""
    held = [
        {"name": name, "shape": entry["shape"], "dtype": DTYPES[entry["dtype"]]}
        for name, entry in sorted(declared.items())
    ]
    _refuse(path, held != document["arrays"], "is damaged: its arrays are not those it lists")
