"""`WarpingRegressor`: the scikit-learn face of a warp and the Gaussian process after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import validate_data

from ideareg._numerics import scoped
from ideareg._rows import Bent, Rows, Scaling, canonical, places
from ideareg.assembly import BENDS, Settings, descents_ahead
from ideareg.estimators._attributes import describe_support, store
from ideareg.estimators._base import (
    CallbackSupportMixin,
    Progress,
    fit_task,
    positive_weights,
    random_stream,
    with_callbacks,
)
from ideareg.estimators._bounds import BoundsMixin
from ideareg.estimators._further import PartialFitMixin
from ideareg.estimators._predictive import PredictiveMixin
from ideareg.estimators._robust import RobustnessMixin
from ideareg.estimators._settings import read_settings
from ideareg.estimators._state import SavingMixin
from ideareg.estimators._warped import WarpMixin
from ideareg.kernels import AbstractKernel
from ideareg.losses import LOSSES
from ideareg.recipe import FittedWarp, Sums, fit_warps

Floats = NDArray[np.float64]

# Bends whose slopes differ less than this from row to row are not worth trying.
LEAST_BEND = 0.1


class WarpingRegressor(
    BoundsMixin,
    PartialFitMixin,
    PredictiveMixin,
    RobustnessMixin,
    SavingMixin,
    CallbackSupportMixin,
    WarpMixin,
    MultiOutputMixin,
    RegressorMixin,
    BaseEstimator,
):
    r"""Gaussian process regression after a Hamiltonian flow that warps the inputs.

    .. math::
        \min\ \frac\nu2\int_0^1\|v_t\|_\Gamma^2\,dt + \text{loss}(f\circ\varphi(X), Y),
        \qquad \dot\varphi = v_t(\varphi)

    The flow follows Hamilton's equations for :math:`H = \frac12p^T\Gamma(q,q)p` from control
    points, so its initial momentum is all there is of depth; cut into ``depth`` layers it is a
    residual network. How strong a penalty, how many control points, and whether to warp at all is
    chosen by cross-validated predictive density; the answer may be a stack of a few warps.

    Parameters
    ----------
    kernel : str, kernel or callable, default="matern52"
        Kernel of the regressor after the warp: "gaussian", "matern12", "matern32", "matern52",
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
        Layers sampled from the continuous flow. Also "symplectic_euler", the residual network that
        minimises the discrete action exactly, and "implicit_midpoint", "stormer_verlet", "rk4",
        "leapfrog".
    nugget : float, default=0.0
        Nugget r on Γ: lets control points leave the flow. It never acts on other points.
    head : {"auto", "exact", "sparse"}, default="auto"
        Exact Gaussian process, or one seen through inducing points; "auto" is exact up to
        ``n_inducing`` rows.
    n_inducing : int, default=None
        Number of inducing points of the sparse head, learned with the warp. None means a quarter of
        the rows in steps of 64, at least 128 and at most 256; but for the trials of a selection, an
        eighth of the rows where that is more, at most 384 and fewer beyond 8,100 rows. When the
        head is conditioned, rows drawn at random join them, up to about a quarter of the rows and
        2048, fewer beyond 238,000 rows.
    loss : {"evidence", "squared", "optimal_recovery", "epsilon_insensitive"}, default="evidence"
        Negative log marginal likelihood, or the losses of the theory; the latter need
        ``learn_head=False``. The last is that of support vector regression: it takes one ``nu``,
        and has no predictive distribution.
    epsilon : float, default=0.1
        Width of the ε-insensitive loss, in units of the standardised target.
    learn_head : bool, default=True
        Learn lengths, amplitude and noise. If False the kernels are used as given.
    noise : float, default=None
        Variance of the noise, equally the ridge, in units of the standardised target; where it is
        learned, the value at the start. None means 0.1.
    standardize : bool, default=True
        Work in units of each column's standard deviation.
    power : bool, default=True
        Take the skew out of each input column before, by a Yeo-Johnson power between 0 and 2.
    target_power : bool or "auto", default="auto"
        Take the skew out of each target likewise: noise then grows or shrinks with ``y``, and
        predictions are moments of bent normals. "auto" tries the best two candidates of a
        selection with half of the way to that power, and with all of it; the stack may mix them
        with ordinary ones.
    local : bool or "auto", default="auto"
        Correct predictions by the errors at the 32 nearest training rows, as far as these are
        alike, and shrink the noise there: `ideareg.local` has the equation. "auto" does so after a
        selection in one process where rows gain a hundredth of a nat and three standard errors;
        True always. Rows that nearly repeat gain much, smooth data nothing. Such a model keeps its
        training rows, a random 100,000 of them if there are more.
    tails : bool or "auto", default="auto"
        Let the noise have the tails of Student's t, as heavy as rows that a head has not seen say:
        `ideareg.tails` has the equation. "auto" does so after a selection in one process. Means
        stay what they are, but for those of bent targets, and predictions mixtures of normals.
    n_warps : int, default=5
        Warps in the stack at most; 1 gives a single flow to look at.
    n_folds : int, default=3
        Folds of the selection up to 1500 rows; 1 holds out a third of them once, which takes half
        of the descents. Above, one tenth is held out instead, and the selected fits are gone on
        from with all rows.
    selection_rows : int, default=5000
        Rows that the selection looks at, at most.
    training_rows : int, default=50000
        Rows that the descents see, at most, drawn at random: what they learn is settled long
        before. All rows condition the head, and count in the spread of the warp.
    max_iter : int, default=160
        Iterations of each descent; stopping early is part of the regularisation.
    tol : float, default=1e-4
        A descent stops when no entry of its gradient exceeds this times the number of rows.
    warm_start : bool, default=False
        Go on from the last fit: same stack, same weights, more iterations.
    callback : callable, default=None
        Called with a dict after every iteration (stage, descent, iteration, loss, data_term,
        action, gradient_norm, seconds), once at a time; a true answer ends that descent.
    n_jobs : int or None, default=-1
        Descents that run at a time, as threads: -1 is one for each core, and an accelerator runs
        one. The answer does not depend on it.
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
        of the regressor without warp, before near rows correct. NaN where nothing was selected.
    cv_results_ : dict of ndarray
        ``param_nu``, ``param_n_control_points``, ``param_bend``, ``mean_test_log_density``,
        ``weight``.
    target_power_ : ndarray of shape (n_warps,) or (n_warps, n_outputs)
        Yeo-Johnson power of the targets that each warp predicts, 1 where they are not bent.
    local_share_, local_length_ : ndarray of shape (n_warps,)
        Share of the noise of each warp that equal rows have in common, 0 where near rows correct
        nothing; and over what distance after the warp, in lengths of its head, NaN there.
    tail_freedom_ : ndarray of shape (n_warps,)
        Degrees of freedom of the noise of each warp, ``inf`` where it is normal.
    history_ : dict of list
        The descent of the heaviest warp.
    noise_ : float
        Noise variance of the heaviest warp, in units of the standardised target, as its evidence
        has it: tails have a level of their own.
    n_iter_ : int
        Iterations of the final descents together.
    lipschitz_ : float or ndarray of shape (n_outputs,)
        Certified Lipschitz constant of `predict`, per standardised unit of ``X``.
    bound_norm_ : ndarray of shape (n_warps,) or (n_warps, n_outputs)
        Norm of the regressor of each warp in its reproducing space, in units of ``y``: what
        ``predict(X, return_bound=True)`` assumes unless it is told another.
    nugget_used_ : dict
        What was really added to diagonals: of flow, whitening, inducing points and head.
    momentum_norms_ : ndarray of shape (n_samples,)
        With ``n_control_points="rows"``: the norm of the momentum of each row.
    support_ : ndarray of int
        With ``n_control_points="rows"`` and the ε-insensitive loss: the rows that have momentum or
        a dual. Without the others `prune` gives the same predictions.

    References
    ----------
    .. [1] Owhadi, "Do ideas have shape? Idea registration as the continuous limit of artificial
       neural networks", Physica D, 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from ideareg import WarpingRegressor
    >>> X = np.linspace(-1, 1, 60)[:, None]
    >>> model = WarpingRegressor(nu=1.0, max_iter=30).fit(X, np.tanh(20 * X[:, 0]))
    >>> mean, std = model.predict([[0.5]], return_std=True)
    >>> abs(mean[0] - 1) < 0.05
    True
    """

    def __init__(
        self,
        kernel: str | AbstractKernel | Callable[..., Any] = "matern52",
        *,
        warp_kernel: Any = "gaussian",
        nu: float | tuple[float, ...] = (np.inf, 30.0, 5.0),
        n_control_points: int | tuple[int, ...] | str | None = None,
        depth: int = 4,
        integrator: str = "geodesic",
        nugget: float = 0.0,
        head: str = "auto",
        n_inducing: int | None = None,
        loss: str = "evidence",
        epsilon: float = 0.1,
        learn_head: bool = True,
        noise: float | None = None,
        standardize: bool = True,
        power: bool = True,
        target_power: bool | str = "auto",
        local: bool | str = "auto",
        tails: bool | str = "auto",
        n_warps: int = 5,
        n_folds: int = 3,
        selection_rows: int = 5_000,
        training_rows: int = 50_000,
        max_iter: int = 160,
        tol: float = 1e-4,
        warm_start: bool = False,
        callback: Callable[[dict[str, Any]], bool | None] | None = None,
        n_jobs: int | None = -1,
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
        self.epsilon = epsilon
        self.learn_head = learn_head
        self.noise = noise
        self.standardize = standardize
        self.power = power
        self.target_power = target_power
        self.local = local
        self.tails = tails
        self.n_warps = n_warps
        self.n_folds = n_folds
        self.selection_rows = selection_rows
        self.training_rows = training_rows
        self.max_iter = max_iter
        self.tol = tol
        self.warm_start = warm_start
        self.callback = callback
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    _losses = (*LOSSES, "epsilon_insensitive")

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
        return self._fit(read_settings(self), X, y, sample_weight)

    def _fit(self, settings: Settings, X: Any, y: Any, sample_weight: Any) -> WarpingRegressor:
        rows = self._rows(X, y, sample_weight)
        merged = canonical(*rows)
        self._measure(merged)
        random = random_stream(self.random_state)
        self._select_and_fit(settings, self._scaled(merged), (X, y), random, self._bent(merged))
        describe_support(self, settings, places(*rows))
        return self

    def _rows(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None) -> Rows:
        """Check a training table."""
        checked = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        X, y = (np.asarray(part, dtype=np.float64) for part in checked)
        weight = positive_weights(sample_weight, X)
        self._one_output = y.ndim == 1
        return Rows(X, y.reshape(len(y), -1), weight)

    def _measure(self, rows: Rows) -> None:
        """Take the units of the columns from the rows."""
        self._scale_x = Scaling.of(rows.X, rows.weight, centre=self.standardize, bend=self.power)
        self._scale_y = Scaling.of(rows.Y, rows.weight, centre=self.standardize)
        self._bends = {}
        if self.target_power is False or not self.standardize or self.loss != "evidence":
            return
        if self._start is not None:
            tried = {w.bend for w in self._start} - {0.0}
        elif self.target_power is True:
            tried = {1.0}
        else:
            straightest = Scaling.of(rows.Y, rows.weight, bend=1.0)
            uneven = straightest.unevenness(rows.Y, rows.weight) > LEAST_BEND
            tried = set(BENDS) if uneven else set()
        # Beyond the targets seen a bend is not believed: its powers there soon leave all bounds.
        self._bends = {
            bend: Scaling.of(rows.Y, rows.weight, bend=bend, straight=True) for bend in tried
        }

    @property
    def _start(self) -> list[FittedWarp] | None:
        """The warps that a fit goes on from."""
        return getattr(self, "warps_", None) if self.warm_start else None

    def _bent(self, rows: Rows) -> dict[float, Bent]:
        """Return other targets of the rows, if some are worth trying."""
        return {bend: Bent.of(rows.Y, self._scale_y, g) for bend, g in self._bends.items()}

    def _scaled(self, rows: Rows) -> Rows:
        return Rows(self._scale_x.forward(rows.X), self._scale_y.forward(rows.Y), rows.weight)

    def _select_and_fit(
        self,
        settings: Settings,
        rows: Rows,
        data: tuple[Any, Any],
        random: Any,
        bent: Mapping[float, Bent] | None = None,
        sums: Sums = Sums(),  # noqa: B008
    ) -> None:
        """Fit standardised rows, with bent targets for candidates of their own."""
        start = self._start
        descents = 1 if start else descents_ahead(settings, len(rows), bool(bent))
        with fit_task(self, *data) as context:
            progress = Progress(
                self, data, total=descents * settings.max_iter, visible=bool(self.verbose),
                context=context, callback=self.callback,
            )  # fmt: skip
            with progress:
                fitted = fit_warps(
                    rows, settings, random, bent=bent, start=start, report=progress, sums=sums
                )
            store(self, fitted)

    @scoped
    def predict(
        self,
        X: ArrayLike,
        return_std: bool = False,
        return_cov: bool = False,
        return_bound: bool = False,
        norm: ArrayLike | None = None,
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
            (n_samples, n_samples, n_outputs).
        return_bound : bool, default=False
            Also return a bound on the error, shaped like the mean, that holds for every function
            of a stated norm, given the warps: `error_bound` has the exact statement. At most one
            of the three.
        norm : float or array-like, optional
            With ``return_bound``: the norm that the bound assumes, in units of ``y``. By default
            that of the fitted regressor, ``bound_norm_``.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs), or a pair

        Raises
        ------
        ValueError
            For more than one of the three, for a norm without ``return_bound``, and where the loss
            has no such answer.
        """
        if return_std + return_cov + return_bound > 1:
            raise ValueError(
                "predict: at most one of return_std, return_cov and return_bound can be True."
            )
        if norm is not None and not return_bound:
            raise ValueError("predict: norm goes with return_bound=True.")
        if return_std or return_cov:
            self._check_density()
        Z = self._inputs(X)
        if return_std:
            return self._mixture(Z).moments()
        if return_cov:
            return self._covariance(Z)
        if return_bound:
            return self._mean(Z), self.error_bound(X, norm)
        return self._mean(Z)
