"""Labels as numbers, and predictions as probabilities.

Two classes are one column, ±1; more are one column each, ±1, or one-hot for the softmax. Codes of
classes run from 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_expit, log_softmax

from ideareg.pointwise import AbstractPointwise, Logistic, Softmax

Floats = NDArray[np.float64]
Codes = NDArray[np.intp]


def encode(loss: AbstractPointwise, codes: Codes, classes: int) -> Floats:
    """Return the targets of ``loss`` for class codes, shape (n, k)."""
    if classes == 2:
        return np.where(codes == 1, 1.0, -1.0)[:, None]
    hot = np.eye(classes)[codes]
    return hot if isinstance(loss, Softmax) else 2 * hot - 1


def for_classes(loss: AbstractPointwise, classes: int) -> AbstractPointwise:
    """Return the loss itself; for two classes the softmax is the logistic loss of one column."""
    return Logistic() if isinstance(loss, Softmax) and classes == 2 else loss


def likelihood(classes: int) -> AbstractPointwise:
    """Return the loss that is the negative log-likelihood of ``classes`` classes."""
    return Logistic() if classes == 2 else Softmax()


def is_likelihood(loss: AbstractPointwise, classes: int) -> bool:
    """Return whether the loss is the negative log-likelihood of ``classes`` classes."""
    return loss == likelihood(classes)


def base_rates(loss: AbstractPointwise, codes: Codes, weight: Floats, classes: int) -> Floats:
    """Return the constant prediction that the shares of the classes call for, shape (k,).

    0 for losses that are no likelihood.
    """
    counts = np.bincount(codes, weight, classes)
    share = (counts + 1 / classes) / (counts.sum() + 1)
    if isinstance(loss, Softmax):
        return np.log(share)
    if isinstance(loss, Logistic):
        odds = np.log(share) - np.log1p(-share)
        return odds[1:] if classes == 2 else odds
    return np.zeros(1 if classes == 2 else classes)


class Calibration(NamedTuple):
    """Log-odds or logits from predictions: ``scale * f + shift``."""

    scale: float
    shift: Floats

    def log_probability(self, f: Floats) -> Floats:
        """Return the log probabilities of all classes for predictions f (n, k)."""
        logits = self.scale * f + self.shift
        if f.shape[1] == 1:
            return np.hstack([log_expit(-logits), log_expit(logits)])
        return log_softmax(logits, axis=1)


def calibrate(loss: AbstractPointwise, f: Floats, codes: Codes, weight: Floats) -> Calibration:
    """Return the calibration of greatest likelihood for held-out predictions f (n, k).

    A likelihood needs none; other losses are scaled and shifted as Platt did.
    """
    k = f.shape[1]
    if is_likelihood(loss, max(k, 2)):
        return Calibration(1.0, np.zeros(k))
    classes = max(k, 2)
    target = np.eye(classes)[codes]
    # One row of each class, as if seen elsewhere: separable scores keep a finite scale.
    smooth = 1 / (weight.sum() + classes)
    target = (1 - smooth) * target + smooth / classes

    def charge(theta: Floats) -> tuple[float, Floats]:
        log_p = Calibration(theta[0], theta[1:]).log_probability(f)
        off = (weight / weight.sum())[:, None] * (np.exp(log_p) - target)
        off = off[:, 1:] if k == 1 else off
        value = -(weight / weight.sum()) @ (target * log_p).sum(1)
        return float(value), np.append((off * f).sum(), off.sum(0))

    theta = minimize(charge, np.append(1.0, np.zeros(k)), jac=True, method="L-BFGS-B").x
    return Calibration(float(theta[0]), theta[1:])
