r"""A deep convolutional kernel machine: layers of inducing patches, then a Gaussian kernel ridge.

Images are functions on a grid of two axes, (n, height, width, channels); a group that acts on them
may move them before the first layer, and the read-out averages over what it makes of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ideareg.convolution import Floats, PatchLayer, Plan, fit_layers, in_batches
from ideareg.kernels.groups import AbstractGroup
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

# Rows that widths are compared on, and the centres that they are compared with.
SELECTION_ROWS = 5_000
SELECTION_CENTRES = 2_000
FOLDS = 5
# Rows at a time after the layers, all that a group makes of them included.
TILE = 1_024
# Where the searches begin.
FIRST_GAMMA, FIRST_RIDGE = 0.1, 1e-3


class Settings(NamedTuple):
    """What a machine is asked to be; None for what is chosen by held-out rows."""

    sides: tuple[int, int]
    channels: int
    plans: tuple[Plan, ...]
    group: AbstractGroup | None
    periodic: bool
    centres: int
    gamma: float | None
    ridge: float | None


class Extractor(NamedTuple):
    """The layers, and the group that moves images before them."""

    layers: tuple[PatchLayer, ...]
    group: AbstractGroup | None
    channels: int

    def orbit(self, images: Floats) -> Floats:
        """Return the features of images moved by each element, shape (G, n, d)."""
        if self.group is None:
            return self.flat(images)[None]
        moved = (moved_by(self.group, images, g) for g in range(self.group.actions))
        return np.stack([self.flat(each) for each in moved])

    def flat(self, images: Floats) -> Floats:
        """Return the maps after the last layer as rows; without layers, the pixels."""
        if not self.layers or not len(images):
            return images.reshape(len(images), -1)
        return np.concatenate([b.reshape(len(b), -1) for b in in_batches(self.layers, images)])

    def tiles(self, images: Floats) -> Iterator[tuple[Ints, Floats]]:
        """Yield row numbers and orbits, a few rows at a time."""
        count = 1 if self.group is None else self.group.actions
        size = max(TILE // count, 64)
        for start in range(0, len(images), size):
            rows = np.arange(start, min(start + size, len(images)))
            yield rows, self.orbit(images[rows])


def moved_by(group: AbstractGroup, images: Floats, element: int) -> Floats:
    """Return g x for each image."""
    rows = images.reshape(len(images), group.n_points * images.shape[-1])
    moved = group.act(rows, element, images.shape[-1])
    return np.asarray(moved, dtype=images.dtype).reshape(images.shape)


class Machine(NamedTuple):
    """Layers, the standard of their features, and the regressor on them."""

    extractor: Extractor
    standard: Standard
    regressor: Regressor

    def features(self, images: Floats) -> Floats:
        """Return the features of images, averaged over the group, shape (n, d)."""
        parts = [self.standard(F).mean(0) for _, F in self.extractor.tiles(images)]
        return np.concatenate(parts)

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
    """Return the fold of each row; of many rows only the first fold is ever held out."""
    fold = random.permutation(np.arange(n) % min(FOLDS, max(n, 1)))
    return np.where(fold > 0, -1, fold) if n > SELECTION_ROWS else fold


def fit_machine(
    images: Floats,
    Y: Floats,
    settings: Settings,
    score: Score,
    random: np.random.RandomState,
    report: Callable[[str], Any],
    *,
    variance: bool = False,
) -> tuple[Machine, Ridge, Floats]:
    """Fit the layers without labels, choose γ and λ by held-out rows, and solve for the weights.

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
        Called with the name of the stage, once per step.
    variance : bool
        Whether the regressor must know its variance.

    Returns
    -------
    machine : Machine
    held : Ridge
        What the final machine predicts for held-out rows.
    spread : ndarray
        The variance of these, in units of the amplitude; empty unless asked for.
    """
    report("layers")
    layers = fit_layers(_turned(images, settings.group, random), settings.plans,
                        settings.periodic, random)  # fmt: skip
    extractor = Extractor(layers, settings.group, settings.channels)
    chosen = random.permutation(len(images))[: max(SELECTION_ROWS, settings.centres)]
    fold = fold_numbers(len(images), random)
    some = np.sort(chosen[:SELECTION_ROWS])
    F = np.concatenate([F for _, F in extractor.tiles(images[some])], axis=1)
    standard = Standard.of(F)
    F = standard(F)
    gamma = settings.gamma

    def best_ridge(sums: Sums, Y: Floats, score: Score) -> Ridge:
        if settings.ridge is not None:
            return judge(sums, Y, settings.ridge, score)
        return choose_ridge(sums, Y, score, FIRST_RIDGE)

    if gamma is None:
        few = np.sort(random.permutation(len(some))[:SELECTION_CENTRES])
        folds = fold_numbers(len(some), random)

        def attempt(value: float) -> Ridge:
            report("width")
            basis = Basis.of(F[0][few], value)
            sums = Sums.of(basis, slices(F), Y[some], folds)
            return best_ridge(sums, Y[some], lambda f, rows: score(f, some[rows]))

        gamma, _ = climb(attempt, FIRST_GAMMA, 2.0)
    same = len(some) == len(images)
    placed = np.sort(chosen[: settings.centres])
    centres = F[0][placed] if same else standard(extractor.flat(images[placed]))
    basis = Basis.of(centres, gamma)
    tiles = slices(F) if same else ((r, standard(G)) for r, G in extractor.tiles(images))
    sums = Sums.of(basis, _reported(tiles, report), Y, fold)
    best = best_ridge(sums, Y, score)
    regressor = Regressor.of(basis, sums, best.ridge, variance=variance)
    spread = held_out_variance(sums, best.ridge) if variance else np.empty(0)
    return Machine(extractor, standard, regressor), best, spread


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


def _turned(images: Floats, group: AbstractGroup | None, random: np.random.RandomState) -> Floats:
    """Return a sample of images, each moved by a random element, to learn patches from."""
    if group is None:
        return images
    some = images[np.sort(random.permutation(len(images))[:2_000])].copy()
    element = random.randint(group.actions, size=len(some))
    for g in range(group.actions):
        some[element == g] = moved_by(group, some[element == g], g)
    return some
