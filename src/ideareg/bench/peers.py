"""The peers of the regression benchmark that predict a point: trees, and a small network.

Each is as its library makes it, but for what its documentation asks for: a network gets
standardised columns and targets, and more epochs, with early stopping.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ideareg.calibration import Mixture

FOLDS = 5
# An epoch of 277 rows is two steps: scikit-learn's 200 epochs, and a patience of 10, end too early.
EPOCHS, PATIENCE = 2000, 50


class WithNoise:
    r"""A point predictor f with one normal error, so that densities and intervals are defined.

    .. math:: y = f(x) + e,\quad e \sim N(0, s^2),\quad
        s^2 = \frac{1}{n} \sum_i (y_i - f_{-k(i)}(x_i))^2

    where :math:`f_{-k}` is fitted without the k-th of five folds of the training rows, and f on all
    of them. The five fits more are part of what a forecast takes, and of the seconds.

    Parameters
    ----------
    model : regressor
        It is fitted in place.

    Examples
    --------
    >>> from sklearn.dummy import DummyRegressor
    >>> y = np.array([0.0, 2.0] * 50)
    >>> model = WithNoise(DummyRegressor()).fit(np.zeros((100, 1)), y)
    >>> mean, std = model.predict_mixture(np.zeros((1, 1))).moments()
    >>> mean.tolist(), std.round(1).tolist()
    ([1.0], [1.0])
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Fit rows (n, d) and targets (n,), n at least 5."""
        folds = KFold(FOLDS, shuffle=True, random_state=0)
        residual = y - cross_val_predict(self.model, X, y, cv=folds)
        self.std = max(float(np.sqrt(np.mean(residual**2))), np.finfo(float).tiny)
        self.model.fit(X, y)
        return self

    def predict_mixture(self, X: np.ndarray) -> Mixture:
        """Return one normal for each row."""
        mean = np.asarray(self.model.predict(X), dtype=float)
        return Mixture.normal(mean, np.full(len(mean), self.std))


def boosting() -> WithNoise:
    """Return scikit-learn's histogram gradient boosting."""
    return WithNoise(HistGradientBoostingRegressor(random_state=0))


def forest() -> WithNoise:
    """Return scikit-learn's random forest."""
    return WithNoise(RandomForestRegressor(random_state=0))


def network() -> WithNoise:
    """Return scikit-learn's network of 100 units, which stops when a tenth of the rows says so."""
    net = MLPRegressor(
        early_stopping=True, max_iter=EPOCHS, n_iter_no_change=PATIENCE, random_state=0
    )
    scaled = make_pipeline(StandardScaler(), net)
    return WithNoise(TransformedTargetRegressor(scaled, transformer=StandardScaler()))


def xgboost() -> WithNoise:
    """Return XGBoost's regressor."""
    from xgboost import XGBRegressor

    return WithNoise(XGBRegressor(random_state=0))
