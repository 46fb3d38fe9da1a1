"""Figures. Each function draws on the Axes it is given, or makes one, and returns it."""

from ideareg.plotting.fits import (
    calibration,
    energy,
    history,
    most_moved,
    moving,
    nugget_path,
    predictions,
    predictive,
    warped_space,
)
from ideareg.plotting.networks import audit, depth_study, prior_draws, prior_flow
from ideareg.plotting.registration import (
    before_after,
    deformed_grid,
    image_mismatch,
    jacobian_map,
    trajectories,
)
from ideareg.plotting.reliability import (
    interval_reliability,
    pit_histogram,
    reliability_of_classes,
)
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
    "before_after",
    "calibration",
    "deformed_grid",
    "depth_study",
    "energy",
    "history",
    "image_mismatch",
    "interval_reliability",
    "jacobian_map",
    "most_moved",
    "moving",
    "nugget_path",
    "pit_histogram",
    "predictions",
    "predictive",
    "prior_draws",
    "prior_flow",
    "reliability_of_classes",
    "trajectories",
    "warped_space",
]
