"""From standardised rows to fitted warps: select, fit, condition.

This is the order of a fit, and the only place that knows it. Inputs are canonical, standardised
NumPy rows; outputs are modules with NumPy or device leaves. Everything here runs inside the
caller's float64 scope.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from numpy.typing import NDArray

from ideareg._rows import Bent, Index, Rows, draw
from ideareg._types import Result
from ideareg.assembly import (
    BENDS,
    FOLDED_ROWS,
    Assembler,
    Settings,
    batch,
    candidates,
    capacity_for,
)
from ideareg.concurrency import Crew
from ideareg.inducing import conclude_with
from ideareg.ledger import ledger, of_flow
from ideareg.local import Local, learn_local
from ideareg.pointwise import AbstractBoxed
from ideareg.readout import Batch, SparseHead
from ideareg.selection import (
    LEAST_SHARE,
    Candidate,
    Selection,
    cross_validate,
    folds,
    hold_out,
    joined,
    keep_heaviest,
)
from ideareg.sparsity import settle
from ideareg.tails import Tails, learn_tails
from ideareg.training import Descent, Evaluate, Model, Problem, descend, evaluator
from ideareg.uncertainty import Predictor, at_depth, concluded
from ideareg.unseen import ALONE_ROWS, KEPT_ROWS, Residuals, errors_unseen

Floats = NDArray[np.float64]
Report = Callable[[str, int, dict[str, float]], bool | None]

# The rows held out where they are many, and where they are few and there are no folds; and how much
# the selected fits are gone on with.
HELD_OUT, FEW_HELD_OUT = 0.1, 1 / 3
CONTINUED = 0.5  # of the iterations


class FittedWarp(NamedTuple):
    """One warp of the stack, ready to predict."""

    model: Model
    predictor: Predictor
    nu: float
    weight: float
    ledger: dict[str, Any]
    history: dict[str, list[float]]
    tuned: Any = None  # what held-out rows decided for a classifier
    bend: float = 0.0  # of the targets that it predicts
    local: Local | None = None  # what near rows correct
    tails: Tails = Tails()  # of the noise

    def at_depth(self, depth: int) -> FittedWarp:
        """Return the same warp cut into ``depth`` layers."""
        predictor = at_depth(self.predictor, depth)
        model = eqx.tree_at(lambda m: m.warp, self.model, predictor.warp)
        books = self.ledger | of_flow(predictor.trajectory, self.nu)
        local = self.local and self.local.after(predictor)
        return self._replace(model=model, predictor=predictor, ledger=books, local=local)


@dataclass
class Fitted:
    """Outcome of `fit_warps`."""

    warps: list[FittedWarp]
    selection: Selection | None
    weights: Floats  # of the candidates, zero where one was dropped
    result: Result
    iterations: int


def fit_reported(
    settings: Settings, report: Report, stage: str, problem: Problem, number: int = 0, *,
    share: float = 1.0, evaluator: Callable[[Problem], Evaluate] = evaluator,
) -> Descent:  # fmt: skip
    """Descend for a share of the iterations, and report each with stage and number."""

    def reported(iteration: int, record: dict[str, float]) -> bool | None:
        return report(stage, iteration, {**record, "descent": number})

    return descend(
        problem,
        max_iter=max(round(share * settings.max_iter), 1),
        gtol=settings.tol,
        callback=reported,
        evaluator=evaluator,
    )


class Sums(NamedTuple):
    """How sums over rows are done: on this device, unless the rows are on many.

    Attributes
    ----------
    evaluator : callable
        See `ideareg.training.descend`.
    share : callable
        Spreads rows over the devices.
    everything : callable or None
        Returns the rows that condition the heads, where a fit is given only a sample of them,
        with targets of the bend that it is told.
    """

    evaluator: Callable[[Problem], Evaluate] = evaluator
    share: Callable[[Batch], Batch] = lambda rows: rows
    everything: Callable[[float], Batch] | None = None

    def all_rows(self, rows: Rows, settings: Settings, bend: float) -> Batch:
        """Return the rows that condition the heads: these, unless there are more elsewhere."""
        return self.everything(bend) if self.everything else batch(rows, settings)


def fit_warps(
    rows: Rows, settings: Settings, random: np.random.RandomState, *,
    bent: Mapping[float, Bent] | None = None,
    start: list[FittedWarp] | None = None,
    report: Report = lambda stage, iteration, record: None,
    sums: Sums = Sums(),  # noqa: B008
) -> Fitted:  # fmt: skip
    """Select and fit the warps for canonical, standardised ``rows``.

    Parameters
    ----------
    rows : Rows
    settings : Settings
    random : RandomState
        Decides k-means starts, folds and the rows that selection sees.
    bent : mapping, optional
        Their targets by how far they are bent.
    start : list of FittedWarp, optional
        Go on from these, with their weights, instead of selecting anew.
    report : callable
        Told the stage, iteration and record of every step; a true answer ends that descent.
    sums : Sums

    Returns
    -------
    Fitted
        Usable also after Ctrl-C: then ``result`` says so.
    """
    bent = bent or {}
    seed, n = int(random.randint(2**31 - 1)), len(rows)
    pool, capacity = candidates(settings, n), capacity_for(settings, n)
    crew = Crew(settings.workers)
    fit = partial(fit_reported, settings, crew.in_turn(report), evaluator=sums.evaluator)
    selection, weights = None, np.full(len(pool), 1 / len(pool))
    everything = cache(lambda b: sums.all_rows(bent[b].on(rows) if b else rows, settings, b))
    if start is not None:
        pool = [Candidate(w.nu, capacity, bend=w.bend * (w.bend in bent)) for w in start]
        weights = np.array([w.weight for w in start])
    elif len(pool) > 1:
        selection = _select(rows, bent, settings, random, pool, capacity, seed, fit, crew)
        if selection.interrupted is not None:
            return _interrupted(everything(settings.bend), settings, selection)
        pool = selection.candidates
        weights = keep_heaviest(selection.weights, settings.n_warps, LEAST_SHARE)

    # Every row conditions the head; the descents see as many as settle what they learn.
    index = draw(n, n if settings.control_rows else settings.training_rows, random)
    targets = _taken(bent, index)
    assembler = Assembler(rows.take(index), settings, seed, capacity, targets, final=True)

    seen = cache(lambda bend: sums.share(assembler.readings[bend]))
    more = assembler.joining(len(everything(pool[weights.argmax()].bend).X), random)

    def descent(j: int) -> Descent:
        problem, share = assembler.problem(pool[j]), 1.0
        if start is not None:
            problem = _continue_from(problem, start[j].model)
        elif selection is not None and _goes_on(settings, n):
            found = assembler.grown(selection.descents[j].model)
            problem, share = _continue_from(problem, found), CONTINUED
        return _settled(fit("fit", problem, j, share=share), problem, settings, fit)

    chosen = np.flatnonzero(weights)
    descents = crew.run([partial(descent, j) for j in chosen], _interrupts)
    decides = selection is not None or any(w.local or w.tails != Tails() for w in start or [])
    made = {int(j): each for j, each in zip(chosen, descents, strict=True) if each is not None}
    ends = [descent.result for descent in made.values()] + [Result.interrupted] * crew.stopped

    def finish(j: int) -> Callable[..., FittedWarp]:
        data = everything(pool[j].bend), seen(pool[j].bend)
        return partial(_finish, made[j], pool[j], weights[j], *data, settings)

    crew = Crew(settings.workers if n <= settings.training_rows else 1)  # memory grows by rows
    warps, cut = _finished([finish(j) for j in made], crew, more, decides)
    ends += [Result.interrupted] * cut
    iterations = sum(descent.iterations for descent in made.values())
    return Fitted(by_weight(warps), selection, weights, max(ends), iterations)


def _interrupts(descent: Descent) -> bool:
    return descent.result is Result.interrupted


def _finished(
    finishes: list[Callable[..., FittedWarp]], crew: Crew, *learned: Any
) -> tuple[list[FittedWarp], bool]:
    """Return the warps, in full until the user interrupts, and whether that happened."""

    def unless_cut(finish: Callable[..., FittedWarp]) -> FittedWarp | None:
        try:
            return finish(*learned)
        except KeyboardInterrupt:
            return None

    jobs = [partial(unless_cut, each) for each in finishes]
    try:
        done = crew.run(jobs, lambda warp: warp is None)
    except KeyboardInterrupt:  # before anything was done
        done = [None] * len(jobs)
    # A descent is worth more than the moment it takes to finish with what it learned.
    warps = [warp or finish() for warp, finish in zip(done, finishes, strict=True)]
    return warps, None in done


def _select(
    rows: Rows,
    bent: Mapping[float, Bent],
    settings: Settings,
    random: np.random.RandomState,
    pool: list[Candidate],
    capacity: int,
    seed: int,
    fit: Callable[[str, Problem, int], Descent],
    crew: Crew,
) -> Selection:
    """Try the candidates on some of the rows, then the best of them on bent targets."""
    index = draw(len(rows), settings.selection_rows, random)
    rows, bent = rows.take(index), _taken(bent, index)
    assembler = Assembler(rows, settings, seed, capacity, bent)
    if len(rows) > FOLDED_ROWS:
        fold = hold_out(len(rows), HELD_OUT, random)
    elif settings.n_folds == 1:
        fold = hold_out(len(rows), FEW_HELD_OUT, random)
    else:
        fold = folds(len(rows), min(settings.n_folds, len(rows)), random)

    def validate(pool: list[Candidate]) -> Selection:
        problems = [(candidate, assembler.problem(candidate)) for candidate in pool]
        found = cross_validate(problems, fold, fit=partial(fit, "select"), crew=crew)
        for j, candidate in enumerate(pool):
            if candidate.bend:  # in the units of the others
                found.density[:, j] += bent[candidate.bend].log_slope[fold >= 0]
        return found

    straight = validate(pool)
    if not bent or settings.bend or straight.interrupted is not None:
        return straight
    heaviest = np.argsort(-straight.weights, kind="stable")
    tried = [pool[j]._replace(bend=bend) for j, bend in zip(heaviest, BENDS, strict=False)]
    return joined(straight, validate(tried))


def _taken(bent: Mapping[float, Bent], index: Index) -> dict[float, Bent]:
    return {bend: each.take(index) for bend, each in bent.items()}


def _settled(
    descent: Descent, problem: Problem, settings: Settings, fit: Callable[..., Descent]
) -> Descent:
    """Return the descent gone on with from the rows that matter, where only some of them can."""
    sparse = settings.control_rows and isinstance(settings.loss, AbstractBoxed)
    if not sparse or not float(problem.model.warp.temper):
        return descent
    return settle(descent, problem, lambda p: fit("settle", p))


def _interrupted(rows: Batch, settings: Settings, selection: Selection) -> Fitted:
    """Condition what the interrupted fit had learned on all rows."""
    descent = selection.interrupted
    assert descent is not None
    temper = float(descent.model.warp.temper)
    candidate = Candidate(temper**-2 if temper else np.inf, 1, bend=settings.bend)
    warp = _finish(descent, candidate, 1.0, rows, rows, settings)
    return Fitted([warp], None, np.ones(1), Result.interrupted, descent.iterations)


def _finish(
    descent: Descent, candidate: Candidate, weight: float, rows: Batch, seen: Batch,
    settings: Settings, joined: Floats | None = None, decides: bool = False,
) -> FittedWarp:  # fmt: skip
    """Condition the head of a descent, which has ``seen`` some of the rows, on all of them.

    The points of ``joined`` join those that the descent learned. Where it ``decides``,
    or is told to, near rows correct what the head predicts, and tails of the noise are learned.
    """
    few = float(seen.weight.sum()) < float(rows.weight.sum())
    model, sample = descent.model, seen if few else None
    if joined is None:
        fitted, undoing = concluded(model, rows, settings.loss, sample)
    else:
        learn = settings.learn_head
        model, fitted, undoing = conclude_with(model, rows, joined, learn=learn, sample=sample)
    nu, bend = candidate.nu, candidate.bend
    books = ledger(descent, fitted.trajectory, nu)
    books["log_volume"] = float(fitted.spread.log_volume)
    # NumPy leaves: a fitted model holds nothing on a device, copies and pickles.
    model, predictor = jax.tree.map(np.asarray, (model, fitted))
    local, tails = _unexplained(predictor, undoing, rows, settings, decides)
    history, weight = descent.history, float(weight)
    return FittedWarp(model, predictor, nu, weight, books, history, None, bend, local, tails)


def _unexplained(
    fitted: Predictor, undoing: Any, rows: Batch, settings: Settings, decides: bool
) -> tuple[Local | None, Tails]:
    """Return what is learned of the noise from rows that the head has not seen."""
    gain = settings.local_gain
    near = gain == 0 or (gain is not None and decides)
    heavy = settings.tails is True or (settings.tails == "auto" and decides)
    if not near and not heavy:
        return None, Tails()
    residuals = Residuals.of(fitted, rows, KEPT_ROWS if near else ALONE_ROWS)
    learned = learn_local(fitted, undoing, residuals, gain or 0.0) if near else None
    if learned is None and not heavy:
        return None, Tails()
    local, errors = learned or (None, errors_unseen(fitted, undoing, residuals))
    return local, learn_tails(fitted, errors, heavy)


def _goes_on(settings: Settings, n: int) -> bool:
    """Whether the selected fits are gone on with: where all have the same shapes and points."""
    selected = min(n, settings.selection_rows)
    if settings.control_rows:
        return FOLDED_ROWS < n == selected
    return min(selected, settings.training_rows) > FOLDED_ROWS


def _continue_from(problem: Problem, model: Model) -> Problem:
    first = problem.model.head
    if isinstance(model.head, SparseHead) and isinstance(first, SparseHead):
        # Rows that joined the inducing points later are no part of a descent.
        model = Model(model.warp, model.head.first(len(first.inducing), first.jitter))
    shapes = [np.shape(a) for a in jax.tree.leaves(problem.model)]
    if shapes != [np.shape(a) for a in jax.tree.leaves(model)]:
        raise ValueError(
            "warm_start: the data changed shape since the last fit; set warm_start=False once."
        )
    return problem._replace(model=model)


def by_weight(warps: list[FittedWarp]) -> list[FittedWarp]:
    """Return the warps with weights that sum to 1, heaviest first."""
    total = sum(w.weight for w in warps)
    ordered = sorted(warps, key=lambda w: -w.weight)
    return [w._replace(weight=w.weight / total) for w in ordered]
