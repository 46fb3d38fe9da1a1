"""The squared hinge to rounding: the same machine by every route, with exact zeros."""

import numpy as np
import pytest

from ideareg import kernels as ik
from ideareg.convex import solve
from ideareg.margin import FEW, Formed, Spanned, exact_machine, exact_path, machine, machine_path
from ideareg.pointwise import SquaredHinge

pytestmark = pytest.mark.usefixtures("double_precision")

CONSTANT = 10.0
RIDGES = (0.01, 0.1, 1.0)


def problem(n, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    y = np.where(np.hypot(*X.T) + 0.3 * rng.normal(size=n) < 1.2, 1.0, -1.0)
    return np.asarray(ik.Gaussian().gram(X)), y, rng.integers(0, 3, size=n).astype(float)


@pytest.mark.parametrize("ridge", RIDGES)
def test_it_is_the_minimum_of_the_dual(ridge):
    gram, y, weight = problem(60)
    found = machine(Formed(gram, CONSTANT), y, weight, ridge)
    exact = np.asarray(solve(SquaredHinge(), gram + CONSTANT**2, y[:, None], weight, ridge))[:, 0]
    np.testing.assert_allclose(found.dual, exact, atol=1e-9 * np.abs(exact).max())
    np.testing.assert_allclose(found.f, (gram + CONSTANT**2) @ exact, atol=1e-8)
    satisfied = (weight == 0) | (y * found.f > 1)
    assert satisfied.any() and not found.dual[satisfied].any()


@pytest.mark.parametrize("ridge", RIDGES)
@pytest.mark.parametrize("centres", [9, 60])
def test_features_cost_the_fewer_and_give_the_same(ridge, centres):
    """Features of fewer columns than rows within the margin are solved the other way round."""
    gram, y, weight = problem(60)
    T = np.hstack([np.linalg.cholesky(gram + 1e-9 * np.eye(60))[:, :centres], np.full((60, 1), 5)])
    by_rows = machine(Formed(T @ T.T, 0.0), y, weight, ridge)
    by_features = machine(Spanned(T), y, weight, ridge)
    np.testing.assert_allclose(by_features.f, by_rows.f, atol=1e-7)


def test_guesses_save_steps_and_move_nothing():
    gram, y, weight = problem(2 * FEW + 11)
    Y = np.stack([y, np.where(np.arange(len(y)) % 3 == 0, 1.0, -1.0)], axis=1)
    cold = [machine(Formed(gram, CONSTANT), y, weight, ridge).f for ridge in RIDGES]
    by_halves = [exact_machine(gram, CONSTANT, y, weight, ridge).f for ridge in RIDGES]
    along = [m.f for m in machine_path(Formed(gram, CONSTANT), y, weight, RIDGES)]
    both = [columns[0].f for columns in exact_path(gram, CONSTANT, Y, weight, RIDGES)]
    for other in (by_halves, along, both):
        np.testing.assert_allclose(other, cold, atol=1e-8)
    wrong = machine(Formed(gram, CONSTANT), y, weight, 0.1, -100 * y).f
    np.testing.assert_allclose(wrong, cold[1], atol=1e-8)


def test_rows_of_one_class_are_met_by_the_constant():
    gram, _, _ = problem(20)
    alone = machine(Formed(gram, CONSTANT), np.ones(20), np.ones(20), 1e-3, np.full(20, 2.0))
    np.testing.assert_allclose(alone.f, 1.0, atol=1e-3)
