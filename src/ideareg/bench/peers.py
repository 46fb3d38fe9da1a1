"""The peers of the regression benchmark that predict a point: trees, and a small network.

Each is as its library makes it, but for what its documentation asks for: a network gets
standardised columns and targets, and as many epochs as early stopping allows.
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
EPOCHS = 2000  # at most; scikit-learn's 200 are 400 steps on 277 rows


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
    net = MLPRegressor(early_stopping=True, max_iter=EPOCHS, random_state=0)
    scaled = make_pipeline(StandardScaler(), net)
    return WithNoise(TransformedTargetRegressor(scaled, transformer=StandardScaler()))


def xgboost() -> WithNoise:
    """Return XGBoost's regressor."""
    from xgboost import XGBRegressor

    return WithNoise(XGBRegressor(random_state=0))
