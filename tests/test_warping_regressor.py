"""`WarpingRegressor` end to end: known answers, what users may expect, what it leaves alone."""

import copy
import itertools
import logging
import os
import pickle
import random
import re
import signal
import time
import warnings

import jax
import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.sparse import csr_matrix
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern
from sklearn.kernel_ridge import KernelRidge

import ideareg
from ideareg import WarpingRegressor, assembly, recipe
from ideareg import kernels as ik
from ideareg._rows import in_chunks
from ideareg.stack import noise as noise_of
from ideareg.tails import Tails

N = 40


def table(n=N, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2)) * [1, 3] + [0, 5]
    return X, np.tanh(4 * X[:, 0]) + 0.1 * X[:, 1] + 0.1 * rng.normal(size=n)


X, Y1 = table()
Y2 = np.column_stack([Y1, 3 * np.cos(X[:, 0])])
AT = table(7, seed=1)[0]


def regressor(**changes):
    """One small warp, without selection."""
    small = {"nu": 0.5, "n_control_points": 5, "depth": 2, "max_iter": 12, "random_state": 0}
    return WarpingRegressor(**{**small, **changes})


SPARSE = {"head": "sparse", "n_inducing": 8}
STACK = {
    "nu": (np.inf, 5.0, 0.5),
    "n_warps": 3,
    "n_folds": 2,
    "max_iter": 8,
    "target_power": False,
}
ROWS = {"n_control_points": "rows", "loss": "squared", "learn_head": False}


@pytest.fixture(scope="module")
def exact():
    return regressor().fit(X, Y1)


@pytest.fixture(scope="module")
def sparse():
    return regressor(**SPARSE).fit(X, Y2)


@pytest.fixture(scope="module")
def stack():
    return regressor(**STACK).fit(X, Y1)


@pytest.fixture(params=["exact", "sparse", "stack"])
def model(request):
    return request.getfixturevalue(request.param)


def answers(model):
    """Everything a model says of new rows."""
    mean, std = model.predict(AT, return_std=True)
    return model.predict(AT), mean, std, model.transform(AT), model.warping_kernel(AT)


def assert_same(one, other):
    for a, b in zip(answers(one), answers(other), strict=True):
        np.testing.assert_array_equal(a, b)


# ---------------------------------------------------------------- known answers


@pytest.mark.parametrize("still", [{"nu": np.inf}, {"depth": 0}], ids=["nu", "depth"])
def test_no_warp_is_the_kernel_machine(still):
    noise, kernel = 0.05, Matern(nu=2.5)
    given = {"learn_head": False, "standardize": False, "noise": noise}
    model = regressor(**still, **given).fit(X, Y1)
    mean, std = model.predict(AT, return_std=True)

    process = GaussianProcessRegressor(kernel, alpha=noise, optimizer=None).fit(X, Y1)
    process_mean, process_std = process.predict(AT, return_std=True)
    np.testing.assert_allclose(mean, process_mean, atol=1e-8)
    np.testing.assert_allclose(std, np.sqrt(process_std**2 + noise), atol=1e-8)

    ridge = KernelRidge(kernel="precomputed", alpha=noise).fit(kernel(X), Y1)
    np.testing.assert_allclose(mean, ridge.predict(kernel(AT, X)), atol=1e-8)
    np.testing.assert_array_equal(model.transform(AT), AT)


@pytest.mark.parametrize("name", ["exact", "sparse"])
def test_ridge_on_the_warping_kernel_is_predict(name, request):
    model = request.getfixturevalue(name)
    y = Y1 if name == "exact" else Y2
    mean, scale = y.mean(axis=0), y.std(axis=0)
    ridge = KernelRidge(kernel="precomputed", alpha=model.noise_)
    ridge.fit(model.warping_kernel(X), (y - mean) / scale)
    predicted = mean + scale * ridge.predict(model.warping_kernel(AT, X))
    np.testing.assert_allclose(model.predict(AT), predicted, atol=1e-8)


def test_the_fit_beats_its_baseline():
    """A step is what one length scale cannot say."""
    x = np.linspace(-1, 1, N)[:, None]
    step = np.tanh(30 * x[:, 0])
    plain, warped = (
        regressor(nu=nu, max_iter=40).fit(x, step).history_["loss"][-1] for nu in (np.inf, 5.0)
    )
    assert warped < plain - 5


def test_attributes(stack):
    stored = stack.cv_results_
    assert stored["param_nu"].tolist() == [np.inf, 5.0, 0.5]
    assert stored["weight"].sum() == pytest.approx(1) == stack.warp_weights_.sum()
    assert (np.diff(stack.warp_weights_) <= 0).all()
    assert stack.baseline_score_ == pytest.approx(stored["mean_test_log_density"][0])
    assert stack.score_ >= stack.baseline_score_ - 1e-12
    assert stack.n_iter_ == sum(ledger["iterations"] for ledger in stack.ledgers_)


def test_ledger_of_one_warp(exact):
    ledger = exact.ledger_
    assert exact.momentum_.shape == exact.control_points_.shape == (5, 2)
    assert len(ledger["energy"]) == 3 and ledger["nu"] == 0.5
    assert 0 < ledger["energy_drift"] < 1 and 0 <= ledger["terminal_residual"] <= 1
    assert ledger["action"] == pytest.approx(0.5 * ledger["energy"][0])
    # ½|z|² is the action up to the jitter of the whitening.
    assert ledger["action"] == pytest.approx(exact.history_["action"][-1], rel=0.05)
    assert np.isnan(exact.baseline_score_) and exact.cv_results_ == {}


@pytest.mark.slow
def test_rows_as_control_points_are_the_theory():
    model = regressor(**ROWS, noise=0.1).fit(X, Y1)
    assert model.control_points_.shape == X.shape
    order = np.lexsort(X.T[::-1])
    np.testing.assert_allclose(model.control_points_, X[order], atol=1e-12)
    assert model.score(X, Y1) > 0.8
    assert model.history_["loss"][-1] < model.history_["loss"][0]


# ---------------------------------------------------------------- predictions


def test_standard_deviation_is_the_diagonal_of_the_covariance(model):
    mean, std = model.predict(AT, return_std=True)
    other, covariance = model.predict(AT, return_cov=True)
    np.testing.assert_allclose(mean, other, atol=1e-12)
    np.testing.assert_allclose(mean, model.predict(AT), atol=1e-12)
    diagonal = np.einsum("ii...->i...", covariance)
    np.testing.assert_allclose(std**2, diagonal, rtol=1e-9)
    assert std.shape == mean.shape and (std**2 > 0).all()


def test_one_of_deviation_and_covariance(exact):
    with pytest.raises(ValueError, match="at most one of return_std, return_cov and return_bound"):
        exact.predict(AT, return_std=True, return_cov=True)


def test_outputs_keep_their_shape(exact, sparse):
    assert exact.predict(AT).shape == (7,) and sparse.predict(AT).shape == (7, 2)
    assert exact.sample_y(AT, 3).shape == (7, 3) and sparse.sample_y(AT, 3).shape == (7, 2, 3)
    assert sparse.predict(AT, return_cov=True)[1].shape == (7, 7, 2)


def test_a_single_column_of_targets_stays_one():
    model = regressor(max_iter=2).fit(X, Y1[:, None])
    assert model.predict(AT).shape == (7, 1)


def test_log_density_of_one_warp_is_normal(exact):
    mean, std = exact.predict(AT, return_std=True)
    y = mean + np.linspace(-2, 2, 7)
    np.testing.assert_allclose(exact.log_predictive_density(AT, y), norm(mean, std).logpdf(y))


def test_log_density_of_a_stack_integrates_to_one_with_its_moments(stack):
    mean, std = (a[0] for a in stack.predict(AT[:1], return_std=True))
    y = mean + std * np.linspace(-60, 60, 20001)  # its noise has tails
    density = np.exp(stack.log_predictive_density(np.repeat(AT[:1], len(y), axis=0), y))
    for power, moment in enumerate([1, 0, std**2]):
        integral = np.trapezoid(density * (y - mean) ** power, y)
        np.testing.assert_allclose(integral, moment, rtol=1e-6, atol=1e-8)


def test_samples_have_the_moments_of_the_posterior(model):
    draws = model.sample_y(AT, 4000, random_state=0)
    mean, covariance = model.predict(AT, return_cov=True)
    scale = np.atleast_1d(model._scale_y.scale) ** 2
    noise = sum(w.weight * noise_of(w) for w in model.warps_)
    for o in range(len(scale)):
        pick = (slice(None), o) if draws.ndim == 3 else slice(None)
        m, C = (mean[:, o], covariance[..., o]) if draws.ndim == 3 else (mean, covariance)
        spread = np.sqrt(np.diag(C))
        np.testing.assert_array_less(np.abs(draws[pick].mean(axis=-1) - m), 0.1 * spread)
        latent = C - noise * scale[o] * np.eye(len(C))
        slack = 0.15 * np.outer(spread, spread)
        np.testing.assert_array_less(np.abs(np.cov(draws[pick]) - latent), slack)
    np.testing.assert_array_equal(draws, model.sample_y(AT, 4000, random_state=0))


@pytest.mark.parametrize(
    "integrator",
    [
        "geodesic",
        pytest.param("symplectic_euler", marks=pytest.mark.slow),
        pytest.param("implicit_midpoint", marks=pytest.mark.slow),
    ],
)
def test_transform_round_trip(integrator):
    model = regressor(integrator=integrator, nu=20.0).fit(X, Y1)
    warped = model.transform(AT)
    assert np.abs(warped - AT).max() > 0.05
    np.testing.assert_allclose(model.inverse_transform(warped), AT, atol=1e-10)


def test_chunks_are_seamless(exact, monkeypatch):
    whole = answers(exact)
    monkeypatch.setattr("ideareg.stack.CHUNK_SPREAD", 2)
    monkeypatch.setattr(in_chunks, "__defaults__", (3,))
    for a, b in zip(answers(exact), whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------- same data, same model


@pytest.mark.parametrize("settings", [{}, SPARSE, STACK], ids=["exact", "sparse", "stack"])
def test_order_weight_and_repetition_of_rows_do_not_matter(settings):
    rng = np.random.default_rng(0)
    count = rng.integers(1, 4, N)
    count[::12] = 0
    index = rng.permutation(np.repeat(np.arange(N), count))
    Y = Y2 if settings is SPARSE else Y1
    weighted = regressor(**settings).fit(X, Y, sample_weight=count)
    assert_same(weighted, regressor(**settings).fit(X[index], Y[index]))


def test_a_row_may_come_with_several_weights():
    again = np.vstack([X, X[:20]]), np.append(Y1, Y1[:20])
    weight = np.append(np.ones(N), np.full(20, 2.0))
    merged = np.append(np.full(20, 3.0), np.ones(20))
    one = regressor().fit(*again, sample_weight=weight)
    assert_same(one, regressor().fit(X, Y1, sample_weight=merged))


def test_random_state_decides():
    def fitted(seed):
        return regressor(random_state=seed, max_iter=3).fit(X, Y1).predict(AT)

    np.testing.assert_array_equal(fitted(1), fitted(1))
    np.testing.assert_array_equal(fitted(np.random.RandomState(1)), fitted(1))
    assert (fitted(1) != fitted(2)).any()


@pytest.mark.parametrize("n", [600, pytest.param(1300, marks=pytest.mark.slow)])
def test_two_fits_agree_to_the_last_bit_in_tiles(n):
    A, b = table(n)
    first, second = (regressor(**SPARSE, max_iter=6).fit(A, b) for _ in range(2))
    np.testing.assert_array_equal(first.predict(AT), second.predict(AT))
    np.testing.assert_array_equal(first.momentum_, second.momentum_)


def test_copies_say_the_same(model):
    assert_same(model, copy.deepcopy(model))
    assert_same(model, pickle.loads(pickle.dumps(model)))


def test_warm_start_goes_on():
    model = regressor(max_iter=4, warm_start=True).fit(X, Y1)
    before, predicted = model.history_["loss"], model.predict(AT)
    after = model.fit(X, Y1).history_["loss"]
    assert after[-1] < after[0] < before[-1]
    assert (model.predict(AT) != predicted).any()
    assert_same(model.set_params(warm_start=False).fit(X, Y1), regressor(max_iter=4).fit(X, Y1))


def test_warm_start_keeps_the_stack(stack):
    model = copy.deepcopy(stack).set_params(warm_start=True, max_iter=2)
    model.fit(X, Y1)
    np.testing.assert_allclose(model.warp_weights_, stack.warp_weights_)


def test_warm_start_refuses_other_shapes():
    model = regressor(max_iter=1, warm_start=True).fit(X, Y1)
    with pytest.raises(ValueError, match="warm_start: the data changed shape"):
        model.fit(*table(200))


# ---------------------------------------------------------------- progress and interruption


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("stage", ["select", "fit"])
@pytest.mark.parametrize("by", ["callback", "signal"])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_interruption_leaves_a_usable_model(stage, by, n_jobs, tmp_path):
    def interrupt(record):
        if record["stage"] == stage and record["iteration"] == 3:
            if by == "callback":
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)  # as a slower fit gives the process time to notice

    model = regressor(**STACK, callback=interrupt, n_jobs=n_jobs)
    with pytest.warns(ConvergenceWarning, match="Interrupted by the user"):
        model.fit(X, Y1)
    assert model.ledger_["result"].startswith("Interrupted") and not model.ledger_["converged"]
    assert all(np.isfinite(answer).all() for answer in answers(model))
    assert model.warp_weights_.sum() == pytest.approx(1)
    model.save(tmp_path / "model")
    assert_same(model, ideareg.load(tmp_path / "model"))


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("cuts", [{2}, {1, 2, 3}])
def test_interruption_at_the_very_end_keeps_every_warp(n_jobs, cuts, monkeypatch, stack):
    learned = []

    def interrupt(*args):
        learned.append(args)
        if len(learned) in cuts:
            raise KeyboardInterrupt
        return Tails(5.0)

    monkeypatch.setattr("ideareg.recipe.learn_tails", interrupt)
    model = regressor(**STACK, n_jobs=n_jobs)
    with pytest.warns(ConvergenceWarning, match="Interrupted by the user"):
        model.fit(X, Y1)
    assert len(model.warps_) == len(stack.warps_) > 1
    assert set(model.tail_freedom_) == ({5.0, np.inf} if len(cuts) == 1 else {np.inf})
    assert all(np.isfinite(answer).all() for answer in answers(model))


def test_answers_do_not_depend_on_how_many_descents_run_at_a_time():
    seen = []
    both = regressor(**STACK, n_jobs=2, callback=seen.append).fit(X, Y1)
    assert_same(regressor(**STACK, n_jobs=1).fit(X, Y1), both)
    assert {(s["stage"], s["descent"]) for s in seen} >= {("select", k) for k in range(6)}
    with pytest.raises(ValueError, match="n_jobs must be"):
        regressor(n_jobs="two").fit(X, Y1)


@pytest.mark.parametrize(("n_folds", "tried"), [(1, 3), (2, 6)])
def test_a_selection_fits_each_candidate_on_each_fold(n_folds, tried):
    seen = []
    model = regressor(**{**STACK, "n_folds": n_folds}, callback=seen.append).fit(X, Y1)
    made = {(s["stage"], s["descent"]) for s in seen}
    assert {k for stage, k in made if stage == "select"} == set(range(tried))
    assert len([k for stage, k in made if stage == "fit"]) == len(model.warps_)


def test_callback_is_told_and_stops():
    seen = []
    regressor(callback=lambda record: seen.append(record) or len(seen) == 3).fit(X, Y1)
    assert [record["iteration"] for record in seen] == [1, 2, 3]
    assert seen[0].keys() >= {"stage", "loss", "data_term", "action", "gradient_norm", "seconds"}


class Counting:
    """A callback of scikit-learn that stops a fit after some tasks."""

    def __init__(self, stop_after=None):
        self.began = self.ended = self.torn_down = 0
        self.stop_after = stop_after

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        self.torn_down += 1

    def on_fit_task_begin(self, estimator, context, **data):
        self.began += 1

    def on_fit_task_end(self, estimator, context, **data):
        self.ended += 1
        return self.ended == self.stop_after


def test_callbacks_of_scikit_learn(capsys):
    callback = pytest.importorskip("sklearn.callback")
    counting = Counting()
    model = regressor(max_iter=5).set_callbacks(callback.ProgressBar(), counting)
    model.fit(X, Y1)
    assert counting.began == counting.ended == model.n_iter_ + 1
    assert counting.torn_down == 1
    stopping = Counting(stop_after=2)
    model.set_callbacks(stopping).fit(X, Y1)
    assert model.n_iter_ == 2 and stopping.torn_down == 1


def test_silence_where_nobody_looks(capsys):
    regressor(max_iter=2, verbose=1).fit(X, Y1)
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    regressor(max_iter=2, verbose=1).fit(X, Y1)
    shown = capsys.readouterr()
    assert shown.out == "" and "fit" in shown.err
    regressor(max_iter=2, verbose=0).fit(X, Y1)
    assert capsys.readouterr().err == ""


# ---------------------------------------------------------------- tables and files


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_frames_and_names(exact, frame):
    def named(A):
        return frame({"a": A[:, 0], "b": A[:, 1]})

    model = regressor().fit(named(X), Y1)
    assert model.feature_names_in_.tolist() == ["a", "b"]
    assert model.get_feature_names_out().tolist() == ["warped(a)", "warped(b)"]
    np.testing.assert_array_equal(model.predict(named(AT)), exact.predict(AT))
    assert isinstance(model.predict(named(AT)), np.ndarray)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(named(AT)[["b", "a"]])
    kind = "pandas" if frame is pd.DataFrame else "polars"
    moved = model.set_output(transform=kind).transform(named(AT))
    assert isinstance(moved, frame) and list(moved.columns) == ["warped(a)", "warped(b)"]


@pytest.mark.parametrize(
    "settings",
    [
        {
            "kernel": ik.Gaussian(0.5) + 0.3 * ik.Linear(),
            "warp_kernel": ik.Gaussian([1.0, 2.0]),
            "integrator": "symplectic_euler",
        },
        pytest.param(
            {"warp_kernel": ik.Separable(ik.Gaussian(), [[1.0, 0.3], [0.3, 1.0]]), **SPARSE},
            marks=pytest.mark.slow,
        ),
        STACK,
        {"depth": 0},
    ],
    ids=["kernels", "operator", "stack", "depth 0"],
)
def test_saved_and_loaded_models_agree(settings, tmp_path):
    model = regressor(**{"max_iter": 2, **settings}).fit(X, Y1)
    model.save(tmp_path / "model")
    loaded = ideareg.load(tmp_path / "model")
    assert_same(model, loaded)
    assert model.score(X, Y1) == loaded.score(X, Y1) > 0.5
    for one, other in zip(
        model.predict(AT, return_cov=True), loaded.predict(AT, return_cov=True), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert str(loaded.kernel) == str(model.kernel) and loaded.nu == model.nu
    assert loaded.ledgers_ == model.ledgers_ and loaded.history_ == model.history_
    np.testing.assert_equal(loaded.cv_results_, model.cv_results_)
    np.testing.assert_equal([loaded.score_, loaded.n_iter_], [model.score_, model.n_iter_])


def cauchy(x, y):
    """A user's own kernel."""
    return 1 / (1 + ((x - y) ** 2).sum())


def test_a_kernel_of_the_users_own(tmp_path):
    model = regressor(kernel=cauchy, warp_kernel=cauchy, integrator="rk4").fit(X, Y1)
    assert model.score(X, Y1) > 0.9
    assert np.isfinite(model.predict(AT, return_std=True)).all()
    with pytest.raises(TypeError, match="save: kernel holds a function of your own"):
        model.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["exact", "sparse"])
def test_tampered_arrays_are_refused(name, request):
    header, arrays = request.getfixturevalue(name).get_state()
    accepted = []
    for key, array in arrays.items():
        wrong = {
            "missing": None,
            "longer": np.concatenate([array, array]) if array.ndim else np.zeros(2),
            "deeper": array[..., None],
        }
        if array.dtype.kind == "f":
            wrong["nan"] = np.full_like(array, np.nan)
        for how, value in wrong.items():
            changed = {k: v for k, v in arrays.items() if k != key}
            if value is not None:
                changed[key] = value
            try:
                WarpingRegressor.from_state(header, changed)
            except ValueError as error:
                assert "model file" in str(error)
            else:
                accepted.append((how, key))
    assert accepted == []


def test_methods_need_a_fit():
    for method in ("predict", "transform", "inverse_transform", "sample_y", "warping_kernel"):
        with pytest.raises(NotFittedError):
            getattr(regressor(), method)(AT)


# ---------------------------------------------------------------- bad input, odd input


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"kernel": "rbf"}, "kernel must be one of 'gaussian', .*, got 'rbf'"),
        ({"kernel": 3}, "kernel must be a kernel or a function of two points, got int"),
        ({"warp_kernel": "linear"}, "warp_kernel must be one of .*, got 'linear'"),
        ({"kernel": ik.Isotropic(ik.Gaussian())}, "kernel: the regressor needs a scalar kernel"),
        ({"nu": 0.0}, "nu must be a positive number, got 0.0"),
        ({"nu": (1.0, np.nan)}, "nu must be a positive number, got nan"),
        ({"nu": ()}, "nu"),
        ({"nu": "large"}, "nu"),
        ({"n_control_points": 0}, "n_control_points must be an integer of at least 1, got 0"),
        ({"n_control_points": 2.5}, "n_control_points must be an integer .*, got 2.5"),
        ({"n_control_points": "all"}, "n_control_points must be one of 'rows', got 'all'"),
        ({"depth": -1}, "depth must be an integer of at least 0, got -1"),
        ({"depth": 2.0}, "depth must be an integer of at least 0, got 2.0"),
        ({"integrator": "euler"}, "integrator must be one of 'symplectic_euler', .*, got 'euler'"),
        ({"nugget": -1.0}, "nugget must be a non-negative number, got -1.0"),
        ({"head": "dense"}, "head must be one of 'auto', 'exact', 'sparse', got 'dense'"),
        ({"n_inducing": 0}, "n_inducing must be an integer of at least 1, got 0"),
        ({"loss": "hinge"}, "loss must be one of 'evidence', .*, got 'hinge'"),
        ({"loss": "squared"}, "loss='squared' cannot learn the head"),
        ({"noise": 0.0}, "noise must be a positive number, got 0.0"),
        ({"noise": "low"}, "noise must be a positive number, got 'low'"),
        ({"n_warps": 0}, "n_warps must be an integer of at least 1, got 0"),
        ({"n_folds": 0}, "n_folds must be an integer of at least 1, got 0"),
        ({"selection_rows": 1}, "selection_rows must be an integer of at least 10, got 1"),
        ({"training_rows": 9}, "training_rows must be an integer of at least 10, got 9"),
        ({"max_iter": True}, "max_iter must be an integer of at least 1, got True"),
        ({"tol": np.inf}, "tol must be a non-negative number, got inf"),
    ],
    ids=lambda value: repr(value) if isinstance(value, dict) else "",
)
def test_parameters_are_checked_by_name(changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        regressor(**changes).fit(X, Y1)


def test_descents_see_the_training_rows_and_all_rows_condition_the_head(monkeypatch):
    seen, descend = [], recipe.descend

    def spy(problem, **options):
        seen.append(float(np.sum(problem.rows.weight)))
        return descend(problem, **options)

    monkeypatch.setattr(recipe, "descend", spy)
    few, all_rows = (regressor(training_rows=k, **SPARSE).fit(X, Y1) for k in (10, N))
    assert seen == [10, N]
    assert not np.allclose(few.predict(AT), all_rows.predict(AT))

    # With nothing to learn the rows that a descent would see are no matter.
    given = {"nu": np.inf, "learn_head": False, "head": "exact"}
    few, all_rows = (regressor(training_rows=k, **given).fit(X, Y1) for k in (10, N))
    np.testing.assert_allclose(few.predict(AT), all_rows.predict(AT), rtol=1e-12)


@pytest.mark.parametrize(
    "changes, going_on",
    [
        ({}, True),
        ({"selection_rows": 30}, False),
        ({"training_rows": 30}, False),
        ({**ROWS, "head": "exact", "selection_rows": 80}, False),
    ],
    ids=str,
)
def test_selected_fits_are_gone_on_with_where_they_saw_rows_enough(changes, going_on, monkeypatch):
    starts, descend = [], recipe.descend

    def spy(problem, **options):
        starts.append(problem.model)
        return descend(problem, **options)

    monkeypatch.setattr(recipe, "descend", spy)
    monkeypatch.setattr(recipe, "FOLDED_ROWS", 60)
    monkeypatch.setattr(assembly, "FEWEST_INDUCING", 8)
    monkeypatch.setattr(assembly, "INDUCING_STEP", 8)
    monkeypatch.setattr(assembly, "FINAL_SHARE", 0.5)  # more points than in the selection
    options = {"nu": (np.inf, 0.5), "n_warps": 2, "max_iter": 3, "target_power": False, **changes}
    model = regressor(**{"head": "sparse", **options}).fit(*table(90))
    final = starts[-len(model.warps_) :]
    assert any(start.warp.momentum.any() for start in final) == going_on
    if going_on:
        assert {len(start.head.inducing) for start in starts[: -len(final)]} == {24}
        assert {len(start.head.inducing) for start in final} == {40}


def with_entry(A, value, dtype=float):
    A = np.array(A, dtype=dtype)
    A.flat[3] = value
    return A


@pytest.mark.parametrize(
    "bad, message",
    [
        ((with_entry(X, np.nan), Y1), "Input X contains NaN"),
        ((with_entry(X, np.inf), Y1), "Input X contains infinity"),
        ((X, with_entry(Y1, np.nan)), "Input y contains NaN"),
        ((X, with_entry(Y1, -np.inf)), "Input y contains infinity"),
        ((X + 1j, Y1), "Complex data not supported"),
        ((X, Y1 + 1j), "Complex data not supported"),
        ((with_entry(X, "u", object), Y1), "could not convert string to float: 'u'"),
        ((csr_matrix(X), Y1), "Sparse data was passed"),
        ((X[:0], Y1[:0]), r"0 sample\(s\)"),
        ((X[:, :0], Y1), r"0 feature\(s\)"),
        ((X[:, 0], Y1), "Reshape your data"),
        ((X, Y1[:-1]), "inconsistent numbers of samples"),
        ((X, Y1, np.zeros(N)), "zero"),
        ((X, Y1, -np.ones(N)), "[Nn]egative"),
        ((X, Y1, np.ones(3)), "sample_weight.shape"),
    ],
)
def test_bad_tables_are_refused_in_words(bad, message):
    model = regressor()
    with pytest.raises((ValueError, TypeError), match=message):
        model.fit(*bad)
    assert not hasattr(model, "warps_")


@pytest.mark.parametrize("method", ["predict", "transform", "inverse_transform", "warping_kernel"])
def test_bad_rows_are_refused_after_the_fit(exact, method):
    for bad, message in [
        (AT[:, :1], "X has 1 features, but WarpingRegressor is expecting 2"),
        (with_entry(AT, np.nan), "contains NaN"),
        (AT[:0], r"0 sample\(s\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            getattr(exact, method)(bad)


def test_density_needs_as_many_targets_as_rows(exact, sparse):
    with pytest.raises(ValueError, match=r"y: expected the shape \(7,\) .*, got \(5,\)"):
        exact.log_predictive_density(AT, np.zeros(5))
    with pytest.raises(ValueError, match=r"y: expected the shape \(7, 2\) .*, got \(7,\)"):
        sparse.log_predictive_density(AT, np.zeros(7))


ODD = {
    "one row": (X[:1], Y1[:1]),
    "two equal rows": (X[[0, 0]], Y1[[0, 0]]),
    "constant target": (X, np.full(N, 3.0)),
    "constant column": (np.column_stack([X[:, 0], np.full(N, 0.1)]), Y1),
    "only constant columns": (np.ones((N, 2)), Y1),
    "duplicate columns": (X[:, [0, 0]], Y1),
    "equal rows with different targets": (np.repeat(X[:20], 2, axis=0), Y1),
    "huge numbers": (1e150 * X, 1e150 * Y1),
    "tiny numbers": (1e-150 * X, 1e-150 * Y1),
    "an outlier": (with_entry(X, 1e9), with_entry(Y1, -1e9)),
}


@pytest.mark.parametrize("settings", [{"nu": 20.0}, STACK], ids=["one", "stack"])
@pytest.mark.parametrize("A, b", ODD.values(), ids=ODD)
def test_odd_tables_work(A, b, settings):
    model = regressor(**{**settings, "max_iter": 4}).fit(A, b)
    mean, std = model.predict(A, return_std=True)
    assert np.isfinite(mean).all() and np.isfinite(std).all() and (std >= 0).all()
    assert np.isfinite(model.log_predictive_density(A, b)).all()
    np.testing.assert_allclose(
        model.inverse_transform(model.transform(A)), A, rtol=1e-9, atol=1e-9 * np.abs(A).max()
    )


def test_a_constant_target_is_predicted():
    model = regressor(max_iter=4).fit(X, np.full(N, 3.0))
    np.testing.assert_array_equal(model.predict(AT), 3.0)


def test_equal_rows_with_different_targets_meet_between():
    A = np.repeat(np.arange(12.0), 3)[:, None]
    b = A[:, 0] + np.tile([-0.1, 0.0, 0.1], 12)
    np.testing.assert_allclose(regressor().fit(A, b).predict(A), A[:, 0], atol=0.1)


def test_a_constant_column_is_passed_through():
    A = np.column_stack([X[:, 0], np.full(N, 0.1)])
    model = regressor(max_iter=4).fit(A, Y1)
    other = A + np.array([0, 5])
    np.testing.assert_array_equal(model.transform(other)[:, 1], other[:, 1])
    np.testing.assert_array_equal(model.predict(other), model.predict(A))


# ---------------------------------------------------------------- manners


def global_state():
    return (
        jax.config.jax_enable_x64,
        random.getstate(),
        repr(np.random.get_state()),
        list(warnings.filters),
        list(logging.root.handlers),
        {name: str(logger) for name, logger in logging.root.manager.loggerDict.items()},
        np.geterr(),
        signal.getsignal(signal.SIGINT),
    )


def test_nothing_of_the_users_is_changed():
    regressor(**STACK).fit(X, Y1)  # imports made on the way are no news
    before = global_state()
    A, b = X.copy(), Y1.copy()
    model = regressor(**{**STACK, "random_state": None}).fit(A, b)
    answers(model)
    model.sample_y(AT)
    assert global_state() == before
    np.testing.assert_array_equal(A, X)
    np.testing.assert_array_equal(b, Y1)


def test_single_precision_of_the_user_is_kept_and_not_used(exact):
    assert not jax.config.jax_enable_x64
    assert exact.predict(AT.astype(np.float32)).dtype == np.float64
    with jax.enable_x64(True):
        np.testing.assert_array_equal(regressor().fit(X, Y1).predict(AT), exact.predict(AT))


@pytest.fixture
def compiled():
    """The names of the events of compilation while a test runs."""
    events = []

    def listen(event, duration, **_):
        if "backend_compile" in event:
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("settings", [STACK, SPARSE], ids=["stack", "sparse"])
def test_a_second_fit_of_a_bucket_compiles_nothing(compiled, settings):
    def use(n, seed):
        A, b = table(n, seed)
        b = np.column_stack([b, b**2]) if settings is SPARSE else b
        model = regressor(**settings).fit(A, b)
        model.predict(A)
        model.predict(A[:20], return_std=True)
        model.transform(A)

    use(40, 0)
    compiled.clear()
    use(45, 3)
    assert compiled == []


def test_parameters_can_be_read_back():
    assert re.match(r"WarpingRegressor\(.*nu=0.5", repr(regressor()).replace("\n", ""))


def test_depth_is_set_without_refitting():
    """The flow has no depth: predictions, their spread and the books converge as layers do."""
    rng = np.random.default_rng(5)
    A = rng.normal(size=(50, 2))
    b = np.tanh(3 * A[:, 0]) + A[:, 1]
    one = WarpingRegressor(nu=1.0, n_control_points=5, max_iter=20, random_state=0).fit(A, b)
    at = rng.normal(size=(20, 2))
    here = one.predict(at, return_std=True)
    answers = []
    for depth in (8, 16, 32):
        assert one.set_depth(depth) is one and one.depth == depth
        answers.append(np.stack(one.predict(at, return_std=True)))
        assert one.ledger_["depth"] == depth and len(one.ledger_["energy"]) == depth + 1
    steps = [np.abs(b - a).max(axis=1) for a, b in itertools.pairwise(answers)]
    assert (steps[0] > 0).all() and (steps[1] < 0.7 * steps[0]).all()
    np.testing.assert_allclose(
        np.stack(one.set_depth(4).predict(at, return_std=True)), here, rtol=1e-6
    )
    with pytest.raises(ValueError, match="depth must be an integer of at least 1"):
        one.set_depth(0)
