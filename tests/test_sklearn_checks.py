"""The estimator contract of scikit-learn, with default arguments and no expected failure."""

from sklearn.utils.estimator_checks import parametrize_with_checks

from ideareg import WarpingRegressor


@parametrize_with_checks([WarpingRegressor()])
def test_contract(estimator, check):
    check(estimator)
