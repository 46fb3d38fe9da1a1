"""Regressors of skewed targets: when the bend is kept, and that answers are those of g(y)."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning

import ideareg
from ideareg import HeteroscedasticRegressor, WarpingRegressor, distributed
from ideareg._rows import Scaling

N = 80
RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, size=(N, 2))
LATENT = 2 * np.sin(3 * X[:, 0]) + 0.3 * RNG.normal(size=N)
SKEWED, STRAIGHT = np.exp(LATENT), LATENT
SCORE = "mean_test_log_density"
AT = RNG.uniform(-1, 1, size=(9, 2))
SMALL = {"n_control_points": 5, "depth": 2, "max_iter": 12, "random_state": 0, "n_folds": 2}


def regressor(**changes):
    return WarpingRegressor(**{**SMALL, "nu": (np.inf, 5.0), **changes})


@pytest.fixture(scope="module")
def bent():
    return regressor().fit(X, SKEWED)


@pytest.fixture(scope="module")
def always():
    return regressor(target_power=True).fit(X, SKEWED)


def test_held_out_rows_decide(bent):
    straight = regressor(target_power=False).fit(X, SKEWED)
    assert bent.target_power_[0] < 0.5 and (straight.target_power_ == 1).all()
    assert bent.score_ > straight.score_ + 0.1
    kept = bent.cv_results_
    assert kept["param_bend"].tolist() == [0, 0, 0.5, 1]
    assert kept["weight"][2:].sum() > 0.7
    # the scores of the straight candidates are those of the straight fit: all in units of y
    np.testing.assert_allclose(
        kept["mean_test_log_density"][:2], straight.cv_results_["mean_test_log_density"]
    )


def test_what_a_bend_hardly_changes_is_not_bent():
    model = regressor().fit(X, 1e3 + STRAIGHT)
    assert not model.cv_results_["param_bend"].any() and (model.target_power_ == 1).all()
    plain = regressor(target_power=False).fit(X, 1e3 + STRAIGHT)
    np.testing.assert_array_equal(model.predict(AT), plain.predict(AT))


def test_scores_are_in_units_of_y(bent, always):
    auto = bent.cv_results_
    kept = always.cv_results_
    same = kept["param_nu"] == auto["param_nu"][3]
    np.testing.assert_allclose(auto[SCORE][3], kept[SCORE][same], rtol=1e-9)
    assert (kept["param_bend"] == 1).all() and (always.target_power_ < 0.5).all()


def test_answers_are_those_of_the_bent_target_mapped_back():
    g = Scaling.of(SKEWED[:, None], np.ones(N), bend=1.0)
    one = regressor(target_power=True, nu=5.0).fit(X, SKEWED)
    other = regressor(target_power=False, nu=5.0).fit(X, g.forward(SKEWED[:, None])[:, 0])
    for end, latent in zip(one.predict_interval(AT), other.predict_interval(AT), strict=True):
        np.testing.assert_allclose(end, g.backward(latent[:, None])[:, 0], rtol=1e-8)
    y = one.predict_quantiles(AT, [0.4])[:, 0]
    slope = g.log_slope(y[:, None])[:, 0]
    expected = other.log_predictive_density(AT, g.forward(y[:, None])[:, 0]) + slope
    np.testing.assert_allclose(one.log_predictive_density(AT, y), expected, rtol=1e-7)
    draws, latent = one.sample_y(AT, 5), other.sample_y(AT, 5)
    np.testing.assert_allclose(draws, g.backward(latent[..., None])[..., 0], rtol=1e-5)


def test_moments_agree(bent, always):
    mean, std = bent.predict(AT, return_std=True)
    both, covariance = bent.predict(AT, return_cov=True)
    np.testing.assert_allclose(bent.predict(AT), mean)
    np.testing.assert_allclose(both, mean, rtol=1e-9)
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), std, rtol=1e-4)
    assert (always.predict_interval(AT)[0] > 0).all()
    y = bent.predict_quantiles(AT, [0.3])[:, 0]
    np.testing.assert_allclose(
        bent.log_predictive_density(AT, y), bent.predict_mixture(AT).log_density(y), rtol=1e-9
    )


def test_intervals_are_honest_where_noise_grows(always):
    rng = np.random.default_rng(5)
    new = rng.uniform(-0.9, 0.9, size=(400, 2))
    y = np.exp(2 * np.sin(3 * new[:, 0]) + 0.3 * rng.normal(size=400))
    low, high = always.predict_interval(new)
    large = y > np.median(y)
    for part in (large, ~large):
        assert 0.8 <= ((low <= y) & (y <= high))[part].mean() < 1
    assert abs(norm.ppf(always.pit(new, y)).std() - 1) < 0.25


def test_units_do_not_matter(bent):
    scaled = regressor().fit(X, 1000 * SKEWED)
    np.testing.assert_allclose(scaled.predict(AT), 1000 * bent.predict(AT), rtol=1e-5)


def test_outputs_have_powers_of_their_own():
    model = regressor().fit(X, np.column_stack([SKEWED, STRAIGHT]))
    power = model.target_power_[0]
    assert model.target_power_.shape == (len(model.warps_), 2) and power[0] < 0.5 < power[1]
    mean, std = model.predict(AT, return_std=True)
    both, covariance = model.predict(AT, return_cov=True)
    np.testing.assert_allclose(both, mean, rtol=1e-9)
    diagonal = np.sqrt(np.einsum("nnk->nk", covariance))
    np.testing.assert_allclose(diagonal, std, rtol=1e-4)
    assert model.sample_y(AT, 3).shape == (9, 2, 3)


def test_a_bent_model_keeps_its_bend(bent, tmp_path):
    bent.save(tmp_path / "model")
    loaded = ideareg.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(AT), bent.predict(AT))
    np.testing.assert_array_equal(loaded.target_power_, bent.target_power_)
    np.testing.assert_allclose(bent.condition(X, SKEWED).predict(AT), bent.predict(AT), rtol=1e-6)
    assert bent.member(0).target_power_ == bent.target_power_[:1]
    again = regressor(warm_start=True).fit(X, SKEWED).fit(X, SKEWED)
    np.testing.assert_array_equal(again.target_power_, bent.target_power_)


def test_what_is_linear_in_targets_is_refused(bent):
    for ask in (
        lambda: bent.predict(AT, return_bound=True),
        lambda: bent.error_bound(AT, 1.0),
        lambda: bent.bound_norm_,
        lambda: bent.lipschitz_,
        lambda: bent.certified_radius(AT, 0.1),
    ):
        with pytest.raises(ValueError, match="target_power=False"):
            ask()


@pytest.mark.parametrize("target_power", [True, "auto"])
def test_an_interrupted_selection_predicts_what_it_learned(target_power):
    def interrupt(record):
        if record["stage"] == "select" and record["iteration"] == 3:
            raise KeyboardInterrupt

    model = regressor(target_power=target_power, n_jobs=1, callback=interrupt)
    with pytest.warns(ConvergenceWarning, match="Interrupted"):
        model.fit(X, SKEWED)
    assert (model.target_power_ < 0.5).all() == (target_power is True)
    assert np.corrcoef(np.log(np.maximum(model.predict(X), 0.01)), LATENT)[0, 1] > 0.8


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"target_power": "yes"}, "target_power must be"),
        ({"target_power": True, "loss": "squared", "learn_head": False}, "needs loss='evidence'"),
        ({"target_power": True, "standardize": False}, "standardize=True"),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(ValueError, match=message):
        regressor(nu=5.0, **changes).fit(X, SKEWED)


def test_noise_that_varies_takes_the_place_of_the_bend():
    model = HeteroscedasticRegressor(regressor(), n_rounds=1, n_folds=2).fit(X, SKEWED)
    assert (model.regressor_.target_power_ == 1).all()


def test_rows_of_many_processes_are_bent_too():
    small = {"n_inducing": 16, "head": "sparse", "tails": False}
    here = regressor(**small).fit(X, SKEWED)
    there = distributed.fit(regressor(**small), X, SKEWED)
    assert there.target_power_[0] < 0.5
    np.testing.assert_array_equal(there.target_power_, here.target_power_)
    np.testing.assert_allclose(there.predict(AT), here.predict(AT), rtol=1e-6)
