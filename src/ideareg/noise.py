r"""Noise that depends on the inputs: from held-out residuals to a function of log variance.

A held-out residual e of a row x is the noise there and what the regressor does not know,

.. math:: e\sim N\big(0,\ r(x)+v\big),\qquad \log r(x)=g(x),

with v the variance of the function, which the regressor states. Two regressions estimate g. The
first is of log e², whose noise is that of :math:`\log\chi^2_1`: mean
:math:`\psi(\frac12)+\log2=-1.27`, variance :math:`\pi^2/2`. It is unbiased but wastes three fifths
of the rows. The second is a step of Fisher scoring from there, a regression of

.. math:: g + \frac1u\Big(\frac{e^2}{r+v}-1\Big)\quad\text{with weights } u^2,
          \qquad u = \frac r{r+v},

whose noise has the variance 2 that the likelihood attains. What is found is then *calibrated*: in
:math:`a+\theta\,g` level and share :math:`0\le\theta\le1` are those of greatest likelihood of rows
that g has not seen. At θ = 0 the noise is constant. Everything here is NumPy on the host.

Notes
-----
Kersting, Plagemann, Pfaff and Burgard, "Most likely heteroscedastic Gaussian process regression",
ICML 2007, regress the logarithms; the scoring step is that of generalised linear models (McCullagh
and Nelder, 1989), and of one-step estimation (Le Cam, 1956).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import digamma

Floats = NDArray[np.float64]

# E log χ²₁.
LOG_BIAS = float(digamma(0.5) + np.log(2.0))
# Variances below this share of the mean square are not told apart.
SMALLEST_SHARE = 1e-6
# The noise is at least this share of what the first regression finds of a residual's variance.
LEAST_NOISE = 0.2
# A square of more than three deviations counts as three: the step is linear, and would overshoot.
LARGEST_RATIO = 9.0


class Residuals(NamedTuple):
    """Held-out squared residuals, variances of the function there, and weights, each (n,)."""

    square: Floats
    latent: Floats
    weight: Floats

    @property
    def floor(self) -> float:
        """The least variance of noise that is considered."""
        mean = float(np.average(self.square, weights=self.weight))
        return max(SMALLEST_SHARE * mean, np.finfo(float).tiny)


def log_targets(residuals: Residuals) -> Floats:
    """Return log e² less its bias: its regression is the logarithm of r + v.

    Examples
    --------
    >>> one = np.ones(1)
    >>> log_targets(Residuals(one, 0 * one, one)).round(3).tolist()
    [1.27]
    """
    return np.log(np.maximum(residuals.square, residuals.floor)) - LOG_BIAS


def scoring_targets(residuals: Residuals, log_total: Floats) -> tuple[Floats, Floats]:
    """Return targets and weights of the regression that is a step of Fisher scoring.

    Parameters
    ----------
    residuals : Residuals
    log_total : ndarray, shape (n,)
        The regression of `log_targets` at the rows.

    Returns
    -------
    targets, weights : ndarray, shape (n,)
        The weights include those of the rows.
    """
    total = np.exp(log_total)
    noise = np.maximum(total - residuals.latent, LEAST_NOISE * total)
    noise = np.maximum(noise, residuals.floor)
    variance = noise + residuals.latent
    share = noise / variance
    ratio = np.minimum(residuals.square / variance, LARGEST_RATIO)
    return np.log(noise) + (ratio - 1) / share, residuals.weight * share**2


class Calibrated(NamedTuple):
    """How much of a log variance held-out rows believe.

    Attributes
    ----------
    level : float
        The logarithm of the noise variance where g is at ``centre``.
    share : float
        θ, between 0 and 1.
    centre : float
    density, constant : ndarray, shape (n,)
        Log density of each residual with this noise, and with the best constant one.
    """

    level: float
    share: float
    centre: float
    density: Floats
    constant: Floats


def calibrate(residuals: Residuals, log_variance: Floats) -> Calibrated:
    """Return the level and the share of greatest likelihood.

    Parameters
    ----------
    residuals : Residuals
    log_variance : ndarray, shape (n,)
        g at each row, of a regression that has not seen it.
    """
    square, latent, weight = residuals
    centre = float(np.average(log_variance, weights=weight))
    spread = log_variance - centre

    def density(level: float, share: float) -> Floats:
        variance = latent + np.exp(level + share * spread)
        return -0.5 * (np.log(2 * np.pi * variance) + square / variance)

    def cost(at: Floats) -> tuple[float, Floats]:
        noise = np.exp(at[0] + at[1] * spread)
        variance = latent + noise
        slope = 0.5 * weight * noise / variance * (1 - square / variance)
        return -float(weight @ density(*at)), np.array([slope.sum(), slope @ spread])

    floor = np.log(residuals.floor)
    excess = float(np.average(square - latent, weights=weight))
    start = np.array([np.log(max(excess, residuals.floor)), 0.0])
    ends = (floor, None)
    still = minimize(cost, start, jac=True, bounds=[ends, (0, 0)], method="L-BFGS-B").x
    best = minimize(cost, still, jac=True, bounds=[ends, (0, 1)], method="L-BFGS-B").x
    level, share = map(float, best)
    return Calibrated(level, share, centre, density(level, share), density(still[0], 0.0))
