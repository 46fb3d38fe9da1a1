"""Rows that join the inducing points when the head is conditioned."""

import equinox as eqx
import jax
import numpy as np
import pytest
from helpers import make_problem, sample
from scipy.optimize import approx_fprime
from scipy.stats import multivariate_normal

from ideareg import WarpingRegressor, assembly, inducing, load
from ideareg.inducing import conclude_with, joining, most_likely
from ideareg.readout import ExactHead
from ideareg.training import Model
from ideareg.uncertainty import conclude, predict_moments


def still(X):
    """The flow of no warp."""
    return X


@pytest.fixture
def head():
    return make_problem("sparse").model.head


def test_the_chosen_amplitude_and_noise_are_the_likeliest(double_precision, head):
    rows = sample(30, outputs=2)
    weight = 1.0 + np.arange(30) % 3
    spectrum = jax.jit(lambda rows: head.spectrum(still, rows))(rows._replace(weight=weight))
    found = most_likely(head, spectrum)
    again = np.repeat(np.arange(30), weight.astype(int))
    K = np.asarray(head.cross(rows.X))
    Q = (K @ np.linalg.solve(np.asarray(head.gram()), K.T))[np.ix_(again, again)]

    def negative(logs):
        a, s = np.exp(logs)
        normal = multivariate_normal(np.zeros(len(again)), a * Q + s * np.eye(len(again)))
        return -normal.logpdf(rows.Y[again].T).sum()

    best = np.array([float(found.log_amplitude), float(found.log_noise)])
    np.testing.assert_allclose(approx_fprime(best, negative, 1e-6), 0.0, atol=1e-3)
    for step in ([0.1, 0], [-0.1, 0], [0, 0.1], [0, -0.1]):
        assert negative(best + step) > negative(best)


def test_noise_stays_above_its_floor(double_precision, head):
    floor = np.float64(0.05)
    head = eqx.tree_at(lambda h: h.noise_floor, head, floor)
    rows = sample(30)
    exact = rows._replace(Y=np.asarray(head.cross(rows.X))[:, :1])  # no noise at all
    found = most_likely(head, head.spectrum(still, exact))
    assert floor < float(found.noise) < 1.01 * floor


def test_all_rows_as_points_are_the_exact_process(double_precision):
    problem = make_problem("sparse", size=0.3)
    model, rows = problem.model, problem.rows
    grown, fitted, _ = conclude_with(model, rows, rows.X, learn=True)
    assert len(fitted.posterior.points) == len(model.head.inducing) + len(rows.X)
    own = ("kernel", "log_scale", "log_amplitude", "log_noise", "noise_floor")
    exact = ExactHead(**{name: getattr(grown.head, name) for name in own})
    at = sample(20, seed=5).X
    expected = predict_moments(conclude(Model(model.warp, exact), rows), at)
    for one, other in zip(predict_moments(fitted, at), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)  # the jitter


def test_amplitude_and_noise_that_are_given_stay(double_precision):
    problem = make_problem("sparse")
    rows = problem.rows
    grown, fitted, _ = conclude_with(problem.model, rows, rows.X, learn=False)
    assert float(fitted.posterior.noise) == pytest.approx(0.1)
    assert float(grown.head.amplitude) == pytest.approx(1.0)


def test_how_many_join():
    assert joining(1000, 256) == 0
    assert joining(2000, 256) == 244
    assert joining(8000, 256, most=512) == 256
    counts = [joining(n, 256) for n in (10**4, 10**5, 10**6, 10**8)]
    assert counts == sorted(counts, reverse=True)
    assert all(n * (256 + joining(n, 256)) ** 2 <= 4.2e12 for n in (10**5, 10**6, 10**7))


@pytest.mark.parametrize("n", [100, 1600, 7372, 41_000, 10**6])
def test_final_fits_have_more_points_while_rows_allow_it(n):
    points = assembly.final_inducing_points(n)
    assert points >= assembly.inducing_points(n)
    assert points == assembly.inducing_points(n) or n * points**2 <= assembly.FINAL_WORK


def test_points_that_join_a_trial_change_nothing_but_the_room(double_precision):
    problem = make_problem("sparse", size=0.3)
    warp, head = problem.model.warp, problem.model.head
    joined, present = np.asarray(problem.rows.X)[:4], np.array([1.0, 1.0, 1.0, 0.0])
    grown = inducing.enlarged(warp, head, joined, present)
    count = len(head.inducing)
    np.testing.assert_allclose(grown.inducing[count:], warp(joined), rtol=1e-12)
    np.testing.assert_array_equal(grown.present[count:], present)
    np.testing.assert_array_equal(grown.inducing[:count], head.inducing)
    assert grown.jitter == head.jitter
    # More inducing points only tighten the bound of the evidence.
    flow = warp.along(warp.trajectory())
    one, more = (h.charge("evidence", flow, problem.rows) for h in (head, grown))
    assert more < one


@pytest.fixture
def few_learned(monkeypatch):
    """Sixteen points are learned, and half of the rows are points in the end."""
    monkeypatch.setattr(assembly, "FEWEST_INDUCING", 16)
    monkeypatch.setattr(assembly, "MOST_INDUCING", 16)
    monkeypatch.setattr(inducing, "SHARE", 0.5)


def smooth(X):
    return np.sin(3 * X[:, 0] * (1 + 0.3 * X[:, 1]))


def table(n=120):
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, size=(n, 2))
    return X, smooth(X) + 0.05 * rng.normal(size=n)


SMALL = {"nu": 5.0, "n_control_points": 4, "depth": 2, "max_iter": 20, "random_state": 0}


def test_a_regressor_gains_from_points_that_join(few_learned, tmp_path):
    X, y = table()
    model = WarpingRegressor(head="sparse", **SMALL).fit(X, y)
    alone = WarpingRegressor(head="sparse", n_inducing=16, **SMALL).fit(X, y)
    at = table(400)[0][120:]
    truth = smooth(at)
    errors = [np.abs(m.predict(at) - truth).mean() for m in (model, alone)]
    assert errors[0] < 0.8 * errors[1]
    first = model.warps_[0]
    assert first.predictor.posterior.points.shape[0] == 64  # half of the padded rows
    np.testing.assert_array_equal(
        first.model.head.inducing[:16], alone.warps_[0].model.head.inducing
    )
    # What it says of itself is what it predicts with.
    K = model.warping_kernel(at[:5], X)
    ridge = np.linalg.solve(model.warping_kernel(X) + model.noise_ * np.eye(len(X)), y - y.mean())
    np.testing.assert_allclose(K @ ridge + y.mean(), model.predict(at[:5]), atol=1e-6)
    # As a file, and when it goes on.
    model.save(tmp_path / "one.model")
    np.testing.assert_array_equal(load(tmp_path / "one.model").predict(at), model.predict(at))
    before = model.predict(at)
    model.set_params(warm_start=True).fit(X, y)
    assert np.abs(model.predict(at) - truth).mean() < 1.2 * np.abs(before - truth).mean()


def test_weights_are_repeated_rows(few_learned):
    X, y = table()
    count = 1 + np.arange(len(X)) % 2
    index = np.repeat(np.arange(len(X)), count)
    pair = [
        WarpingRegressor(head="sparse", **SMALL).fit(X, y, count),
        WarpingRegressor(head="sparse", **SMALL).fit(X[index], y[index]),
    ]
    np.testing.assert_array_equal(*(m.predict(X) for m in pair))


def test_rows_of_the_batch_may_be_more_than_those_seen(few_learned, double_precision):
    X, y = table()
    model = WarpingRegressor(head="sparse", training_rows=80, **SMALL).fit(X, y)
    points = model.warps_[0].predictor.posterior.points
    assert len(points) == 64
    assert isinstance(model.warps_[0].model.head.inducing, np.ndarray)
    assert np.isfinite(model.predict(X, return_std=True)[1]).all()
