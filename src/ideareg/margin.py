r"""Machines of the squared hinge, exactly: Newton's method on the rows within the margin.

.. math::
    \min_f\ \lambda\|f\|_{K + c^2}^2 + \sum_i w_i\max(0, 1 - y_if(x_i))^2

is, for given rows within the margin, ridge regression of their labels on them alone: that is one
step of Newton's method, and the minimum is reached when it leaves the same rows within. The rows
beyond have no dual at all. (Chapelle, Training a support vector machine in the primal, 2007.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

NEWTON_STEPS = 100
SHORTEST = 1e-9  # fraction of a step
FEW = 500  # rows for which no guess is needed


class RidgeRegression(Protocol):
    """Ridge regression on some of the rows, in the span of a kernel."""

    def __call__(
        self, rows: Rows, y: Floats, weight: Floats, ridge: float
    ) -> tuple[Floats, Floats]:
        """Return the duals of ``rows`` and the predictions for all rows."""


class Formed(NamedTuple):
    """By the Gram matrix of all rows, to which the square of a constant feature is added."""

    gram: Floats
    constant: float

    def __call__(
        self, rows: Rows, y: Floats, weight: Floats, ridge: float
    ) -> tuple[Floats, Floats]:
        """Return the duals of ``rows`` and the predictions for all rows."""
        K = self.gram[rows]
        M = K[:, rows] + self.constant**2
        M[np.diag_indices(len(rows))] += ridge / weight
        dual = _solve(M, y)
        return dual, dual @ K + self.constant**2 * dual.sum()


class Spanned(NamedTuple):
    """By features T (n, m) of all rows, with the cost of the fewer: features, or given rows."""

    T: Floats

    def __call__(
        self, rows: Rows, y: Floats, weight: Floats, ridge: float
    ) -> tuple[Floats, Floats]:
        """Return the duals of ``rows`` and the predictions for all rows."""
        T, m = self.T[rows], self.T.shape[1]
        if len(rows) <= m:
            dual = _solve(T @ T.T + np.diag(ridge / weight), y)
            return dual, self.T @ (T.T @ dual)
        A = _solve(T.T @ (weight[:, None] * T) + ridge * np.eye(m), T.T @ (weight * y))
        f = self.T @ A
        return weight * (y - f[rows]) / ridge, f


def _solve(M: Floats, b: Floats) -> Floats:
    factor = cho_factor(M, lower=True, overwrite_a=True, check_finite=False)
    return np.asarray(cho_solve(factor, b, check_finite=False))


class Machine(NamedTuple):
    """The minimum: duals, 0 for rows beyond the margin, and predictions, both of shape (n,)."""

    dual: Floats
    f: Floats


def machine(
    regress: RidgeRegression,
    y: Floats,
    weight: Floats,
    ridge: float,
    guess: Floats | None = None,
) -> Machine:
    """Return the machine of least penalised squared hinge.

    Parameters
    ----------
    regress : RidgeRegression
    y : ndarray, shape (n,)
        ±1.
    weight : ndarray, shape (n,)
        Rows of weight 0 are predicted and have no say.
    ridge : float
        λ, positive.
    guess : ndarray, shape (n,), optional
        Predictions near the minimum. They save steps and do not move it.

    Returns
    -------
    Machine
    """

    def cost(at: Machine) -> float:
        return ridge * float(at.dual @ at.f) + float(weight @ np.maximum(0, 1 - y * at.f) ** 2)

    def within(f: Floats) -> Rows:
        return np.flatnonzero((weight > 0) & (y * f < 1))

    at = Machine(np.zeros(len(y)), np.zeros(len(y)))
    rows, least = within(at.f if guess is None else guess), cost(at)
    for _ in range(NEWTON_STEPS):
        dual = np.zeros(len(y))
        dual[rows], f = regress(rows, y[rows], weight[rows], ridge)
        full = Machine(dual, f)
        if np.array_equal(within(f), rows):
            return full
        t, new = 1.0, full
        while cost(new) > least and t > SHORTEST:
            t /= 2
            new = Machine(*(a + t * (b - a) for a, b in zip(at, full, strict=True)))
        here = within(at.f)
        if cost(new) <= least:
            at, rows, least = new, within(new.f), cost(new)
        elif np.array_equal(rows, here):
            break  # as low as rounding lets it be
        else:
            rows = here  # the guess was worse than none
    return at


def exact_machine(
    gram: Floats, constant: float, y: Floats, weight: Floats, ridge: float
) -> Machine:
    """Return `machine` for a formed Gram matrix, first on every second row, for a guess."""
    regress = Formed(gram, constant)
    if len(y) <= FEW:
        return machine(regress, y, weight, ridge)
    coarse = exact_machine(gram[::2, ::2], constant, y[::2], weight[::2], ridge)
    guess = gram[:, ::2] @ coarse.dual + constant**2 * coarse.dual.sum()
    return machine(regress, y, weight, ridge, guess)


def machine_path(
    regress: RidgeRegression, y: Floats, weight: Floats, ridges: Sequence[float]
) -> Iterator[Machine]:
    """Yield the machine of each ridge; each starts from the one before."""
    guess = None
    for ridge in ridges:
        now = machine(regress, y, weight, ridge, guess)
        yield now
        guess = now.f


def exact_path(
    gram: Floats, constant: float, Y: Floats, weight: Floats, ridges: Sequence[float]
) -> Iterator[list[Machine]]:
    """Yield the machines of all columns of Y for each ridge: quickest if the ridges rise."""
    regress, now = Formed(gram, constant), None
    for ridge in ridges:
        if now is None:
            now = [exact_machine(gram, constant, y, weight, ridge) for y in Y.T]
        else:
            pairs = zip(Y.T, now, strict=True)
            now = [machine(regress, y, weight, ridge, before.f) for y, before in pairs]
        yield now
