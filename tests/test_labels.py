"""Labels as numbers, base rates, calibration, and stratified folds."""

import numpy as np
import pytest
from scipy.special import expit

from ideareg.classification import stratified
from ideareg.labels import Calibration, base_rates, calibrate, encode, for_classes, likelihood
from ideareg.pointwise import Hinge, Logistic, Softmax

CODES = np.array([0, 1, 2, 1])


def test_encodings():
    assert encode(Hinge(), np.array([0, 1]), 2).tolist() == [[-1.0], [1.0]]
    np.testing.assert_array_equal(encode(Softmax(), CODES, 3), np.eye(3)[CODES])
    np.testing.assert_array_equal(encode(Logistic(), CODES, 3), 2 * np.eye(3)[CODES] - 1)
    assert for_classes(Softmax(), 2) == likelihood(2) == Logistic()
    assert for_classes(Softmax(), 3) == likelihood(3) == Softmax()


@pytest.mark.parametrize("classes", [2, 3])
def test_base_rates_are_the_shares_of_the_classes(classes):
    codes, weight = np.minimum(CODES, classes - 1), np.array([1.0, 2.0, 3.0, 4.0]) * 1e6
    f = base_rates(likelihood(classes), codes, weight, classes)
    p = np.exp(Calibration(1.0, np.zeros(len(f))).log_probability(f[None]))[0]
    np.testing.assert_allclose(p, np.bincount(codes, weight) / weight.sum(), rtol=1e-5)
    assert not base_rates(Hinge(), codes, weight, classes).any()


def test_a_likelihood_is_left_alone_and_others_find_their_scale():
    rng = np.random.default_rng(0)
    f = rng.normal(size=(4000, 1))
    codes = (rng.uniform(size=4000) < expit(3 * f[:, 0] - 1)).astype(np.intp)
    assert calibrate(Logistic(), f, codes, np.ones(4000)).scale == 1.0
    found = calibrate(Hinge(), f, codes, np.ones(4000))
    np.testing.assert_allclose([found.scale, *found.shift], [3, -1], atol=0.25)


def test_separable_scores_keep_a_finite_scale():
    f = np.linspace(-2, 2, 20)[:, None]
    found = calibrate(Hinge(), f, (f[:, 0] > 0).astype(np.intp), np.ones(20))
    assert 1 < found.scale < 1e3


def test_folds_spread_every_class():
    codes = np.repeat([0, 1, 2], [30, 9, 3])
    fold = stratified(codes, 3, np.random.RandomState(0))
    for k in range(3):
        np.testing.assert_array_equal(np.bincount(codes[fold == k]), [10, 3, 1])
