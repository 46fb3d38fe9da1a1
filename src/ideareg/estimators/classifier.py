"""`WarpingClassifier`: the scikit-learn face of a warp and the kernel machine after it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from ideareg._numerics import scoped
from ideareg._rows import Rows, Scaling, canonical, in_chunks, places
from ideareg.classification import Classes, fit_classes
from ideareg.estimators._attributes import describe_support, store
from ideareg.estimators._base import (
    CallbackSupportMixin,
    Progress,
    fit_task,
    positive_weights,
    random_stream,
    with_callbacks,
)
from ideareg.estimators._settings import read_settings
from ideareg.estimators._state import SavingMixin
from ideareg.estimators._warped import WarpMixin
from ideareg.joint import fit_jointly
from ideareg.kernels import AbstractKernel
from ideareg.pointwise import AbstractPointwise
from ideareg.uncertainty import Predictor, predict_mean

Floats = NDArray[np.float64]


def _predictions(fitted: Predictor, X: Floats) -> tuple[Any]:
    return (predict_mean(fitted, X),)


class WarpingClassifier(
    CallbackSupportMixin, WarpMixin, SavingMixin, ClassifierMixin, BaseEstimator
):
    r"""Kernel classification after a Hamiltonian flow that warps the inputs.

    .. math::
        \min\ \frac\nu2\int_0^1\|v_t\|_\Gamma^2\,dt + \lambda\|f\|_K^2
        + \sum_i w_i\,\ell\big(f(\varphi(x_i)), y_i\big),\qquad \dot\varphi = v_t(\varphi)

    Kernel machines without warp are tuned first, one for each of five lengths; warps of each
    strength ν then start from the best, and a stack of what predicts held-out labels best is the
    model. Probabilities come from held-out predictions, scaled and shifted as Platt did; for the
    softmax, and the logistic loss of two classes, from the likelihood itself. Heads are fitted
    on 4096 rows as centres; that of the squared hinge exactly, on all rows up to 16,384.

    Parameters
    ----------
    kernel : str, kernel or callable, default="gaussian"
        Kernel of the classifier after the warp: "gaussian", "matern12", "matern32", "matern52",
        "laplacian", a kernel of `ideareg.kernels`, or a function of two points.
    warp_kernel : str, kernel or callable, default="gaussian"
        Kernel Γ of the flow, likewise.
    nu : float or sequence of float, default=(inf, 30, 5)
        Penalty on the action; ``inf`` is no warp. Several values are candidates.
    n_control_points : int, sequence of int, "rows" or None, default=None
        Points that carry momentum; several numbers are candidates. None means 20, and 50 for more
        than 2000 rows; "rows" puts one on every training row, as in the theory.
    depth : int, default=4
        Number of layers; 0 is no warp.
    integrator : str, default="geodesic"
        As for `WarpingRegressor`.
    nugget : float, default=0.0
        Nugget r on Γ: lets control points leave the flow.
    loss : {"squared_hinge", "softmax", "logistic", "hinge"}, default="squared_hinge"
        With more than two classes, all but the softmax judge one class against the rest. For two
        classes the softmax is the logistic loss.
    learn_head : bool, default=True
        Choose lengths and ridge by held-out likelihood, on which the warp then descends too; the
        head after it has the loss asked for. If False, kernels and ridge are used as given, and
        one warp and head are at the joint minimum of that loss, as in the theory.
    ridge : float, default=None
        λ. With ``learn_head`` it is chosen and must be None; otherwise None means 0.1.
    class_weight : dict or "balanced", default=None
        Weights of the classes, on top of those of the rows.
    standardize : bool, default=True
        Work in units of each column's standard deviation.
    power : bool, default=False
        Take the skew out of each input column before, by a Yeo-Johnson power between 0 and 2.
    n_warps, n_folds, selection_rows, training_rows : int, default=3, 5, 5000, 50000
        As for `WarpingRegressor`, with folds up to 4000 rows.
    max_iter : int, default=60
        Iterations of each descent; stopping early is part of the regularisation.
    tol, warm_start, callback, random_state, verbose
        As for `WarpingRegressor`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    momentum_, control_points_, nu_, warp_weights_, warps_, ledger_, ledgers_, history_, n_iter_
        As for `WarpingRegressor`.
    ridge_ : float
        λ of the head of the heaviest warp.
    score_, baseline_score_ : float
        Held-out mean log probability per row: of the stack, and of the best machine without warp.
        NaN where nothing was selected.
    cv_results_ : dict of ndarray
        As for `WarpingRegressor`, with the lengths of the machines without warp as
        ``param_length``, in units of the root of the number of columns; NaN for warps, which learn
        theirs.
    momentum_norms_ : ndarray of shape (n_samples,)
        With ``n_control_points="rows"``: the norm of the momentum of each row.
    support_ : ndarray of int
        With ``n_control_points="rows"``, ``learn_head=False`` and "hinge" or "squared_hinge": the
        rows that have momentum or a dual. The zeros of the others are exact, and without them
        `prune` gives the same predictions. No other loss has exact zeros.

    Examples
    --------
    >>> import numpy as np
    >>> from ideareg import WarpingClassifier
    >>> X = np.linspace(-1, 1, 60)[:, None]
    >>> y = np.where(np.sin(6 * X[:, 0]) > 0, "up", "down")
    >>> model = WarpingClassifier(nu=np.inf).fit(X, y)
    >>> str(model.predict([[0.25]])[0])
    'up'
    """

    def __init__(
        self,
        kernel: str | AbstractKernel | Callable[..., Any] = "gaussian",
        *,
        warp_kernel: Any = "gaussian",
        nu: float | tuple[float, ...] = (np.inf, 30.0, 5.0),
        n_control_points: int | tuple[int, ...] | str | None = None,
        depth: int = 4,
        integrator: str = "geodesic",
        nugget: float = 0.0,
        loss: str = "squared_hinge",
        learn_head: bool = True,
        ridge: float | None = None,
        class_weight: Any = None,
        standardize: bool = True,
        power: bool = False,
        n_warps: int = 3,
        n_folds: int = 5,
        selection_rows: int = 5_000,
        training_rows: int = 50_000,
        max_iter: int = 60,
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
        self.loss = loss
        self.learn_head = learn_head
        self.ridge = ridge
        self.class_weight = class_weight
        self.standardize = standardize
        self.power = power
        self.n_warps = n_warps
        self.n_folds = n_folds
        self.selection_rows = selection_rows
        self.training_rows = training_rows
        self.max_iter = max_iter
        self.tol = tol
        self.warm_start = warm_start
        self.callback = callback
        self.random_state = random_state
        self.verbose = verbose

    _losses = ("softmax", "logistic", "hinge", "squared_hinge")

    @with_callbacks
    @scoped
    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> WarpingClassifier:
        """Select and fit the warps and the heads after them.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
            Labels of any type.
        sample_weight : array-like of shape (n_samples,), optional
            A weight of k counts as k equal rows; 0 as no row.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For parameters out of range, for X that is not a finite numeric table, and for y with
            fewer than two classes of positive weight.
        """
        settings = read_settings(self)
        X, y = validate_data(self, X, y, dtype=np.float64)
        X = np.asarray(X, dtype=np.float64)
        check_classification_targets(y)
        weight = positive_weights(sample_weight, X)
        previous = getattr(self, "classes_", np.empty(0))
        self.classes_ = np.unique(np.asarray(y)[weight > 0])
        if len(self.classes_) < 2:
            raise ValueError(
                f"y: at least two classes are needed, got one class, {self.classes_[0]!r}."
            )
        # Rows of weight 0 may be of a class of their own: any code will do for them.
        codes = np.minimum(np.searchsorted(self.classes_, y), len(self.classes_) - 1)
        if self.class_weight is not None:
            weight = weight * compute_sample_weight(self.class_weight, y)
        Y = codes[:, None].astype(np.float64)
        rows = canonical(X, Y, weight)
        self._scale_x = Scaling.of(rows.X, rows.weight, centre=self.standardize, bend=self.power)
        assert isinstance(settings.loss, AbstractPointwise)
        data = Classes(
            Rows(self._scale_x.forward(rows.X), rows.Y, rows.weight),
            rows.Y[:, 0].astype(np.intp), len(self.classes_), settings.loss,
        )  # fmt: skip
        start = getattr(self, "warps_", None) if self.warm_start else None
        if start is not None and not np.array_equal(previous, self.classes_):
            raise ValueError(
                "warm_start: the classes changed since the last fit; set warm_start=False once."
            )
        recipe = fit_classes if settings.learn_head else fit_jointly
        with fit_task(self, X, y) as context:
            total = len(settings.nu) * (settings.n_folds + 1) * settings.max_iter
            progress = Progress(
                self, (X, y), total=total, visible=bool(self.verbose), context=context,
                callback=self.callback,
            )  # fmt: skip
            with progress:
                random = random_stream(self.random_state)
                fitted = recipe(data, settings, random, start=start, report=progress)
            store(self, fitted)
        if not settings.learn_head:
            describe_support(self, settings, places(X, Y, weight))
        return self

    def _log_probability(self, X: ArrayLike) -> Floats:
        Z = self._inputs(X)
        parts = []
        for warp in self.warps_:
            (f,) = in_chunks(partial(_predictions, warp.predictor), Z)
            parts.append(warp.tuned.log_probability(f) + np.log(warp.weight))
        return logsumexp(parts, axis=0)

    @scoped
    def decision_function(self, X: ArrayLike) -> Floats:
        """Return log-odds, or log probabilities where there are more than two classes.

        For one warp with a loss of two classes they are its regressor, scaled and shifted to be
        calibrated.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
        """
        log_p = self._log_probability(X)
        return log_p[:, 1] - log_p[:, 0] if len(self.classes_) == 2 else log_p

    @scoped
    def predict_log_proba(self, X: ArrayLike) -> Floats:
        """Return the log probabilities of the classes, shape (n_samples, n_classes)."""
        log_p = self._log_probability(X)
        return log_p - logsumexp(log_p, axis=1, keepdims=True)

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Return the probabilities of the classes, in the order of ``classes_``."""
        return np.exp(self.predict_log_proba(X))

    @scoped
    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the most probable class of each row of X, shape (n_samples,)."""
        best = self._log_probability(X).argmax(axis=1)  # refuses an estimator that is not fitted
        return self.classes_[best]
