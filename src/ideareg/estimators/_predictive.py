"""What a fitted regressor says of new observations, and how that is judged."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from ideareg._numerics import scoped
from ideareg._rows import Scaling
from ideareg.bent import BentMixture, unbend
from ideareg.calibration import Mixture
from ideareg.estimators._base import random_stream
from ideareg.recipe import FittedWarp
from ideareg.stack import Stack, mix

Floats = NDArray[np.float64]


class MixtureMixin:
    """What follows from ``predict_mixture``: intervals, quantiles, and scores."""

    @abc.abstractmethod
    def predict_mixture(self, X: ArrayLike) -> Mixture | BentMixture:
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
    _bends: dict[float, Scaling]
    _one_output: bool
    _inputs: Callable[[ArrayLike], Floats]

    @property
    def target_power_(self) -> Floats:
        """Yeo-Johnson power of the targets that each warp predicts, 1 where they are not bent."""
        check_is_fitted(self)
        return self._shaped(np.stack([g.power for g in self._scalings]))

    @property
    def _scalings(self) -> list[Scaling]:
        """Return the map of the targets that each warp predicts."""
        return [self._scaling(w) for w in self.warps_]

    def _scaling(self, warp: FittedWarp) -> Scaling:
        return self._bends[warp.bend] if warp.bend else self._scale_y

    @property
    def _bent_stack(self) -> bool:
        return any(g.bends for g in self._scalings)

    @property
    def local_share_(self) -> Floats:
        """Share of the noise of each warp that equal rows have in common."""
        check_is_fitted(self)
        return np.array([w.local.share if w.local else 0.0 for w in self.warps_])

    @property
    def local_length_(self) -> Floats:
        """Distance after each warp over which that share falls, in lengths of its head."""
        check_is_fitted(self)
        return np.array([w.local.length if w.local else np.nan for w in self.warps_])

    @property
    def tail_freedom_(self) -> Floats:
        """Degrees of freedom of the noise of each warp."""
        check_is_fitted(self)
        return np.array([w.tails.freedom for w in self.warps_])

    def _check_straight(self, what: str) -> None:
        """Refuse what needs the regressor of the warped kernel, and no other."""
        if self._bent_stack:
            raise ValueError(
                f"{what} needs predictions that are linear in the targets, and warps of this stack "
                "predict bent ones (target_power_); fit with target_power=False."
            )
        if self.local_share_.any():
            raise ValueError(
                f"{what} needs predictions by the warped kernel alone, and near rows correct those "
                "of this model (local_share_); fit with local=False."
            )

    def _check_density(self) -> None:
        if self.loss == "epsilon_insensitive":
            raise ValueError("loss='epsilon_insensitive' has no predictive distribution.")

    def _shaped(self, Y: Floats) -> Floats:
        return Y[..., 0] if self._one_output else Y

    def _targets(self, Y: Floats) -> Floats:
        """Return standardised targets in the units and the shape of y."""
        return self._shaped(self._scale_y.backward(Y))

    def _observed(self, y: ArrayLike, rows: int) -> Floats:
        """Return targets of new rows, (n, k)."""
        wanted = self._targets(np.zeros((rows, len(self._scale_y.mean)))).shape
        if np.shape(y) != wanted:
            raise ValueError(
                f"y: expected the shape {wanted} of the prediction, got {np.shape(y)}."
            )
        return np.asarray(y, dtype=np.float64).reshape(rows, -1)

    @scoped
    def log_predictive_density(self, X: ArrayLike, y: ArrayLike) -> Floats:
        """Return the log density of each observation under the stack, shape (n_samples,).

        A mixture of normals, summed over outputs where there are several.
        """
        self._check_density()
        Z = self._inputs(X)
        observed = self._observed(y, len(Z))
        targets = np.stack([g.forward(observed) for g in self._scalings])
        slopes = np.stack([g.log_slope(observed).sum(1) for g in self._scalings])
        return Stack(self.warps_).log_density(Z, targets, slopes)

    @scoped
    def sample_y(self, X: ArrayLike, n_samples: int = 1, random_state: Any = 0) -> Floats:
        """Draw whole functions from the posterior, without noise.

        Each draw picks a warp of the stack, then a function of its process; one of bent targets is
        mapped back.

        Returns
        -------
        ndarray of shape (n_samples_X, n_samples) or (n_samples_X, n_outputs, n_samples)
        """
        self._check_density()
        Z, stack, random = self._inputs(X), Stack(self.warps_), random_stream(random_state)
        draws = zip(self._scalings, stack.sample(Z, n_samples, random), strict=True)
        back = [np.moveaxis(g.backward(np.moveaxis(part, 1, -1)), -1, 1) for g, part in draws]
        samples = np.concatenate(back, axis=2)[..., random.permutation(n_samples)]
        return samples[:, 0] if self._one_output else samples

    @scoped
    def predict_mixture(self, X: ArrayLike) -> Mixture | BentMixture:
        """Return the distribution of a new observation at each row, a mixture of normals.

        Its components are the warps of the stack, in their order, each several times where noise
        has tails; its density, moments and quantiles are what the other methods return. Where
        targets are bent, it is the mixture mapped back.

        Returns
        -------
        Mixture or BentMixture
            Of shape (n_samples,) or (n_samples, n_outputs), in the units of ``y``.

        Raises
        ------
        ValueError
            If the loss has no predictive distribution.
        """
        self._check_density()
        return self._mixture(self._inputs(X))

    def _mixture(self, Z: Floats, ratio: Floats | float = 1.0) -> Mixture | BentMixture:
        """Return the mixture at standardised rows; see `Stack.mixture` for the ratio."""
        stack, scalings = Stack(self.warps_), self._scalings
        return self._in_units(stack.mixture(Z, ratio), [scalings[j] for j in stack.owners])

    def _in_units(self, latent: Mixture, scalings: list[Scaling]) -> Mixture | BentMixture:
        """Return a mixture of standardised targets, (n, k), in the units and the shape of y.

        Component j is of the targets that ``scalings[j]`` makes.
        """
        if any(g.bends for g in scalings):
            parts = (self._shaped(part) for part in latent[1:])
            return BentMixture(Mixture(latent.weight, *parts), tuple(scalings))
        means = self._shaped(self._scale_y.backward(latent.mean))
        return Mixture(latent.weight, means, self._shaped(latent.std * self._scale_y.scale))

    def _mean(self, Z: Floats) -> Floats:
        """Return the predictive mean at standardised rows."""
        if self._bent_stack:
            return self._mixture(Z).moments()[0]
        return self._targets(Stack(self.warps_).mean(Z))

    def _covariance(self, Z: Floats) -> tuple[Floats, Floats]:
        """Return mean and covariance of observations at standardised rows."""
        stack = Stack(self.warps_)
        each = zip(*stack.normals(Z), self._scalings, strict=True)
        means, covariances = zip(*(unbend(*normal) for normal in each), strict=True)
        mean, covariance = mix(stack.weights, np.stack(means), np.stack(covariances))
        if self._bent_stack and np.isfinite(self.tail_freedom_).any():
            # Tails, which each row has of its own, weigh in the moments of what is bent.
            shaped, std = self._mixture(Z).moments()
            mean, rows = shaped.reshape(mean.shape), np.arange(len(Z))
            covariance[:, rows, rows] = std.reshape(mean.shape).T ** 2
        return self._shaped(mean), self._shaped(np.moveaxis(covariance, 0, -1))
