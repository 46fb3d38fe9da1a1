"""Noise that depends on the inputs: known noise is found, constant noise stays constant."""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.multioutput import MultiOutputRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

import ideareg
from ideareg import HeteroscedasticRegressor, WarpingRegressor, noise, plotting
from ideareg.calibration import coverage
from ideareg.report import held_out

PLAIN = {"nu": np.inf, "max_iter": 60}
AT = np.linspace(0.05, 0.95, 7)[:, None]


def size(x):
    """The true standard deviation of the noise: 0.15 to 1.2, eight to one."""
    return 0.15 * 8 ** x[:, 0]


def table(n=250, seed=0, size=size):
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(n, 1))
    return x, np.sin(6 * x[:, 0]) + size(x) * rng.normal(size=n)


def quiet(x):
    return np.full(len(x), 0.3)


def model(**changes):
    small = {"noise_regressor": WarpingRegressor(**PLAIN), "n_folds": 3, "random_state": 0}
    return HeteroscedasticRegressor(WarpingRegressor(**PLAIN), **{**small, **changes})


X, Y = table()
NEW_X, NEW_Y = table(3000, seed=1)


@pytest.fixture(scope="module")
def varying():
    return model().fit(X, Y)


@pytest.fixture(scope="module")
def constant():
    return model(n_rounds=1).fit(*table(size=quiet))


@pytest.fixture(scope="module")
def plain():
    return WarpingRegressor(**PLAIN, random_state=0).fit(X, Y)


# ---------------------------------------------------------------- known answers


def test_the_noise_is_found(varying):
    at = np.linspace(0, 1, 50)[:, None]
    off = np.log(varying.noise_std(at) / size(at))
    assert np.abs(off).max() < 0.35 and np.sqrt(np.mean(off**2)) < 0.15
    assert 0.5 < varying.noise_share_ <= 1
    assert varying.score_ > varying.baseline_score_ + 0.1


def test_held_out_rows_are_better_predicted(varying, plain):
    truth = norm(np.sin(6 * NEW_X[:, 0]), size(NEW_X)).logpdf(NEW_Y).mean()
    with_noise = varying.log_predictive_density(NEW_X, NEW_Y).mean()
    without = plain.log_predictive_density(NEW_X, NEW_Y).mean()
    assert with_noise > without + 0.15
    assert truth - with_noise < 0.05  # and nearly as well as can be


def test_intervals_cover_in_each_third(varying, plain):
    thirds = np.digitize(NEW_X[:, 0], [1 / 3, 2 / 3])

    def off(model):
        pit = model.pit(NEW_X, NEW_Y)
        return max(abs(coverage(pit[thirds == k], 0.9) - 0.9) for k in range(3))

    assert off(varying) < 0.05 < off(plain)


def test_constant_noise_is_the_plain_regressor(constant):
    x, y = table(size=quiet)
    assert constant.noise_regressor_ is None and constant.noise_share_ == 0
    assert constant.score_ == constant.baseline_score_
    same = clone(constant.regressor_).fit(x, y)
    for one, other in zip(
        constant.predict(AT, return_std=True), same.predict(AT, return_std=True), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(constant.noise_std(AT), 0.3, rtol=0.15)


def test_seldom_is_constant_noise_taken_for_varying():
    found = [model(n_rounds=1).fit(*table(60, seed, quiet)).noise_share_ for seed in range(4)]
    assert np.count_nonzero(found) <= 1


def test_logarithms_of_squares_are_unbiased():
    square = np.random.default_rng(0).normal(size=200_000) ** 2
    targets = noise.log_targets(noise.Residuals(square, 0 * square, np.ones_like(square)))
    assert targets.mean() == pytest.approx(0, abs=0.02)
    assert targets.var() == pytest.approx(np.pi**2 / 2, rel=0.02)


def test_a_scoring_step_is_unbiased_and_has_the_least_variance():
    latent = np.full(200_000, 0.5)
    square = 1.5 * np.random.default_rng(0).normal(size=200_000) ** 2
    residuals = noise.Residuals(square, latent, np.ones_like(square))
    targets, weights = noise.scoring_targets(residuals, np.full(200_000, np.log(1.5)))
    np.testing.assert_allclose(weights, (1 / 1.5) ** 2)
    assert targets.mean() == pytest.approx(0, abs=0.04)  # large squares are cut: not quite
    assert targets.var() * weights[0] == pytest.approx(2, rel=0.2)


def test_calibration_finds_level_and_share():
    rng = np.random.default_rng(0)
    g, latent = rng.normal(size=40_000), rng.uniform(0, 0.2, 40_000)
    truth = np.exp(-1 + 0.6 * g)
    square = (truth + latent) * rng.normal(size=40_000) ** 2
    found = noise.calibrate(noise.Residuals(square, latent, np.ones(40_000)), g)
    assert found.share == pytest.approx(0.6, abs=0.03)
    assert found.level == pytest.approx(-1 + 0.6 * found.centre, abs=0.03)
    assert found.density.mean() > found.constant.mean() + 0.03
    assert noise.calibrate(noise.Residuals(square, latent, np.ones(40_000)), -g).share == 0


# ---------------------------------------------------------------- predictions


def test_deviation_covariance_and_mixture_agree(varying):
    mean, std = varying.predict(AT, return_std=True)
    other, covariance = varying.predict(AT, return_cov=True)
    np.testing.assert_array_equal(mean, other)
    np.testing.assert_array_equal(mean, varying.predict(AT))
    np.testing.assert_allclose(np.diag(covariance), std**2, rtol=1e-9)
    np.testing.assert_allclose(varying.predict_mixture(AT).moments(), [mean, std])
    with pytest.raises(ValueError, match="at most one"):
        varying.predict(AT, return_std=True, return_cov=True)


def test_an_observation_is_function_plus_noise(varying):
    mean, std = varying.predict(AT, return_std=True)
    draws = varying.sample_y(AT, 4000)
    spread = np.sqrt(std**2 - varying.noise_std(AT) ** 2)
    np.testing.assert_allclose(draws.std(axis=1), spread, rtol=0.08)
    np.testing.assert_allclose(draws.mean(axis=1), mean, atol=0.1 * spread.max())
    density = norm(mean, std).logpdf(mean + std)
    np.testing.assert_allclose(varying.log_predictive_density(AT, mean + std), density)
    low, high = varying.predict_interval(AT, 0.9)
    quantiles = varying.predict_quantiles(AT, [0.05, 0.95])
    np.testing.assert_allclose(np.column_stack([low, high]), quantiles)


def test_figures_and_scores_take_it(varying):
    ax = plotting.predictive(varying, X, Y)
    assert len(ax.lines) >= 3
    scores = held_out(varying, NEW_X[:50], NEW_Y[:50])
    np.testing.assert_allclose(
        scores.log_density, varying.log_predictive_density(NEW_X[:50], NEW_Y[:50])
    )


# ---------------------------------------------------------------- same data, same model


def test_order_and_weight_of_rows():
    count = np.random.default_rng(0).integers(0, 3, 80)
    x, y = X[:80], Y[:80]
    index = np.random.default_rng(1).permutation(np.repeat(np.arange(80), count))
    weighted = model(n_rounds=1).fit(x, y, sample_weight=count)
    repeated = model(n_rounds=1).fit(x[index], y[index])
    np.testing.assert_array_equal(weighted.noise_std(AT), repeated.noise_std(AT))
    np.testing.assert_array_equal(weighted.predict(AT), repeated.predict(AT))


def test_frames_copies_and_files(varying, constant, tmp_path):
    """Two fits with one random state agree to the last bit."""
    frame = pd.DataFrame({"x": X[:, 0]})
    named = model().fit(frame, pd.Series(Y))
    assert named.feature_names_in_.tolist() == ["x"]
    at = pd.DataFrame({"x": AT[:, 0]})
    np.testing.assert_array_equal(named.predict(at), varying.predict(AT))
    np.testing.assert_array_equal(named.noise_std(at), varying.noise_std(AT))
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(varying)).noise_std(AT), varying.noise_std(AT)
    )
    for fitted, rows in ((varying, AT), (constant, AT), (named, at)):
        fitted.save(tmp_path / "model")
        loaded = ideareg.load(tmp_path / "model")
        assert loaded.get_params(deep=False).keys() == fitted.get_params(deep=False).keys()
        for one, other in zip(
            loaded.predict(rows, return_std=True),
            fitted.predict(rows, return_std=True),
            strict=True,
        ):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(loaded.noise_std(rows), fitted.noise_std(rows))


# ---------------------------------------------------------------- mistakes and interruption


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_folds": 1}, "n_folds must be an integer of at least 2"),
        ({"n_rounds": 0}, "n_rounds must be an integer of at least 1"),
        ({"noise_regressor": "plain"}, "noise_regressor: expected a WarpingRegressor"),
        (
            {"regressor": WarpingRegressor(loss="epsilon_insensitive", nu=1.0, learn_head=False)},
            "no predictive distribution",
        ),
    ],
)
def test_mistakes_are_explained(changes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        model().set_params(**changes).fit(X, Y)


def test_several_outputs_are_one_each():
    with pytest.raises(ValueError, match="MultiOutputRegressor"):
        model().fit(X, np.column_stack([Y, Y]))
    both = MultiOutputRegressor(model(n_rounds=1)).fit(X[:60], np.column_stack([Y, -Y])[:60])
    np.testing.assert_allclose(*(both.predict(AT).T * [[1], [-1]]), atol=1e-6)


@pytest.mark.parametrize("calls", [3, 40])
def test_interruption_leaves_constant_noise(calls):
    seen = []

    def interrupt(record):
        seen.append(record)
        if len(seen) == calls:
            raise KeyboardInterrupt

    stopped = HeteroscedasticRegressor(
        WarpingRegressor(**PLAIN, callback=interrupt), random_state=0
    )
    with pytest.warns(ConvergenceWarning, match="The noise is constant"):
        stopped.fit(X, Y)
    assert stopped.noise_regressor_ is None
    assert np.isfinite(stopped.predict(AT, return_std=True)).all()


@pytest.mark.slow
def test_a_stack_of_warps_has_varying_noise():
    """Selection, warps, and a noise that warps too."""
    small = {"n_control_points": (3, 4), "depth": 2, "max_iter": 8, "n_folds": 2, "verbose": 0}
    both = HeteroscedasticRegressor(
        WarpingRegressor(nu=(np.inf, 5.0), **small),
        noise_regressor=WarpingRegressor(nu=(np.inf, 5.0), **small),
        n_folds=2, n_rounds=1, random_state=0,
    ).fit(X, Y)  # fmt: skip
    quiet, loud = both.noise_std([[0.1], [0.9]])
    assert 2 * quiet < loud
    assert both.regressor_.warp_weights_.sum() == pytest.approx(1)
    assert both.regressor_.get_params()["nu"] == (np.inf, 5.0)


PLAINEST = WarpingRegressor(nu=np.inf, max_iter=5)


@pytest.mark.slow
@parametrize_with_checks(
    [HeteroscedasticRegressor(PLAINEST, noise_regressor=PLAINEST, n_folds=2, n_rounds=1)]
)
def test_contract(estimator, check):
    check(estimator)
