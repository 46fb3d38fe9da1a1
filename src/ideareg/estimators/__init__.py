"""Estimators with the scikit-learn contract."""

from ideareg.estimators.classifier import WarpingClassifier
from ideareg.estimators.heteroscedastic import HeteroscedasticRegressor
from ideareg.estimators.nugget import nugget_path
from ideareg.estimators.posterior import sample_posterior
from ideareg.estimators.rem import REMClassifier, REMRegressor
from ideareg.estimators.warping import WarpingRegressor

__all__ = [
    "HeteroscedasticRegressor",
    "REMClassifier",
    "REMRegressor",
    "WarpingClassifier",
    "WarpingRegressor",
    "nugget_path",
    "sample_posterior",
]
