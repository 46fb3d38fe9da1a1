"""One warp and one head at their joint optimum, as in the theory: for the losses of labels.

Kernels and ridge are as given, and the warp descends on the least loss of the head after it. All
that held-out rows decide is how to read probabilities off a loss that is no likelihood.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ideareg._rows import Rows, pad
from ideareg._types import Result
from ideareg.assembly import Assembler, Settings, candidates, capacity_for
from ideareg.classification import Classes, Tuned, stratified
from ideareg.labels import Calibration, calibrate, encode, for_classes, is_likelihood
from ideareg.recipe import Fitted, FittedWarp, Report, fit_reported, fit_warps
from ideareg.uncertainty import conclude, predict_mean


def fit_jointly(
    data: Classes,
    settings: Settings,
    random: np.random.RandomState,
    *,
    start: list[FittedWarp] | None = None,
    report: Report = lambda stage, iteration, record: None,
) -> Fitted:
    """Fit canonical, standardised rows with labels; for the arguments see `recipe.fit_warps`."""
    loss = for_classes(data.loss, data.classes)
    data = data._replace(loss=loss)
    settings = replace(settings, loss=loss)
    rows = Rows(data.rows.X, encode(loss, data.codes, data.classes), data.rows.weight)
    fitted = fit_warps(rows, settings, random, start=start, report=report)
    calibration = Calibration(1.0, np.zeros(rows.Y.shape[1]))
    if start is not None:
        calibration = start[0].tuned.calibration
    elif not is_likelihood(loss, data.classes) and fitted.result is not Result.interrupted:
        calibration = _calibrated(data, rows, settings, random, report)
    ridge = float(fitted.warps[0].predictor.posterior.noise)
    tuned = Tuned(0.0, ridge, calibration, np.zeros(rows.Y.shape[1]))
    fitted.warps = [warp._replace(tuned=tuned) for warp in fitted.warps]
    return fitted


def _calibrated(
    data: Classes, rows: Rows, settings: Settings, random: np.random.RandomState, report: Report
) -> Calibration:
    """Return the calibration of predictions for rows that the fit has not seen."""
    n = len(rows)
    fold = stratified(data.codes, min(settings.n_folds, n), random)
    shop = Assembler(rows, settings, 0, capacity_for(settings, n))
    problem = shop.problem(candidates(settings, n)[0])
    f = np.zeros_like(rows.Y)
    for k in range(fold.max() + 1):
        weight = pad(np.where(fold == k, 0.0, rows.weight), len(problem.rows.X))
        part = problem.rows._replace(weight=weight)
        descent = fit_reported(settings, report, "calibrate", problem._replace(rows=part))
        seen = conclude(descent.model, part, settings.loss)
        f[fold == k] = np.asarray(predict_mean(seen, problem.rows.X))[:n][fold == k]
    return calibrate(data.loss, f, data.codes, rows.weight)
