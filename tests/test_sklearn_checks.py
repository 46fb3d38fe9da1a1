"""The estimator contract of scikit-learn, with default arguments and no expected failure."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from ideareg import WarpingRegressor


@pytest.mark.slow
@parametrize_with_checks([WarpingRegressor()])
def test_contract(estimator, check):
    check(estimator)


@parametrize_with_checks([WarpingRegressor(nu=5.0, max_iter=20)])
def test_contract_of_one_warp(estimator, check):
    """The small version: all but the selection."""
    check(estimator)
