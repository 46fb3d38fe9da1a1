r"""What near rows still say of each other once the head has said all it can.

A smooth process, seen through a few thousand points at most, leaves residuals, and where rows
nearly repeat, theirs are alike. What is left is taken for a process of its own, with rows apart by
the distance r in the warped space, in the lengths of the head:

.. math:: \mathrm{cov}(e_i,e_j)=\tau\big(\beta e^{-r_{ij}/\ell}+(1-\beta)\delta_{ij}/w_i\big).

It is a nugget with a range. Given the residuals of the nearest rows [1]_ it corrects a prediction,
and the noise there keeps the share that they do not explain [2]_. For two processes that add up,
:math:`E[\delta|y]=K_\delta(K_\delta+S)^{-1}(y-E[f|y])`: the residuals are those of a head that has
seen the rows.

References
----------
.. [1] Datta, Banerjee, Finley, Gelfand, "Hierarchical nearest-neighbor Gaussian process models for
   large geostatistical datasets", JASA, 2016.
.. [2] Sang, Huang, "A full scale approximation of covariance functions for large spatial data
   sets", JRSS B, 2012.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import jax
import numpy as np
from jaxtyping import Array
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.spatial import KDTree
from scipy.special import expit, logit
from sklearn.neighbors import NearestNeighbors

from ideareg._rows import in_chunks
from ideareg.uncertainty import Predictor
from ideareg.unseen import JUDGED_ROWS, JUDGED_SHARE, Errors, Residuals, judged, unseen

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

# Nearest rows that correct a prediction, and predictions that are corrected at a time.
NEIGHBOURS, CHUNK = 32, 4096
# Trees find them fast in few columns; in more, products of matrices do.
TREE_COLUMNS = 16
# Evaluations to learn share and length.
EVALUATIONS = 30
# Where that begins: shares, and lengths in log units of the distance between nearest rows, from
# which none goes farther than this.
FIRST_SHARES, FIRST_LENGTHS, FARTHEST = (0.2, 0.8), (-1.0, 0.0, 1.0, 2.0), 3.0
# No row has all in common with others.
MOST_SHARE = 0.95
# What a row must gain by it for a model to have it unasked: in nats, and in standard errors.
LEAST_GAIN, LEAST_SIGNIFICANCE = 0.01, 3.0
# The weight of a copy that is not there.
NO_WEIGHT = 1e-9


@jax.jit
def _place(fitted: Predictor, X: Array) -> tuple[Array]:
    return (fitted.flow(X) / fitted.posterior.kernel.length_scale,)


@dataclass(frozen=True, eq=False)
class Local:
    """The process of what a head leaves, given the residuals of the training rows.

    Attributes
    ----------
    fitted : Predictor
        Whose residuals they are.
    residuals : Residuals
    share : float
        β, of the variance that equal rows have in common.
    length : float
        ℓ, in lengths of the head.
    """

    fitted: Predictor
    residuals: Residuals
    share: float
    length: float

    def __call__(self, X: Floats) -> tuple[Floats, Floats]:
        """Return the correction (n, k) at rows X, and the share (n, 1) of the noise left there."""
        places = self.place(X)
        expected = np.zeros((len(X), self.residuals.values.shape[1]))
        left = np.ones((len(X), 1))
        for first in range(0, len(X), CHUNK):
            part = slice(first, first + CHUNK)
            near, weights, to = self._weigh(places[part])
            expected[part] = np.einsum("nj,njk->nk", weights, self.residuals.values[near])
            left[part, 0] = 1 - (weights * to).sum(1)
        return expected, left

    def jointly(self, X: Floats) -> tuple[Floats, Floats]:
        """Return the correction (n, k) at rows X, and the covariance (n, n) of what is left.

        In units of the noise, of what rows have in common: each has its own besides.
        """
        places = self.place(X)
        near, weights, _ = self._weigh(places)
        rows, column = np.unique(near, return_inverse=True)
        W = np.zeros((len(X), len(rows)))
        np.put_along_axis(W, column.reshape(near.shape), weights, axis=1)
        others = self._places[rows]
        C = self._covariance(_distances(others, others))
        C[np.diag_indices_from(C)] += (1 - self.share) / self.residuals.weight[rows]
        cross = self._covariance(_distances(places, others)) @ W.T
        own = self._covariance(_distances(places, places))
        return W @ self.residuals.values[rows], own - cross - cross.T + W @ C @ W.T

    def after(self, fitted: Predictor, residuals: Residuals | None = None) -> Local:
        """Return the same process after another warp, or given other residuals."""
        return replace(self, fitted=fitted, residuals=residuals or self.residuals)

    def place(self, X: Floats) -> Floats:
        """Return where rows are after the warp, in lengths of the head."""
        return in_chunks(lambda A: _place(self.fitted, A), X)[0]

    @cached_property
    def _places(self) -> Floats:
        return self.place(self.residuals.rows)

    @cached_property
    def _tree(self) -> KDTree | NearestNeighbors:
        if self._places.shape[1] <= TREE_COLUMNS:
            return KDTree(self._places)
        return NearestNeighbors(algorithm="brute").fit(self._places)

    def _nearest(self, places: Floats, count: int) -> tuple[Floats, Ints]:
        """Return distances to the rows nearest to places, and which they are, (n, count)."""
        count = min(count, len(self._places))
        if isinstance(self._tree, KDTree):
            return self._tree.query(places, np.arange(1, count + 1), workers=-1)
        distance, near = self._tree.kneighbors(places, count)
        return distance, near

    def _weigh(self, places: Floats) -> tuple[Ints, Floats, Floats]:
        """Return the nearest rows of each place, their weights in it, and its covariances."""
        distance, near = self._nearest(places, NEIGHBOURS)
        to = self._covariance(distance)
        between = self._covariance(_between(self._places[near]))
        return near, _weights(between, to, (1 - self.share) / self.residuals.weight[near]), to

    def _covariance(self, distance: Floats) -> Floats:
        return self.share * np.exp(-distance / self.length)

    def neighbours(self, rows: Ints, count: int) -> tuple[Floats, Ints]:
        """Return distances to, and numbers of, the nearest rows of some of the training rows."""
        return self._nearest(self._places[rows], count)

    def between(self, near: Ints) -> Floats:
        """Return the distances between the rows of each group, (n, m) to (n, m, m)."""
        return _between(self._places[near])


def learn_local(
    fitted: Predictor,
    undoing: Array,
    residuals: Residuals,
    least_gain: float,
) -> tuple[Local, Errors] | None:
    """Return the process of the residuals, or None if rows gain less than ``least_gain`` by it.

    Share and length have the greatest likelihood of the targets of some rows, each given the
    residuals of its neighbours under a head that has not seen it. A row of weight w counts as w
    equal rows, of which all but one are among its neighbours. What errors are left of them there
    is returned as well.

    Parameters
    ----------
    fitted : Predictor
    undoing : Array, shape (R, M)
        See `ideareg.readout.AbstractProcess.conditioned`.
    residuals : Residuals
    least_gain : float
        In nats a row; 0 takes whatever there is.
    """
    n = len(residuals.rows)
    some = judged(n, max(JUDGED_ROWS, int(JUDGED_SHARE * n)))
    local, weight = Local(fitted, residuals, 0.0, 1.0), residuals.weight
    distance, near = local.neighbours(some, NEIGHBOURS + 1)
    itself = near == some[:, None]
    apart = np.where(itself | (distance == 0), np.inf, distance).min(1)
    own, theirs = unseen(fitted, undoing, residuals, some, near)
    if not np.isfinite(apart).any() or not own.any():
        return None
    copies = np.where(itself, np.maximum(weight[near] - 1, NO_WEIGHT), weight[near])
    between, part = local.between(near), weight[some] / weight[some].sum()
    middle = float(np.log(np.median(apart[np.isfinite(apart)])))

    def corrected(share: float, length: float) -> Errors:
        to = share * np.exp(-distance / length)
        weights = _weights(share * np.exp(-between / length), to, (1 - share) / copies)
        squares = (own - np.einsum("nj,njk->nk", weights, theirs)) ** 2
        left = 1 - (weights * to).sum(1)[:, None]
        return Errors(residuals.rows[some], squares, left, weight[some])

    def losses(share: float, length: float) -> Floats:
        """Return minus the log density of each row, up to a constant, at the best τ."""
        _, squares, left, _ = corrected(share, length)
        variance = (part @ (squares / left).mean(1)) * left
        return np.asarray(0.5 * (np.log(variance) + squares / variance).sum(1))

    def loss(free: Floats) -> float:
        beyond = max(abs(free[1] - middle) - FARTHEST, 0.0)
        return float(part @ losses(*_natural(free))) + beyond

    starts = [np.array([logit(b), middle + far]) for b in FIRST_SHARES for far in FIRST_LENGTHS]
    start, without = min(starts, key=loss), losses(0.0, 1.0)
    if least_gain and loss(start) > part @ without:
        return None
    options = {"maxfev": EVALUATIONS, "xatol": 1e-2, "fatol": 1e-5}
    share, length = _natural(minimize(loss, start, method="Nelder-Mead", options=options).x)
    gains = without - losses(share, length)
    error = np.sqrt(part**2 @ (gains - part @ gains) ** 2)
    if least_gain and part @ gains < max(least_gain, LEAST_SIGNIFICANCE * error):
        return None
    return replace(local, share=share, length=length), corrected(share, length)


def _natural(free: Floats) -> tuple[float, float]:
    return float(MOST_SHARE * expit(free[0])), float(np.exp(free[1]))


def _between(points: Floats) -> Floats:
    """Return the distances between the points of each group, (n, m, d) to (n, m, m)."""
    squares = (points**2).sum(-1)
    products = points @ np.swapaxes(points, 1, 2)
    return np.sqrt(np.maximum(squares[:, :, None] + squares[:, None] - 2 * products, 0.0))


def _distances(A: Floats, B: Floats) -> Floats:
    return np.sqrt(np.maximum((A**2).sum(1)[:, None] + (B**2).sum(1) - 2 * A @ B.T, 0.0))


def _weights(between: Floats, to: Floats, noise: Floats) -> Floats:
    """Return the weights of the neighbours (n, m) in what is expected."""
    C = between + noise[:, :, None] * np.eye(noise.shape[1])
    return np.asarray(np.linalg.solve(C, to[..., None])[..., 0])
