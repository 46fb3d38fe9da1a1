"""Noise with tails: what a few normals stand for, what is learned of them, who gets them."""

import math

import numpy as np
import pytest
from helpers import make_problem, sample
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm, t

import ideareg
from ideareg import HeteroscedasticRegressor, WarpingRegressor, distributed
from ideareg.tails import LEAST_FREEDOM, MOST_FREEDOM, Tails, learn_tails
from ideareg.uncertainty import concluded, predict_moments
from ideareg.unseen import ALONE_ROWS, Errors, Residuals, errors_unseen, judged, unseen

SMALL = {
    "n_control_points": 5,
    "n_inducing": 10,
    "depth": 2,
    "max_iter": 15,
    "n_folds": 2,
    "random_state": 0,
}


@pytest.mark.parametrize("freedom", [4.0, 6.0, 12.0, 50.0])
def test_a_few_normals_are_a_t_distribution(freedom):
    scale, weight = Tails(freedom).scales()
    x = np.linspace(0, 6, 50)[:, None]
    found = norm.pdf(x, scale=np.sqrt(scale)) @ weight
    unit = math.sqrt((freedom - 2) / freedom)
    assert_allclose(found, t.pdf(x[:, 0], freedom, scale=unit), rtol=0.06, atol=1e-6)


@pytest.mark.parametrize("freedom", [LEAST_FREEDOM, 3.0, MOST_FREEDOM, 1e3, math.inf])
def test_scales_have_the_level_for_their_mean(freedom):
    scale, weight = Tails(freedom, 0.3).scales()
    assert_allclose(weight.sum(), 1.0)
    assert_allclose(weight @ scale, 0.3)
    assert (scale > 0).all() and (weight > 0).all()


@pytest.fixture
def fitted(double_precision):
    problem = make_problem("exact", size=0.3, rows=sample(24))
    return concluded(problem.model, problem.rows)[0]


def errors(fitted, noise, weight=None):
    """Errors at the rows of the head: what it doubts, and ``noise`` in units of what it learned."""
    rng = np.random.default_rng(1)
    rows = np.tile(sample(24).X, (len(noise) // 24 + 1, 1))[: len(noise)]
    _, doubt = predict_moments(fitted, rows)
    left = rng.uniform(0.3, 1.0, size=(len(noise), 1))
    size = np.sqrt(float(fitted.posterior.noise) * left) * noise
    own = rng.normal(size=noise.shape) * np.sqrt(doubt) + size
    return Errors(rows, own**2, left, np.ones(len(noise)) if weight is None else weight)


def test_freedom_and_level_are_found(fitted):
    heavy = np.random.default_rng(0).standard_t(4, size=(4000, 1)) / math.sqrt(2)
    found = learn_tails(fitted, errors(fitted, math.sqrt(0.5) * heavy))
    assert 3 < found.freedom < 5.5 and abs(found.level - 0.5) < 0.1


def test_normal_noise_stays_normal(fitted):
    seen = errors(fitted, np.random.default_rng(0).normal(size=(4000, 2)))
    found, told = (learn_tails(fitted, seen, heavy) for heavy in (True, False))
    assert found.freedom > 15 and abs(found.level - 1) < 0.1
    assert told.freedom == math.inf and abs(told.level - 1) < 0.1


def test_few_rows_say_little(fitted):
    seen = errors(fitted, np.array([[0.0], [0.1], [0.0]]))
    found = learn_tails(fitted, seen)
    assert 0.2 < found.level < 1 and found.freedom > 4


def test_a_row_of_weight_two_is_two_rows(fitted):
    seen = errors(fitted, np.random.default_rng(0).standard_t(3, size=(40, 1)), np.full(40, 2.0))
    twice = Errors(*(np.repeat(part, 2, axis=0) for part in seen))
    twice = twice._replace(weight=np.ones(80))
    assert_allclose(learn_tails(fitted, seen), learn_tails(fitted, twice), rtol=1e-6)


def test_only_some_of_many_rows_are_judged(double_precision):
    problem = make_problem("sparse", size=0.3, rows=sample(ALONE_ROWS + 40))
    fitted, undoing = concluded(problem.model, problem.rows)
    every, some = (Residuals.of(fitted, problem.rows, most) for most in (None, ALONE_ROWS))
    assert (len(every.rows), len(some.rows)) == (ALONE_ROWS + 40, ALONE_ROWS)
    assert_array_equal(every.rows[judged(len(every.rows), ALONE_ROWS)], some.rows)
    one, other = (errors_unseen(fitted, undoing, each) for each in (every, some))
    assert_allclose(one.squares, other.squares, rtol=1e-9)


def test_errors_are_those_of_which_neighbours_are_told(double_precision):
    problem = make_problem("sparse", size=0.3, rows=sample(60))
    fitted, undoing = concluded(problem.model, problem.rows)
    residuals, every = Residuals.of(fitted, problem.rows), np.arange(60)
    own, _ = unseen(fitted, undoing, residuals, every, np.empty((60, 0), np.intp))
    assert_allclose(errors_unseen(fitted, undoing, residuals).squares, own**2, rtol=1e-9)


RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, size=(400, 2))
NOISE = 0.1 * RNG.standard_t(2.2, size=400)
Y = np.sin(3 * X[:, 0]) + NOISE
(X, AT), (Y, TRUE) = ((A[:200], A[200:]) for A in (X, Y))


def regressor(**changes):
    return WarpingRegressor(**{**SMALL, "nu": (np.inf, 5.0), "target_power": False, **changes})


@pytest.fixture(scope="module")
def heavy():
    return regressor().fit(X, Y)


def test_heavy_noise_is_predicted_better(heavy):
    light = regressor(tails=False).fit(X, Y)
    assert (heavy.tail_freedom_ < 5).all() and np.isinf(light.tail_freedom_).all()
    assert_allclose(heavy.predict(AT), light.predict(AT), rtol=1e-12)
    gain = heavy.log_predictive_density(AT, TRUE) - light.log_predictive_density(AT, TRUE)
    assert gain.mean() > 0.1


def test_all_predictions_agree(heavy):
    mixture = heavy.predict_mixture(AT)
    assert len(mixture.weight) == 6 * len(heavy.warps_)
    assert_allclose(mixture.weight.sum(), 1.0)
    assert_allclose(heavy.log_predictive_density(AT, TRUE), mixture.log_density(TRUE), rtol=1e-9)
    mean, std = heavy.predict(AT, return_std=True)
    joint, covariance = heavy.predict(AT, return_cov=True)
    assert_allclose(mean, joint, atol=1e-10)
    assert_allclose(np.sqrt(np.diag(covariance)), std, rtol=1e-9)
    low, high = heavy.predict_interval(AT, 0.9)
    assert 0.8 < np.mean((low <= TRUE) & (high >= TRUE)) < 0.97
    narrow, wide = (np.subtract(*heavy.predict_interval(AT, p)[::-1]) for p in (0.9, 0.999))
    assert (wide > 1.3 * (3.29 / 1.645) * narrow).all()


def test_two_outputs_have_one_scale():
    model = regressor().fit(X, np.column_stack([Y, -Y]))
    mean, std = model.predict(AT, return_std=True)
    assert mean.shape == std.shape == (200, 2)
    both = model.log_predictive_density(AT, np.column_stack([TRUE, -TRUE]))
    apart = model.predict_mixture(AT).log_density(np.column_stack([TRUE, -TRUE])).sum(1)
    # Rows that are far off in one output are in the other: one scale explains both.
    assert both.mean() > apart.mean()


def test_bent_targets_have_tails():
    model = regressor(target_power=True).fit(X, np.exp(Y))
    assert (model.tail_freedom_ < 5).all()
    mean, std = model.predict(AT, return_std=True)
    joint, covariance = model.predict(AT, return_cov=True)
    assert_allclose(joint, mean)
    assert_allclose(np.sqrt(np.diag(covariance)), std)
    middle = model.predict_quantiles(AT, 0.5)
    assert np.corrcoef(np.log(middle[:, 0]), TRUE)[0, 1] > 0.7


def test_they_are_saved(heavy, tmp_path):
    heavy.save(tmp_path / "model")
    loaded = ideareg.load(tmp_path / "model")
    assert_array_equal(loaded.tail_freedom_, heavy.tail_freedom_)
    assert_array_equal(
        loaded.log_predictive_density(AT, TRUE), heavy.log_predictive_density(AT, TRUE)
    )
    header, arrays = heavy.get_state()
    first, *others = header["warps"]
    for numbers in ([1.0, 1.0], [3.0, 0.0], [3.0, math.nan], [3.0, math.inf], [3.0], None):
        bad = header | {"warps": [first | {"tails": numbers}, *others]}
        with pytest.raises(ValueError, match="model file"):
            WarpingRegressor.from_state(bad, arrays)


def test_who_has_them():
    one = {"nu": 5.0}
    freedom = {tails: regressor(**one, tails=tails).fit(X, Y) for tails in (True, "auto")}
    assert [f.tail_freedom_[0] < 9 for f in freedom.values()] == [True, False]
    varying = HeteroscedasticRegressor(regressor(**one, tails=True), n_folds=2).fit(X, Y)
    assert np.isinf(varying.regressor_.tail_freedom_).all()
    few = {"nu": np.inf, "max_iter": 2}
    assert np.isinf(distributed.fit(regressor(**few), X, Y).tail_freedom_).all()
    with pytest.raises(ValueError, match="in one place"):
        distributed.fit(regressor(tails=True, **few), X, Y)


def test_going_on_keeps_them(heavy):
    again = regressor(warm_start=True).fit(X, Y).fit(X, Y)
    assert (again.tail_freedom_ < 5).all()
    assert_array_equal(heavy.member(1).tail_freedom_, heavy.tail_freedom_[1:2])
    assert_array_equal(heavy.condition(X, Y).tail_freedom_, heavy.tail_freedom_)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tails": "maybe"}, "tails must be"),
        ({"tails": True, "learn_head": False, "nu": 1.0}, "tails=True needs"),
    ],
)
def test_mistakes(changes, message):
    with pytest.raises(ValueError, match=message):
        regressor(**changes).fit(X, Y)
