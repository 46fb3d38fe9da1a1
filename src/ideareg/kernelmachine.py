r"""A deep convolutional kernel machine: inducing patches, signed roots, a Gaussian kernel ridge.

Images are functions on a grid of two axes, (n, height, width, channels). Functions on the points of
a group of permutations, (n, 1, points, channels), have layers whose features are invariant. A group
that acts on either may move it before the first layer; the read-out averages over what comes of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ideareg.convolution import SAMPLED_IMAGES, Floats, Layers, fit_layers, in_batches
from ideareg.kernels.groups import AbstractGroup, Group
from ideareg.kernels.rotations import Haar
from ideareg.nystrom import (
    Basis,
    Ints,
    Regressor,
    Ridge,
    Score,
    Standard,
    Sums,
    Tiles,
    choose_ridge,
    climb,
    held_out_variance,
    judge,
)
from ideareg.refinement import Checkpoint, Refinement, fingerprint, refine
from ideareg.views import fit_views

# Rows whose features are held in memory, to standardise by, and their bytes, all that a group makes
# of a row included.
KEPT_ROWS, KEPT_BYTES = 10_000, 1 << 30
# Centres that widths are compared with, and the share of the score that another must gain there.
WIDTH_CENTRES, WIDTH_GAIN = 2_500, 1e-3
# Folds of up to so many rows; of more, one, of at most that many rows.
FOLDS, FOLDED_ROWS, HELD_ROWS = 5, 5_000, 5_000
# Rows at a time after the layers, all that a group makes of them included.
TILE = 1_024
# Where the searches begin.
FIRST_GAMMA, FIRST_RIDGE = 0.1, 1e-3


class Settings(NamedTuple):
    """What a machine is asked to be; None for what is chosen by held-out rows.

    The plans are those of layers on a grid (`Plan`), or on a space, the points of a group (`View`).
    """

    sides: tuple[int, int]
    channels: int
    plans: tuple[Any, ...]
    space: Group | None
    group: AbstractGroup | Haar | None
    periodic: bool
    centres: int
    gamma: float | None
    ridge: float | None
    refinement: Refinement | None = None


class Extractor(NamedTuple):
    """The layers, and the group that moves images before them."""

    layers: Layers
    group: AbstractGroup | Haar | None
    channels: int

    @property
    def weights(self) -> Floats | None:
        """What the read-out averages with; None for equal weights."""
        return self.group.weights if isinstance(self.group, Haar) else None

    def orbit(self, images: Floats) -> Floats:
        """Return the features of images moved by each element, shape (G, n, d)."""
        if self.group is None:
            return self.flat(images)[None]
        moved = (moved_by(self.group, images, g) for g in range(self.group.actions))
        return np.stack([self.flat(each) for each in moved])

    def flat(self, images: Floats) -> Floats:
        """Return the maps after the last layer as rows, in signed roots; without layers, pixels."""
        if not self.layers or not len(images):
            return images.reshape(len(images), -1)
        return np.concatenate([_rooted(b) for b in in_batches(self.layers, images)])

    def tiles(self, images: Floats) -> Iterator[tuple[Ints, Floats]]:
        """Yield row numbers and orbits, a few rows at a time."""
        count = 1 if self.group is None else self.group.actions
        size = max(TILE // count, 64)
        for start in range(0, len(images), size):
            rows = np.arange(start, min(start + size, len(images)))
            yield rows, self.orbit(images[rows])


def _rooted(maps: Floats) -> Floats:
    """Return maps as rows of signed square roots, among which no few large numbers prevail."""
    F = maps.reshape(len(maps), -1)
    return np.copysign(np.sqrt(np.abs(F)), F)


def moved_by(group: AbstractGroup | Haar, images: Floats, element: int) -> Floats:
    """Return g x for each image."""
    rows = images.reshape(len(images), math.prod(images.shape[1:]))
    moved = group.act(rows, element, images.shape[-1])
    return np.asarray(moved, dtype=images.dtype).reshape(images.shape)


class Machine(NamedTuple):
    """Layers, the standard of their features, and the regressor on them."""

    extractor: Extractor
    standard: Standard
    regressor: Regressor

    def features(self, images: Floats) -> Floats:
        """Return the features of images, averaged over the group, shape (n, d)."""
        w = self.extractor.weights
        tiles = self.extractor.tiles(images)
        parts = [np.average(self.standard(F), axis=0, weights=w) for _, F in tiles]
        return np.concatenate(parts).astype(images.dtype, copy=False)

    def predict(self, images: Floats) -> Floats:
        """Return predictions, shape (n, k), in float64."""
        tiles = self.extractor.tiles(images)
        return np.concatenate([self.regressor(self.standard(F)) for _, F in tiles])

    def moments(self, images: Floats) -> tuple[Floats, Floats]:
        """Return predictions (n, k) and the variance of an observation in its unit, (n,)."""
        tiles = self.extractor.tiles(images)
        parts = [self.regressor.moments(self.standard(F)) for _, F in tiles]
        mean, variance = zip(*parts, strict=True)
        return np.concatenate(mean), np.concatenate(variance)


def fold_numbers(n: int, random: np.random.RandomState) -> NDArray[np.intp]:
    """Return the fold of each row; of many rows only one fold is ever held out, -1 the others."""
    place = random.permutation(n)
    if n <= FOLDED_ROWS:
        return place % min(FOLDS, max(n, 1))
    return np.where(place < min(n // FOLDS, HELD_ROWS), 0, -1)


def fit_machine(
    images: Floats,
    Y: Floats,
    settings: Settings,
    score: Score,
    random: np.random.RandomState,
    report: Callable[..., Any],
    *,
    variance: bool = False,
    checkpoint: str | PathLike[str] | None = None,
) -> tuple[Machine, Ridge, Floats]:
    """Fit the layers, choose γ and λ by held-out rows, and solve for the weights.

    Layers are fitted without labels. A refinement sees those of all rows but one fold, and that
    fold alone is held out then, from all that follows but the weights.

    Parameters
    ----------
    images : ndarray, shape (n, height, width, channels)
    Y : ndarray, shape (n, k)
        Targets of mean 0 and variance near 1.
    settings : Settings
    score : callable
        Of held-out predictions and their row numbers; more is better.
    random : RandomState
    report : callable
        Called with the name of the stage, once per step; of a refinement, with its loss.
    variance : bool
        Whether the regressor must know its variance.
    checkpoint : path-like, optional
        The file that a refinement goes on from.

    Returns
    -------
    machine : Machine
    held : Ridge
        What the final machine predicts for held-out rows.
    spread : ndarray
        The variance of these, in units of the amplitude; empty unless asked for.
    """
    report("layers")
    sample = _turned(images, settings.group, random)
    layers = _fit_layers(sample, settings, random)
    fold = None
    if settings.refinement is not None:
        fold = np.where(fold_numbers(len(images), random) == 0, 0, -1)
        layers = _refined(layers, images, Y, fold < 0, settings, random, report, checkpoint)
    extractor = Extractor(layers, settings.group, settings.channels)
    order = random.permutation(len(images))
    some = np.sort(order[: _kept_rows(extractor, images)])
    F = np.concatenate([F for _, F in extractor.tiles(images[some])], axis=1)
    standard = Standard.of(F)
    F = standard(F)
    gamma = settings.gamma
    if gamma is None:
        gamma = _choose_width(
            F, Y[some], settings.ridge, lambda f, rows: score(f, some[rows]), random, report,
            extractor.weights, None if fold is None else fold[some],
            max(len(images) / settings.centres, 1.0),
        )  # fmt: skip
    placed = np.sort(order[: settings.centres])
    if len(some) == len(images):
        centres, tiles = F[0][placed], slices(F)
    else:
        centres = standard(extractor.flat(images[placed]))
        del F
        tiles = ((rows, standard(G)) for rows, G in extractor.tiles(images))
    basis = Basis.of(centres, gamma, extractor.weights)
    fold = fold_numbers(len(images), random) if fold is None else fold
    sums = Sums.of(basis, _reported(tiles, report), Y, fold)
    best = _best_ridge(sums, Y, score, settings.ridge)
    regressor = Regressor.of(basis, sums, best.ridge, variance=variance)
    spread = held_out_variance(sums, best.ridge) if variance else np.empty(0)
    return Machine(extractor, standard, regressor), best, spread


def _fit_layers(sample: Floats, settings: Settings, random: np.random.RandomState) -> Layers:
    if settings.space is None:
        return fit_layers(sample, settings.plans, settings.periodic, random)
    return fit_views(sample, settings.plans, settings.space, random)


def _refined(
    layers: Layers, images: Floats, Y: Floats, seen: NDArray[np.bool_], settings: Settings,
    random: np.random.RandomState, report: Callable[..., Any], path: str | PathLike[str] | None,
) -> Layers:  # fmt: skip
    """Return the layers after training on the rows that are seen."""
    assert settings.refinement is not None
    images, Y, group = images[seen], Y[seen], settings.group
    seed = random.randint(2**31 - 1)
    digest = fingerprint(layers, images, Y, settings.refinement, seed)

    def rows(chosen: Ints, random: np.random.RandomState) -> Floats:
        return _moved(images[chosen], group, random)

    return refine(layers, rows, Y, settings.refinement, seed, report, Checkpoint(path, digest))


def _kept_rows(extractor: Extractor, images: Floats) -> int:
    """Return how many rows of features to hold in memory."""
    count = 1 if extractor.group is None else extractor.group.actions
    each = count * extractor.flat(images[:1]).nbytes
    return min(KEPT_ROWS, max(KEPT_BYTES // each, 100))


def _choose_width(
    F: Floats, Y: Floats, ridge: float | None, score: Score, random: np.random.RandomState,
    report: Callable[[str], Any], weights: Floats | None, fold: Ints | None, each: float,
) -> float:  # fmt: skip
    """Return the γ of the best held-out score, for features (G, n, d).

    Each centre stands for as many rows as in the machine, because the best γ depends on that: with
    60,000 images and 8,000 centres it is larger than with 2,500 images that are all centres.
    """
    order = random.permutation(len(Y))[: round(WIDTH_CENTRES * each)]
    few, placed = np.sort(order), np.sort(order[: max(round(len(order) / each), 1)])
    centres = F[0, placed]
    F, Y = F[:, few], Y[few]
    fold = fold_numbers(len(Y), random) if fold is None else fold[few]

    def attempt(gamma: float) -> Ridge:
        report("width")
        sums = Sums.of(Basis.of(centres, gamma, weights), slices(F), Y, fold)
        return _best_ridge(sums, Y, lambda f, rows: score(f, few[rows]), ridge)

    return climb(attempt, FIRST_GAMMA, 2.0, WIDTH_GAIN)[0]


def _best_ridge(sums: Sums, Y: Floats, score: Score, ridge: float | None) -> Ridge:
    if ridge is not None:
        return judge(sums, Y, ridge, score)
    return choose_ridge(sums, Y, score, FIRST_RIDGE)


def slices(F: Floats) -> Tiles:
    """Yield features (G, n, d) that are in memory, a few rows at a time."""
    size = max(TILE // len(F), 64)
    for start in range(0, F.shape[1], size):
        rows = np.arange(start, min(start + size, F.shape[1]))
        yield rows, F[:, rows]


def _reported(tiles: Tiles, report: Callable[[str], Any]) -> Tiles:
    for tile in tiles:
        report("rows")
        yield tile


def _turned(
    images: Floats, group: AbstractGroup | Haar | None, random: np.random.RandomState
) -> Floats:
    """Return a sample of images, each moved by a random element, to learn patches from."""
    if group is None:
        return images
    return _moved(images[np.sort(random.permutation(len(images))[:SAMPLED_IMAGES])], group, random)


def _moved(
    images: Floats, group: AbstractGroup | Haar | None, random: np.random.RandomState
) -> Floats:
    """Return images, each moved by a random element."""
    if group is None:
        return images
    moved = images.copy()
    element = random.randint(group.actions, size=len(images))
    for g in range(group.actions):
        moved[element == g] = moved_by(group, images[element == g], g)
    return moved
