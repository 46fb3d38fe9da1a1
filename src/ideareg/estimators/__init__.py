"""Estimators with the scikit-learn contract."""

from ideareg.estimators.warping import WarpingRegressor

__all__ = ["WarpingRegressor"]
