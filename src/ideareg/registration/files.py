"""Shapes and images from files: tables and arrays by NumPy, the rest by libraries that are extras.

* ``.csv``: landmarks, a row each; a heading is skipped;
* ``.npy``: an image;
* ``.npz``: an image as ``values`` and what there is of ``spacing``, ``origin``, ``direction`` and
  ``mask``; or a shape as ``points`` and perhaps ``cells``;
* ``.png``, ``.jpg``, ``.tif``: an image, colours as their mean, by Pillow (extra ``images``);
* ``.nii``, ``.nii.gz``: an image, by nibabel (extra ``images``);
* ``.ply``, ``.obj``, ``.off``, ``.stl``, ``.vtk``: a curve or surface, by meshio (``meshes``).
"""

from __future__ import annotations

from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ideareg.registration.images import Image
from ideareg.registration.shapes import Shape

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
MESHES = (".ply", ".obj", ".off", ".stl", ".vtk")
GEOMETRY = ("spacing", "origin", "direction", "mask")


def read_labels(path: str | PathLike[str]) -> Image:
    """Read an image whose values name regions; 0 is no region.

    Raises
    ------
    ValueError
        If the file holds no image, or more values than there can be labels; and as `read`.
    """
    image = read(path)
    if not isinstance(image, Image):
        raise ValueError(f"{Path(path).name}: expected an image of labels, got: {image.kind}.")
    geometry = image.spacing, image.origin, image.direction
    labels = Image.of(image.values, *geometry, image.mask, Path(path).name, labels=True)
    return labels._replace(placed=image.placed)


def read(path: str | PathLike[str]) -> Shape | Image:
    """Read landmarks, a mesh or an image, by the ending of the file's name.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    Shape or Image

    Raises
    ------
    ValueError
        If the ending is unknown, or the file does not hold what it should.
    ImportError
        If a library is missing that this kind of file needs; the message names the extra.
    OSError
        If the file cannot be read.
    """
    place = Path(path)
    name = place.name.lower()
    if name.endswith(".csv"):
        return Shape.of(_table(place), name=place.name)
    if name.endswith(".npy"):
        return Image.of(np.load(place, allow_pickle=False), name=place.name)
    if name.endswith(".npz"):
        return _archive(place)
    if name.endswith(PICTURES):
        with _library("PIL.Image", "images").open(place) as picture:
            values = np.asarray(picture, dtype=np.float64)
        return Image.of(values[..., :3].mean(-1) if values.ndim == 3 else values, name=place.name)
    if name.endswith((".nii", ".nii.gz")):
        return _nifti(place)
    if name.endswith(MESHES):
        return _mesh(place)
    raise ValueError(
        f"{place.name}: expected a name that ends in .csv (landmarks), .npy, .npz, .png, .jpg, "
        f".tif, .nii, .nii.gz (images) or {', '.join(MESHES)} (meshes)."
    )


def _library(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"this kind of file needs {module.partition('.')[0]}: pip install 'ideareg[{extra}]'"
        ) from error


def _table(path: Path) -> np.ndarray:
    with path.open(encoding="utf-8") as stream:
        first = stream.readline().split(",")
    try:
        [float(cell) for cell in first]
        heading = 0
    except ValueError:
        heading = 1
    try:
        return np.loadtxt(path, delimiter=",", skiprows=heading, ndmin=2)
    except ValueError as error:
        raise ValueError(f"{path.name}: expected a table of numbers ({error}).") from error


def _archive(path: Path) -> Shape | Image:
    with np.load(path, allow_pickle=False) as arrays:
        if "points" in arrays:
            return Shape.of(arrays["points"], arrays.get("cells"), name=path.name)
        if "values" not in arrays:
            raise ValueError(
                f"{path.name}: expected an array 'values' (an image) or 'points' (a shape), got "
                f"{', '.join(arrays.files)}."
            )
        geometry = {name: arrays[name] for name in GEOMETRY if name in arrays}
        return Image.of(arrays["values"], **geometry, name=path.name)


def _nifti(path: Path) -> Image:
    file: Any = _library("nibabel", "images").load(path)
    matrix = np.asarray(file.affine[:3, :3], dtype=np.float64)
    spacing = np.sqrt((matrix**2).sum(axis=0))
    return Image.of(file.get_fdata(), spacing, file.affine[:3, 3], matrix / spacing, name=path.name)


def _mesh(path: Path) -> Shape:
    mesh: Any = _library("meshio", "meshes").read(path)
    for kind in ("triangle", "line"):
        if kind in mesh.cells_dict:
            return Shape.of(mesh.points, mesh.cells_dict[kind].astype(np.int64), name=path.name)
    raise ValueError(f"{path.name}: expected triangles or lines, got {list(mesh.cells_dict)}.")
