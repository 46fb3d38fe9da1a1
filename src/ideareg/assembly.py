"""From standardised rows to problems: what is tried, from where it starts, and what is learned.

All problems on the same rows have the same shapes, whatever the candidate, and so run one compiled
function.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import numpy as np
from numpy.typing import NDArray

from ideareg._rows import Bent, Rows, bucket, centres, column_bucket, draw, pad
from ideareg.blocks import Warp
from ideareg.inducing import MOST_POINTS, enlarged, joining
from ideareg.integrators import AbstractIntegrator
from ideareg.kernels import AbstractKernel, Kernel
from ideareg.pointwise import AbstractPointwise
from ideareg.readout import AbstractHead, Batch, ExactHead, SparseHead
from ideareg.selection import Candidate
from ideareg.training import Model, Problem

Floats = NDArray[np.float64]

# Below this relative variance noise is rounding and jitter, not data.
NOISE_FLOOR = 1e-7
START_NOISE = 0.1
# Fewer rows than this say nothing about a warp.
FEWEST_ROWS = 20
# Up to this many rows a third is held out, or every row once where there are folds, and fits start
# anew with all rows; above, a tenth is, and the fits are gone on from.
FOLDED_ROWS = 1500
# How far the targets are bent on which the heaviest candidate, and the next, are tried too.
BENDS = (0.5, 1.0)
# Control points by default, for few rows and for many.
FEW_ROWS, FEW_POINTS, MANY_POINTS = 2000, 20, 50
# Inducing points by default: a quarter of the rows, in steps, within these bounds.
FEWEST_INDUCING, INDUCING_STEP, MOST_INDUCING = 128, 64, 256
# Fits that are no trial of a selection may have more: a share of the rows, within bounds on the
# points and on rows × points².
FINAL_SHARE, MOST_FINAL, FINAL_WORK = 1 / 8, 384, 1.2e9


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
    n_folds: int  # 1: some rows are held out once
    selection_rows: int
    training_rows: int
    max_iter: int
    tol: float
    pad_columns: bool
    workers: int = 1  # descents at a time
    bend: float = 0.0  # of the targets that every candidate predicts
    # What rows must gain by corrections from near rows, in nats; None for none.
    local_gain: float | None = None
    tails: bool | str = False  # whether they are learned; "auto" after a selection
    most_points: int = MOST_POINTS  # inducing ones of a head, with those that join


def candidates(settings: Settings, n: int) -> list[Candidate]:
    """Return the candidates worth trying on ``n`` rows; no warp comes first."""
    if settings.depth == 0:
        return [Candidate(np.inf, 1, bend=settings.bend)]
    warped = [
        Candidate(nu, min(count, n), bend=settings.bend)
        for nu in settings.nu
        if np.isfinite(nu)
        for count in control_point_counts(settings, n)
    ]
    still = [Candidate(np.inf, 1, bend=settings.bend)] if np.inf in settings.nu else []
    if n < FEWEST_ROWS and still:
        return still
    return still + list(dict.fromkeys(warped))


def descents_ahead(settings: Settings, n: int, bent: bool) -> int:
    """Return how many descents a selection on ``n`` rows takes at most, with those that follow."""
    pool = candidates(settings, n)
    if len(pool) == 1:
        return 1
    tried = len(pool) + (min(len(BENDS), len(pool)) if bent and not settings.bend else 0)
    few = min(n, settings.selection_rows) <= FOLDED_ROWS
    return tried * (settings.n_folds if few else 1) + min(tried, settings.n_warps)


def control_point_counts(settings: Settings, n: int) -> tuple[int, ...]:
    """Return the numbers of control points to try on ``n`` rows."""
    if settings.control_rows:
        return (n,)
    return settings.n_control_points or (FEW_POINTS if n <= FEW_ROWS else MANY_POINTS,)


def capacity_for(settings: Settings, n: int) -> int:
    """Return the padded number of control points: one for all candidates, whatever the rows."""
    moves = settings.depth > 0 and np.isfinite(settings.nu).any()
    return max(control_point_counts(settings, n)) if moves or settings.control_rows else 1


def inducing_points(n: int) -> int:
    """Return the default number of inducing points for ``n`` rows."""
    wanted = INDUCING_STEP * -(-n // (4 * INDUCING_STEP))
    return int(np.clip(wanted, FEWEST_INDUCING, MOST_INDUCING))


def final_inducing_points(n: int) -> int:
    """Return the default number of inducing points of a fit to ``n`` rows that is no trial.

    Examples
    --------
    >>> [final_inducing_points(n) for n in (1000, 3000, 7000, 10_000, 50_000)]
    [256, 320, 384, 320, 256]
    """
    most = min(FINAL_SHARE * n, MOST_FINAL, math.sqrt(FINAL_WORK / n))
    return max(inducing_points(n), INDUCING_STEP * int(most // INDUCING_STEP))


def batch(rows: Rows, settings: Settings) -> Batch:
    """Return the rows padded to their bucket, with weight 0."""
    n, d = rows.X.shape
    width = column_bucket(d) if settings.pad_columns else d
    size = bucket(n)
    X = pad(pad(rows.X, width, axis=1), size)
    return Batch(X, pad(rows.Y, size), pad(rows.weight, size))


class Assembler:
    """Builds the problem of a candidate on given rows; all have the same shapes.

    Attributes
    ----------
    batch : Batch
        The padded rows.
    readings : dict of Batch
        The same with the targets of each bend; 0 has the ordinary ones.
    n_inducing : int
        Of a sparse head; more by default in a ``final`` fit.
    """

    def __init__(
        self,
        rows: Rows,
        settings: Settings,
        seed: int,
        capacity: int,
        bent: Mapping[float, Bent] | None = None,
        *,
        final: bool = False,
    ) -> None:
        self.rows, self.settings, self.seed, self.capacity = rows, settings, seed, capacity
        self.batch = batch(rows, settings)
        size = len(self.batch.Y)
        self.readings = {0.0: self.batch}
        for bend, each in (bent or {}).items():
            self.readings[bend] = self.batch._replace(Y=pad(each.Y, size))
        wanted = final_inducing_points if final else inducing_points
        self.n_inducing = settings.n_inducing or wanted(len(rows))
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
        return Problem(model, free, self.readings[candidate.bend], settings.loss)

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

    def grown(self, model: Model) -> Model:
        """Return the model of a trial with as many inducing points as a sparse head has here."""
        warp, head = model.warp, model.head
        if not isinstance(head, SparseHead) or len(head.inducing) == self.n_inducing:
            return model
        missing = self.n_inducing - len(head.inducing)
        points = self.centres(missing)
        present = pad(np.ones(len(points)), missing)
        return Model(warp, enlarged(warp, head, pad(points, missing), present))

    def joining(self, total: int, random: np.random.RandomState) -> Floats | None:
        """Return rows that join the inducing points, if any of ``total`` padded rows are to."""
        settings = self.settings
        if self.exact or settings.n_inducing or isinstance(settings.loss, AbstractPointwise):
            return None
        count = joining(total, self.n_inducing, settings.most_points)
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
