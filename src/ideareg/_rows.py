"""Data sets in the one form that fits use: canonical, standardised, padded to a bucket.

Everything here is NumPy on the host. A fit sees the same numbers whatever the order of the rows,
and whether a row is repeated k times or carries weight k.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

Floats = NDArray[np.float64]
Index = NDArray[np.intp] | slice

# Buckets up to the first size are powers of two, then also 1.5 times one, then steps of quarters.
COARSEST_BUCKETS, COARSE_BUCKETS = 256, 1024
SMALLEST_BUCKET = 64
CENTRE_ITERATIONS = 25
# Exponents below this are taken to be 0, where the power is a logarithm.
TINY_POWER = 1e-6
UNIT_QUANTILE = 0.1
# Where no column ever is.
FAR = 1e150
# Rows that a prediction holds at a time: bounds memory whatever the size of the table.
CHUNK = 4096


class Rows(NamedTuple):
    """Inputs ``X`` (n, d), targets ``Y`` (n, k) and non-negative weights (n,)."""

    X: Floats
    Y: Floats
    weight: Floats

    def __len__(self) -> int:
        return len(self.X)

    def take(self, index: Index) -> Rows:
        """Return the rows of ``index``."""
        return Rows(self.X[index], self.Y[index], self.weight[index])


def draw(n: int, count: int, random: np.random.RandomState) -> Index:
    """Return which of ``n`` rows to look at: at most ``count``, at random, in their order."""
    if n <= count:
        return slice(None)
    return np.sort(random.choice(n, count, replace=False))


def canonical(X: Floats, Y: Floats, weight: Floats) -> Rows:
    """Drop rows of weight 0, sort the rest, and merge equal rows by adding their weights.

    Floating-point sums depend on order, and a long optimisation amplifies the last bit. In this
    form two data sets that mean the same are the same, bit for bit.
    """
    kept = weight > 0
    X, Y, weight = X[kept] + 0.0, Y[kept] + 0.0, weight[kept]  # + 0.0 turns -0.0 into 0.0
    order, first = _sorted_groups(X, Y, weight)
    X, Y, weight = X[order], Y[order], weight[order]
    starts = np.flatnonzero(first)
    total = np.add.reduceat(weight, starts) if len(starts) else weight[:0]
    return Rows(X[starts], Y[starts], total)


def places(X: Floats, Y: Floats, weight: Floats) -> NDArray[np.intp]:
    """Return which of the `canonical` rows each row became, -1 for rows of weight 0.

    Examples
    --------
    >>> X = np.array([[2.0], [1.0], [2.0], [0.0]])
    >>> places(X, X, np.array([1.0, 1.0, 3.0, 0.0])).tolist()
    [1, 0, 1, -1]
    """
    kept = np.flatnonzero(weight > 0)
    order, first = _sorted_groups(X[kept] + 0.0, Y[kept] + 0.0, weight[kept])
    found = np.full(len(X), -1)
    found[kept[order]] = np.cumsum(first) - 1
    return found


def _sorted_groups(
    X: Floats, Y: Floats, weight: Floats
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return the order of the rows, and in it the first of each group of equal rows."""
    order = np.lexsort(np.column_stack([X, Y, weight]).T[::-1])
    both = np.hstack([X[order], Y[order]])
    first = np.ones(len(X), dtype=bool)
    first[1:] = (both[1:] != both[:-1]).any(axis=1)
    return order, first


class Scaling(NamedTuple):
    """A monotone map per column to mean 0 and deviation 1; constant columns map to 0.

    A Yeo-Johnson power, which takes the skew out of a column, then an affine map. Powers between 0
    and 2 make it a bijection of the line, so it can be undone wherever a flow may have led. The
    power acts on multiples of ``unit``, the size of the column's small entries: metres or
    kilometres are the same. Below ``low`` and above ``high`` the map goes on as a straight line.
    """

    unit: Floats
    power: Floats
    mean: Floats
    scale: Floats
    varies: NDArray[np.bool_]
    low: Floats | float = -FAR
    high: Floats | float = FAR

    @classmethod
    def of(
        cls, A: Floats, weight: Floats, *, centre: bool = True, bend: float = 0.0,
        straight: bool = False,
    ) -> Scaling:  # fmt: skip
        """Measure the columns of ``A`` (n, d).

        Powers go the share ``bend`` of the way from 1 to that which leaves least skew; without
        ``centre`` the map is the identity. With ``straight`` it is a line beyond what is in ``A``.
        """
        columns = A.shape[1]
        low, high = np.full(columns, -FAR), np.full(columns, FAR)
        unit, power, mean, scale = (fill(columns) for fill in (np.ones, np.ones, np.zeros, np.ones))
        varies = np.ones(columns, dtype=bool)
        if not centre:
            return cls(unit, power, mean, scale, varies, low, high)
        if straight:
            low, high = A.min(0), A.max(0)
        share = weight / weight.sum()
        if bend:
            unit = np.array([_unit(column, share) for column in A.T])
            straightest = np.array([_straightest_power(x, share) for x in (A / unit).T])
            power = 1 + bend * (straightest - 1)
            A = yeo_johnson(A / unit, power)
        mean = share @ A
        deviation = np.sqrt(share @ (A - mean) ** 2)
        # A column whose spread is only rounding counts as constant.
        varies = deviation > 10 * np.finfo(float).eps * np.maximum(np.abs(mean), 1e-300)
        # The mean of a constant is that constant, not what a rounded sum makes of it.
        mean = np.where(varies, mean, A[0])
        scale = np.where(varies, deviation, 1.0)
        return cls(unit, power, mean, scale, varies, low, high)

    def forward(self, A: Floats) -> Floats:
        """Standardise the rows of ``A``."""
        inside = np.clip(A, self.low, self.high)
        bent = yeo_johnson(inside / self.unit, self.power)
        bent = bent + np.exp(self._log_bend(inside)) * (A - inside)
        return np.where(self.varies, (bent - self.mean) / self.scale, 0.0)

    def backward(self, A: Floats) -> Floats:
        """Undo `forward`; a constant column gets its constant back."""
        bent = np.where(self.varies, A * self.scale, 0.0) + self.mean
        with np.errstate(over="ignore"):  # FAR in small units
            ends = [yeo_johnson(end / self.unit, self.power) for end in (self.low, self.high)]
        inside = np.clip(bent, *ends)
        found = self.unit * yeo_johnson_inverse(inside, self.power)
        return found + np.exp(-self._log_bend(found)) * (bent - inside)

    @property
    def bends(self) -> bool:
        """Whether any column is bent, rather than moved and stretched."""
        return bool((self.power != 1).any())

    def log_slope(self, A: Floats) -> Floats:
        """Return the logarithm of the slope of `forward` at the rows of ``A``, shaped like it.

        It is what a log density of standardised targets gains in units of ``A``.
        """
        return self._log_bend(np.clip(A, self.low, self.high)) - np.log(self.scale)

    def _log_bend(self, A: Floats) -> Floats:
        """Return the logarithm of the slope of the power alone."""
        exponent = np.where(A >= 0, self.power, 2 - self.power)
        return (exponent - 1) * np.log1p(np.abs(A / self.unit)) - np.log(self.unit)

    def unevenness(self, A: Floats, weight: Floats) -> float:
        """Return how much `log_slope` differs between the rows of ``A``: 0 without a bend."""
        share, slope = weight / weight.sum(), self.log_slope(A)
        return float(np.sqrt(share @ (slope - share @ slope) ** 2).max())

    def steepest(self, A: Floats, radius: Floats) -> Floats:
        """Return the largest slope of `forward` within ``radius`` (n,) of the rows of ``A``.

        The slope of a power falls along the line below power 1 and rises above, so that it is
        largest at one end.
        """
        reach = radius[:, None] * np.where(self.power < 1, -1.0, 1.0)
        end = (A + reach) / self.unit
        exponent = np.where(end >= 0, self.power, 2 - self.power)
        slope = (1 + np.abs(end)) ** (exponent - 1)
        return np.where(self.varies, slope / (self.unit * self.scale), 0.0)


class Bent(NamedTuple):
    """Other targets of the same rows: bent to take the skew out of them, and standardised.

    Attributes
    ----------
    Y : ndarray, shape (n, k)
    log_slope : ndarray, shape (n,)
        What a log density of them gains to be one of the ordinary targets.
    """

    Y: Floats
    log_slope: Floats

    @classmethod
    def of(cls, Y: Floats, ordinary: Scaling, bend: Scaling) -> Bent:
        """Return the targets that ``bend`` makes of the rows of ``Y`` (n, k)."""
        slope = bend.log_slope(Y) - ordinary.log_slope(Y)
        return cls(bend.forward(Y), slope.sum(1))

    def take(self, index: Index) -> Bent:
        """Return the targets of ``index``."""
        return Bent(self.Y[index], self.log_slope[index])

    def on(self, rows: Rows) -> Rows:
        """Return ``rows`` with these targets."""
        return Rows(rows.X, self.Y, rows.weight)


def yeo_johnson(A: Floats, power: Floats) -> Floats:
    r"""Return :math:`((1+x)^\lambda-1)/\lambda` for x >= 0, and its mirror image with 2 - λ below.

    One power between 0 and 2 per column; 1 is the identity, to the last bit.

    Examples
    --------
    >>> yeo_johnson(np.array([[0.0, 3.0]]), np.array([1.0, 0.5])).tolist()
    [[0.0, 2.0]]
    """
    size = np.abs(A)
    exponent = np.where(A >= 0, power, 2 - power)
    safe = np.where(exponent > TINY_POWER, exponent, 1.0)
    log = np.log1p(size)
    bent = np.where(exponent > TINY_POWER, np.expm1(safe * log) / safe, log)
    return np.where(power == 1, A, np.copysign(bent, A))


def yeo_johnson_inverse(A: Floats, power: Floats) -> Floats:
    """Undo `yeo_johnson`."""
    size = np.abs(A)
    exponent = np.where(A >= 0, power, 2 - power)
    safe = np.where(exponent > TINY_POWER, exponent, 1.0)
    log = np.where(exponent > TINY_POWER, np.log1p(safe * size) / safe, size)
    return np.where(power == 1, A, np.copysign(np.expm1(log), A))


def _unit(x: Floats, share: Floats) -> float:
    """Return the lowest decile of the sizes of the entries that are not zero."""
    size = np.abs(x)
    order = np.argsort(size, kind="stable")
    order = order[size[order] > 0]
    if not len(order):
        return 1.0
    below = np.cumsum(share[order])
    return float(size[order[np.searchsorted(below, UNIT_QUANTILE * below[-1])]])


def _straightest_power(x: Floats, share: Floats) -> float:
    """Return the power of greatest likelihood for a normal column."""
    if x.min() == x.max():
        return 1.0
    slope = float(share @ (np.sign(x) * np.log1p(np.abs(x))))

    def negative(power: float) -> float:
        bent = yeo_johnson(x[:, None], np.array([power]))[:, 0]
        variance = float(share @ (bent - share @ bent) ** 2)
        return 0.5 * math.log(max(variance, 1e-300)) - (power - 1) * slope

    return float(minimize_scalar(negative, bounds=(0, 2), method="bounded").x)


def bucket(n: int) -> int:
    """Return the padded size for ``n`` rows: few sizes, so that compiled code is reused."""
    size = SMALLEST_BUCKET
    while size < n:
        size *= 2
    if size > COARSE_BUCKETS:
        steps = [size // 8 * k for k in (5, 6, 7, 8)]
    elif size > COARSEST_BUCKETS:
        steps = [size // 4 * 3, size]
    else:
        steps = [size]
    return next(s for s in steps if s >= n)


def column_bucket(d: int) -> int:
    """Return the padded number of columns for ``d``: a zero column is inert in every kernel."""
    return next(s for s in (4, 8, 12, 16, 24, 32, 48, 64, d) if s >= d)


def pad(A: Floats, size: int, axis: int = 0) -> Floats:
    """Append zeros to ``A`` along ``axis`` up to ``size``."""
    widths = [(0, 0)] * A.ndim
    widths[axis] = (0, size - A.shape[axis])
    return np.pad(A, widths)


def centres(X: Floats, weight: Floats, count: int, seed: int) -> Floats:
    """Return at most ``count`` weighted k-means centres of the rows of ``X``.

    One thread, so that sums have one order and the answer one value. Rows of weight 0 are none.
    """
    X, weight = X[weight > 0], weight[weight > 0]
    distinct = np.unique(X, axis=0)
    if len(distinct) <= count:
        return distinct
    with threadpool_limits(limits=1):
        model = KMeans(count, n_init=1, max_iter=CENTRE_ITERATIONS, random_state=seed)
        return np.asarray(model.fit(X, sample_weight=weight).cluster_centers_, dtype=np.float64)


def in_chunks(f: Callable[[Floats], Any], X: Floats, size: int = CHUNK) -> list[Floats]:
    """Apply ``f`` to chunks of rows padded to their bucket; return its outputs, concatenated."""
    parts: list[list[Floats]] = []
    for first in range(0, len(X), size):
        rows = X[first : first + size]
        outputs = f(pad(rows, bucket(len(rows))))
        parts.append([np.asarray(output)[: len(rows)] for output in outputs])
    return [np.concatenate(part) for part in zip(*parts, strict=True)]
