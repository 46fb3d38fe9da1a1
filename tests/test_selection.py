"""Cross-validation sees nothing of what it predicts; stacking finds the best mixture."""

import jax
import numpy as np
import pytest
from helpers import make_problem, sample
from scipy.optimize import minimize
from scipy.special import logsumexp
from scipy.stats import norm

from ideareg._types import Result
from ideareg.selection import (
    WORST,
    Candidate,
    Selection,
    cross_validate,
    folds,
    joined,
    keep_heaviest,
    normal_log_density,
    shrunk_weights,
    stacking_weights,
)
from ideareg.training import descend, pack

pytestmark = pytest.mark.usefixtures("double_precision")

CANDIDATES = [Candidate(np.inf, 4), Candidate(1.0, 4)]
FOLD = np.arange(16) % 4


def test_normal_log_density():
    y, mean, variance = np.random.default_rng(0).random((3, 5))
    expected = norm(mean, np.sqrt(variance)).logpdf(y)
    np.testing.assert_allclose(normal_log_density(y, mean, variance), expected)


def test_folds_are_even_and_random():
    fold = folds(11, 4, np.random.RandomState(0))
    assert sorted(np.bincount(fold)) == [2, 3, 3, 3]
    np.testing.assert_array_equal(fold, folds(11, 4, np.random.RandomState(0)))
    assert (fold != folds(11, 4, np.random.RandomState(1))).any()


@pytest.mark.parametrize("offset", [0.0, -1e4])
def test_stacking_weights_are_the_optimum(offset):
    rng = np.random.default_rng(1)
    density, weight = rng.normal([0, 0.5, -2], size=(40, 3)), rng.integers(1, 4, 40)
    density[:10] += offset  # a few rows that every candidate finds impossible change nothing

    def loss(pi):
        return -(weight @ logsumexp(density, b=pi, axis=1))

    simplex = {"type": "eq", "fun": lambda pi: pi.sum() - 1}
    start = np.full(3, 1 / 3)
    best = minimize(
        loss, start, method="SLSQP", bounds=[(1e-12, 1)] * 3, constraints=simplex, tol=1e-12
    ).x
    ours = stacking_weights(density, weight)
    assert loss(ours) <= loss(best) + 1e-6
    np.testing.assert_allclose(ours, best, atol=2e-3)


def test_stacking_survives_candidates_that_fail_everywhere():
    density = np.column_stack([np.zeros(5), np.full(5, -1e6)])
    np.testing.assert_array_equal(stacking_weights(density, np.ones(5)), [1.0, 0.0])


def test_shrunk_weights_favour_all_that_did_not_break_down():
    rng = np.random.default_rng(2)
    density = rng.normal([0, 3, 0], size=(400, 3))
    density[7, 2] = WORST + 5  # as one of bent targets stands in the units of the others
    weights = shrunk_weights(density, np.ones(400))
    # ten rows for each of the two that hold, and the rows seen for the better
    assert weights[2] < 1e-6 and 10 / 420 < weights[0] < 0.1
    few = shrunk_weights(density[:5, :2], np.ones(5))
    np.testing.assert_allclose(few, stacking_weights(density[:5, :2], np.ones(5), 0.2))


@pytest.mark.parametrize(
    "count, least, expected",
    [
        (4, 0.0, [0.1, 0.5, 0.0, 0.4]),
        (4, 0.2, [0, 5 / 9, 0, 4 / 9]),
        (1, 0.0, [0, 1, 0, 0]),
        (2, 0.9, [0, 1, 0, 0]),  # nobody is heavy enough: the heaviest stays
    ],
)
def test_keep_heaviest(count, least, expected):
    weights = np.array([0.1, 0.5, 0.0, 0.4])
    np.testing.assert_allclose(keep_heaviest(weights, count, least), expected)


def run(rows, fit=None):
    """Return the selection and all descents, in the order fold by candidate."""
    problems = [(c, make_problem(rows=rows, nu=c.nu)) for c in CANDIDATES]
    descents = []

    def record(problem, number):
        descents.append((fit or (lambda p: descend(p, max_iter=4)))(problem))
        return descents[-1]

    return cross_validate(problems, FOLD, fit=record), descents


@pytest.fixture(scope="module")
def selected():
    with jax.enable_x64(True):
        return run(sample())


def test_selection_scores_every_row_once(selected):
    selection, descents = selected
    assert len(descents) == 4 * len(CANDIDATES)
    assert selection.density.shape == (16, 2) and np.isfinite(selection.density).all()
    assert selection.weights.sum() == pytest.approx(1)
    assert selection.interrupted is None


def test_a_held_out_target_does_not_reach_its_own_fold(selected):
    rows = sample()
    rows.Y[5] += 3.0
    changed, descents = run(rows)
    mine = FOLD[5]
    for j, (before, after) in enumerate(zip(selected[1], descents, strict=True)):
        same = (pack(before.model) == pack(after.model)).all()
        assert same == (j // len(CANDIDATES) == mine)
    others = (mine == FOLD) & (np.arange(16) != 5)
    np.testing.assert_array_equal(changed.density[others], selected[0].density[others])
    assert (changed.density[5] < selected[0].density[5]).all()


def test_interruption_hands_back_the_running_fit():
    def interrupted(problem):
        return descend(problem, max_iter=2)._replace(result=Result.interrupted)

    selection, descents = run(sample(), interrupted)
    assert len(descents) == 1 and selection.interrupted is descents[0]


def selection_of(density, weights, interrupted=None):
    rows = np.ones(len(density))
    names = [Candidate(1.0, j) for j in range(density.shape[1])]
    return Selection(names, density, rows, np.asarray(weights), names, interrupted)


def test_two_selections_make_one_stack():
    density = np.random.default_rng(2).normal(size=(50, 3))
    first, second = selection_of(density[:, :2], [0.3, 0.7]), selection_of(density[:, 2:], [1.0])
    both = joined(first, second)
    np.testing.assert_array_equal(both.density, density)
    np.testing.assert_allclose(both.weights, shrunk_weights(density, np.ones(50)))
    assert len(both.candidates) == len(both.descents) == 3
    # those that no held-out row wants have no weight, whatever speaks for all alike
    worse = joined(first, selection_of(density[:, 2:] - 20, [1.0]))
    np.testing.assert_array_equal(worse.weights, [0.3, 0.7, 0.0])


def test_an_interrupted_second_leaves_the_best_of_the_first():
    straight = selection_of(np.zeros((5, 2)), [0.2, 0.8])
    bent = selection_of(np.full((5, 1), np.nan), [0.0], interrupted="running")
    assert joined(straight, bent).interrupted == straight.descents[1]
