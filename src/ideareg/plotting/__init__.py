"""Figures. Each function draws on the Axes it is given, or makes one, and returns it."""

from ideareg.plotting.fits import (
    calibration,
    energy,
    history,
    most_moved,
    moving,
    nugget_path,
    predictions,
    warped_space,
)
from ideareg.plotting.networks import audit, depth_study
from ideareg.plotting.style import BLUE, FAINT, INK, MAX_POINTS, ORANGE, SERIES, as_svg

__all__ = [
    "BLUE",
    "FAINT",
    "INK",
    "MAX_POINTS",
    "ORANGE",
    "SERIES",
    "as_svg",
    "audit",
    "calibration",
    "depth_study",
    "energy",
    "history",
    "most_moved",
    "moving",
    "nugget_path",
    "predictions",
    "warped_space",
]
