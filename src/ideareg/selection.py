r"""Which warps, and how much of each: chosen by cross-validated predictive density.

Every candidate (a strength of regularisation ν with a number of control points; ν = ∞ is no warp)
is fitted on every fold. Fold and candidate change only data, so all of these fits run one compiled
function. The held-out log densities, with the variance of the warp in them, then give the weights
of a *stack*, the mixture of predictive distributions that would have predicted best,

.. math:: \max_{\pi}\ \sum_i w_i \log\sum_j \pi_j\, p_j(y_i) + m\sum_j\log\pi_j,

where m rows for each candidate speak for all alike: what differs makes different mistakes, and few
held-out rows are too sure of which is best.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from ideareg._rows import bucket, pad
from ideareg._types import Result
from ideareg.concurrency import Crew
from ideareg.readout import Batch
from ideareg.training import Descent, Model, Problem
from ideareg.uncertainty import conclude, predict_moments

Floats = NDArray[np.float64]

STACKING_ITERATIONS = 500
# Rows in favour of each candidate before any is seen, and at most this share of those seen.
PRIOR_ROWS, PRIOR_SHARE = 10.0, 0.04
# A share of the stack below this is not worth a fit.
LEAST_SHARE = 0.05
# The log density of a row under a fit that broke down.
WORST = -1e6


class Candidate(NamedTuple):
    """A strength ν of the penalty on the action, and a number of control points.

    A ``length`` is that of the kernel after the warp, in units of its start, where it is given.
    ``bend`` says which targets it predicts: 0 the ordinary ones, 1 those with least skew.
    """

    nu: float
    control_points: int
    length: float | None = None
    bend: float = 0.0


class Selection(NamedTuple):
    """What cross-validation found.

    Attributes
    ----------
    candidates : list of Candidate
    density : ndarray, shape (n, candidates)
        Held-out log density of each row, summed over outputs.
    rows : ndarray, shape (n,)
        The weight of each row.
    weights : ndarray, shape (candidates,)
        The stack.
    descents : list of Descent
        The fit of each candidate on the last fold: where there is one fold, a good place to go on
        from with all rows.
    interrupted : Descent or None
        The fit during which the user interrupted.
    """

    candidates: list[Candidate]
    density: Floats
    rows: Floats
    weights: Floats
    descents: list[Descent]
    interrupted: Descent | None


def normal_log_density(y: Floats, mean: Floats, variance: Floats) -> Floats:
    """Return log N(y; mean, variance), elementwise."""
    return -0.5 * (np.log(2 * np.pi * variance) + (y - mean) ** 2 / variance)


def folds(n: int, count: int, random: np.random.RandomState) -> NDArray[np.intp]:
    """Return the fold of each of ``n`` rows; sizes differ by at most one."""
    return random.permutation(np.arange(n) % count)


def hold_out(n: int, share: float, random: np.random.RandomState) -> NDArray[np.intp]:
    """Return 0 for a random ``share`` of ``n`` rows, -1 for those that no fold holds out."""
    fold = np.full(n, -1)
    fold[: max(int(share * n), 1)] = 0
    return random.permutation(fold)


def held_out_density(model: Model, rows: Batch, X: Floats, Y: Floats) -> Floats:
    """Return the log density of each of the rows X, Y under the model fitted to ``rows``."""
    fitted = conclude(model, rows)
    moments = predict_moments(fitted, pad(X, bucket(len(X))))
    mean, variance = (np.asarray(each)[: len(X)] for each in moments)
    return normal_log_density(Y, mean, variance + float(fitted.posterior.noise)).sum(1)


def cross_validate(
    problems: list[tuple[Candidate, Problem]],
    fold: NDArray[np.intp],
    *,
    fit: Callable[[Problem, int], Descent],
    crew: Crew | None = None,
) -> Selection:
    """Fit every candidate on every fold and stack them by their held-out densities.

    Parameters
    ----------
    problems : list of (Candidate, Problem)
        On the same padded rows; the rows beyond ``fold`` are padding.
    fold : ndarray of int, shape (n,)
        The fold that holds out each row; -1 for none.
    fit : callable
        Returns the `Descent` of a problem, which is also told its number.
    crew : Crew, optional
        Runs them side by side.
    """
    n, count = len(fold), len(problems)
    rows = problems[0][1].rows
    weight = np.asarray(rows.weight)
    density = np.full((n, count), np.nan)

    def attempt(k: int, j: int) -> tuple[Descent, Floats | None]:
        out = np.flatnonzero(fold == k)
        kept = weight.copy()
        kept[out] = 0.0
        problem = problems[j][1]
        seen = problem.rows._replace(weight=kept)
        descent = fit(problem._replace(rows=seen), k * count + j)
        if descent.result is Result.interrupted:
            return descent, None
        X, Y = (np.asarray(part)[out] for part in (problem.rows.X, problem.rows.Y))
        try:
            return descent, held_out_density(descent.model, seen, X, Y)
        except KeyboardInterrupt:
            return descent, None

    pairs = [(k, j) for k in range(fold.max() + 1) for j in range(count)]
    jobs = [partial(attempt, k, j) for k, j in pairs]
    X, Y = (np.asarray(part)[np.flatnonzero(fold == 0)] for part in (rows.X, rows.Y))
    beside = partial(held_out_density, problems[0][1].model, rows, X, Y)
    attempts = (crew or Crew(1)).run(jobs, lambda made: made[1] is None, beside)
    judged = fold >= 0
    selection = Selection(
        [candidate for candidate, _ in problems],
        density[judged],
        weight[:n][judged],
        np.zeros(count),
        [made[0] for made in attempts[-count:] if made is not None],
        None,
    )
    made = [each for each in attempts if each is not None]
    scores = [score for _, score in made if score is not None]
    if len(scores) < len(jobs):
        cut = next((descent for descent, score in made if score is None), made[-1][0])
        return selection._replace(interrupted=cut)
    for (k, j), score in zip(pairs, scores, strict=True):
        density[fold == k, j] = np.where(np.isfinite(score), score, WORST)
    found = density[judged]
    return selection._replace(density=found, weights=shrunk_weights(found, selection.rows))


def stacking_weights(density: Floats, weight: Floats, prior: float = 0.0) -> Floats:
    """Return the mixture weights with the greatest held-out likelihood, by EM.

    ``prior`` rows speak for each candidate alike, unless its fit broke down.

    Examples
    --------
    >>> density = np.log([[0.9, 0.1], [0.9, 0.1]])
    >>> stacking_weights(density, np.ones(2)).round(3).tolist()
    [1.0, 0.0]
    >>> stacking_weights(density, np.ones(2), prior=1.0).round(2).tolist()
    [0.69, 0.31]
    """
    # Half of the worst: densities of bent targets come in other units.
    votes = np.where((density > WORST / 2).all(axis=0), prior, 0.0)
    likelihood = np.exp(density - density.max(axis=1, keepdims=True))
    pi = np.full(density.shape[1], 1 / density.shape[1])
    for _ in range(STACKING_ITERATIONS):
        joint = likelihood * pi
        pi = weight @ (joint / joint.sum(axis=1, keepdims=True)) + votes
        pi /= pi.sum()
    return pi


def shrunk_weights(density: Floats, weight: Floats) -> Floats:
    """Return the `stacking_weights` with rows in favour of all alike."""
    return stacking_weights(density, weight, min(PRIOR_ROWS, PRIOR_SHARE * weight.sum()))


def stacked(density: Floats, weights: Floats) -> Floats:
    """Return the log density of each row under the stack, shape (n,)."""
    with np.errstate(divide="ignore"):
        return np.asarray(logsumexp(density + np.log(weights), axis=1))


def joined(first: Selection, second: Selection) -> Selection:
    """Return the stack of the candidates of both, on the same folds.

    The second have weight only where held-out rows want some of them, without rows in their favour.
    Where they were interrupted, the best of the first is handed back.
    """
    if second.interrupted is not None:
        best = first.descents[int(first.weights.argmax())]
        return first._replace(interrupted=best)
    density = np.hstack([first.density, second.density])
    count = len(first.candidates)
    if stacking_weights(density, first.rows)[count:].sum() < LEAST_SHARE:
        weights = np.append(first.weights, np.zeros(len(second.candidates)))
    else:
        weights = shrunk_weights(density, first.rows)
    return first._replace(
        candidates=first.candidates + second.candidates,
        density=density,
        weights=weights,
        descents=first.descents + second.descents,
    )


def keep_heaviest(weights: Floats, count: int, least: float) -> Floats:
    """Return the weights with all but the ``count`` heaviest above ``least`` set to zero."""
    kept = np.zeros_like(weights)
    order = np.argsort(-weights, kind="stable")[:count]
    chosen = [j for j in order if weights[j] >= least] or [int(order[0])]
    kept[chosen] = weights[chosen]
    return kept / kept.sum()
