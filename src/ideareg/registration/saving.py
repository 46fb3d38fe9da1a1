"""A fitted registration as data: a JSON header and named arrays, and back."""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np

from ideareg import persistence
from ideareg._numerics import scoped
from ideareg._types import Result
from ideareg.estimators._state import kernel_from_spec, kernel_spec
from ideareg.gridflow import Box
from ideareg.integrators import get_integrator
from ideareg.registration.affine import Affine
from ideareg.registration.flows import GridFlow, PointFlow
from ideareg.registration.images import Image
from ideareg.registration.shapes import Shape

NUMBERS = ("nu_", "distance_", "residual_", "energy_drift_", "gap_")
KERNELS = ("kernel", "attachment_kernel")
# Parameters that are data of the fit; a loaded one has their defaults.
NOT_SAVED = ("control_points", "weights")


def save(fit: Any, path: str | PathLike[str]) -> None:
    """Write a fitted registration to one file; see `Registration.save`."""
    given = fit.get_params(deep=False)
    params = {
        name: kernel_spec(value, name) if name in KERNELS else value
        for name, value in given.items()
        if name not in NOT_SAVED
    }
    header: dict[str, Any] = {
        "params": params,
        "kernel": kernel_spec(fit.kernel_, "kernel"),
        "numbers": {name: float(getattr(fit, name)) for name in NUMBERS},
        "n_iter": int(fit.n_iter_),
        "result": fit.result_.name,
    }
    arrays = {
        "momentum": fit.momentum_, "affine_matrix": fit.affine_.matrix,
        "affine_shift": fit.affine_.shift,
    }  # fmt: skip
    flow = fit.flow_
    if isinstance(flow, GridFlow):
        header |= {"shape": list(flow.box.shape), "lengths": flow.box.lengths.tolist(),
                   "smallest_jacobian": fit.smallest_jacobian_}  # fmt: skip
        arrays |= {"frame_matrix": flow.frame.matrix, "frame_shift": flow.frame.shift}
        for name in ("source_", "target_", "warped_source_"):
            arrays |= _image_arrays(getattr(fit, name), name)
    else:
        arrays["control_points"] = fit.control_points_
        arrays["source_points"] = fit.source_.points
        arrays["warped_points"] = fit.warped_source_.points
        if fit.source_.cells is not None:
            arrays["cells"] = fit.source_.cells
    persistence.write(path, "Registration", header, arrays)


def parameters(header: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that `save` wrote."""
    return {
        name: kernel_from_spec(value) if name in KERNELS else value
        for name, value in header["params"].items()
    }


@scoped
def restore(fit: Any, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
    """Give a registration with these parameters what `save` wrote, and return it."""
    fit.kernel_ = kernel_from_spec(header["kernel"])
    fit.affine_ = Affine(arrays["affine_matrix"], arrays["affine_shift"])
    fit.momentum_ = arrays["momentum"]
    for name in NUMBERS:
        setattr(fit, name, header["numbers"][name])
    fit.n_iter_, fit.result_ = header["n_iter"], Result[header["result"]]
    fit.converged_ = fit.result_ is Result.converged
    if "shape" in header:
        _restore_images(fit, header, arrays)
        return fit
    fit.control_points_ = arrays["control_points"]
    fit.flow_ = PointFlow(
        fit.kernel_, fit.control_points_, fit.momentum_, fit.depth, get_integrator(fit.integrator)
    )
    cells = arrays.get("cells")
    fit.source_ = Shape.of(arrays["source_points"], cells)
    fit.warped_source_ = fit.source_.moved(arrays["warped_points"])
    return fit


def _restore_images(fit: Any, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    box = Box.of(fit.kernel_, tuple(header["lengths"]), tuple(header["shape"]))
    frame = Affine(arrays["frame_matrix"], arrays["frame_shift"])
    fit.flow_ = GridFlow(box, frame, fit.momentum_, fit.depth)
    fit.control_points_ = fit.flow_.control_points
    fit.smallest_jacobian_ = header["smallest_jacobian"]
    for name in ("source_", "target_", "warped_source_"):
        setattr(fit, name, _image(arrays, name))


def _image_arrays(image: Image, name: str) -> dict[str, Any]:
    arrays: dict[str, Any] = {
        f"{name}values": image.values, f"{name}spacing": image.spacing,
        f"{name}origin": image.origin, f"{name}direction": image.direction,
        f"{name}placed": np.array(image.placed), f"{name}labels": np.array(image.labels),
    }  # fmt: skip
    return arrays if image.mask is None else {**arrays, f"{name}mask": image.mask}


def _image(arrays: dict[str, np.ndarray], name: str) -> Image:
    image = Image.of(
        arrays[f"{name}values"], arrays[f"{name}spacing"], arrays[f"{name}origin"],
        arrays[f"{name}direction"], arrays.get(f"{name}mask"), name,
        bool(arrays.get(f"{name}labels", False)),
    )  # fmt: skip
    return image._replace(placed=bool(arrays[f"{name}placed"]))
