"""Worst-case error bounds of a fitted regressor, and its warps conditioned on other rows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Self

import jax
import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted, validate_data

from ideareg._numerics import scoped
from ideareg._rows import Scaling, bucket, canonical, in_chunks, pad
from ideareg.estimators._attributes import describe_warps
from ideareg.estimators._base import positive_weights
from ideareg.estimators._settings import read_settings
from ideareg.readout import Batch
from ideareg.recipe import FittedWarp
from ideareg.uncertainty import conclude, power_function, regressor_norms
from ideareg.unseen import Residuals

Floats = NDArray[np.float64]


class BoundsMixin:
    """Bounds that hold for every function of a stated norm."""

    warps_: list[FittedWarp]
    loss: str
    _scale_y: Scaling
    _one_output: bool
    _inputs: Callable[[ArrayLike], Floats]
    _standardised: Callable[[Floats], Floats]
    _shaped: Callable[[Floats], Floats]
    _check_straight: Callable[[str], None]
    _scaling: Callable[[FittedWarp], Scaling]

    @property
    @scoped
    def bound_norm_(self) -> Floats:
        """Norm of the regressor of each warp, heaviest first, in units of ``y``."""
        check_is_fitted(self)
        self._check_straight("bound_norm_")
        norms = np.stack([np.asarray(regressor_norms(w.predictor)) for w in self.warps_])
        return self._shaped(norms * self._scale_y.scale)

    @scoped
    def error_bound(
        self, X: ArrayLike, norm: ArrayLike | None = None, *, noisy: bool = False
    ) -> Floats:
        r"""Return a bound on the error of `predict`, for functions of a stated norm.

        Given a warp φ with its head's kernel K and ridge λ (``noise_``), let f be the regressor
        fitted to :math:`Y=f^\dagger(X)` without noise. Then for every :math:`f^\dagger` in the
        reproducing space of :math:`K^\varphi = K(\varphi(\cdot),\varphi(\cdot))`

        .. math:: |f^\dagger(x)-f(x)|\le\sigma(x)\,\|f^\dagger\|_{K^\varphi},\qquad
                  \sigma^2(x)=K^\varphi(x,x)
                  -K^\varphi(x,X)(K^\varphi(X,X)+\lambda)^{-1}K^\varphi(X,x).

        With ``noisy=True`` it is a bound on the next observation: for :math:`Y = f^\dagger(X)+e`,
        :math:`y = f^\dagger(x)+e_*`, replace :math:`\sigma^2` by :math:`\sigma^2+\lambda` and the
        norm by :math:`(\|f^\dagger\|^2+(|e|^2+e_*^2)/\lambda)^{1/2}`, that of :math:`K^\varphi +
        \lambda\delta`.

        For a stack the bounds of its warps are averaged with its weights, each with its own norm.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        norm : float or array-like, optional
            An assumption that data cannot check: the norm of :math:`f^\dagger` less the mean
            target, in units of ``y`` and in the space of each warp; a number, or one per output.
            By default ``bound_norm_``, the norm of the fitted regressor, which the true function
            may well exceed.
        noisy : bool, default=False
            Bound the next observation; needs a ``norm``.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)

        Raises
        ------
        ValueError
            If the norm is missing, negative or of the wrong shape, or the regressor is not that of
            the warped kernel: because of its loss, of bent targets, or of corrections by near
            rows.

        Notes
        -----
        The statement is conditional on the warp, which was fitted to the same targets, and exact
        for an exact head. A sparse head sees the rows through its inducing points: there it holds
        for functions whose part outside their span vanishes at the rows.
        """
        if self.loss == "epsilon_insensitive":
            raise ValueError(
                "loss='epsilon_insensitive' has no error bound: its regressor is not linear in "
                "the targets."
            )
        check_is_fitted(self)
        self._check_straight("error_bound")
        Z = self._inputs(X)
        norms = self._assumed(norm, noisy) / self._scale_y.scale
        total = np.zeros((len(Z), norms.shape[1]))
        for w, size in zip(self.warps_, norms, strict=True):
            (sigma,) = in_chunks(lambda A, w=w: (power_function(w.predictor, A),), Z)  # type: ignore[misc]
            if noisy:
                sigma = np.sqrt(sigma**2 + float(w.predictor.posterior.noise))
            total += w.weight * sigma[:, None] * size
        return self._shaped(total * self._scale_y.scale)

    def _assumed(self, norm: ArrayLike | None, noisy: bool) -> Floats:
        """Return the norm of each warp and output, in units of y."""
        wanted = (len(self.warps_), len(self._scale_y.scale))
        if norm is None:
            if noisy:
                raise ValueError(
                    "norm: noisy=True needs one, the norm of function and noise together."
                )
            return np.asarray(self.bound_norm_).reshape(wanted)
        given = np.asarray(norm, dtype=np.float64)
        if given.shape not in ((), wanted[1:]):
            raise ValueError(
                f"norm: expected a number or one per output, {wanted[1:]}, got {given.shape}."
            )
        if not (given >= 0).all():
            raise ValueError(f"norm must be non-negative, got {norm!r}.")
        return np.broadcast_to(given, wanted)

    @scoped
    def condition(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Return the same warps with their regressors conditioned on other rows.

        Nothing is learned: kernels, warps, noise, weights and scales stay, so it takes no descent.
        Rows may be more, fewer or others than those of the fit.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), optional

        Returns
        -------
        self of the same class, fitted

        Raises
        ------
        ValueError
            For rows that do not fit the model.
        """
        check_is_fitted(self)
        one, loss = copy.copy(self), read_settings(self).loss

        def conditioned(w: FittedWarp) -> FittedWarp:
            rows = self._batch(X, y, sample_weight, w)
            fitted = jax.tree.map(np.asarray, conclude(w.model, rows, loss))
            local = w.local and w.local.after(fitted, Residuals.of(fitted, rows))
            return w._replace(predictor=fitted, local=local)

        one.warps_ = [conditioned(w) for w in self.warps_]
        for name in ("momentum_norms_", "support_"):
            one.__dict__.pop(name, None)
        describe_warps(one)
        return one

    def _batch(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None, warp: FittedWarp
    ) -> Batch:
        """Return rows in the form that fits use, with the targets of a warp."""
        checked: Any = validate_data(
            self, X, y, dtype=np.float64, multi_output=True, y_numeric=True, reset=False
        )
        X, y = (np.asarray(part, dtype=np.float64) for part in checked)
        outputs = len(self._scale_y.scale)
        if y.ndim != 2 - self._one_output or y.reshape(len(y), -1).shape[1] != outputs:
            raise ValueError(f"y: expected {outputs} outputs as in the fit, got shape {y.shape}.")
        weight = positive_weights(sample_weight, X)
        rows = canonical(X, y.reshape(len(y), -1), weight)
        size = bucket(len(rows))
        return Batch(
            pad(self._standardised(rows.X), size),
            pad(self._scaling(warp).forward(rows.Y), size),
            pad(rows.weight, size),
        )
