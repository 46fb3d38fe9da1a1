"""The estimator contract for the classifier, with default arguments and no expected failure."""

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from ideareg import WarpingClassifier


@pytest.mark.slow
@parametrize_with_checks([WarpingClassifier()])
def test_contract_of_the_classifier(estimator, check):
    check(estimator)


@parametrize_with_checks([WarpingClassifier(nu=np.inf, n_folds=2)])
def test_contract_of_the_classifier_without_a_warp(estimator, check):
    """The small version: all but the descents, on two folds."""
    check(estimator)
