"""The peers of the regression benchmark: their forecasts, and when they run."""

from importlib.util import find_spec

import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin

from ideareg.bench import peers, reach, resultpage
from ideareg.bench.reach import Point
from ideareg.bench.suite import Case
from ideareg.bench.uci import METHODS, UCI
from ideareg.report import held_out

LIBRARIES = {"xgboost": "xgboost", "svgp": "gpytorch", "deep-gp": "gpytorch"}
PROCESSES = ("svgp", "deep-gp")
NOISE = 0.1


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    if find_spec("gpytorch"):
        for name, value in {"INDUCING": 40, "DEEP_INDUCING": 20, "SAMPLES": 4}.items():
            monkeypatch.setattr(f"ideareg.bench.variational.{name}", value)


def rows(n, seed):
    """Targets in large units, far from zero, with noise of 100 NOISE; a column is constant."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, size=(n, 3)) * [1.0, 1.0, 0.0]
    return X, 1000 + 100 * (np.sin(2 * X[:, 0]) + X[:, 1] + NOISE * rng.normal(size=n))


def fitted(method, n=300, steps=300):
    pytest.importorskip(LIBRARIES.get(method, "numpy"), reason="a peer, not a dependency")
    model = METHODS[method](3)
    if method in PROCESSES:
        model.steps = steps
    return model.fit(*rows(n, 0))


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=pytest.mark.slow if name in PROCESSES else ())
        for name in UCI.on_request
    ],
)
def test_forecasts_are_near_the_targets_and_know_their_error(method):
    found = held_out(fitted(method), *rows(300, 1))
    deviation = found.y.std()
    assert 100 * NOISE < found.rmse < 0.5 * deviation
    assert 0.75 < found.coverage() <= 1
    plain = held_out(Constant(), *rows(300, 1))
    assert found.ll > plain.ll and 0 < found.crps.mean() < 0.5 * plain.crps.mean()


class Constant:
    """The mean and the deviation of the targets, whatever the row."""

    def predict(self, X, return_std):
        y = rows(300, 0)[1]
        return np.full(len(X), y.mean()), np.full(len(X), y.std())


@pytest.mark.parametrize("method", UCI.on_request)
def test_fits_repeat(method):
    X = rows(20, 2)[0]
    one, other = (fitted(method, 40, steps=5).predict_mixture(X) for _ in range(2))
    np.testing.assert_array_equal(one.mean, other.mean)
    np.testing.assert_array_equal(one.std, other.std)


def test_the_noise_is_that_of_rows_left_out():
    class Memory(RegressorMixin, BaseEstimator):  # no error on its own rows
        def fit(self, X, y):
            self.known_ = dict(zip(X[:, 0], y, strict=True))
            return self

        def predict(self, X):
            return np.array([self.known_.get(x, 0.0) for x in X[:, 0]])

    X, y = np.arange(50.0)[:, None], np.random.default_rng(0).normal(size=50)
    model = peers.WithNoise(Memory()).fit(X, y)
    assert model.std == pytest.approx(np.sqrt(np.mean(y**2)), rel=1e-12)
    mean, std = model.predict_mixture(X).moments()
    np.testing.assert_array_equal(mean, y)
    np.testing.assert_allclose(std, model.std)


def test_methods_that_are_asked_for():
    assert UCI.chosen("") == ["ideareg", "head", "sklearn-gp"]
    assert UCI.chosen("all") == list(UCI.methods)
    assert UCI.chosen("mlp, head") == ["mlp", "head"]


def test_absent_libraries_are_named_with_their_extra(monkeypatch):
    monkeypatch.setattr("ideareg.bench.suite.find_spec", lambda name: None)
    absent = UCI.absent(UCI.chosen("all"))
    assert list(absent) == list(LIBRARIES)
    assert absent["deep-gp"] == "it needs gpytorch: pip install 'ideareg[bench]'"


def test_a_page_with_all_methods(tmp_path):
    found = [
        {"set": name, "split": 0, "method": method, "rmse": 1.0 + place, "ll": -1.0, "crps": 0.5,
         "coverage": 0.9, "seconds": 1.0}
        for name in ("yacht", "boston")
        for place, method in enumerate(UCI.methods)
    ]  # fmt: skip
    resultpage.write(tmp_path / "page.html", UCI, "All", found)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count("<svg") == 5 and all(method in text for method in UCI.methods)


# ---------------------------------------------------------------- to an error


def test_the_curve_ends_at_the_error_or_with_the_time(monkeypatch):
    pytest.importorskip("gpytorch", reason="a peer, not a dependency")
    monkeypatch.setattr(reach, "EVERY", 2)
    case = Case(*rows(40, 0), *rows(20, 1))
    easy = list(reach.trained(case, rmse=1e6, seconds=60))
    assert len(easy) == 1 and 0 < easy[0].seconds < 60 and easy[0].rmse < 1e6
    timed = list(reach.trained(case, rmse=0.0, seconds=0.3))
    assert timed[-1].seconds >= 0.3 and all(point.seconds < 0.3 for point in timed[:-1])
    assert [point.seconds for point in timed] == sorted(point.seconds for point in timed)


def test_verdict_and_table():
    ours = Point("ideareg", 10.0, 0.06)
    curve = [Point("deep-gp", s, r) for s, r in ((10.0, 0.2), (20.0, 0.199), (30.0, 0.06))]
    assert reach.verdict(ours, curve, 0.065).endswith(
        "deep-gp: RMSE 0.06 after 30 s, 3.0 times as long"
    )
    assert reach.verdict(ours, curve, 0.05).startswith("ideareg: not at 0.05: 0.06 after 10 s")
    table = reach.table([ours, *curve])
    assert list(table.columns[1].cells) == ["10.0", "10.0", "30.0"]
