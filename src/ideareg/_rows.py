"""Data sets in the one form that fits use: canonical, standardised, padded to a bucket.

Everything here is NumPy on the host. A fit sees the same numbers whatever the order of the rows,
and whether a row is repeated k times or carries weight k.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

Floats = NDArray[np.float64]

# Buckets up to this size are powers of two or 1.5 times one; larger ones step by quarters.
COARSE_BUCKETS = 1024
SMALLEST_BUCKET = 32
CENTRE_ITERATIONS = 25


class Rows(NamedTuple):
    """Inputs ``X`` (n, d), targets ``Y`` (n, k) and non-negative weights (n,)."""

    X: Floats
    Y: Floats
    weight: Floats

    def __len__(self) -> int:
        return len(self.X)

    def take(self, index: NDArray[np.intp]) -> Rows:
        """Return the rows of ``index``."""
        return Rows(self.X[index], self.Y[index], self.weight[index])


def canonical(X: Floats, Y: Floats, weight: Floats) -> Rows:
    """Drop rows of weight 0, sort the rest, and merge equal rows by adding their weights.

    Floating-point sums depend on order, and a long optimisation amplifies the last bit. In this
    form two data sets that mean the same are the same, bit for bit.
    """
    kept = weight > 0
    X, Y, weight = X[kept] + 0.0, Y[kept] + 0.0, weight[kept]  # + 0.0 turns -0.0 into 0.0
    order = np.lexsort(np.column_stack([X, Y, weight]).T[::-1])
    X, Y, weight = X[order], Y[order], weight[order]
    both = np.hstack([X, Y])
    first = np.ones(len(X), dtype=bool)
    first[1:] = (both[1:] != both[:-1]).any(axis=1)
    starts = np.flatnonzero(first)
    total = np.add.reduceat(weight, starts) if len(starts) else weight[:0]
    return Rows(X[starts], Y[starts], total)


class Scaling(NamedTuple):
    """A weighted affine map to mean 0 and deviation 1, one per column; constants map to 0."""

    mean: Floats
    scale: Floats
    varies: NDArray[np.bool_]

    @classmethod
    def of(cls, A: Floats, weight: Floats, *, centre: bool = True) -> Scaling:
        """Measure the columns of ``A`` (n, d); without ``centre`` the map is the identity."""
        columns = A.shape[1]
        if not centre:
            return cls(np.zeros(columns), np.ones(columns), np.ones(columns, dtype=bool))
        share = weight / weight.sum()
        mean = share @ A
        deviation = np.sqrt(share @ (A - mean) ** 2)
        # A column whose spread is only rounding counts as constant.
        varies = deviation > 10 * np.finfo(float).eps * np.maximum(np.abs(mean), 1e-300)
        # The mean of a constant is that constant, not what a rounded sum makes of it.
        return cls(np.where(varies, mean, A[0]), np.where(varies, deviation, 1.0), varies)

    def forward(self, A: Floats) -> Floats:
        """Standardise the rows of ``A``."""
        return np.where(self.varies, (A - self.mean) / self.scale, 0.0)

    def backward(self, A: Floats) -> Floats:
        """Undo `forward`; a constant column gets its constant back."""
        return np.where(self.varies, A * self.scale, 0.0) + self.mean


def bucket(n: int) -> int:
    """Return the padded size for ``n`` rows: few sizes, so that compiled code is reused."""
    size = SMALLEST_BUCKET
    while size < n:
        size *= 2
    if size > COARSE_BUCKETS:
        steps = [size // 8 * k for k in (5, 6, 7, 8)]
    elif size > SMALLEST_BUCKET:
        steps = [size // 4 * 3, size]
    else:
        steps = [size]
    return next(s for s in steps if s >= n)


def column_bucket(d: int) -> int:
    """Return the padded number of columns for ``d``: a zero column is inert in every kernel."""
    return next(s for s in (2, 4, 6, 8, 12, 16, 24, 32, 48, 64, d) if s >= d)


def pad(A: Floats, size: int, axis: int = 0) -> Floats:
    """Append zeros to ``A`` along ``axis`` up to ``size``."""
    widths = [(0, 0)] * A.ndim
    widths[axis] = (0, size - A.shape[axis])
    return np.pad(A, widths)


def centres(X: Floats, weight: Floats, count: int, seed: int) -> Floats:
    """Return at most ``count`` weighted k-means centres of the rows of ``X``.

    One thread, so that sums have one order and the answer one value.
    """
    distinct = np.unique(X, axis=0)
    if len(distinct) <= count:
        return distinct
    with threadpool_limits(limits=1):
        model = KMeans(count, n_init=1, max_iter=CENTRE_ITERATIONS, random_state=seed)
        return np.asarray(model.fit(X, sample_weight=weight).cluster_centers_, dtype=np.float64)
