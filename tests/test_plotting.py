"""Figures: they show what they say, on the Axes they are given, and touch nothing else."""

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from scipy.stats import norm

from ideareg import plotting


class Shear:
    """A warp that moves column 2 by column 1, and column 0 hardly."""

    def __init__(self, d=3):
        self.control_points_ = np.random.default_rng(1).normal(size=(5, d))

    def transform(self, X):
        moved = np.array(X, dtype=float)
        moved[:, 0] *= 1.01
        if moved.shape[1] > 2:
            moved[:, 2] += 0.5 * np.tanh(moved[:, 1])
            moved[:, 1] *= 1.1
        return moved


@pytest.fixture
def ax():
    return Figure().subplots()


@pytest.fixture
def rows():
    random = np.random.default_rng(0)
    mean, std = random.normal(size=400), np.full(400, 0.5)
    return mean + std * random.normal(size=400), mean, std


LEDGER = {"energy": [1.0, 1.02, 0.99], "nu": 4.0}


def test_energy_starts_at_zero(ax):
    assert plotting.energy(LEDGER, ax=ax) is ax
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), LEDGER["energy"])
    assert ax.get_ylim()[0] == 0


def test_energy_of_a_stack_leaves_out_what_has_none(ax):
    still = {"energy": [0.0, 0.0, 0.0], "nu": np.inf}
    plotting.energy([LEDGER, still, LEDGER | {"nu": 20.0}], ax=ax)
    assert [line.get_label() for line in ax.lines] == ["ν = 4", "ν = 20"]
    plotting.energy([still])


def test_history_is_measured_from_the_best(ax):
    plotting.history({"loss": [5.0, 3.0, np.nan, 2.0]}, ax=ax)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [3, 1])
    assert ax.get_yscale() == "log"


def test_history_without_iterations(ax):
    assert "no iterations" in [t.get_text() for t in plotting.history({}, ax=ax).texts]


def test_calibration_of_honest_predictions_is_near_the_diagonal(ax, rows):
    plotting.calibration(*rows, ax=ax)
    level, share = ax.lines[1].get_data()
    assert np.abs(share - level).max() < 0.08
    assert (share[0], share[-1]) == (0, 1)


def test_calibration_of_bold_predictions_is_not(ax, rows):
    y, mean, std = rows
    plotting.calibration(y, mean, std / 4, ax=ax)
    level, share = ax.lines[1].get_data()
    assert share[10] > level[10] + 0.2


def test_intervals_hold_what_they_promise(ax, rows):
    y, mean, std = rows
    plotting.interval_reliability(norm.cdf((y - mean) / std), ax=ax)
    promised, share = ax.lines[1].get_data()
    assert np.abs(share - promised).max() < 0.08
    plotting.interval_reliability(norm.cdf(4 * (y - mean) / std), ax=ax)
    assert (ax.lines[3].get_ydata() < promised).all()


def test_histogram_of_honest_predictions_is_flat(ax, rows):
    y, mean, std = rows
    plotting.pit_histogram(norm.cdf((y - mean) / std), ax=ax)
    heights = [bar.get_height() for bar in ax.patches if bar.get_width() < 0.5]
    assert len(heights) == 10
    assert np.mean(heights) == pytest.approx(1)
    assert np.abs(np.array(heights) - 1).max() < 0.5


def test_reliability_of_classes_tells_the_error(ax):
    P = np.array([[0.9, 0.1]] * 9 + [[0.2, 0.8]])
    plotting.reliability_of_classes([0] * 10, P, ax=ax)
    np.testing.assert_allclose(ax.lines[1].get_data(), [[0.8, 0.9], [0.0, 1.0]])
    assert ax.lines[1].get_label() == "observed, error 0.170"


class Line:
    """A model that is sure of nothing but its mean."""

    def predict(self, X):
        return X[:, 0]

    def predict_interval(self, X, level):
        return X[:, 0] - level, X[:, 0] + level

    def sample_y(self, X, n):
        return np.repeat(X, n, axis=1)


def test_predictive_reaches_beyond_the_rows(ax):
    plotting.predictive(Line(), [[0.0], [1.0]], [0.0, 1.0], samples=3, ax=ax)
    assert [line.get_label() for line in ax.lines if line.get_label()[0] != "_"] == [
        "draws",
        "mean",
    ]
    assert ax.get_xlim() == (-0.1, 1.1)
    plotting.predictive(Line(), [[0.0], [1.0]], [0.0, 1.0], samples=0, reach=(2, 3))


def test_draws_of_a_prior(ax):
    x = np.array([1.0, 0.0, 2.0])
    draws = np.random.default_rng(0).normal(size=(50, 3, 1))
    plotting.prior_draws(x, draws, ax=ax)
    np.testing.assert_allclose(ax.lines[0].get_data(), [[0, 1, 2], draws[0, [1, 0, 2], 0]])
    plotting.prior_flow(draws)


def test_predictions_tell_what_is_outside(ax, rows):
    y, mean, std = rows
    plotting.predictions(y, mean, std, ax=ax)
    outside = (np.abs(y - mean) > norm.ppf(0.95) * std).sum()
    shown = {line.get_label(): len(line.get_xdata()) for line in ax.lines}
    assert shown["outside"] == outside
    assert shown["within 90 %"] == 400 - outside


def test_nugget_path_is_relative_to_its_first_value(ax):
    path = {"nugget": [0.0, 0.1], "rmse": [2.0, 1.0], "action": [0.0, 3.0], "lipschitz": [8.0, 2.0]}
    assert plotting.nugget_path(path, ax=ax) is ax
    shown = {line.get_label(): list(line.get_ydata()) for line in ax.lines}
    assert shown == {
        "held-out error": [1, 0.5],
        "action": [0, 3],
        "certified Lipschitz": [1, 0.25],
    }
    assert ax.get_xscale() == "symlog"


def test_large_tables_are_thinned(ax):
    y = np.random.default_rng(0).normal(size=20_000)
    plotting.predictions(y, y, np.ones(20_000), ax=ax)
    assert len(ax.lines[0].get_xdata()) == plotting.MAX_POINTS


def test_most_moved():
    X = np.random.default_rng(0).normal(size=(50, 3))
    assert plotting.most_moved(Shear(), X) == (1, 2)
    assert plotting.most_moved(Shear(), X[:, :1]) == (0,)
    assert plotting.most_moved(Shear(), np.ones((50, 3))) == (0, 1)


def test_warped_space_shows_the_columns_that_move(ax):
    X = np.random.default_rng(0).normal(size=(50, 3))
    plotting.warped_space(Shear(), X, names=["a", "b", "$c"], ax=ax)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("b", "$c")
    arrows = next(c for c in ax.collections if type(c).__name__ == "Quiver")
    points = Shear().control_points_
    np.testing.assert_allclose(arrows.V, 0.5 * np.tanh(points[:, 1]))
    plotting.warped_space(Shear(), X, features=(0, 2))


def test_warped_space_of_one_column(ax):
    X = np.linspace(0, 1, 50)[:, None]
    plotting.warped_space(Shear(1), X, ax=ax)
    x, y = ax.lines[1].get_data()
    np.testing.assert_allclose(y, 1.01 * x)


def test_svg_is_self_contained_and_reproducible():
    def draw(ax):
        ax.set_title("a < b")
        plotting.energy(LEDGER, ax=ax)

    one, other = (plotting.as_svg(draw, (3, 2), "salt") for _ in range(2))
    assert one == other
    assert one.startswith("<svg")
    assert "Energy per layer" in one
    assert "<metadata" not in one
    assert "DejaVu" not in one


def test_style_is_not_global(rows):
    before = dict(matplotlib.rcParams)
    axes = plotting.calibration(*rows)
    assert dict(matplotlib.rcParams) == before
    assert axes.figure in map(pyplot.figure, pyplot.get_fignums())


@pytest.fixture(autouse=True)
def _close():
    yield
    pyplot.close("all")
