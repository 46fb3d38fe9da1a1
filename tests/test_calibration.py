"""Scores of predictive distributions against quadrature, scikit-learn and hand counts."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm
from sklearn.metrics import brier_score_loss

from ideareg import WarpingRegressor
from ideareg.calibration import (
    Mixture,
    brier_score,
    class_reliability,
    coverage,
    expected_calibration_error,
    interval_reliability,
)

WEIGHT = np.array([0.5, 0.3, 0.2])
MEAN = np.array([[0.0, 2.0], [3.0, 2.1], [-1.0, 5.0]])
STD = np.array([[1.0, 0.2], [0.3, 0.2], [2.0, 1.0]])


def cdf(t, column):
    return float(WEIGHT @ norm.cdf(t, MEAN[:, column], STD[:, column]))


@pytest.fixture
def mixture():
    return Mixture(WEIGHT, MEAN, STD)


@pytest.mark.parametrize("y", [[-4.0, 1.9], [0.5, 2.05], [9.0, 8.0]])
def test_crps_is_the_integral(mixture, y):
    for column, (target, score) in enumerate(zip(y, mixture.crps(y), strict=True)):
        below = quad(lambda t, c=column: cdf(t, c) ** 2, -30, target, limit=200)[0]
        above = quad(lambda t, c=column: (1 - cdf(t, c)) ** 2, target, 30, limit=200)[0]
        assert score == pytest.approx(below + above, rel=1e-7)


def test_one_normal_has_the_classical_crps():
    y, m, s = np.array([0.3, -2.0]), np.array([0.0, 1.0]), np.array([1.0, 0.5])
    z = (y - m) / s
    known = s * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
    np.testing.assert_allclose(Mixture.normal(m, s).crps(y), known, rtol=1e-13)
    np.testing.assert_allclose(Mixture.normal(m, s).pit(y), norm.cdf(z), rtol=1e-13)


def test_crps_without_doubt_is_the_absolute_error():
    forecast = Mixture.normal([1.0, 1.0], [1e-300, 1e-300])
    np.testing.assert_allclose(forecast.crps([3.5, 1.0]), [2.5, 0.0], atol=1e-290)


def test_moments_and_density_of_a_mixture(mixture):
    mean, std = mixture.moments()
    for column in range(2):

        def moment(power, c=column):
            density = lambda t: np.exp(mixture.log_density(np.full(2, t))[c])  # noqa: E731
            return quad(lambda t: t**power * density(t), -20, 20, limit=300, points=MEAN[:, c])[0]

        assert moment(0) == pytest.approx(1, rel=1e-8)
        assert mean[column] == pytest.approx(moment(1), rel=1e-8)
        assert std[column] ** 2 == pytest.approx(moment(2) - moment(1) ** 2, rel=1e-8)


def test_quantiles_undo_the_distribution(mixture):
    shares = np.array([1e-6, 0.05, 0.5, 0.95, 1 - 1e-6])
    quantiles = mixture.quantile(shares)
    assert quantiles.shape == (5, 2)
    for share, row in zip(shares, quantiles, strict=True):
        np.testing.assert_allclose(mixture.pit(row), share, rtol=1e-9)
    low, high = mixture.interval(0.9)
    np.testing.assert_allclose([low, high], quantiles[[1, 3]])
    single = Mixture.normal([1.0], [2.0])
    np.testing.assert_allclose(single.quantile(0.975), norm.ppf(0.975, 1, 2))


def test_honest_predictions_are_found_honest():
    rng = np.random.default_rng(0)
    pick = rng.choice(3, 20_000, p=WEIGHT)
    y = MEAN[pick, 0] + STD[pick, 0] * rng.normal(size=20_000)
    wide = Mixture(WEIGHT, *(np.repeat(a[:, :1], 20_000, axis=1) for a in (MEAN, STD)))
    pit = wide.pit(y)
    found = interval_reliability(pit)
    assert found.error < 0.01
    assert coverage(pit, 0.9) == pytest.approx(0.9, abs=0.01)
    np.testing.assert_allclose(found.observed, coverage(pit, found.promised))
    low, high = wide.interval(0.9)
    assert coverage(pit, 0.9) == ((low <= y) & (y <= high)).mean()
    # Proper: any other forecast pays more on average.
    bold = Mixture(WEIGHT, wide.mean, 0.5 * wide.std)
    assert wide.crps(y).mean() < bold.crps(y).mean()


def test_class_reliability_by_hand():
    P = np.array([[0.55, 0.45], [0.42, 0.58], [0.95, 0.05], [0.9, 0.1]])
    found = class_reliability([0, 0, 0, 1], P, bins=10)
    assert found.rows.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 1, 1]
    np.testing.assert_allclose(found.promised[[5, 8, 9]], [0.565, 0.9, 0.95])
    np.testing.assert_allclose(found.observed[[5, 8, 9]], [0.5, 0.0, 1.0])
    assert np.isnan(found.observed[0])
    error = (2 * 0.065 + 0.9 + 0.05) / 4
    assert expected_calibration_error([0, 0, 0, 1], P, 10) == pytest.approx(error)


def test_brier_score_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    p, labels = rng.random(50), rng.integers(0, 2, 50)
    P = np.column_stack([1 - p, p])
    assert brier_score(labels, P) == pytest.approx(2 * brier_score_loss(labels, p))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: Mixture.normal([0.0], [1.0, 2.0]), r"std: expected the shape \(1,\) of mean"),
        (lambda: Mixture.normal([0.0], [0.0]), "std: expected positive"),
        (lambda: Mixture.normal([0.0], [1.0]).crps([1.0, 2.0]), r"y: expected the shape \(1,\)"),
        (lambda: Mixture.normal([0.0], [1.0]).quantile([0.5, 1.0]), "strictly between 0 and 1"),
        (lambda: Mixture.normal([0.0], [1.0]).interval(90), "level: expected numbers strictly"),
        (lambda: coverage([0.5], 1.5), "level: expected numbers strictly"),
        (lambda: brier_score([0, 1], [[0.5, 0.5]]), "one row per label"),
        (lambda: brier_score([0, 2], [[0.5, 0.5]] * 2), "labels: expected the column"),
        (lambda: brier_score(["a"], [[0.5, 0.5]]), "labels: expected the column"),
        (lambda: brier_score([0], [[np.nan, 0.5]]), "finite, non-negative"),
        (lambda: class_reliability([0], [[0.5, 0.5]], bins=0), "bins: expected"),
    ],
)
def test_bad_input_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


# ---------------------------------------------------------------- of a fitted regressor


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 2)) * [1, 3] + [0, 5]
    return X, 100 + 20 * np.tanh(4 * X[:, 0]) + rng.normal(size=40)


@pytest.fixture(scope="module")
def stack(rows):
    model = WarpingRegressor(
        nu=(np.inf, 5.0, 0.5), n_folds=2, max_iter=8, n_control_points=5, depth=2, random_state=0
    ).fit(*rows)
    assert len(model.warps_) > 1
    return model


def test_mixture_of_a_stack_is_what_it_predicts(stack, rows):
    X, y = rows
    mixture = stack.predict_mixture(X)
    mean, std = stack.predict(X, return_std=True)
    np.testing.assert_allclose(mixture.moments(), [mean, std], rtol=1e-9)
    np.testing.assert_allclose(
        mixture.log_density(y), stack.log_predictive_density(X, y), rtol=1e-9
    )
    np.testing.assert_array_equal(stack.crps(X, y), mixture.crps(y))
    low, high = stack.predict_interval(X, 0.8)
    quantiles = stack.predict_quantiles(X, [0.1, 0.5, 0.9])
    assert quantiles.shape == (40, 3)
    np.testing.assert_allclose(quantiles[:, 0], low)
    np.testing.assert_allclose(quantiles[:, 2], high)
    inside = (low <= y) & (y <= high)
    assert coverage(stack.pit(X, y), 0.8) == inside.mean()


def test_several_outputs_keep_their_shape(rows):
    X, y = rows
    Y = np.column_stack([y, -y])
    model = WarpingRegressor(nu=5.0, n_control_points=5, depth=2, max_iter=8).fit(X, Y)
    assert model.predict_mixture(X).mean.shape == (1, 40, 2)
    assert model.predict_quantiles(X[:7], [0.2, 0.8]).shape == (7, 2, 2)
    low, high = model.predict_interval(X)
    assert low.shape == high.shape == model.crps(X, Y).shape == (40, 2)


def test_a_loss_without_density_has_no_interval(rows):
    options = {"loss": "epsilon_insensitive", "learn_head": False, "nu": 5.0}
    model = WarpingRegressor(n_control_points=5, max_iter=3, depth=2, **options).fit(*rows)
    for method in (model.predict_interval, model.predict_quantiles, model.predict_mixture):
        with pytest.raises(ValueError, match="has no predictive distribution"):
            method(rows[0])
