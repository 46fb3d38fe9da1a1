r"""What is predicted of a target whose columns were bent: a mixture of normals, unbent.

A model of g(y), with g the increasing map of a `Scaling`, predicts a normal z for it, and so the
distribution of :math:`y=g^{-1}(z)`. Its quantiles are those of z, mapped back; its density gains
the slope of g; its moments are sums over the nodes of Gauss and Hermite. Noise that is the same
everywhere in g(y) grows or shrinks with y. A stack mixes several, each with a g of its own.

Notes
-----
Snelson, Rasmussen and Ghahramani, "Warped Gaussian processes", NeurIPS 2003.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.polynomial.hermite_e import hermegauss, hermevander
from numpy.typing import ArrayLike, NDArray
from scipy.special import factorial, logsumexp, ndtr, ndtri

from ideareg._rows import Scaling
from ideareg.calibration import BISECTIONS, Mixture, _check_shares

Floats = NDArray[np.float64]

# Nodes and weights of E over a standard normal, exact for polynomials of degree 63.
NODES, WEIGHTS = hermegauss(32)
WEIGHTS = WEIGHTS / WEIGHTS.sum()
# Points of equal probability that stand for one normal where a score has a kink.
POINTS = 200
# Terms of the series of a covariance.
TERMS = 12


class BentMixture(NamedTuple):
    """One distribution for each entry of an array, of shape (n,) or (n, k): see `Mixture`.

    Attributes
    ----------
    latent : Mixture
        Its component j is the prediction of :math:`g_j(y)`.
    scalings : tuple of Scaling
        :math:`g_j` of each component, for each of the k columns.

    Examples
    --------
    >>> targets = np.exp(np.random.default_rng(0).normal(size=(500, 1)))
    >>> g = Scaling.of(targets, np.ones(500), bend=1.0)
    >>> forecast = BentMixture(Mixture.normal([0.0], [1.0]), (g,))
    >>> low, middle, high = forecast.quantile([0.05, 0.5, 0.95])
    >>> bool(high - middle > 2 * (middle - low))
    True
    """

    latent: Mixture
    scalings: tuple[Scaling, ...]

    @property
    def weight(self) -> Floats:
        """The weights of the components, which sum to 1."""
        return self.latent.weight

    def moments(self) -> tuple[Floats, Floats]:
        """Return mean and standard deviation."""
        means, stds = self.components()
        return Mixture(self.weight, means, stds).moments()

    def components(self) -> tuple[Floats, Floats]:
        """Return mean and standard deviation of each component, (m, ...)."""
        values = self._at(NODES)
        means = values @ WEIGHTS
        return means, np.sqrt((values - means[..., None]) ** 2 @ WEIGHTS)

    def log_density(self, y: ArrayLike) -> Floats:
        """Return the logarithm of the density, shaped like ``y``."""
        y = self._targets(y)
        columns = self._columns(y)
        slopes = np.stack([g.log_slope(columns).reshape(y.shape) for g in self.scalings])
        each = -0.5 * self._standing(y) ** 2 - np.log(self.latent.std) + slopes
        weight = self.weight.reshape((-1,) + (1,) * y.ndim)
        return logsumexp(each, axis=0, b=weight) - 0.5 * np.log(2 * np.pi)

    def pit(self, y: ArrayLike) -> Floats:
        """Return F(y), the probability integral transform, shaped like ``y``."""
        return np.tensordot(self.weight, ndtr(self._standing(self._targets(y))), 1)

    def crps(self, y: ArrayLike) -> Floats:
        r"""Return the continuous ranked probability score, shaped like ``y`` and in its units.

        .. math:: E|Y-y|-\tfrac12E|Y-Y'|

        with each normal in 200 points of equal probability.
        """
        y = self._targets(y)
        values = self._at(ndtri((np.arange(POINTS) + 0.5) / POINTS))
        points = np.moveaxis(values, 0, -2).reshape(*y.shape, -1)
        share = np.repeat(self.weight / POINTS, POINTS)
        far = np.abs(points - y[..., None]) @ share
        order = np.argsort(points, axis=-1)
        points, share = np.take_along_axis(points, order, -1), share[order]
        # E|Y - Y'| / 2 is the sum over gaps of what lies below times what lies above.
        below = np.cumsum(share, axis=-1)[..., :-1]
        return far - (np.diff(points, axis=-1) * below * (1 - below)).sum(-1)

    def quantile(self, share: ArrayLike) -> Floats:
        """Return the quantiles, of the shape of ``share`` followed by that of the mixtures.

        Raises
        ------
        ValueError
            If a share is not between 0 and 1.
        """
        shares = _check_shares("quantiles", share)
        each = np.moveaxis(self._at(ndtri(shares.ravel())), -1, 1)  # (m, q, ...)
        low, high = each.min(0), each.max(0)
        q = shares.reshape((-1,) + (1,) * (low.ndim - 1))
        for _ in range(BISECTIONS if len(self.weight) > 1 else 0):
            middle = 0.5 * (low + high)
            below = np.stack([self.pit(y) for y in middle]) < q
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return (0.5 * (low + high)).reshape(shares.shape + low.shape[1:])

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

    def _targets(self, y: ArrayLike) -> Floats:
        return self.latent._targets(y)

    def _columns(self, A: Floats) -> Floats:
        """Return ``A``, of the shape (..., n) or (..., n, k), with the columns last."""
        return A if self.latent.mean.ndim == 3 else A[..., None]

    def _standing(self, y: Floats) -> Floats:
        """Return where ``y`` lies under each component, in its standard deviations, (m, ...)."""
        columns = self._columns(y)
        latent = np.stack([g.forward(columns).reshape(y.shape) for g in self.scalings])
        return (latent - self.latent.mean) / self.latent.std

    def _at(self, normal: Floats) -> Floats:
        """Return what standard normal values (q,) are in each component, (m, ..., q)."""
        _, mean, std = self.latent
        values = mean[..., None] + std[..., None] * normal
        columns = np.swapaxes(values, -1, -2) if mean.ndim == 3 else values[..., None]
        back = np.stack([g.backward(A) for g, A in zip(self.scalings, columns, strict=True)])
        return np.swapaxes(back, -1, -2) if mean.ndim == 3 else back[..., 0]


def unbend(mean: Floats, covariance: Floats, scaling: Scaling) -> tuple[Floats, Floats]:
    r"""Return mean and covariance of :math:`g^{-1}(z)` for normal z.

    .. math:: \sum_{j\ge1}j!\,c_j(x)\,c_j(x')\,\rho^j,\qquad
              c_j=\tfrac1{j!}E\,g^{-1}(\mu+\sigma t)\,\mathrm{He}_j(t)

    with ρ the correlation of z (Mehler's formula), twelve terms of it; exact without a bend.

    Parameters
    ----------
    mean : ndarray, shape (n, k)
    covariance : ndarray, shape (k, n, n)
    scaling : Scaling
        Of k columns.
    """
    if not scaling.bends:
        return scaling.backward(mean), covariance * scaling.scale[:, None, None] ** 2
    std = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))  # (k, n)
    nodes = mean.T[..., None] + std[..., None] * NODES
    values = np.moveaxis(scaling.backward(np.moveaxis(nodes, 0, -1)), -1, 0)
    size = factorial(np.arange(TERMS + 1))
    c = values @ (WEIGHTS[:, None] * hermevander(NODES, TERMS)) / size
    correlation = covariance / (std[:, :, None] * std[:, None, :])
    total, power = np.zeros_like(covariance), np.ones_like(covariance)
    for j in range(1, TERMS + 1):
        power = power * correlation
        total += size[j] * c[:, :, None, j] * c[:, None, :, j] * power
    return c[..., 0].T, total
