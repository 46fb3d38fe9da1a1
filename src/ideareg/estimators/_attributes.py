"""The attributes that a fit leaves behind, from what it found."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_classifier
from sklearn.exceptions import ConvergenceWarning

from ideareg._types import Result
from ideareg.assembly import Settings
from ideareg.pointwise import AbstractBoxed
from ideareg.recipe import Fitted, FittedWarp
from ideareg.selection import stacked
from ideareg.sparsity import keep
from ideareg.stack import Stack


def store(model: Any, fitted: Fitted) -> None:
    """Set the fitted attributes."""
    if fitted.result is Result.not_finite:
        warnings.warn(Result.not_finite.message, ConvergenceWarning, stacklevel=4)
    if fitted.result is Result.interrupted:
        warnings.warn(Result.interrupted.message, ConvergenceWarning, stacklevel=4)
    model.warps_ = fitted.warps
    model.n_iter_ = max(fitted.iterations, 1)
    _describe_selection(model, fitted)
    describe_warps(model)


def _describe_selection(model: Any, fitted: Fitted) -> None:
    model.score_ = model.baseline_score_ = np.nan
    model.cv_results_ = {}
    selection = fitted.selection
    if selection is None:
        return
    # A density in units of y is that of the standardised target divided by the scale.
    scale_y = getattr(model, "_scale_y", None)
    density = selection.density - (0.0 if scale_y is None else np.log(scale_y.scale).sum())
    share = selection.rows / selection.rows.sum()
    model.score_ = float(share @ stacked(density, fitted.weights))
    tried = selection.candidates
    nu = np.array([c.nu for c in tried])
    mean = share @ density
    if np.isinf(nu).any():
        model.baseline_score_ = float(mean[np.isinf(nu)].max())
    lengths = np.array([c.length for c in tried], dtype=float)
    model.cv_results_ = {
        "param_nu": nu,
        "param_n_control_points": np.array([c.control_points for c in tried]),
        **({} if np.isnan(lengths).all() else {"param_length": lengths}),
        **({} if scale_y is None else {"param_bend": np.array([c.bend for c in tried])}),
        "mean_test_log_density": mean,
        "weight": fitted.weights,
    }


def describe_warps(model: Any) -> None:
    """Set the attributes that the warps of ``model`` determine."""
    first = model.warps_[0]
    state = first.predictor.trajectory.initial
    present = first.predictor.warp.present > 0
    d = model.n_features_in_
    model.momentum_ = np.asarray(state.p)[present, :d]
    model.control_points_ = model._scale_x.backward(np.asarray(state.q)[present, :d])
    model.nu_ = first.nu
    setattr(
        model,
        "ridge_" if is_classifier(model) else "noise_",
        float(first.predictor.posterior.noise),
    )
    model.warp_weights_ = Stack(model.warps_).weights
    model.ledgers_ = [w.ledger for w in model.warps_]
    model.ledger_ = model.ledgers_[0]
    model.history_ = first.history


def describe_support(model: Any, settings: Settings, places: NDArray[np.intp]) -> None:
    """Set what is known of each row where every row is a control point.

    Parameters
    ----------
    model : estimator
    settings : Settings
    places : ndarray of int, shape (n_samples,)
        The canonical row of each row of the user's, -1 for those of weight 0.
    """
    for name in ("momentum_norms_", "support_"):
        if hasattr(model, name):
            delattr(model, name)
    if not settings.control_rows:
        return
    first = model.warps_[0]
    given = places >= 0
    norms = np.linalg.norm(np.asarray(first.predictor.trajectory.p[0]), axis=1)
    model.momentum_norms_ = np.where(given, norms[places], 0.0)
    if isinstance(settings.loss, AbstractBoxed) and settings.exact is not False:
        model.support_ = np.flatnonzero(given & _indispensable(first)[places])


def _indispensable(warp: FittedWarp) -> NDArray[np.bool_]:
    """Return which centres of the head have a dual, or momentum as control points."""
    needed = (np.asarray(warp.predictor.posterior.dual) != 0).any(axis=1)
    momentum = (np.asarray(warp.predictor.trajectory.p[0]) != 0).any(axis=1)
    needed[: len(momentum)] |= momentum
    return needed


def prune_warp(warp: FittedWarp) -> FittedWarp:
    """Return the warp without the rows that it can do without."""
    model, predictor = keep(warp.model, warp.predictor, _indispensable(warp))
    return warp._replace(model=model, predictor=predictor)
