r"""Gaussian kernel ridge regression on feature vectors, through Nyström centres, made invariant.

The kernel is :math:`k(x,x') = e^{-\gamma|F(x)-F(x')|^2}`; on m rows Z as centres it has the
features :math:`T(x) = L^{-1}k(Z,x)`, :math:`LL^T = k(Z,Z)`, exact where all rows are centres. A
group acts by averaging,

.. math:: T^G(x) = |G|^{-1}\textstyle\sum_g T(gx),

whose kernel is :math:`|G|^{-2}\sum_{g,g'}k(gx,g'x')`: functions of it are invariant, and ridge
regression with it is that with k on the data and all that the group makes of them. A quadrature of
a group has weights in place of :math:`|G|^{-1}`.

The weights solve :math:`(T^TT+\lambda I)w = T^TY`. Sums over rows are all that is kept of them, in
float64, whatever the type of the features: m² numbers and one tile of rows, and the features of
held-out rows. Held-out predictions solve with the sums of the other rows, so that folds, ridges and
the scale of the uncertainty need no second pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.intp]
# Row numbers and the features (G, b, d) of what the group makes of them.
Tiles = Iterable[tuple[Ints, Floats]]
# Held-out predictions and their row numbers -> a score, more is better.
Score = Callable[[Floats, Ints], float]

# On the diagonal of k(Z, Z), by the type of the features: their rounding.
JITTER = {"float32": 1e-5, "float64": 1e-9}
# ... and of float64, where a matrix is positive in exact numbers only.
ROUNDING = 1e-10
# Steps of a search, at most.
CLIMBS = 8
# Those of the ridge, first by tens, then finer, and the share of the score that each must gain.
COARSE, FINE, GAIN = 10.0, 10.0**0.5, 1e-4


class Standard(NamedTuple):
    """Features less their mean, in units of their root mean square norm."""

    mean: Floats
    scale: float

    @classmethod
    def of(cls, F: Floats) -> Standard:
        """Measure features (..., d)."""
        rows = F.reshape(-1, F.shape[-1])
        mean = rows.mean(0, dtype=np.float64)
        square = np.einsum("nd,nd->", rows, rows, dtype=np.float64) / len(rows) - mean @ mean
        scale = float(np.sqrt(max(square, 0.0)))
        return cls(mean.astype(F.dtype), scale if scale > 1e-6 * np.sqrt(mean @ mean) else 1.0)

    def __call__(self, F: Floats) -> Floats:
        return (F - self.mean) / F.dtype.type(self.scale)


class Basis(NamedTuple):
    """Centres (m, d), γ, the Cholesky factor L (m, m) of their kernel, weights of a quadrature."""

    centres: Floats
    gamma: float
    factor: Floats
    weights: Floats | None = None

    @classmethod
    def of(cls, centres: Floats, gamma: float, weights: Floats | None = None) -> Basis:
        """Factor the kernel matrix of the centres."""
        Z = centres.astype(np.float64)
        gram = gaussian(gamma, Z[None], Z)
        gram[np.diag_indices(len(gram))] += JITTER[centres.dtype.name]
        factor = np.linalg.cholesky(gram)
        return cls(centres, gamma, factor.astype(centres.dtype), weights)

    def features(self, F: Floats) -> Floats:
        """Return T^G of features (G, b, d), shape (b, m)."""
        K = gaussian(self.gamma, F, self.centres, self.weights)
        return solve_triangular(self.factor, K.T, lower=True, check_finite=False).T


def gaussian(gamma: float, F: Floats, Z: Floats, weights: Floats | None = None) -> Floats:
    """Return the mean over g of k(F_g, Z) for F (G, b, d) and Z (m, d), shape (b, m)."""
    total = np.zeros((F.shape[1], len(Z)), F.dtype)
    shares = np.full(len(F), 1 / len(F)) if weights is None else weights
    for G, share in zip(F, shares, strict=True):
        values = G @ Z.T
        values *= 2
        values -= np.einsum("bd,bd->b", G, G)[:, None]
        values -= np.einsum("md,md->m", Z, Z)
        np.minimum(values, 0, out=values)
        values *= F.dtype.type(gamma)
        np.exp(values, out=values)
        values *= F.dtype.type(share)
        total += values
    return total


def own(gamma: float, F: Floats, weights: Floats | None = None) -> Floats:
    """Return k^G(x, x) of features (G, b, d): the mean over pairs of turned copies, shape (b,)."""
    if len(F) == 1:
        return np.ones(F.shape[1])
    each = np.moveaxis(F, 1, 0).astype(np.float64)
    square = (each**2).sum(-1)
    gap = square[:, :, None] + square[:, None, :] - 2 * each @ np.moveaxis(each, 1, 2)
    pairs = np.exp(-gamma * np.maximum(gap, 0))
    w = np.full(len(F), 1 / len(F)) if weights is None else weights
    return np.einsum("g,bgh,h->b", w, pairs, w)


class Held(NamedTuple):
    """Rows that are held out together: their T (b, m), what of k^G(x, x) it leaves, numbers."""

    features: Floats
    rest: Floats
    rows: Ints


class Sums(NamedTuple):
    """T^T T (m, m), T^T Y (m, k), and the rows that are held out once, by fold."""

    gram: Floats
    right: Floats
    held: tuple[Held, ...]

    @classmethod
    def of(cls, basis: Basis, tiles: Tiles, Y: Floats, fold: Ints) -> Sums:
        """Sum over tiles of rows; ``fold`` (n,) numbers the fold of each row, -1 for none."""
        m = len(basis.centres)
        gram, right = np.zeros((m, m)), np.zeros((m, Y.shape[1]))
        kept: list[tuple[Floats, Floats, Ints]] = []
        for rows, F in tiles:
            T = basis.features(F)
            wide = T.astype(np.float64)
            gram += wide.T @ wide
            right += wide.T @ Y[rows]
            out = fold[rows] >= 0
            rest = own(basis.gamma, F[:, out], basis.weights) - (wide[out] ** 2).sum(1)
            kept.append((T[out], np.maximum(rest, 0.0), rows[out]))
        T, rest, rows = (np.concatenate(parts) for parts in zip(*kept, strict=True))
        masks = [fold[rows] == f for f in range(fold.max() + 1)]
        return cls(gram, right, tuple(Held(T[mask], rest[mask], rows[mask]) for mask in masks))


class Ridge(NamedTuple):
    """A ridge λ, its score, and what it predicts for the held-out rows."""

    ridge: float
    score: float
    predicted: Floats
    rows: Ints


def ridge_factor(gram: Floats, ridge: float) -> Any:
    """Factor T^T T + λ I."""
    A = gram.copy()
    A[np.diag_indices(len(A))] += ridge
    return cho_factor(A, lower=True, overwrite_a=True, check_finite=False)


def judge(sums: Sums, Y: Floats, ridge: float, score: Score) -> Ridge:
    """Return what a ridge makes of the held-out rows, each without its fold in the sums."""
    predicted = []
    for factor, wide, held in _folds(sums, ridge):
        right = sums.right - wide.T @ Y[held.rows]
        predicted.append(wide @ cho_solve(factor, right))
    rows = np.concatenate([held.rows for held in sums.held])
    f = np.concatenate(predicted)
    return Ridge(ridge, score(f, rows), f, rows)


def held_out_variance(sums: Sums, ridge: float) -> Floats:
    """Return the variance of held-out observations, in units of the amplitude, as in `judge`."""
    parts = []
    for factor, wide, held in _folds(sums, ridge):
        half = solve_triangular(factor[0], wide.T, lower=True, check_finite=False)
        parts.append(held.rest + ridge * (1 + (half**2).sum(0)))
    return np.concatenate(parts)


def _folds(sums: Sums, ridge: float) -> Iterator[tuple[Any, Floats, Held]]:
    """Yield the factor of the sums without each fold, and the fold."""
    for held in sums.held:
        wide = held.features.astype(np.float64)
        yield ridge_factor(sums.gram - wide.T @ wide, ridge), wide, held


def choose_ridge(sums: Sums, Y: Floats, score: Score, start: float) -> Ridge:
    """Return the ridge of the best held-out score, half powers of ten away from ``start``."""
    attempt = functools.cache(lambda ridge: judge(sums, Y, ridge, score))
    return climb(attempt, climb(attempt, start, COARSE, GAIN)[0], FINE, GAIN)[1]


def climb(
    attempt: Callable[[float], Ridge], start: float, step: float, gain: float
) -> tuple[float, Ridge]:
    """Divide or multiply a number by ``step`` while held-out scores rise; return it and the best.

    A step must gain a share ``gain`` of the score: on a plateau the search stays where it is.
    """
    best, at = attempt(start), start
    for factor in (1 / step, step):
        moved = False
        for _ in range(CLIMBS):
            option = attempt(at * factor)
            if not option.score > best.score + gain * abs(best.score):
                break
            best, at, moved = option, at * factor, True
        if moved:
            break
    return at, best


class Regressor(NamedTuple):
    r"""Weights on the centres: predictions :math:`k^G(x, Z)\,\alpha`.

    Attributes
    ----------
    centres : ndarray, shape (m, d)
        Z, standardised features.
    gamma, ridge : float
        γ and λ.
    dual : ndarray, shape (m, k)
        α.
    explained : ndarray, shape (m, m) or (0, m)
        E: a function has variance :math:`k^G(x,x) - |E\,k^G(Z,x)|^2`, in units of the amplitude.
    weights : ndarray, shape (G,), or None
        Of a quadrature; None for equal ones.
    """

    centres: Floats
    gamma: float
    ridge: float
    dual: Floats
    explained: Floats
    weights: Floats | None = None

    @classmethod
    def of(cls, basis: Basis, sums: Sums, ridge: float, *, variance: bool) -> Regressor:
        """Solve for the weights, and with ``variance`` for what the data explain."""
        factor = ridge_factor(sums.gram, ridge)
        L = basis.factor.astype(np.float64)
        dual = solve_triangular(L, cho_solve(factor, sums.right), lower=True, trans=1)
        explained = np.empty((0, len(L)))
        if variance:
            # E^T E = L^-T (I - λ (T^T T + λ I)^-1) L^-1, whose middle has eigenvalues in [0, 1).
            middle = -ridge * cho_solve(factor, np.eye(len(L)))
            middle[np.diag_indices(len(L))] += 1 + ROUNDING
            half = np.linalg.cholesky(middle)
            explained = solve_triangular(L, half, lower=True, trans=1).T
        return cls(basis.centres, basis.gamma, ridge, dual, explained, basis.weights)

    def cross(self, F: Floats) -> Floats:
        """Return k^G(x, Z) of features (G, b, d), shape (b, m), in float64."""
        wide = np.float64
        return gaussian(self.gamma, F.astype(wide), self.centres.astype(wide), self.weights)

    def __call__(self, F: Floats) -> Floats:
        """Return predictions for features (G, b, d), shape (b, k)."""
        return self.cross(F) @ self.dual

    def moments(self, F: Floats) -> tuple[Floats, Floats]:
        """Return predictions (b, k) and the variance of an observation (b,), in its unit."""
        K = self.cross(F)
        rest = own(self.gamma, F, self.weights) - ((K @ self.explained.T) ** 2).sum(1)
        return K @ self.dual, np.maximum(rest, 0.0) + self.ridge
