r"""What a head leaves of rows that it has not seen, without fitting it anew.

The mean of a head is linear in the targets. With the hat matrix H, :math:`f=Hy`, the error at a row
that is left out, and what that does to the residual of another, are [1]_

.. math:: e_i=\frac{y_i-f_i}{1-H_{ii}},\qquad y_j-f_j^{(-i)}=y_j-f_j+H_{ji}e_i.

Neither warp nor lengths know that the row is gone.

References
----------
.. [1] Cook, Weisberg, "Residuals and influence in regression", 1982.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array
from numpy.typing import NDArray

from ideareg._rows import bucket, in_chunks, pad
from ideareg.readout import Batch
from ideareg.uncertainty import Predictor, predict_mean

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

# Rows that are left out where what that does to others matters, as a share and at the least, and,
# at most, where it does not.
JUDGED_SHARE, JUDGED_ROWS, ALONE_ROWS = 0.01, 500, 2000
# Rows whose residuals a model keeps, at most.
KEPT_ROWS = 100_000
# The least that a row's own target leaves open of it.
LEAST_OPEN = 1e-6


class Residuals(NamedTuple):
    """What a head leaves of the targets of rows that it has seen.

    Attributes
    ----------
    rows : ndarray, shape (n, d)
        Standardised and padded, before the warp.
    values : ndarray, shape (n, k)
        In units of the standardised targets.
    weight : ndarray, shape (n,)
    """

    rows: Floats
    values: Floats
    weight: Floats

    @classmethod
    def of(cls, fitted: Predictor, batch: Batch, most: int = KEPT_ROWS) -> Residuals:
        """Return what ``fitted`` leaves of the rows of ``batch`` that are no padding.

        Of those that `judged` draws, if there are more than ``most``.
        """
        there = np.flatnonzero(np.asarray(batch.weight) > 0)
        there = there[judged(len(there), most)]
        X, Y, weight = (np.asarray(part)[there] for part in batch)
        (mean,) = in_chunks(lambda A: (predict_mean(fitted, A),), X)
        return cls(X, Y - mean, weight)


class Errors(NamedTuple):
    """Errors at rows under a head that has not seen them.

    Attributes
    ----------
    rows : ndarray, shape (m, d)
    squares : ndarray, shape (m, k)
    left : ndarray, shape (m, 1)
        The share of the noise that nothing else explains.
    weight : ndarray, shape (m,)
    """

    rows: Floats
    squares: Floats
    left: Floats
    weight: Floats


def judged(n: int, most: int) -> Ints:
    """Return which of ``n`` rows are left out, in order."""
    return np.sort(np.random.RandomState(0).permutation(n)[:most])


def errors_unseen(fitted: Predictor, undoing: Array, residuals: Residuals) -> Errors:
    """Return the errors at some of the rows.

    Parameters
    ----------
    fitted : Predictor
    undoing : Array, shape (R, M)
        See `ideareg.readout.AbstractProcess.conditioned`.
    residuals : Residuals
    """
    rows, values, weight = (each[judged(len(each), ALONE_ROWS)] for each in residuals)
    (own,) = in_chunks(lambda A: _leverage(fitted, undoing, A), rows)
    return Errors(rows, _left_out(values, own) ** 2, np.ones((len(rows), 1)), weight)


def unseen(
    fitted: Predictor, undoing: Array, residuals: Residuals, some: Ints, near: Ints
) -> tuple[Floats, Floats]:
    """Return the errors at some rows (m, k), and the residuals at those near (m, j, k).

    Each under the head that has not seen the row, or has seen one copy of it less.
    """
    rows, values, _ = residuals
    influence = _influence(fitted, undoing, pad(rows[some], bucket(len(some))))
    everywhere, at = np.unique(np.append(near.ravel(), some), return_inverse=True)
    (followed,) = in_chunks(lambda A: _followed(fitted, influence, A), rows[everywhere])
    column = np.arange(len(some))
    hat = followed[at[: near.size].reshape(near.shape), column[:, None]]
    own = followed[at[near.size :], column]
    errors = _left_out(values[some], own)
    return errors, values[near] + hat[..., None] * errors[:, None]


def _left_out(residuals: Floats, leverage: Floats) -> Floats:
    return residuals / np.maximum(1 - leverage, LEAST_OPEN)[:, None]


@jax.jit
def _leverage(fitted: Predictor, undoing: Array, X: Array) -> tuple[Array]:
    """Return how the mean at each row follows its own target, (n,)."""
    return (((fitted.posterior.cross(fitted.flow(X)) @ undoing.T) ** 2).sum(1),)


@jax.jit
def _influence(fitted: Predictor, undoing: Array, X: Array) -> Array:
    """Return how the dual of the head follows the target of each row, (M, n)."""
    return undoing.T @ (undoing @ fitted.posterior.cross(fitted.flow(X)).T)


@jax.jit
def _followed(fitted: Predictor, influence: Array, X: Array) -> tuple[Array]:
    return (fitted.posterior.cross(fitted.flow(X)) @ influence,)
