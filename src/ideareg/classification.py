"""From standardised rows with labels to fitted warps and calibrated heads: the order of a fit.

Kernel machines come first: for each length, one for all columns, the ridge of greatest held-out
likelihood. Then each candidate ν warps the space for the best of them: momentum, control points,
lengths and coefficients descend together on the penalised likelihood, with that ridge. Without the
volume term of an evidence nothing else would keep it, which is why the ridge is not learned. The
heads after the warps are then fitted anew with the loss that was asked for, and all that predicts
well when held out, the machines without warp included, is stacked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from ideareg._rows import Index, Rows, bucket, draw, pad
from ideareg._types import Result
from ideareg.assembly import Assembler, Settings, candidates, capacity_for, replace, zeros
from ideareg.blocks import Warp
from ideareg.labels import (
    Calibration,
    Codes,
    base_rates,
    calibrate,
    encode,
    for_classes,
    likelihood,
)
from ideareg.ledger import ledger
from ideareg.margin import exact_machine, exact_path
from ideareg.pointwise import AbstractPointwise, SquaredHinge
from ideareg.primal import CONSTANT, Features, Fit, easy_root, features, ridge_path
from ideareg.readout import Batch, Posterior, PrimalHead
from ideareg.recipe import (
    HELD_OUT,
    Fitted,
    FittedWarp,
    Report,
    by_weight,
    fit_reported,
)
from ideareg.selection import (
    LEAST_SHARE,
    WORST,
    Candidate,
    Selection,
    keep_heaviest,
    stacking_weights,
)
from ideareg.shooting import Trajectory
from ideareg.training import Descent, Model, Problem
from ideareg.uncertainty import Predictor, no_spread

Floats = NDArray[np.float64]

# Lengths to try, in units of the root of the number of columns, and ridges, falling.
LENGTHS = (0.35, 0.7, 1.4, 2.8, 5.6)
RIDGES = tuple(float(10**e) for e in np.linspace(1, -4, 8))
# Of more rows than this one tenth is held out, without folds. A label says less than a number does,
# so they are twice as many as in regression.
FOLDED_ROWS = 4000
# Centres of the head during a descent, in the selection, and in the end, at most.
DESCENT_CENTRES, SELECTION_CENTRES, MOST_CENTRES = 256, 512, 4096
# Machines of the squared hinge use all rows up to here; their Gram matrix then takes 2 GiB.
EXACT_ROWS = 16_384
# Ridges worse than the best before the others are left out.
PATIENCE = 2


class Tuned(NamedTuple):
    """What held-out rows decided for one candidate."""

    log_length: float
    ridge: float
    calibration: Calibration
    offset: Floats | None = None  # of the final head

    def log_probability(self, f: Floats) -> Floats:
        """Return log probabilities from the predictions f of the final head, less its offset."""
        assert self.offset is not None
        return self.calibration.log_probability(f + self.offset)


class Classes(NamedTuple):
    """Rows with the codes of their classes, and how to charge them."""

    rows: Rows
    codes: Codes
    classes: int
    loss: AbstractPointwise

    def take(self, index: Index) -> Classes:
        """Return the rows of ``index``."""
        return self._replace(rows=self.rows.take(index), codes=self.codes[index])


@jax.jit
def _grams(model: Model, X: Any, U: Any) -> tuple[Any, Any, Any]:
    q, u = model.warp(X), model.warp(U)
    unit = model.head.unit
    return unit.gram(q, u), unit.gram(u, u), u


@jax.jit
def _gram(model: Model, X: Any) -> tuple[Any, Any]:
    q = model.warp(X)
    return model.head.unit.gram(q), q


@jax.jit
def _shoot(warp: Warp) -> Trajectory:
    return warp.trajectory()


class Workshop:
    """Builds models and fits heads on given rows; all models have the same shapes."""

    def __init__(self, data: Classes, settings: Settings, seed: int, capacity: int) -> None:
        self.data, self.settings = data, settings
        self.assembler = Assembler(data.rows, settings, seed, capacity)
        self.batch = self.assembler.batch
        self.order = np.random.RandomState(seed).permutation(len(data.rows))

    @property
    def kept(self) -> Floats:
        """The weights of all rows."""
        return self.data.rows.weight

    def centres(self, most: int) -> Floats:
        """Return some rows as centres, in padded columns; more of them include fewer."""
        return np.asarray(self.batch.X)[np.sort(self.order[:most])]

    def still(self, log_length: float) -> Model:
        """Return the model without warp, its coefficients unset."""
        settings, d = self.settings, self.batch.X.shape[1]
        warp, _ = self.assembler.warp(Candidate(np.inf, 1))
        empty = np.zeros((1, 1))
        head = PrimalHead(
            settings.kernel, np.full(d, log_length), np.float64(0), np.float64(0), np.float64(0),
            np.zeros((1, d)), np.ones(1), empty, empty, np.zeros(1),
        )  # fmt: skip
        return Model(warp, head)

    def features(self, model: Model, most: int) -> tuple[Features, Floats]:
        """Return the features of all rows and the warped centres."""
        U = self.centres(most)
        slim = eqx.tree_at(lambda m: m.head, model, self._bare(model.head))
        K, gram, u = _grams(slim, self.batch.X, pad(U, bucket(len(U))))
        n, m = len(self.data.rows), len(U)
        return features(np.asarray(K)[:n, :m], np.asarray(gram)[:m, :m]), np.asarray(u)[:m]

    def _bare(self, head: PrimalHead) -> PrimalHead:
        """Return the head without what only a descent needs: one shape, one compilation."""
        bare = self.still(0.0).head
        return eqx.tree_at(lambda h: h.log_scale, bare, head.log_scale)

    def offset(self, loss: AbstractPointwise, weight: Floats) -> Floats:
        """Return the base rates among the weighted rows."""
        return base_rates(loss, self.data.codes, weight, self.data.classes)

    @property
    def exact(self) -> bool:
        """Whether the heads asked for are found in the span of all rows."""
        return isinstance(self.data.loss, SquaredHinge) and len(self.data.rows) <= EXACT_ROWS

    @property
    def ridges(self) -> tuple[float, ...]:
        """The ridges to try, from where the head is quickly found."""
        return RIDGES[::-1] if self.exact else RIDGES

    def path(self, model: Model, weight: Floats) -> Iterator[Floats]:
        """Yield the predictions of all rows (n, k) by the head of each ridge."""
        loss = self.data.loss
        Y = encode(loss, self.data.codes, self.data.classes)
        if self.exact:
            gram, _ = self.gram(model)
            for machines in exact_path(gram, CONSTANT, Y, weight, self.ridges):
                yield np.stack([m.f for m in machines], axis=1)
            return
        found, _ = self.features(model, SELECTION_CENTRES)
        for fit in ridge_path(loss, found.T, Y, weight, self.offset(loss, weight), self.ridges):
            yield fit(found.T)

    def gram(self, model: Model) -> tuple[Floats, Floats]:
        """Return the Gram matrix of the warped rows, and these."""
        slim = eqx.tree_at(lambda m: m.head, model, self._bare(model.head))
        gram, q = _gram(slim, self.batch.X)
        n = len(self.data.rows)
        return np.asarray(gram)[:n, :n], np.asarray(q)[:n]

    def expansion(
        self, model: Model, ridge: float, loss: AbstractPointwise, weight: Floats, most: int
    ) -> tuple[Features, Floats, Fit]:
        """Return features, warped centres and the head of one ridge by them."""
        found, u = self.features(model, most)
        Y = encode(loss, self.data.codes, self.data.classes)
        (fit,) = ridge_path(loss, found.T, Y, weight, self.offset(loss, weight), (ridge,))
        return found, u, fit

    def final(self, model: Model, ridge: float) -> tuple[Floats, Floats, Floats]:
        """Return the warped centres, duals and offset of the head on all rows."""
        loss = self.data.loss
        if not self.exact:
            found, u, fit = self.expansion(model, ridge, loss, self.kept, MOST_CENTRES)
            return u, found.root @ fit.A, fit.offset
        gram, q = self.gram(model)
        Y = encode(loss, self.data.codes, self.data.classes)
        machines = [exact_machine(gram, CONSTANT, y, self.kept, ridge) for y in Y.T]
        dual = np.stack([m.dual for m in machines], axis=1)
        used = dual.any(axis=1)
        return q[used], dual[used], CONSTANT**2 * dual.sum(axis=0)

    def problem(self, candidate: Candidate, tuned: Tuned, weight: Floats) -> Problem:
        """Return the problem that starts from the kernel machine without warp."""
        loss = likelihood(self.data.classes)
        still = self.still(tuned.log_length)
        found, _, fit = self.expansion(still, tuned.ridge, loss, weight, DESCENT_CENTRES)
        warp, free_warp = self.assembler.warp(candidate)
        d, size = self.batch.X.shape[1], bucket(len(found.root))
        U = pad(self.centres(DESCENT_CENTRES), size)
        P, inverse = easy_root(loss, found.T, weight, tuned.ridge)
        root = found.root @ P
        head = PrimalHead(
            self.settings.kernel, np.full(d, tuned.log_length), np.float64(0),
            np.log(np.float64(tuned.ridge)), np.float64(0), U, pad(np.ones(len(root)), size),
            pad(pad(root, size), size, axis=1), pad(inverse @ fit.A, size), fit.offset,
        )  # fmt: skip
        learned = replace(
            zeros(head),
            log_scale=np.ones(d),
            coefficients=np.ones_like(head.coefficients),
            offset=np.ones_like(head.offset),
        )
        padded = len(self.batch.X)
        Y = pad(encode(loss, self.data.codes, self.data.classes), padded)
        rows = Batch(self.batch.X, Y, pad(weight, padded))
        return Problem(Model(warp, head), Model(free_warp, learned), rows, loss)

    def conclude(
        self, model: Model, descent: Descent | None, candidate: Candidate, tuned: Tuned,
        weight: float,
    ) -> FittedWarp:  # fmt: skip
        """Fit the final head on all rows after the warp of ``model``."""
        u, dual, offset = self.final(model, tuned.ridge)
        size = bucket(len(u))
        posterior = Posterior(
            model.head.unit, pad(u, size), pad(dual, size), np.zeros((0, size)), np.float64(1),
            np.float64(tuned.ridge), pad(np.ones(len(u)), size),
        )  # fmt: skip
        trajectory = _shoot(model.warp)
        spread = no_spread(trajectory, jax.tree.map(jnp.asarray, posterior))
        predictor = Predictor(model.warp, trajectory, posterior, spread)
        model, predictor = jax.tree.map(np.asarray, (model, predictor))
        if descent is None:
            descent = Descent(model, Result.converged, 1, {}, 0.0)
        books = ledger(descent, trajectory, candidate.nu)
        return FittedWarp(
            model, predictor, candidate.nu, weight, books, descent.history,
            tuned._replace(offset=offset),
        )  # fmt: skip


def with_lengths(pool: list[Candidate]) -> list[Candidate]:
    """Return the candidates with no warp once for each length."""
    machines = [c._replace(length=s) for c in pool if np.isinf(c.nu) for s in LENGTHS]
    return machines + [c for c in pool if np.isfinite(c.nu)]


class Judged(NamedTuple):
    """One candidate on held-out rows."""

    tuned: Tuned
    density: Floats


def stratified(codes: Codes, count: int, random: np.random.RandomState) -> NDArray[np.intp]:
    """Return the fold of each row; every class is spread evenly."""
    order = random.permutation(len(codes))
    order = order[np.argsort(codes[order], kind="stable")]
    fold = np.empty(len(codes), dtype=np.intp)
    fold[order] = np.arange(len(codes)) % count
    return fold


def _judge(
    shop: Workshop, parts: list[NDArray[np.bool_]], models: list[Model], log_length: float
) -> Judged:
    """Calibrate the predictions of held-out rows, ridge after ridge, and keep the best ridge."""
    data, held = shop.data, np.any(parts, axis=0)
    codes, weight = data.codes[held], shop.kept[held]
    paths = [
        shop.path(model, np.where(part, 0.0, shop.kept))
        for model, part in zip(models, parts, strict=True)
    ]
    best: Judged | None = None
    worse = 0
    for ridge, *predictions in zip(shop.ridges, *paths, strict=False):
        f = np.zeros_like(predictions[0])
        for part, prediction in zip(parts, predictions, strict=True):
            f[part] = prediction[part]
        calibration = calibrate(data.loss, f[held], codes, weight)
        log_p = calibration.log_probability(f[held])[np.arange(len(codes)), codes]
        log_p = np.where(np.isfinite(log_p), log_p, WORST)
        judged = Judged(Tuned(log_length, ridge, calibration), log_p)
        if best is None or weight @ judged.density > weight @ best.density:
            best, worse = judged, 0
        else:
            worse += 1
        if worse == PATIENCE:
            break
    assert best is not None
    return best


def _splits(
    shop: Workshop, random: np.random.RandomState
) -> tuple[NDArray[np.bool_], list[NDArray[np.bool_]]]:
    """Return which rows are ever held out, and for each fold which are."""
    data, settings = shop.data, shop.settings
    n = len(data.rows)
    if n > FOLDED_ROWS:
        held = stratified(data.codes, round(1 / HELD_OUT), random) == 0
        return held, [held]
    fold = stratified(data.codes, min(settings.n_folds, n), random)
    return fold >= 0, [fold == k for k in range(fold.max() + 1)]


def select(
    shop: Workshop,
    pool: list[Candidate],
    random: np.random.RandomState,
    fit: Callable[[str, Problem], Descent],
) -> tuple[Selection, list[Tuned]]:
    """Tune the kernel machines, warp for the best, and stack what predicts held-out rows."""
    held, parts = _splits(shop, random)
    weight = shop.kept

    start = 0.5 * np.log(shop.data.rows.X.shape[1])
    machines = {}
    for length in LENGTHS:
        model = shop.still(start + np.log(length))
        machines[length] = _judge(shop, parts, [model] * len(parts), start + np.log(length))
    share = weight[held]
    plain = max(machines.values(), key=lambda judged: float(share @ judged.density))
    judged, interrupted = [], None
    descents: list[Descent] = []
    for candidate in pool:
        if candidate.length is not None:
            judged.append(machines[candidate.length])
            continue
        models = []
        for part in parts:
            problem = shop.problem(candidate, plain.tuned, np.where(part, 0.0, weight))
            descents.append(fit("select", problem))
            if descents[-1].result is Result.interrupted:
                interrupted = descents[-1]
                break
            models.append(descents[-1].model)
        if interrupted is not None:
            break
        judged.append(_judge(shop, parts, models, plain.tuned.log_length))
    if interrupted is not None:
        judged = [plain] * len(pool)
    density = np.stack([j.density for j in judged], axis=1)
    weights = stacking_weights(density, share)
    return (
        Selection(pool, density, share, weights, descents, interrupted),
        [j.tuned for j in judged],
    )


def fit_classes(
    data: Classes,
    settings: Settings,
    random: np.random.RandomState,
    *,
    start: list[FittedWarp] | None = None,
    report: Report = lambda stage, iteration, record: None,
) -> Fitted:
    """Select, fit and calibrate for canonical, standardised rows with labels.

    Parameters
    ----------
    data : Classes
    settings : Settings
    random : RandomState
        Decides centres, folds and the rows that selection sees.
    start : list of FittedWarp, optional
        Go on from these, with their weights, instead of selecting anew.
    report : callable
        Told the stage, iteration and record of every step; a true answer ends that descent.

    Returns
    -------
    Fitted
    """
    seed, n = int(random.randint(2**31 - 1)), len(data.rows)
    data = data._replace(loss=for_classes(data.loss, data.classes))
    pool, capacity = with_lengths(candidates(settings, n)), capacity_for(settings, n)

    fit = partial(fit_reported, settings, report)
    selection: Selection | None = None
    if start is not None:
        pool = [Candidate(w.nu, capacity) for w in start]
        weights, tuned = np.array([w.weight for w in start]), [w.tuned for w in start]
    else:
        some = data.take(draw(n, settings.selection_rows, random))
        selection, tuned = select(Workshop(some, settings, seed, capacity), pool, random, fit)
        weights = keep_heaviest(selection.weights, settings.n_warps, LEAST_SHARE)
        if selection.interrupted is not None:
            weights = np.eye(len(pool))[0]

    shop = Workshop(data, settings, seed, capacity)
    trainer = shop
    if n > settings.training_rows and not settings.control_rows:
        seen = data.take(draw(n, settings.training_rows, random))
        trainer = Workshop(seen, settings, seed, capacity)
    warps: list[FittedWarp] = []
    result, iterations = Result.converged, 0
    if selection is not None and selection.interrupted is not None:
        result = Result.interrupted
    for j, (candidate, weight) in enumerate(zip(pool, weights, strict=True)):
        if weight == 0:
            continue
        descent = None
        model = shop.still(tuned[j].log_length)
        if np.isfinite(candidate.nu) and result is not Result.interrupted:
            problem = trainer.problem(candidate, tuned[j], trainer.kept)
            if start is not None:
                problem = problem._replace(model=start[j].model)
            descent = fit("fit", problem)
            model, iterations = descent.model, iterations + descent.iterations
            result = max(result, descent.result)
        warps.append(shop.conclude(model, descent, candidate, tuned[j], float(weight)))
    return Fitted(by_weight(warps), selection, weights, result, iterations)
