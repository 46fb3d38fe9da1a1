"""From standardised rows to fitted warps: assemble the problems, select, fit, condition.

This is the order of a fit, and the only place that knows it. Inputs are canonical, standardised
NumPy rows; outputs are modules with NumPy or device leaves. Everything here runs inside the
caller's float64 scope.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from numpy.typing import NDArray

from ideareg._rows import Rows, bucket, centres, column_bucket, draw, pad
from ideareg._types import Result
from ideareg.blocks import Warp
from ideareg.inducing import conclude_with, joining
from ideareg.integrators import AbstractIntegrator
from ideareg.kernels import AbstractKernel, Kernel
from ideareg.ledger import ledger, of_flow
from ideareg.pointwise import AbstractBoxed, AbstractPointwise
from ideareg.readout import AbstractHead, Batch, ExactHead, SparseHead
from ideareg.selection import (
    Candidate,
    Selection,
    cross_validate,
    folds,
    hold_out,
    keep_heaviest,
)
from ideareg.sparsity import settle
from ideareg.training import Descent, Evaluate, Model, Problem, descend, evaluator
from ideareg.uncertainty import Predictor, at_depth, conclude

Floats = NDArray[np.float64]
Report = Callable[[str, int, dict[str, float]], bool | None]

# Below this relative variance noise is rounding and jitter, not data.
NOISE_FLOOR = 1e-7
START_NOISE = 0.1
# Fewer rows than this say nothing about a warp.
FEWEST_ROWS = 20
# A share of the stack below this is not worth a fit.
LEAST_SHARE = 0.05
# Up to this many rows every row is held out once; above, a tenth is, and the fits are gone on from.
FOLDED_ROWS = 2000
HELD_OUT = 0.1
CONTINUED = 0.5  # of the iterations
# Control points by default, for few rows and for many.
FEW_POINTS, MANY_POINTS = 20, 50
# Inducing points by default: a quarter of the rows, in steps, within these bounds.
FEWEST_INDUCING, INDUCING_STEP, MOST_INDUCING = 128, 64, 256


@dataclass(frozen=True)
class Settings:
    """What a fit needs to know, checked and in its final types."""

    kernel: AbstractKernel
    warp_kernel: Kernel
    integrator: AbstractIntegrator
    depth: int
    nugget: float
    loss: str | AbstractPointwise
    nu: tuple[float, ...]
    n_control_points: tuple[int, ...]  # empty: by the number of rows
    control_rows: bool
    n_inducing: int | None
    exact: bool | None
    noise: float | None
    learn_head: bool
    n_warps: int
    n_folds: int
    selection_rows: int
    training_rows: int
    max_iter: int
    tol: float
    pad_columns: bool


class FittedWarp(NamedTuple):
    """One warp of the stack, ready to predict."""

    model: Model
    predictor: Predictor
    nu: float
    weight: float
    ledger: dict[str, Any]
    history: dict[str, list[float]]
    tuned: Any = None  # what held-out rows decided for a classifier

    def at_depth(self, depth: int) -> FittedWarp:
        """Return the same warp cut into ``depth`` layers."""
        predictor = at_depth(self.predictor, depth)
        model = eqx.tree_at(lambda m: m.warp, self.model, predictor.warp)
        books = self.ledger | of_flow(predictor.trajectory, self.nu)
        return self._replace(model=model, predictor=predictor, ledger=books)


@dataclass
class Fitted:
    """Outcome of `fit_warps`."""

    warps: list[FittedWarp]
    selection: Selection | None
    weights: Floats  # of the candidates, zero where one was dropped
    result: Result
    iterations: int


def candidates(settings: Settings, n: int) -> list[Candidate]:
    """Return the candidates worth trying on ``n`` rows; no warp comes first."""
    if settings.depth == 0:
        return [Candidate(np.inf, 1)]
    warped = [
        Candidate(nu, min(count, n))
        for nu in settings.nu
        if np.isfinite(nu)
        for count in control_point_counts(settings, n)
    ]
    still = [Candidate(np.inf, 1)] if np.inf in settings.nu else []
    if n < FEWEST_ROWS and still:
        return still
    return still + list(dict.fromkeys(warped))


def control_point_counts(settings: Settings, n: int) -> tuple[int, ...]:
    """Return the numbers of control points to try on ``n`` rows."""
    if settings.control_rows:
        return (n,)
    return settings.n_control_points or (FEW_POINTS if n <= FOLDED_ROWS else MANY_POINTS,)


def inducing_points(n: int) -> int:
    """Return the default number of inducing points for ``n`` rows."""
    wanted = INDUCING_STEP * -(-n // (4 * INDUCING_STEP))
    return int(np.clip(wanted, FEWEST_INDUCING, MOST_INDUCING))


def batch(rows: Rows, settings: Settings) -> Batch:
    """Return the rows padded to their bucket, with weight 0."""
    n, d = rows.X.shape
    width = column_bucket(d) if settings.pad_columns else d
    size = bucket(n)
    X = pad(pad(rows.X, width, axis=1), size)
    return Batch(X, pad(rows.Y, size), pad(rows.weight, size))


class Assembler:
    """Builds the problem of a candidate on given rows; all have the same shapes."""

    def __init__(self, rows: Rows, settings: Settings, seed: int, capacity: int) -> None:
        self.rows, self.settings, self.seed, self.capacity = rows, settings, seed, capacity
        self.batch = batch(rows, settings)
        self.n_inducing = settings.n_inducing or inducing_points(len(rows))
        self._centres: dict[int, Floats] = {}

    def centres(self, count: int) -> Floats:
        """Return k-means centres of the rows in padded columns, remembered by their number."""
        if count not in self._centres:
            found = centres(self.rows.X, self.rows.weight, count, self.seed)
            self._centres[count] = pad(found, self.batch.X.shape[1], axis=1)
        return self._centres[count]

    def problem(self, candidate: Candidate) -> Problem:
        """Return the problem that starts from no warp and ordinary lengths."""
        settings = self.settings
        warp, free_warp = self.warp(candidate)
        head, free_head = self._head()
        model, free = Model(warp, head), Model(free_warp, free_head)
        return Problem(model, free, self.batch, settings.loss)

    def warp(self, candidate: Candidate) -> tuple[Warp, Warp]:
        """Return the warp that starts from no momentum, and 1 where it is learned."""
        settings, d = self.settings, self.batch.X.shape[1]
        if settings.control_rows:
            points = pad(self.rows.X, d, axis=1)
        else:
            points = self.centres(candidate.control_points)
        present = pad(np.ones(len(points)), self.capacity)
        moves = float(np.isfinite(candidate.nu))
        mask = np.repeat(present[:, None], d, axis=1) * moves
        learned = float(not settings.control_rows)
        warp = Warp(
            kernel=settings.warp_kernel,
            integrator=settings.integrator,
            depth=settings.depth,
            momentum=np.zeros((self.capacity, d)),
            control_points=pad(points, self.capacity),
            log_scale=np.full(d, self._start_scale()),
            temper=np.float64(candidate.nu**-0.5 if moves else 0.0),
            nugget=np.float64(settings.nugget),
            present=present,
        )
        scale_learned = np.full(d, moves * float(settings.learn_head))
        free = replace(
            zeros(warp), momentum=mask, control_points=mask * learned, log_scale=scale_learned
        )
        return warp, free

    def _head(self) -> tuple[AbstractHead, AbstractHead]:
        settings, d = self.settings, self.batch.X.shape[1]
        learned = float(settings.learn_head)
        noise = START_NOISE if settings.noise is None else settings.noise
        floor = NOISE_FLOOR if settings.learn_head else 0.0
        common: dict[str, Any] = {
            "kernel": settings.kernel,
            "log_scale": np.full(d, self._start_scale()),
            "log_amplitude": np.float64(0.0),
            "log_noise": np.log(np.float64(max(noise - floor, 1e-300))),
            "noise_floor": np.float64(floor),
        }
        names = ("log_scale", "log_amplitude", "log_noise")
        if self.exact:
            head: AbstractHead = ExactHead(**common)
            return head, replace(zeros(head), **{k: learned + 0 * common[k] for k in names})
        points = self.centres(self.n_inducing)
        present = pad(np.ones(len(points)), self.n_inducing)
        head = SparseHead(**common, inducing=pad(points, self.n_inducing), present=present)
        free = {k: learned + 0 * common[k] for k in names}
        free["inducing"] = np.repeat(present[:, None], d, axis=1)
        return head, replace(zeros(head), **free)

    def joining(self, total: int, random: np.random.RandomState) -> Floats | None:
        """Return rows that join the inducing points, if any of ``total`` padded rows are to."""
        settings = self.settings
        if self.exact or settings.n_inducing or isinstance(settings.loss, AbstractPointwise):
            return None
        count = joining(total, self.n_inducing)
        there = np.flatnonzero(self.rows.weight)
        picked = there[draw(len(there), count, random)]
        return np.asarray(self.batch.X)[picked] if count else None

    @property
    def exact(self) -> bool:
        """Whether every row is a centre of the head."""
        wanted = self.settings.exact
        return bucket(len(self.rows)) <= self.n_inducing if wanted is None else wanted

    def _start_scale(self) -> float:
        # Distances between standardised rows grow like the root of the number of columns.
        return 0.5 * np.log(self.rows.X.shape[1]) if self.settings.learn_head else 0.0


def zeros(module: Any) -> Any:
    """Return ``module`` with every leaf 0."""
    return jax.tree.map(np.zeros_like, module)


def replace(module: Any, **leaves: Floats) -> Any:
    """Return ``module`` with the named leaves replaced."""
    names = list(leaves)
    return eqx.tree_at(lambda m: [getattr(m, k) for k in names], module, list(leaves.values()))


def fit_reported(
    settings: Settings, report: Report, stage: str, problem: Problem, share: float = 1.0,
    evaluator: Callable[[Problem], Evaluate] = evaluator,
) -> Descent:  # fmt: skip
    """Descend for a share of the iterations and report each under the name of the stage."""
    return descend(
        problem,
        max_iter=max(round(share * settings.max_iter), 1),
        gtol=settings.tol,
        callback=partial(report, stage),
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
    everything : Batch or None
        The rows that condition the heads, where a fit is given only a sample of them.
    """

    evaluator: Callable[[Problem], Evaluate] = evaluator
    share: Callable[[Batch], Batch] = lambda rows: rows
    everything: Batch | None = None


def fit_warps(
    rows: Rows,
    settings: Settings,
    random: np.random.RandomState,
    *,
    start: list[FittedWarp] | None = None,
    report: Report = lambda stage, iteration, record: None,
    sums: Sums = Sums(),  # noqa: B008
) -> Fitted:
    """Select and fit the warps for canonical, standardised ``rows``.

    Parameters
    ----------
    rows : Rows
    settings : Settings
    random : RandomState
        Decides k-means starts, folds and the rows that selection sees.
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
    seed, n = int(random.randint(2**31 - 1)), len(rows)
    pool = candidates(settings, n)
    capacity = capacity_for(settings, n)
    fit = partial(fit_reported, settings, report, evaluator=sums.evaluator)
    selection, weights = None, np.full(len(pool), 1 / len(pool))
    if start is not None:
        pool = [Candidate(w.nu, capacity) for w in start]
        weights = np.array([w.weight for w in start])
    elif len(pool) > 1:
        selection = _select(rows, settings, random, pool, capacity, seed, fit)
        if selection.interrupted is not None:
            return _interrupted(sums.everything or batch(rows, settings), settings, selection)
        weights = keep_heaviest(selection.weights, settings.n_warps, LEAST_SHARE)

    # Every row conditions the head; the descents see as many as settle what they learn.
    most = n if settings.control_rows else settings.training_rows
    seen = rows.take(draw(n, most, random))
    assembler = Assembler(seen, settings, seed, capacity)
    everything = sums.everything or (assembler.batch if len(seen) == n else batch(rows, settings))
    sample = sums.share(assembler.batch)
    finish = partial(_finish, rows=everything, seen=sample, settings=settings)
    joined = assembler.joining(len(everything.X), random)
    warps: list[FittedWarp] = []
    result, iterations = Result.converged, 0
    for j, (candidate, weight) in enumerate(zip(pool, weights, strict=True)):
        if weight == 0:
            continue
        problem = assembler.problem(candidate)
        share = 1.0
        if start is not None:
            problem = _continue_from(problem, start[j].model)
        elif selection is not None and n > FOLDED_ROWS:
            problem = _continue_from(problem, selection.descents[j].model)
            share = CONTINUED
        descent = fit("fit", problem, share)
        sparse = settings.control_rows and isinstance(settings.loss, AbstractBoxed)
        if sparse and np.isfinite(candidate.nu):
            descent = settle(descent, problem, lambda p: fit("settle", p))
        iterations += descent.iterations
        result = max(result, descent.result)
        try:
            warps.append(finish(descent, candidate.nu, float(weight), joined=joined))
        except KeyboardInterrupt:
            # The descent is worth more than the moment it takes to finish with what it learned.
            warps.append(finish(descent, candidate.nu, float(weight)))
            result = Result.interrupted
        if result is Result.interrupted:
            break
    return Fitted(by_weight(warps), selection, weights, result, iterations)


def capacity_for(settings: Settings, n: int) -> int:
    """Return the padded number of control points: one for all candidates, whatever the rows."""
    moves = settings.depth > 0 and np.isfinite(settings.nu).any()
    return max(control_point_counts(settings, n)) if moves or settings.control_rows else 1


def _select(
    rows: Rows,
    settings: Settings,
    random: np.random.RandomState,
    pool: list[Candidate],
    capacity: int,
    seed: int,
    fit: Callable[[str, Problem], Descent],
) -> Selection:
    rows = rows.take(draw(len(rows), settings.selection_rows, random))
    assembler = Assembler(rows, settings, seed, capacity)
    problems = [(candidate, assembler.problem(candidate)) for candidate in pool]
    if len(rows) > FOLDED_ROWS:
        fold = hold_out(len(rows), HELD_OUT, random)
    else:
        fold = folds(len(rows), min(settings.n_folds, len(rows)), random)
    return cross_validate(problems, fold, fit=lambda problem: fit("select", problem))


def _interrupted(rows: Batch, settings: Settings, selection: Selection) -> Fitted:
    """Condition what the interrupted fit had learned on all rows."""
    descent = selection.interrupted
    assert descent is not None
    temper = float(descent.model.warp.temper)
    nu = temper**-2 if temper else np.inf
    warp = _finish(descent, nu, 1.0, rows=rows, seen=rows, settings=settings)
    return Fitted([warp], None, np.ones(1), Result.interrupted, descent.iterations)


def _finish(
    descent: Descent, nu: float, weight: float, *, rows: Batch, seen: Batch, settings: Settings,
    joined: Floats | None = None,
) -> FittedWarp:  # fmt: skip
    """Condition the head of a descent, which has ``seen`` some of the rows, on all of them.

    The points of ``joined`` join those that the descent learned.
    """
    few = float(seen.weight.sum()) < float(rows.weight.sum())
    model, sample = descent.model, seen if few else None
    if joined is None:
        fitted = conclude(model, rows, settings.loss, sample)
    else:
        learn = settings.learn_head
        model, fitted = conclude_with(model, rows, joined, learn=learn, sample=sample)
    books = ledger(descent, fitted.trajectory, nu)
    books["log_volume"] = float(fitted.spread.log_volume)
    # NumPy leaves: a fitted model holds nothing on a device, copies and pickles.
    model, predictor = jax.tree.map(np.asarray, (model, fitted))
    return FittedWarp(model, predictor, nu, weight, books, descent.history)


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
