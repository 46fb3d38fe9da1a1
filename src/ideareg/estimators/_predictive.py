"""What a fitted regressor says of new observations, and how that is judged."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ideareg._numerics import scoped
from ideareg._rows import Scaling
from ideareg.calibration import Mixture
from ideareg.estimators._base import random_stream
from ideareg.recipe import FittedWarp
from ideareg.stack import Stack

Floats = NDArray[np.float64]


class MixtureMixin:
    """What follows from ``predict_mixture``: intervals, quantiles, and scores."""

    @abc.abstractmethod
    def predict_mixture(self, X: ArrayLike) -> Mixture:
        """Return the distribution of a new observation at each row."""

    def predict_interval(self, X: ArrayLike, level: float = 0.9) -> tuple[Floats, Floats]:
        """Return the ends of the central interval of a new observation.

        Exact quantiles of the mixture: noise, head, warp, and disagreement within the stack.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        level : float, default=0.9
            Probability of the interval.

        Returns
        -------
        low, high : ndarray of shape (n_samples,) or (n_samples, n_outputs)

        Raises
        ------
        ValueError
            If the level is not between 0 and 1, or the loss has no predictive distribution.
        """
        return self.predict_mixture(X).interval(level)

    def predict_quantiles(self, X: ArrayLike, quantiles: ArrayLike = (0.05, 0.5, 0.95)) -> Floats:
        """Return quantiles of a new observation.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        quantiles : array-like of shape (q,), default=(0.05, 0.5, 0.95)
            Between 0 and 1.

        Returns
        -------
        ndarray of shape (n_samples, q) or (n_samples, n_outputs, q)

        Raises
        ------
        ValueError
            If a quantile is not between 0 and 1, or the loss has no predictive distribution.
        """
        return np.moveaxis(self.predict_mixture(X).quantile(np.atleast_1d(quantiles)), 0, -1)

    def pit(self, X: ArrayLike, y: ArrayLike) -> Floats:
        """Return F(y), the predicted probability of an observation below each target.

        Uniform between 0 and 1 where the model is honest; see `ideareg.calibration`. Shaped like
        the prediction.
        """
        return self.predict_mixture(X).pit(y)

    def crps(self, X: ArrayLike, y: ArrayLike) -> Floats:
        """Return the continuous ranked probability score of each target, in its units.

        Smaller is better; for a prediction without doubt it is the absolute error. Shaped like the
        prediction.
        """
        return self.predict_mixture(X).crps(y)


class PredictiveMixin(MixtureMixin):
    """The predictive distribution of a stack of warps: at each row a mixture of normals."""

    warps_: list[FittedWarp]
    loss: str
    _scale_y: Scaling
    _one_output: bool
    _inputs: Callable[[ArrayLike], Floats]

    def _check_density(self) -> None:
        if self.loss == "epsilon_insensitive":
            raise ValueError("loss='epsilon_insensitive' has no predictive distribution.")

    def _shaped(self, Y: Floats) -> Floats:
        return Y[:, 0] if self._one_output else Y

    def _targets(self, Y: Floats) -> Floats:
        """Return standardised targets in the units and the shape of y."""
        return self._shaped(self._scale_y.backward(Y))

    def _observed(self, y: ArrayLike, rows: int) -> Floats:
        """Return targets of new rows, (n, k), standardised."""
        wanted = self._targets(np.zeros((rows, len(self._scale_y.mean)))).shape
        if np.shape(y) != wanted:
            raise ValueError(
                f"y: expected the shape {wanted} of the prediction, got {np.shape(y)}."
            )
        return self._scale_y.forward(np.asarray(y, dtype=np.float64).reshape(rows, -1))

    @scoped
    def log_predictive_density(self, X: ArrayLike, y: ArrayLike) -> Floats:
        """Return the log density of each observation under the stack, shape (n_samples,).

        A mixture of normals, summed over outputs where there are several.
        """
        self._check_density()
        Z, stack = self._inputs(X), Stack(self.warps_)
        density = stack.log_density(Z, self._observed(y, len(Z)))
        return density - np.log(self._scale_y.scale).sum()

    @scoped
    def sample_y(self, X: ArrayLike, n_samples: int = 1, random_state: Any = 0) -> Floats:
        """Draw whole functions from the posterior, without noise.

        Each draw picks a warp of the stack, then a function of its process.

        Returns
        -------
        ndarray of shape (n_samples_X, n_samples) or (n_samples_X, n_outputs, n_samples)
        """
        self._check_density()
        Z, stack = self._inputs(X), Stack(self.warps_)
        samples = stack.sample(Z, n_samples, random_stream(random_state))
        samples = samples * self._scale_y.scale[:, None] + self._scale_y.mean[:, None]
        return samples[:, 0] if self._one_output else samples

    @scoped
    def predict_mixture(self, X: ArrayLike) -> Mixture:
        """Return the distribution of a new observation at each row, a mixture of normals.

        Its component i is the i-th warp of the stack; its density, moments and quantiles are what
        the other methods return.

        Returns
        -------
        Mixture
            Of shape (n_samples,) or (n_samples, n_outputs), in the units of ``y``.

        Raises
        ------
        ValueError
            If the loss has no predictive distribution.
        """
        self._check_density()
        return self._mixture(self._inputs(X))

    def _mixture(self, Z: Floats, ratio: Floats | float = 1.0) -> Mixture:
        """Return the mixture at standardised rows; see `Stack.mixture` for the ratio."""
        weight, mean, std = Stack(self.warps_).mixture(Z, ratio)
        means = [self._targets(each) for each in mean]
        stds = [self._shaped(each * self._scale_y.scale) for each in std]
        return Mixture(weight, np.stack(means), np.stack(stds))
