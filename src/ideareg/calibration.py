r"""How far a predictive distribution can be believed: scores of numbers and of classes.

A prediction is a mixture of normals, one per row, which is what a stack of warps predicts; one
normal is a mixture of one. Its cumulative distribution F gives

=====================  =============================================================  =============
score                  is                                                             ideal
=====================  =============================================================  =============
PIT                    F(y)                                                           uniform
CRPS                   :math:`\int (F(t)-1\{y\le t\})^2\,dt`, in units of y           small
coverage at level p    share of rows with :math:`|2F(y)-1|\le p`                      p
=====================  =============================================================  =============

Classes are judged by the Brier score, and by how often the most probable one is right where it was
given the probability p: the expected calibration error. Everything here is NumPy on the host.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp, ndtr, ndtri

Floats = NDArray[np.float64]

# Halvings of a bracket that is as wide as the quantiles of the components lie apart.
BISECTIONS = 80


def _check_shares(name: str, values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if not ((array > 0) & (array < 1)).all():
        raise ValueError(f"{name}: expected numbers strictly between 0 and 1, got {values!r}.")
    return array


class Mixture(NamedTuple):
    """One mixture of m normals for each entry of an array of any shape.

    Attributes
    ----------
    weight : ndarray, shape (m,)
        They sum to 1.
    mean, std : ndarray, shape (m, ...)

    Examples
    --------
    >>> forecast = Mixture.normal(mean=[0.0], std=[1.0])
    >>> low, high = forecast.interval(0.9)
    >>> low.round(3).tolist(), high.round(3).tolist()
    ([-1.645], [1.645])
    """

    weight: Floats
    mean: Floats
    std: Floats

    @classmethod
    def normal(cls, mean: ArrayLike, std: ArrayLike) -> Mixture:
        """Return one normal per entry of ``mean``.

        Raises
        ------
        ValueError
            If the shapes differ or a standard deviation is not positive.
        """
        m, s = np.asarray(mean, dtype=np.float64), np.asarray(std, dtype=np.float64)
        if m.shape != s.shape:
            raise ValueError(f"std: expected the shape {m.shape} of mean, got {s.shape}.")
        if not (s > 0).all():
            raise ValueError("std: expected positive standard deviations.")
        return cls(np.ones(1), m[None], s[None])

    def _targets(self, y: ArrayLike) -> Floats:
        y = np.asarray(y, dtype=np.float64)
        if y.shape != self.mean.shape[1:]:
            raise ValueError(f"y: expected the shape {self.mean.shape[1:]}, got {y.shape}.")
        return y

    def moments(self) -> tuple[Floats, Floats]:
        """Return mean and standard deviation."""
        mean = np.tensordot(self.weight, self.mean, 1)
        variance = np.tensordot(self.weight, self.std**2 + (self.mean - mean) ** 2, 1)
        return mean, np.sqrt(variance)

    def log_density(self, y: ArrayLike) -> Floats:
        """Return the logarithm of the density, shaped like ``y``."""
        each = -0.5 * ((self._targets(y) - self.mean) / self.std) ** 2 - np.log(self.std)
        weight = self.weight.reshape((-1,) + (1,) * (self.mean.ndim - 1))
        return logsumexp(each, axis=0, b=weight) - 0.5 * np.log(2 * np.pi)

    def pit(self, y: ArrayLike) -> Floats:
        """Return F(y), the probability integral transform, shaped like ``y``."""
        return np.tensordot(self.weight, ndtr((self._targets(y) - self.mean) / self.std), 1)

    def crps(self, y: ArrayLike) -> Floats:
        r"""Return the continuous ranked probability score, shaped like ``y`` and in its units.

        .. math:: \sum_iw_iA(y-\mu_i,\sigma_i^2)
                  -\tfrac12\sum_{ij}w_iw_jA(\mu_i-\mu_j,\sigma_i^2+\sigma_j^2)

        with :math:`A(\mu,\sigma^2)=E|N(\mu,\sigma^2)|`. It is the absolute error where nothing is
        left uncertain.

        Notes
        -----
        Grimit, Gneiting, Berrocal and Johnson, "The continuous ranked probability score for
        circular variables and its application to mesoscale forecast ensemble verification", 2006.
        """
        y = self._targets(y)
        far = np.tensordot(self.weight, _mean_size(y - self.mean, self.std), 1)
        apart = np.zeros_like(y)
        for w, m, s in zip(self.weight, self.mean, self.std, strict=True):
            apart += w * np.tensordot(
                self.weight, _mean_size(m - self.mean, np.hypot(s, self.std)), 1
            )
        return far - 0.5 * apart

    def quantile(self, share: ArrayLike) -> Floats:
        """Return the quantiles, of the shape of ``share`` followed by that of the mixtures.

        Raises
        ------
        ValueError
            If a share is not between 0 and 1.
        """
        shares = _check_shares("quantiles", share)
        q = shares.reshape(shares.shape + (1,) * (self.mean.ndim - 1))
        each = np.stack([m + s * ndtri(q) for m, s in zip(self.mean, self.std, strict=True)])
        low, high = each.min(0), each.max(0)
        if len(self.weight) == 1:
            return low
        for _ in range(BISECTIONS):
            middle = 0.5 * (low + high)
            below = sum(
                w * ndtr((middle - m) / s)
                for w, m, s in zip(self.weight, self.mean, self.std, strict=True)
            )
            low, high = np.where(below < q, middle, low), np.where(below < q, high, middle)
        return 0.5 * (low + high)

    def interval(self, level: float = 0.9) -> tuple[Floats, Floats]:
        """Return the ends of the central interval of probability ``level``.

        Raises
        ------
        ValueError
            If the level is not between 0 and 1.
        """
        level = float(_check_shares("level", level))
        low, high = self.quantile([(1 - level) / 2, (1 + level) / 2])
        return low, high


def _mean_size(mean: Floats, std: Floats) -> Floats:
    """Return E|N(mean, std²)|."""
    with np.errstate(over="ignore"):  # far from a sharp normal, where the density is 0
        z = mean / std
        density = np.exp(-0.5 * z**2)
    return std * np.sqrt(2 / np.pi) * density + mean * (2 * ndtr(z) - 1)


# ---------------------------------------------------------------- numbers


def coverage(pit: ArrayLike, level: ArrayLike = 0.9) -> Any:
    """Return the share of targets within the central interval of each level.

    Parameters
    ----------
    pit : array-like
        See `Mixture.pit`.
    level : float or array-like, default=0.9

    Returns
    -------
    float, or ndarray shaped like ``level``

    Examples
    --------
    >>> coverage([0.5, 0.94, 0.01, 0.3], level=0.9)
    0.75
    """
    level = _check_shares("level", level)
    off = np.abs(2 * np.ravel(np.asarray(pit, dtype=np.float64)) - 1)
    shares = (off <= level[..., None]).mean(-1)
    return shares if level.ndim else float(shares)


class Reliability(NamedTuple):
    """What was promised beside what happened, one entry per level or per bin.

    Attributes
    ----------
    promised : ndarray
        Levels of intervals, or the mean probability of the classes in a bin.
    observed : ndarray
        The share of targets inside, or of classes that were right; NaN for an empty bin.
    rows : ndarray of int
        How many targets that share is of.
    """

    promised: Floats
    observed: Floats
    rows: NDArray[np.intp]

    @property
    def error(self) -> float:
        """Mean distance of the two, weighted by the rows."""
        off = np.where(self.rows > 0, np.abs(self.promised - self.observed), 0.0)
        return float(np.average(off, weights=self.rows))


def interval_reliability(pit: ArrayLike, levels: ArrayLike | None = None) -> Reliability:
    """Return how many targets the central intervals hold, level by level.

    Parameters
    ----------
    pit : array-like
        See `Mixture.pit`.
    levels : array-like, optional
        By default 0.05, 0.1, ..., 0.95.

    Returns
    -------
    Reliability
    """
    wanted = np.linspace(0.05, 0.95, 19) if levels is None else np.asarray(levels, dtype=float)
    pit = np.ravel(pit)
    return Reliability(wanted, coverage(pit, wanted), np.full(wanted.shape, len(pit)))


# ---------------------------------------------------------------- classes


def _classes(labels: ArrayLike, probability: ArrayLike) -> tuple[NDArray[np.intp], Floats]:
    codes, P = np.asarray(labels), np.asarray(probability, dtype=np.float64)
    if P.ndim != 2 or codes.shape != P.shape[:1]:
        raise ValueError(
            f"probability: expected one row per label and one column per class, got {P.shape} for "
            f"labels of shape {codes.shape}."
        )
    if not len(P) or not np.isfinite(P).all() or (P < 0).any():
        raise ValueError("probability: expected finite, non-negative rows, at least one.")
    if not np.issubdtype(codes.dtype, np.integer) or codes.min() < 0 or codes.max() >= P.shape[1]:
        raise ValueError(
            "labels: expected the column of each row's class, as an integer; "
            "np.searchsorted(model.classes_, y) gives it."
        )
    return codes.astype(np.intp), P


def brier_score(labels: ArrayLike, probability: ArrayLike) -> float:
    """Return the mean squared distance of the probabilities from what happened, 0 to 2.

    Parameters
    ----------
    labels : array-like of int, shape (n,)
        The column of each row's class.
    probability : array-like, shape (n, k)

    Examples
    --------
    >>> round(brier_score([0, 1], [[0.9, 0.1], [0.4, 0.6]]), 3)
    0.17
    """
    codes, P = _classes(labels, probability)
    return float(((P - np.eye(P.shape[1])[codes]) ** 2).sum(1).mean())


def class_reliability(labels: ArrayLike, probability: ArrayLike, bins: int = 15) -> Reliability:
    """Return how often the most probable class was right, in equal bins of its probability.

    Parameters
    ----------
    labels : array-like of int, shape (n,)
        The column of each row's class.
    probability : array-like, shape (n, k)
    bins : int, default=15

    Returns
    -------
    Reliability

    Raises
    ------
    ValueError
        If the shapes do not match, a probability is negative or not finite, or bins < 1.
    """
    codes, P = _classes(labels, probability)
    if bins < 1:
        raise ValueError(f"bins: expected a number of bins >= 1, got {bins}.")
    top, right = P.max(1), P.argmax(1) == codes
    place = np.clip(np.ceil(top * bins).astype(int) - 1, 0, bins - 1)  # a bin has its upper end
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        promised, observed = (
            np.bincount(place, weights=value, minlength=bins) / count
            for value in (top, right.astype(float))
        )
    middle = (np.arange(bins) + 0.5) / bins
    return Reliability(np.where(count > 0, promised, middle), observed, count)


def expected_calibration_error(labels: ArrayLike, probability: ArrayLike, bins: int = 15) -> float:
    """Return the mean distance between the top class's probability and how often it is right.

    Takes what `class_reliability` takes.

    Notes
    -----
    Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", 2017.

    Examples
    --------
    >>> round(expected_calibration_error([0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.9, 0.1]]), 3)
    0.333
    """
    return class_reliability(labels, probability, bins).error
