"""The estimator contract of scikit-learn, with default arguments and no expected failure."""

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from ideareg import WarpingRegressor


@pytest.mark.slow
@parametrize_with_checks([WarpingRegressor()])
def test_contract(estimator, check):
    check(estimator)


@parametrize_with_checks([WarpingRegressor(nu=np.inf, max_iter=20)])
def test_contract_without_a_warp(estimator, check):
    """The small version: all but the selection and the flow."""
    check(estimator)
