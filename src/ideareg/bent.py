r"""What is predicted of a target whose columns were bent: a mixture of normals, unbent.

A model of g(y), with g the increasing map of a `Scaling`, predicts a mixture of normals z for it,
and so the distribution of :math:`y=g^{-1}(z)`. Its quantiles are those of z, mapped back; its
density gains the slope of g; its moments are sums over the nodes of Gauss and Hermite. Noise that
is the same everywhere in g(y) grows or shrinks with y.

Notes
-----
Snelson, Rasmussen and Ghahramani, "Warped Gaussian processes", NeurIPS 2003.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.polynomial.hermite_e import hermegauss, hermevander
from numpy.typing import ArrayLike, NDArray
from scipy.special import factorial, ndtri

from ideareg._rows import Scaling
from ideareg.calibration import Mixture

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
        Of g(y).
    scaling : Scaling
        g, for each of the k columns.

    Examples
    --------
    >>> targets = np.exp(np.random.default_rng(0).normal(size=(500, 1)))
    >>> g = Scaling.of(targets, np.ones(500), bend=True)
    >>> forecast = BentMixture(Mixture.normal([0.0], [1.0]), g)
    >>> low, middle, high = forecast.quantile([0.05, 0.5, 0.95])
    >>> bool(high - middle > 2 * (middle - low))
    True
    """

    latent: Mixture
    scaling: Scaling

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
        _, mean, std = self.latent
        values = self._back(mean[..., None] + std[..., None] * NODES)
        means = values @ WEIGHTS
        return means, np.sqrt((values - means[..., None]) ** 2 @ WEIGHTS)

    def log_density(self, y: ArrayLike) -> Floats:
        """Return the logarithm of the density, shaped like ``y``."""
        y = self._targets(y)
        slope = self.scaling.log_slope(self._columns(y)).reshape(y.shape)
        return self.latent.log_density(self._forward(y)) + slope

    def pit(self, y: ArrayLike) -> Floats:
        """Return F(y), the probability integral transform, shaped like ``y``."""
        return self.latent.pit(self._forward(self._targets(y)))

    def crps(self, y: ArrayLike) -> Floats:
        r"""Return the continuous ranked probability score, shaped like ``y`` and in its units.

        .. math:: E|Y-y|-\tfrac12E|Y-Y'|

        with each normal in 200 points of equal probability.
        """
        y = self._targets(y)
        grid = ndtri((np.arange(POINTS) + 0.5) / POINTS)
        _, mean, std = self.latent
        values = np.moveaxis(self._back(mean[..., None] + std[..., None] * grid), 0, -2)
        points = values.reshape(*y.shape, -1)
        share = np.repeat(self.weight / POINTS, POINTS)
        far = np.abs(points - y[..., None]) @ share
        order = np.argsort(points, axis=-1)
        points, share = np.take_along_axis(points, order, -1), share[order]
        # E|Y - Y'| / 2 is the sum over gaps of what lies below times what lies above.
        below = np.cumsum(share, axis=-1)[..., :-1]
        return far - (np.diff(points, axis=-1) * below * (1 - below)).sum(-1)

    def quantile(self, share: ArrayLike) -> Floats:
        """Return the quantiles, of the shape of ``share`` followed by that of the mixtures."""
        latent = self.latent.quantile(share)
        return self._back(latent[..., None])[..., 0]

    def interval(self, level: float = 0.9) -> tuple[Floats, Floats]:
        """Return the ends of the central interval of probability ``level``."""
        low, high = (self._back(end[..., None])[..., 0] for end in self.latent.interval(level))
        return low, high

    def _targets(self, y: ArrayLike) -> Floats:
        return self.latent._targets(y)

    def _columns(self, A: Floats) -> Floats:
        """Return ``A``, of the shape (..., n) or (..., n, k), with the columns last."""
        return A if self.latent.mean.ndim == 3 else A[..., None]

    def _forward(self, y: Floats) -> Floats:
        return self.scaling.forward(self._columns(y)).reshape(y.shape)

    def _back(self, values: Floats) -> Floats:
        """Map latent values, of the shape (..., n, q) or (..., n, k, q), back."""
        last = np.swapaxes(values, -1, -2) if self.latent.mean.ndim == 3 else values[..., None]
        back = self.scaling.backward(last)
        return np.swapaxes(back, -1, -2) if self.latent.mean.ndim == 3 else back[..., 0]


def unbend(means: Floats, covariances: Floats, scaling: Scaling) -> tuple[Floats, Floats]:
    r"""Return means and covariances of :math:`g^{-1}(z)` for several normal z.

    .. math:: \sum_{j\ge1}j!\,c_j(x)\,c_j(x')\,\rho^j,\qquad
              c_j=\tfrac1{j!}E\,g^{-1}(\mu+\sigma t)\,\mathrm{He}_j(t)

    with ρ the correlation of z (Mehler's formula), twelve terms of it.

    Parameters
    ----------
    means : ndarray, shape (..., n, k)
    covariances : ndarray, shape (..., k, n, n)
    scaling : Scaling
        Of k columns.
    """
    std = np.sqrt(np.diagonal(covariances, axis1=-2, axis2=-1))  # (..., k, n)
    nodes = np.swapaxes(means, -1, -2)[..., None] + std[..., None] * NODES
    values = np.moveaxis(scaling.backward(np.moveaxis(nodes, -3, -1)), -1, -3)
    size = factorial(np.arange(TERMS + 1))
    c = values @ (WEIGHTS[:, None] * hermevander(NODES, TERMS)) / size
    correlation = covariances / (std[..., :, None] * std[..., None, :])
    total, power = np.zeros_like(covariances), np.ones_like(covariances)
    for j in range(1, TERMS + 1):
        power = power * correlation
        total += size[j] * c[..., :, None, j] * c[..., None, :, j] * power
    return np.swapaxes(c[..., 0], -1, -2), total
