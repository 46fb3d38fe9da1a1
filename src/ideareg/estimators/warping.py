"""`WarpingRegressor`: the scikit-learn face of a warp and the Gaussian process after it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from os import PathLike
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import (
    _check_feature_names_in,
    _check_sample_weight,
    check_is_fitted,
    validate_data,
)

from ideareg._rows import Rows, Scaling, canonical, pad
from ideareg._types import Result
from ideareg.estimators._base import (
    CHUNK,
    CHUNK_SPREAD,
    CallbackSupportMixin,
    Progress,
    in_chunks,
    numerics,
    scoped,
    with_callbacks,
)
from ideareg.estimators._settings import read_settings
from ideareg.kernels import (
    AbstractKernel,
)
from ideareg.recipe import Fitted, FittedWarp, candidates, fit_warps
from ideareg.selection import normal_log_density
from ideareg.uncertainty import predict_covariance, predict_mean, predict_moments

Floats = NDArray[np.float64]


@jax.jit
def _carry(warp: Any, X: Any) -> Any:
    return (warp(X),)


@jax.jit
def _bring_back(warp: Any, X: Any) -> Any:
    solution = warp.inverse(X)
    return solution.value, solution.result


@jax.jit
def _initial_state(warp: Any) -> Any:
    return warp.initial_state()


@jax.jit
def _similarity(model: Any, q1: Any, q2: Any) -> Any:
    return model.head.similarity(q1, q2)


class WarpingRegressor(
    CallbackSupportMixin, TransformerMixin, MultiOutputMixin, RegressorMixin, BaseEstimator
):
    r"""Gaussian process regression after a Hamiltonian flow that warps the inputs.

    .. math::
        \min\ \frac\nu2\int_0^1\|v_t\|_\Gamma^2\,dt + \text{loss}(f\circ\varphi(X), Y),
        \qquad \dot\varphi = v_t(\varphi)

    The flow follows Hamilton's equations for :math:`H = \frac12p^T\Gamma(q,q)p` from control
    points, so its initial momentum is all there is of depth. With ``depth`` layers of
    ``"symplectic_euler"`` it *is* a residual network that minimises the same penalty. How strong a
    penalty, how many control points, and whether to warp at all is chosen by cross-validated
    predictive density; the answer may be a stack of a few warps.

    Parameters
    ----------
    kernel : str, kernel or callable, default="matern52"
        Kernel of the regressor after the warp: "gaussian", "matern12", "matern32", "matern52",
        "laplacian", a kernel of `ideareg.kernels`, or a function of two points.
    warp_kernel : str, kernel or callable, default="gaussian"
        Kernel Γ of the flow, likewise.
    nu : float or sequence of float, default=(inf, 100, 20, 4)
        Penalty on the action; ``inf`` is no warp. Several values are candidates.
    n_control_points : int, sequence of int or "rows", default=20
        Points that carry momentum; "rows" puts one on every training row, as in the theory.
    depth : int, default=4
        Number of layers; 0 is no warp.
    integrator : str, default="symplectic_euler"
        Also "implicit_midpoint", "stormer_verlet", "rk4", "leapfrog".
    nugget : float, default=0.0
        Nugget r on Γ: lets control points leave the flow. It never acts on other points.
    head : {"auto", "exact", "sparse"}, default="auto"
        Exact Gaussian process, or one seen through inducing points; "auto" is exact up to
        ``n_inducing`` rows.
    n_inducing : int, default=256
        Number of inducing points of the sparse head.
    loss : {"evidence", "squared", "optimal_recovery"}, default="evidence"
        Negative log marginal likelihood, or the losses of the theory; the latter need
        ``learn_head=False``.
    learn_head : bool, default=True
        Learn lengths, amplitude and noise. If False the kernels are used as given.
    noise : float, default=None
        Variance of the noise, equally the ridge, in units of the standardised target; where it is
        learned, the value at the start. None means 0.1.
    standardize : bool, default=True
        Work in units of each column's standard deviation.
    n_warps : int, default=4
        Warps in the stack at most; 1 gives a single flow to look at.
    cv : int, default=4
        Folds of the selection.
    selection_rows : int, default=2000
        Rows that the selection looks at, at most.
    max_iter : int, default=160
        Iterations of each descent; stopping early is part of the regularisation.
    tol : float, default=1e-4
        A descent stops when no entry of its gradient exceeds this times the number of rows.
    warm_start : bool, default=False
        Go on from the last fit: same stack, same weights, more iterations.
    callback : callable, default=None
        Called with a dict after every iteration (stage, iteration, loss, data_term, action,
        gradient_norm, seconds); a true answer ends that descent.
    random_state : int, RandomState or None, default=None
        Decides the folds, the rows of the selection and the starts of k-means.
    verbose : int, default=1
        1 shows a progress bar when standard error is a terminal; 0 never does.

    Attributes
    ----------
    momentum_ : ndarray of shape (n_control_points, n_features)
        Initial momentum p₀ of the heaviest warp, in standardised units.
    control_points_ : ndarray of shape (n_control_points, n_features)
        Where it sits, in the units of ``X``.
    nu_ : float
        Penalty of the heaviest warp.
    warp_weights_ : ndarray of shape (n_warps,)
        Weights of the stack, heaviest first.
    warps_ : list
        The warps with their momenta, heads and posteriors.
    ledger_, ledgers_ : dict, list of dict
        Energy per layer, its drift, the action, the terminal residual, convergence: of the
        heaviest warp, and of each.
    score_, baseline_score_ : float
        Cross-validated mean log predictive density per row, in units of ``y``: of the stack, and
        of the regressor without warp. NaN where nothing was selected.
    cv_results_ : dict of ndarray
        ``param_nu``, ``param_n_control_points``, ``mean_test_log_density``, ``weight``.
    history_ : dict of list
        The descent of the heaviest warp.
    noise_ : float
        Noise variance of the heaviest warp, in units of the standardised target.
    n_iter_ : int
        Iterations of the final descents together.
    n_features_in_, feature_names_in_
        As in scikit-learn.

    References
    ----------
    .. [1] Owhadi, "Do ideas have shape? Idea registration as the continuous limit of artificial
       neural networks", Physica D, 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from ideareg import WarpingRegressor
    >>> X = np.linspace(-1, 1, 60)[:, None]
    >>> y = np.tanh(20 * X[:, 0])
    >>> model = WarpingRegressor(nu=1.0, max_iter=30, random_state=0).fit(X, y)
    >>> mean, std = model.predict([[0.5]], return_std=True)
    >>> abs(mean[0] - 1) < 0.05
    True
    """

    def __init__(
        self,
        kernel: str | AbstractKernel | Callable[..., Any] = "matern52",
        *,
        warp_kernel: Any = "gaussian",
        nu: float | tuple[float, ...] = (np.inf, 100.0, 20.0, 4.0),
        n_control_points: int | tuple[int, ...] | str = 20,
        depth: int = 4,
        integrator: str = "symplectic_euler",
        nugget: float = 0.0,
        head: str = "auto",
        n_inducing: int = 256,
        loss: str = "evidence",
        learn_head: bool = True,
        noise: float | None = None,
        standardize: bool = True,
        n_warps: int = 4,
        cv: int = 4,
        selection_rows: int = 2000,
        max_iter: int = 160,
        tol: float = 1e-4,
        warm_start: bool = False,
        callback: Callable[[dict[str, Any]], bool | None] | None = None,
        random_state: Any = None,
        verbose: int = 1,
    ) -> None:
        self.kernel = kernel
        self.warp_kernel = warp_kernel
        self.nu = nu
        self.n_control_points = n_control_points
        self.depth = depth
        self.integrator = integrator
        self.nugget = nugget
        self.head = head
        self.n_inducing = n_inducing
        self.loss = loss
        self.learn_head = learn_head
        self.noise = noise
        self.standardize = standardize
        self.n_warps = n_warps
        self.cv = cv
        self.selection_rows = selection_rows
        self.max_iter = max_iter
        self.tol = tol
        self.warm_start = warm_start
        self.callback = callback
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    @scoped
    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> WarpingRegressor:
        """Select and fit the warps.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), optional
            A weight of k counts as k equal rows; 0 as no row.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For parameters out of range, and for X or y that is not a finite numeric table.
        """
        settings = read_settings(self)
        X, y = validate_data(
            self, X, y, dtype=np.float64, multi_output=True, y_numeric=True, ensure_min_samples=1
        )
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if not weight.any():
            raise ValueError("sample_weight: every weight is zero; at least one must be positive.")
        y = np.asarray(y, dtype=np.float64)
        self._one_output = y.ndim == 1
        rows = canonical(X, y.reshape(len(y), -1), weight)
        self._scale_x = Scaling.of(rows.X, rows.weight, centre=self.standardize)
        self._scale_y = Scaling.of(rows.Y, rows.weight, centre=self.standardize)
        rows = Rows(self._scale_x.forward(rows.X), self._scale_y.forward(rows.Y), rows.weight)
        start = getattr(self, "warps_", None) if self.warm_start else None
        pool = candidates(settings, len(rows))
        descents = len(pool) * (settings.cv + 1) if start is None and len(pool) > 1 else 1
        context = None
        if hasattr(self, "_init_callback_context"):
            context = self._init_callback_context(max_subtasks=None)
            context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        progress = Progress(
            self, (X, y), total=descents * settings.max_iter, visible=bool(self.verbose),
            context=context if hasattr(self, "_skl_callbacks") else None, callback=self.callback,
        )  # fmt: skip
        with progress:
            random = check_random_state(self.random_state)
            fitted = fit_warps(rows, settings, random, start=start, report=progress)
        self._store(fitted)
        if context is not None:
            context.call_on_fit_task_end(estimator=self, X=X, y=y, reconstruction_attributes={})
        return self

    def _store(self, fitted: Fitted) -> None:
        """Set the fitted attributes."""
        if fitted.result is Result.not_finite:
            warnings.warn(Result.not_finite.message, ConvergenceWarning, stacklevel=4)
        if fitted.result is Result.interrupted:
            warnings.warn(Result.interrupted.message, ConvergenceWarning, stacklevel=4)
        self.warps_ = fitted.warps
        self.n_iter_ = max(fitted.iterations, 1)
        self._describe_selection(fitted)
        self._describe_warps()

    def _describe_selection(self, fitted: Fitted) -> None:
        self.score_ = self.baseline_score_ = np.nan
        self.cv_results_: dict[str, Floats] = {}
        selection = fitted.selection
        if selection is None:
            return
        # A density in units of y is that of the standardised target divided by the scale.
        density = selection.density - np.log(self._scale_y.scale).sum()
        share = selection.rows / selection.rows.sum()
        with np.errstate(divide="ignore"):
            self.score_ = float(share @ logsumexp(density + np.log(fitted.weights), axis=1))
        if np.isinf(selection.candidates[0].nu):
            self.baseline_score_ = float(share @ density[:, 0])
        self.cv_results_ = {
            "param_nu": np.array([c.nu for c in selection.candidates]),
            "param_n_control_points": np.array([c.control_points for c in selection.candidates]),
            "mean_test_log_density": share @ density,
            "weight": fitted.weights,
        }

    def _describe_warps(self) -> None:
        first = self.warps_[0]
        warp = first.model.warp
        with numerics():
            state = _initial_state(warp)
        present = warp.present > 0
        d = self.n_features_in_
        self.momentum_ = np.asarray(state.p)[present, :d]
        self.control_points_ = self._scale_x.backward(np.asarray(state.q)[present, :d])
        self.nu_ = first.nu
        self.noise_ = float(first.posterior.noise)
        self.warp_weights_ = np.array([w.weight for w in self.warps_])
        self.ledgers_ = [w.ledger for w in self.warps_]
        self.ledger_ = self.ledgers_[0]
        self.history_ = first.history

    def _inputs(self, X: ArrayLike) -> Floats:
        """Return X checked, standardised and with padded columns."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return self._standardised(X)

    def _standardised(self, X: Floats) -> Floats:
        width = self.warps_[0].model.warp.control_points.shape[1]
        return pad(self._scale_x.forward(X), width, axis=1)

    def _shaped(self, Y: Floats) -> Floats:
        return Y[:, 0] if self._one_output else Y

    @scoped
    def predict(
        self, X: ArrayLike, return_std: bool = False, return_cov: bool = False
    ) -> Floats | tuple[Floats, Floats]:
        """Return the predictive mean, and on request how far an observation may be from it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        return_std : bool, default=False
            Also return the standard deviation of a new observation, shaped like the mean: noise,
            head, warp, and disagreement within the stack.
        return_cov : bool, default=False
            Also return the covariance of new observations, (n_samples, n_samples), or
            (n_samples, n_samples, n_outputs). At most one of the two.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs), or a pair
        """
        if return_std and return_cov:
            raise ValueError("predict: at most one of return_std and return_cov can be True.")
        Z = self._inputs(X)
        if not (return_std or return_cov):
            means = [w.weight * self._mean(w, Z) for w in self.warps_]
            return self._shaped(self._scale_y.backward(np.sum(means, axis=0)))
        weights = self.warp_weights_
        if return_std:
            moments = [self._moments(w, Z) for w in self.warps_]
            means, variances = (np.stack(part) for part in zip(*moments, strict=True))
            mean = np.tensordot(weights, means, 1)
            variance = np.tensordot(weights, variances + (means - mean) ** 2, 1)
            std = np.sqrt(variance) * self._scale_y.scale
            return self._shaped(self._scale_y.backward(mean)), self._shaped(std)
        means = np.stack([self._mean(w, Z) for w in self.warps_])
        mean = np.tensordot(weights, means, 1)
        covariance = np.zeros((mean.shape[1], len(Z), len(Z)))
        for w, each in zip(self.warps_, means, strict=True):
            apart = (each - mean).T
            covariance += w.weight * (self._covariance(w, Z) + apart[:, :, None] * apart[:, None])
            covariance += w.weight * float(w.posterior.noise) * np.eye(len(Z))
        covariance = np.moveaxis(covariance, 0, -1) * self._scale_y.scale**2
        mean = self._shaped(self._scale_y.backward(mean))
        return mean, covariance[..., 0] if self._one_output else covariance

    @scoped
    def log_predictive_density(self, X: ArrayLike, y: ArrayLike) -> Floats:
        """Return the log density of each observation under the stack, shape (n_samples,).

        A mixture of normals, summed over outputs where there are several.
        """
        Z = self._inputs(X)
        y = np.asarray(y, dtype=np.float64).reshape(len(Z), -1)
        Y = self._scale_y.forward(y)
        each = [
            np.log(w.weight) + normal_log_density(Y, *self._moments(w, Z)).sum(1)
            for w in self.warps_
        ]
        return logsumexp(each, axis=0) - np.log(self._scale_y.scale).sum()

    @scoped
    def sample_y(self, X: ArrayLike, n_samples: int = 1, random_state: Any = 0) -> Floats:
        """Draw whole functions from the posterior, without noise.

        Each draw picks a warp of the stack, then a function of its process.

        Returns
        -------
        ndarray of shape (n_samples_X, n_samples) or (n_samples_X, n_outputs, n_samples)
        """
        random = check_random_state(random_state)
        Z = self._inputs(X)
        picks = random.multinomial(n_samples, self.warp_weights_)
        draws = []
        for w, count in zip(self.warps_, picks, strict=True):
            if count:
                mean, covariance = self._mean(w, Z), self._covariance(w, Z)
                columns = [
                    random.multivariate_normal(m, C, count).T
                    for m, C in zip(mean.T, covariance, strict=True)
                ]
                draws.append(np.stack(columns, axis=1))
        samples = np.concatenate(draws, axis=2)[:, :, random.permutation(n_samples)]
        samples = samples * self._scale_y.scale[:, None] + self._scale_y.mean[:, None]
        return samples[:, 0] if self._one_output else samples

    @scoped
    def transform(self, X: ArrayLike) -> Floats:
        """Carry the rows of X along the flow of the heaviest warp, in the units of X.

        Constant columns of the training data are passed through.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        warp = self.warps_[0].model.warp
        (Z,) = in_chunks(lambda Z: _carry(warp, Z), self._standardised(X), CHUNK)
        return self._original(Z, X)

    @scoped
    def inverse_transform(self, X: ArrayLike) -> Floats:
        """Bring warped rows back: the exact inverse of `transform`.

        Raises
        ------
        ValueError
            If the inverse of a layer cannot be found, for points outside the image of the flow.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        warp, Z = self.warps_[0].model.warp, self._standardised(X)
        parts = []
        for first in range(0, len(Z), CHUNK):
            value, code = _bring_back(warp, Z[first : first + CHUNK])
            if Result(int(code)) is not Result.converged:
                raise ValueError(f"inverse_transform: {Result(int(code)).message}")
            parts.append(np.asarray(value))
        return self._original(np.concatenate(parts), X)

    def _original(self, Z: Floats, X: Floats) -> Floats:
        moved = self._scale_x.backward(Z[:, : X.shape[1]])
        return np.where(self._scale_x.varies, moved, X)

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[Any]:
        """Return ``warped(<name>)`` for every input."""
        check_is_fitted(self)
        names = _check_feature_names_in(self, input_features)
        return np.asarray([f"warped({name})" for name in names], dtype=object)

    @scoped
    def warping_kernel(
        self, X1: ArrayLike, X2: ArrayLike | None = None, *, warp: int = 0
    ) -> Floats:
        r"""Return the data-dependent kernel :math:`K(\varphi(x), \varphi(x'))` of one warp.

        Ridge regression with this kernel and ridge ``noise_`` on the standardised target is what
        `predict` does where the stack is one warp. With a sparse head it is the Nyström kernel.

        Parameters
        ----------
        X1, X2 : array-like of shape (n1, n_features) and (n2, n_features)
            ``None`` for X2 means X1.
        warp : int, default=0
            Which warp of the stack, heaviest first.

        Returns
        -------
        ndarray of shape (n1, n2)
        """
        fitted = self.warps_[warp]
        sides = [X1, X1 if X2 is None else X2]
        q1, q2 = (np.asarray(_carry(fitted.model.warp, self._inputs(X))[0]) for X in sides)
        return np.asarray(_similarity(fitted.model, q1, q2))

    def _mean(self, w: FittedWarp, Z: Floats) -> Floats:
        (mean,) = in_chunks(lambda X: (predict_mean(w.model, w.posterior, X),), Z, CHUNK)
        return mean

    def _moments(self, w: FittedWarp, Z: Floats) -> tuple[Floats, Floats]:
        """Return mean and variance of an observation under one warp."""

        def moments(X: Floats) -> Any:
            return predict_moments(w.model, w.posterior, w.spread, X)

        mean, variance = in_chunks(moments, Z, CHUNK_SPREAD)
        return mean, variance + float(w.posterior.noise)

    def _covariance(self, w: FittedWarp, Z: Floats) -> Floats:
        return np.asarray(predict_covariance(w.model, w.posterior, w.spread, Z))

    def save(self, path: str | PathLike[str]) -> None:
        """Write the fitted model to one file that `ideareg.load` reads: data only, no pickle."""
        from ideareg import persistence

        persistence.write(path, "WarpingRegressor", *self.get_state())

    def get_state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return the fitted model as a JSON-able header and named arrays."""
        from ideareg.estimators._state import regressor_state

        check_is_fitted(self)
        return regressor_state(self)

    @classmethod
    def from_state(
        cls, header: dict[str, Any], arrays: dict[str, NDArray[Any]]
    ) -> WarpingRegressor:
        """Rebuild a fitted model from `get_state`."""
        from ideareg.estimators._state import restore_regressor

        return restore_regressor(cls, header, arrays)
