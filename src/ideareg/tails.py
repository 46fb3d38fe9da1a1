r"""How heavy the tails of the noise are: Student's t, as a mixture of normals.

A head learns its noise as if it were normal, while a few rows are often much farther off than the
others. Given the scale s of a row, its noise is normal,

.. math:: e\mid s\sim N(0,s\,\ell\tau),\qquad s^{-1}\sim\Gamma(\nu/2),\quad E\,s=1,

so that e has the t distribution with ν degrees of freedom [1]_; a few values of s stand for all, by
the trapezoidal rule for log s. Freedom ν and level ℓ are those of greatest likelihood, with weak
priors, of rows that the head has not seen. Predictions stay mixtures of normals; the mean of each
warp is what it was.

References
----------
.. [1] West, "On scale mixtures of normal distributions", Biometrika, 1987.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import gammainccinv, gammaincinv, logsumexp

from ideareg._rows import in_chunks
from ideareg.uncertainty import Predictor, predict_moments
from ideareg.unseen import Errors

Floats = NDArray[np.float64]

# Normals that stand for one t distribution, and the shares of rows with a larger, or a smaller,
# scale than all of them.
NODES, RARE_LARGE, RARE_SMALL = 6, 5e-4, 2e-3
# Degrees of freedom: a variance exists above 2, and above the last it is a normal.
LEAST_FREEDOM, MOST_FREEDOM = 2.1, 200.0
# Where the search begins, and how long it goes on.
FIRST_FREEDOMS, EVALUATIONS = (3.0, 20.0), 80
# Prior of the freedom, Gamma(2, rate 0.1) [Juarez and Steel, 2010]; deviation of the log level.
FREEDOM_RATE, LEVEL_DEVIATION = 0.1, 0.5


class Tails(NamedTuple):
    """The distribution of the noise, in units of the variance that a head learned.

    Attributes
    ----------
    freedom : float
        Degrees of freedom ν; ``inf`` is a normal.
    level : float
        The variance ℓ.

    Examples
    --------
    >>> scale, weight = Tails(3.0, 2.0).scales()
    >>> round(float(weight @ scale), 12)
    2.0
    >>> Tails().scales()
    (array([1.]), array([1.]))
    """

    freedom: float = math.inf
    level: float = 1.0

    def scales(self) -> tuple[Floats, Floats]:
        """Return the variances that are mixed, and their weights, which sum to 1."""
        if self.freedom > MOST_FREEDOM:
            return np.array([self.level]), np.ones(1)
        shape = self.freedom / 2
        ends = gammaincinv(shape, RARE_LARGE), gammainccinv(shape, RARE_SMALL)
        precision = np.geomspace(*ends, NODES)
        weight = np.exp(shape * np.log(precision / shape) - precision + shape)
        weight = weight / weight.sum()
        return self.level / precision / (weight @ (1 / precision)), weight


def learn_tails(fitted: Predictor, errors: Errors, heavy: bool = True) -> Tails:
    """Return what rows that the head has not seen say of the noise.

    Parameters
    ----------
    fitted : Predictor
        What it does not know of the function is doubted as before; the noise makes up for the rest.
    errors : Errors
    heavy : bool
        Whether tails may be heavier than those of a normal.
    """
    (_, doubt) = in_chunks(lambda A: predict_moments(fitted, A), errors.rows)
    noise = float(fitted.posterior.noise) * errors.left

    def loss(free: Floats) -> float:
        freedom, log_level = (LEAST_FREEDOM + math.exp(free[1]) if heavy else math.inf), free[0]
        scale, weight = Tails(freedom, math.exp(log_level)).scales()
        variance = doubt + scale[:, None, None] * noise
        each = -0.5 * (np.log(variance) + errors.squares / variance).sum(-1)
        prior = 0.5 * (log_level / LEVEL_DEVIATION) ** 2
        if heavy:
            prior += FREEDOM_RATE * freedom - math.log(freedom)
        return float(prior - errors.weight @ logsumexp(each, axis=0, b=weight[:, None]))

    options = {"maxfev": EVALUATIONS, "xatol": 1e-2, "fatol": 1e-3}
    starts = [[0.0, math.log(f - LEAST_FREEDOM)] for f in FIRST_FREEDOMS] if heavy else [[0.0]]
    found = [minimize(loss, start, method="Nelder-Mead", options=options) for start in starts]
    log_level, *log_freedom = min(found, key=lambda each: float(each.fun)).x
    freedom = LEAST_FREEDOM + math.exp(log_freedom[0]) if heavy else math.inf
    return Tails(freedom, math.exp(log_level))
