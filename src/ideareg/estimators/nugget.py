"""What a nugget buys and costs: one model per value, side by side."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.model_selection import check_cv

Floats = NDArray[np.float64]


def nugget_path(
    estimator: Any, X: ArrayLike, y: ArrayLike, nuggets: Iterable[float], *, cv: Any = 3
) -> dict[str, Floats]:
    r"""Fit one model for each nugget r, and judge it on rows that it has not seen.

    The nugget lets the control points leave the flow, :math:`\dot q = (\Gamma(q,q)+rI)p`, at a
    price of :math:`|\cdot|^2/r`; rows are always carried by the flow itself. Give ``estimator`` one
    finite ``nu``, for a member of the stack that does not warp does not feel the nugget.

    Parameters
    ----------
    estimator : WarpingRegressor
        It is cloned, not changed.
    X : array-like of shape (n_samples, n_features)
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
    nuggets : iterable of float
    cv : int, splitter or iterable, default=3
        How scikit-learn makes the validation splits.

    Returns
    -------
    dict of ndarray of shape (n_nuggets,)
        ``nugget``; of the fit to all rows: ``data_term`` (what is minimised beside the penalties),
        ``action`` νH and ``lipschitz`` (the largest of the outputs); held out, as means over
        splits: ``log_density`` per row and ``rmse``, in units of ``y``.

    Examples
    --------
    >>> from ideareg import WarpingRegressor
    >>> x = np.linspace(-1, 1, 40)[:, None]
    >>> model = WarpingRegressor(nu=1.0, n_control_points=4, max_iter=5, random_state=0)
    >>> path = nugget_path(model, x, np.tanh(9 * x[:, 0]), (0.0, 0.1), cv=2)
    >>> path["rmse"].shape
    (2,)
    """
    X, y = np.asarray(X, dtype=np.float64), np.asarray(y, dtype=np.float64)
    splits = list(check_cv(cv).split(X, y))
    records = []
    for r in nuggets:
        model = clone(estimator).set_params(nugget=float(r))
        scores = np.mean([_held_out(clone(model), X, y, *split) for split in splits], axis=0)
        model.fit(X, y)
        warps = [(w.weight, w.history["data_term"][-1], w.ledger["action"]) for w in model.warps_]
        weight, data, action = np.array(warps).T
        constant = float(np.max(model.lipschitz_))
        records.append([r, weight @ data, weight @ action, constant, *scores])
    names = ("nugget", "data_term", "action", "lipschitz", "log_density", "rmse")
    return dict(zip(names, np.array(records, dtype=np.float64).reshape(-1, 6).T, strict=True))


def _held_out(
    model: Any, X: Floats, y: Floats, train: NDArray[np.intp], test: NDArray[np.intp]
) -> tuple[float, float]:
    model.fit(X[train], y[train])
    density = model.log_predictive_density(X[test], y[test])
    error = model.predict(X[test]) - y[test]
    return float(density.mean()), float(np.sqrt(np.mean(error**2)))
