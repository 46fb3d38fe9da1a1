"""The predictive distribution of a stack of warps: a mixture, computed in chunks of rows.

Inputs are standardised rows, outputs are in units of the standardised targets of each warp.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from ideareg._rows import in_chunks
from ideareg.calibration import Mixture
from ideareg.recipe import FittedWarp
from ideareg.selection import normal_log_density
from ideareg.uncertainty import predict_covariance, predict_mean, predict_moments

Floats = NDArray[np.float64]

# With the variance of the warp, a row also holds its gradient by every stage of the flow.
CHUNK_SPREAD = 1024


class Stack(NamedTuple):
    """Fitted warps with their weights."""

    warps: list[FittedWarp]

    @property
    def weights(self) -> Floats:
        """The weights, which sum to 1."""
        return np.array([w.weight for w in self.warps])

    def mean(self, Z: Floats) -> Floats:
        """Return the predictive mean, (n, k)."""
        return np.tensordot(self.weights, [_mean(w, Z) for w in self.warps], 1)

    def normals(self, Z: Floats) -> tuple[Floats, Floats]:
        """Return what each warp says of observations: means (m, n, k), covariances (m, k, n, n)."""
        means, covariances = zip(*(_function(w, Z) for w in self.warps), strict=True)
        own = [noise(w) * (1 - w.local.share if w.local else 1) for w in self.warps]
        alone = np.eye(len(Z))
        return np.stack(means), np.stack(
            [C + v * alone for C, v in zip(covariances, own, strict=True)]
        )

    def log_density(self, Z: Floats, Y: Floats, log_slope: Floats) -> Floats:
        """Return the log density of each row, summed over outputs, shape (n,).

        Each warp sees targets of its own, Y (m, n, k); ``log_slope`` (m, n) is what their density
        gains in common units.
        """
        weights, means, variances = self._each(Z)
        of = self.owners
        each = normal_log_density(Y[of], means, variances).sum(-1) + log_slope[of]
        return logsumexp(each + np.log(weights)[:, None], axis=0)

    @property
    def owners(self) -> NDArray[np.intp]:
        """The warp that each component of `mixture` is of: several where noise has tails."""
        counts = [len(w.tails.scales()[0]) for w in self.warps]
        return np.repeat(np.arange(len(counts)), counts)

    def mixture(self, Z: Floats, ratio: Floats | float = 1.0) -> Mixture:
        """Return the distribution of an observation at each row, of shape (n, k).

        Its noise variance is ``ratio``, a number or (n, 1), times that of each warp.
        """
        weights, means, variances = self._each(Z, ratio)
        return Mixture(weights, means, np.sqrt(variances))

    def sample(self, Z: Floats, count: int, random: np.random.RandomState) -> list[Floats]:
        """Draw functions without noise, ``count`` in all: of each warp (n, k, its share)."""
        picks = random.multinomial(count, self.weights)
        draws = []
        for w, times in zip(self.warps, picks, strict=True):
            mean, covariance = _function(w, Z)
            pairs = zip(mean.T, covariance, strict=True)
            columns = [random.multivariate_normal(m, C, times).T for m, C in pairs]
            draws.append(np.stack(columns, axis=1))
        return draws

    def _each(self, Z: Floats, ratio: Floats | float = 1.0) -> tuple[Floats, Floats, Floats]:
        """Return the weights of all components, their means and their variances."""
        weights, means, variances = [], [], []
        for w in self.warps:
            mean, doubt, left = _moments(w, Z)
            for scale, weight in zip(*w.tails.scales(), strict=True):
                weights.append(w.weight * weight)
                means.append(mean)
                variances.append(doubt + ratio * left * scale * float(w.predictor.posterior.noise))
        return np.array(weights), np.stack(means), np.stack(variances)


def mix(weights: Floats, means: Floats, covariances: Floats) -> tuple[Floats, Floats]:
    """Return mean (n, k) and covariance (k, n, n) of a mixture of what `Stack.normals` returns."""
    mean = np.tensordot(weights, means, 1)
    apart = np.swapaxes(means - mean, 1, 2)
    outer = apart[..., :, None] * apart[..., None, :]
    return mean, np.tensordot(weights, covariances + outer, 1)


def noise(w: FittedWarp) -> float:
    """Return the variance of the noise of a warp, where near rows explain none of it."""
    return w.tails.level * float(w.predictor.posterior.noise)


def _mean(w: FittedWarp, Z: Floats) -> Floats:
    (mean,) = in_chunks(lambda X: (predict_mean(w.predictor, X),), Z)
    return mean + w.local(Z)[0] if w.local else mean


def _moments(w: FittedWarp, Z: Floats) -> tuple[Floats, Floats, Floats | float]:
    """Return mean and variance of the function (n, k), and the share of the noise left (n, 1)."""

    def moments(X: Floats) -> Any:
        return predict_moments(w.predictor, X)

    mean, variance = in_chunks(moments, Z, CHUNK_SPREAD)
    expected, left = w.local(Z) if w.local else (0.0, 1.0)
    return mean + expected, variance, left


def _function(w: FittedWarp, Z: Floats) -> tuple[Floats, Floats]:
    """Return mean (n, k) and covariance (k, n, n), without what each row has alone."""
    (mean,) = in_chunks(lambda X: (predict_mean(w.predictor, X),), Z)
    covariance = np.asarray(predict_covariance(w.predictor, Z))
    if w.local is None:
        return mean, covariance
    expected, common = w.local.jointly(Z)
    return mean + expected, covariance + noise(w) * common
