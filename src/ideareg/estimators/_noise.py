"""How a regressor finds out that its noise varies: fits to residuals, and fits with weights."""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from ideareg._rows import Rows
from ideareg._types import Result
from ideareg.estimators._base import random_stream
from ideareg.estimators._settings import read_settings
from ideareg.estimators.warping import WarpingRegressor
from ideareg.noise import Residuals, calibrate, log_targets, scoring_targets

Floats = NDArray[np.float64]

# Noise varies where held-out rows gain more by it than this many standard errors of their gain.
SURE = 2.0


class Ratio(NamedTuple):
    """The noise variance relative to what is ordinary: exp(θ g(x) − shift).

    Attributes
    ----------
    regressor : WarpingRegressor or None
        g; without one the noise is constant.
    share : float
        θ.
    shift : float
    """

    regressor: WarpingRegressor | None = None
    share: float = 0.0
    shift: float = 0.0

    def at(self, X: Floats) -> Floats:
        """Return the ratio at checked rows, shape (n,)."""
        if self.regressor is None:
            return np.ones(len(X))
        return np.exp(self.share * self.regressor.predict(X) - self.shift)


class Varying(NamedTuple):
    """What one round found: the noise, and held-out log densities with it, shape (n,)."""

    ratio: Ratio
    density: Floats


def weighted(rows: Rows, weight: Floats) -> Rows:
    """Return the rows with other weights."""
    return Rows(rows.X, rows.Y, weight)


def sure(gain: Floats, weight: Floats) -> bool:
    """Return whether the mean gain of rows is more than chance."""
    mean = np.average(gain, weights=weight)
    deviation = np.sqrt(np.average((gain - mean) ** 2, weights=weight))
    return bool(mean > SURE * deviation / np.sqrt(weight.sum()))


def go_on(model: WarpingRegressor) -> None:
    """Raise KeyboardInterrupt if the fit of ``model`` was interrupted."""
    if model.ledger_["result"] == Result.interrupted.message:
        raise KeyboardInterrupt


def again(model: WarpingRegressor, rows: Rows, *, select: bool = False) -> WarpingRegressor:
    """Return ``model`` fitted to other targets or weights of its rows, in its units.

    The units stay, because weights of noise would bend the powers of the columns. Rows of weight 0
    keep their places, so that all such fits run one compiled function. Without ``select`` the fit
    has one warp, as strong as the heaviest of ``model``.

    Raises
    ------
    KeyboardInterrupt
        If the user interrupted the fit.
    """
    one = copy.copy(model)
    one.__dict__.pop("_skl_callbacks", None)  # they were told of the first fit
    one.warm_start = False
    if not select:
        one.nu = model.nu_
        if isinstance(model.n_control_points, tuple | list):
            one.n_control_points = len(model.control_points_)
    random = random_stream(one.random_state)
    one._select_and_fit(read_settings(one), one._scaled(rows), (rows.X, rows.Y[:, 0]), random)
    one.set_params(**model.get_params(deep=False))
    go_on(one)
    return one


def held_out(model: WarpingRegressor, rows: Rows, fold: NDArray[np.intp]) -> Residuals:
    """Return the residual of each row under fits that have not seen its fold."""
    square, latent = np.empty(len(rows)), np.empty(len(rows))
    for k in range(fold.max() + 1):
        out = fold == k
        seen = again(model, weighted(rows, np.where(out, 0.0, rows.weight)))
        mean, std = seen._mixture(seen._standardised(rows.X[out]), 0.0).moments()
        square[out], latent[out] = (rows.Y[out, 0] - mean) ** 2, std**2
    return Residuals(square, latent, rows.weight)


def estimate(
    noise: WarpingRegressor, X: Floats, residuals: Residuals, fold: NDArray[np.intp]
) -> tuple[Varying, Floats]:
    """Return the noise with its held-out log densities, and those with constant noise."""
    targets, weight = log_targets(residuals), residuals.weight
    first = clone(noise).fit(X, targets, weight)
    go_on(first)

    def log_variance(part: Residuals) -> WarpingRegressor:
        start = again(first, Rows(X, targets[:, None], part.weight))
        better, share = scoring_targets(part, start.predict(X))
        return again(first, Rows(X, better[:, None], share))

    unseen = np.empty(len(X))
    for k in range(fold.max() + 1):
        out = fold == k
        part = residuals._replace(weight=np.where(out, 0.0, weight))
        unseen[out] = log_variance(part).predict(X[out])
    found = calibrate(residuals, unseen)
    regressor = log_variance(residuals)
    precision = np.exp(-found.share * regressor.predict(X))
    # Weights that add up to the number of rows leave the evidence that of the rows.
    shift = -float(np.log(np.average(precision, weights=weight)))
    return Varying(Ratio(regressor, found.share, shift), found.density), found.constant
