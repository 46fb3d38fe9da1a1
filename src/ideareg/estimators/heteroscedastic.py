"""`HeteroscedasticRegressor`: a warped Gaussian process whose noise depends on the inputs."""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from ideareg._numerics import scoped
from ideareg._rows import Rows, canonical, places
from ideareg._types import Result
from ideareg.assembly import FEWEST_ROWS
from ideareg.calibration import Mixture
from ideareg.estimators._attributes import describe_support
from ideareg.estimators._base import random_stream
from ideareg.estimators._document import Arrays, plain, unplain
from ideareg.estimators._noise import (
    Ratio,
    Varying,
    again,
    estimate,
    go_on,
    held_out,
    sure,
    weighted,
)
from ideareg.estimators._predictive import MixtureMixin
from ideareg.estimators._settings import check_integer, read_settings
from ideareg.estimators._state import SavingMixin
from ideareg.estimators.warping import WarpingRegressor
from ideareg.selection import folds

Floats = NDArray[np.float64]


class HeteroscedasticRegressor(SavingMixin, MixtureMixin, RegressorMixin, BaseEstimator):
    r"""A `WarpingRegressor` and the noise around it, whose size is a function of the inputs.

    .. math:: y = f(\varphi(x)) + e,\qquad e\sim N\big(0,\ s\,r(x)\big),
              \qquad \log r(x) = \theta\,g(x) + \text{const}

    g is another regressor, fitted to the squares of held-out residuals (see `ideareg.noise`); rows
    then weigh 1/r in the fit of f and φ, which learns s. That may be done again with the residuals
    of the weighted fit. Constant noise is a candidate: unless held-out rows are clearly better
    predicted with varying noise, the model is the `WarpingRegressor`.

    Parameters
    ----------
    regressor : WarpingRegressor, default=None
        The regressor to weigh; None means the default one. It is cloned.
    noise_regressor : WarpingRegressor, default=None
        The regressor of the log variance; None means one without a warp, ``nu=inf``. It is cloned.
    n_folds : int, default=5
        Folds that residuals and noise are held out in.
    n_rounds : int, default=3
        Estimates of the noise at most; the first that no longer gains ends them.
    random_state : int, RandomState or None, default=None
        Decides the folds, and the random states of regressors that have none.

    Attributes
    ----------
    regressor_ : WarpingRegressor
        The fitted regressor; with varying noise the weighted one, whose own predictions are those
        of a row of ordinary noise.
    noise_regressor_ : WarpingRegressor or None
        g; None where the noise is constant.
    noise_share_ : float
        θ, between 0 and 1: how much of g held-out rows believe. 0 is constant noise.
    score_, baseline_score_ : float
        Held-out mean log predictive density per row, in units of ``y``: of what was chosen, and
        with constant noise. Both are of one warp, the heaviest of the stack. NaN for fewer than 20
        rows, which say nothing about noise.
    n_features_in_ : int
    feature_names_in_ : ndarray of str

    Notes
    -----
    It costs two fits of the regressor, and for each round and fold one descent of it and two of
    the noise. The uncertainty of g itself is no part of predictions.

    Residuals cannot tell noise from what the regressor misfits. Where it misfits much in places and
    there is hardly any noise, the weights may trade squared error for density.

    References
    ----------
    .. [1] Kersting, Plagemann, Pfaff and Burgard, "Most likely heteroscedastic Gaussian process
       regression", ICML 2007.

    Examples
    --------
    >>> import numpy as np
    >>> from ideareg import HeteroscedasticRegressor, WarpingRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = np.linspace(0, 1, 120)[:, None]
    >>> y = np.sin(6 * X[:, 0]) + (0.05 + 0.5 * X[:, 0]) * rng.normal(size=120)
    >>> plain = WarpingRegressor(nu=np.inf)
    >>> model = HeteroscedasticRegressor(plain, random_state=0).fit(X, y)
    >>> quiet, loud = model.noise_std([[0.1], [0.9]])
    >>> bool(2 * quiet < loud)
    True
    """

    def __init__(
        self,
        regressor: WarpingRegressor | None = None,
        *,
        noise_regressor: WarpingRegressor | None = None,
        n_folds: int = 5,
        n_rounds: int = 3,
        random_state: Any = None,
    ) -> None:
        self.regressor = regressor
        self.noise_regressor = noise_regressor
        self.n_folds = n_folds
        self.n_rounds = n_rounds
        self.random_state = random_state

    @scoped
    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit with constant noise, estimate how the noise varies, and fit again if it does.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        sample_weight : array-like of shape (n_samples,), optional
            A weight of k counts as k equal rows; 0 as no row.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For parameters out of range, for X or y that is not a finite numeric table, for several
            outputs, and for a loss without a predictive distribution.
        TypeError
            For a regressor that is no `WarpingRegressor`.
        """
        check_integer("n_folds", self.n_folds, 2)
        check_integer("n_rounds", self.n_rounds, 1)
        outputs = getattr(y, "shape", np.shape(y) if isinstance(y, list | tuple) else ())[1:]
        if outputs and outputs[0] > 1:
            raise ValueError(
                "y: each output has a noise of its own, and this takes one; wrap it in "
                "sklearn.multioutput.MultiOutputRegressor."
            )
        _, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        random = random_stream(self.random_state)
        base = self._clone("regressor", random)
        noise = self._clone("noise_regressor", random)
        base.fit(X, y, sample_weight)
        self.regressor_, self._ratio = base, Ratio()
        self.score_ = self.baseline_score_ = np.nan
        given = base._rows(X, y, sample_weight)
        try:
            go_on(base)
            rows = canonical(*given)
            if len(rows) >= max(FEWEST_ROWS, self.n_folds):
                self._vary(rows, noise, folds(len(rows), self.n_folds, random))
                describe_support(self.regressor_, read_settings(base), places(*given))
        except KeyboardInterrupt:
            warnings.warn(
                f"{Result.interrupted.message} The noise is constant.",
                ConvergenceWarning,
                stacklevel=3,
            )
        return self

    def _clone(self, name: str, random: np.random.RandomState) -> WarpingRegressor:
        given = getattr(self, name)
        if given is None:
            given = WarpingRegressor(nu=np.inf) if name == "noise_regressor" else WarpingRegressor()
        if not isinstance(given, WarpingRegressor):
            raise TypeError(f"{name}: expected a WarpingRegressor, got {given!r}.")
        if given.loss == "epsilon_insensitive" and name == "regressor":
            raise ValueError(
                f"regressor: loss={given.loss!r} has no predictive distribution to have noise in."
            )
        seed = int(random.randint(2**31 - 1))
        # Noise that varies is told apart in the units of y, not in those of a bend, and its weights
        # are no copies of rows.
        model = clone(given).set_params(target_power=False, local=False, tails=False)
        return model.set_params(random_state=seed) if model.random_state is None else model

    def _vary(self, rows: Rows, noise: WarpingRegressor, fold: NDArray[np.intp]) -> None:
        """Estimate the noise, and keep it if held-out rows are clearly better predicted."""
        base, best = self.regressor_, Varying(Ratio(), np.empty(0))
        share = rows.weight / rows.weight.sum()
        for _ in range(self.n_rounds):
            weight = rows.weight / best.ratio.at(rows.X)
            residuals = held_out(base, weighted(rows, weight), fold)
            residuals = residuals._replace(weight=rows.weight)
            found, constant = estimate(noise, rows.X, residuals, fold)
            if not len(best.density):
                still = constant
                best = best._replace(density=still)
            if share @ (found.density - best.density) <= 0:
                break
            best = found
        self.score_ = self.baseline_score_ = float(share @ still)
        if sure(best.density - still, rows.weight):
            weight = rows.weight / best.ratio.at(rows.X)
            regressor = again(base, weighted(rows, weight), select=True)
            self.regressor_, self._ratio = regressor, best.ratio
            self.score_ = float(share @ best.density)

    @property
    def noise_regressor_(self) -> WarpingRegressor | None:
        """The regressor of the log variance, None where the noise is constant."""
        check_is_fitted(self)
        return self._ratio.regressor

    @property
    def noise_share_(self) -> float:
        """How much of that log variance is believed."""
        check_is_fitted(self)
        return self._ratio.share

    def _validated(self, X: ArrayLike) -> Floats:
        check_is_fitted(self)
        return np.asarray(validate_data(self, X, dtype=np.float64, reset=False))

    @scoped
    def predict(
        self, X: ArrayLike, return_std: bool = False, return_cov: bool = False
    ) -> Floats | tuple[Floats, Floats]:
        """Return the predictive mean, and on request how far an observation may be from it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        return_std : bool, default=False
            Also return the standard deviation of a new observation, with the noise at its row.
        return_cov : bool, default=False
            Also return the covariance of new observations, (n_samples, n_samples); at most one of
            the two.

        Returns
        -------
        ndarray of shape (n_samples,), or a pair

        Raises
        ------
        ValueError
            For both at once.
        """
        if return_std and return_cov:
            raise ValueError("predict: at most one of return_std and return_cov can be True.")
        rows, model = self._validated(X), self.regressor_
        Z = model._standardised(rows)
        if return_std:
            return model._mixture(Z, self._ratio.at(rows)[:, None]).moments()
        if return_cov:
            mean, covariance = model._covariance(Z)
            more = self._noise() * (self._ratio.at(rows) - 1)
            return mean, covariance + np.diag(more)
        return model._mean(Z)

    def _noise(self) -> float:
        """Return the ordinary noise variance, in units of y squared."""
        model = self.regressor_
        each = [w.weight * float(w.predictor.posterior.noise) for w in model.warps_]
        return float(sum(each) * model._scale_y.scale[0] ** 2)

    @scoped
    def noise_std(self, X: ArrayLike) -> Floats:
        r"""Return the standard deviation :math:`\sqrt{s\,r(x)}` of the noise at each row.

        What `predict` adds to it is what is not known of the function.

        Returns
        -------
        ndarray of shape (n_samples,)
            In units of ``y``.
        """
        return np.sqrt(self._ratio.at(self._validated(X)) * self._noise())

    @scoped
    def predict_mixture(self, X: ArrayLike) -> Mixture:
        """Return the distribution of a new observation at each row, a mixture of normals.

        Returns
        -------
        Mixture
            Of shape (n_samples,), in the units of ``y``.
        """
        rows, model = self._validated(X), self.regressor_
        mixture = model._mixture(model._standardised(rows), self._ratio.at(rows)[:, None])
        assert isinstance(mixture, Mixture)  # targets are never bent here
        return mixture

    def log_predictive_density(self, X: ArrayLike, y: ArrayLike) -> Floats:
        """Return the log density of each observation, shape (n_samples,)."""
        return self.predict_mixture(X).log_density(y)

    def sample_y(self, X: ArrayLike, n_samples: int = 1, random_state: Any = 0) -> Floats:
        """Draw whole functions from the posterior, without noise.

        Returns
        -------
        ndarray of shape (n_samples_X, n_samples)
        """
        check_is_fitted(self)
        return self.regressor_.sample_y(X, n_samples, random_state)

    def get_state(self) -> tuple[dict[str, Any], Arrays]:
        """Return the fitted model as a JSON-able header and named arrays."""
        check_is_fitted(self)
        header: dict[str, Any] = {
            "n_folds": int(self.n_folds),
            "n_rounds": int(self.n_rounds),
            "scores": plain([self.score_, self.baseline_score_]),
            "ratio": [self._ratio.share, self._ratio.shift],
        }
        arrays: Arrays = {}
        for name in ("regressor", "noise_regressor"):
            part = getattr(self, f"{name}_")
            header[name], held = (None, {}) if part is None else part.get_state()
            arrays |= {f"{name}.{key}": array for key, array in held.items()}
        return header, arrays

    @classmethod
    def from_state(cls, header: dict[str, Any], arrays: Arrays) -> Self:
        """Rebuild a fitted model from `get_state`; its parameters are the regressors that it holds.

        Raises
        ------
        ValueError
            If the header or an array does not fit together.
        """
        parts: dict[str, Any] = {}
        for name in ("regressor", "noise_regressor"):
            start = f"{name}."
            held = {k.removeprefix(start): a for k, a in arrays.items() if k.startswith(start)}
            state = header[name]
            parts[name] = None if state is None else WarpingRegressor.from_state(state, held)
        regressor, noise = parts["regressor"], parts["noise_regressor"]
        share, shift = (float(number) for number in header["ratio"])
        if noise is not None and noise.n_features_in_ != regressor.n_features_in_:
            raise ValueError("model file: its two regressors take different columns")
        if regressor._bent_stack:
            raise ValueError("model file: its targets are bent, and its noise is not")
        if not (0 <= share <= 1 and np.isfinite(shift)):
            raise ValueError("model file: the size of its noise makes no sense")
        model = cls(
            clone(regressor),
            noise_regressor=None if noise is None else clone(noise),
            n_folds=int(header["n_folds"]),
            n_rounds=int(header["n_rounds"]),
        )
        model.regressor_, model._ratio = regressor, Ratio(noise, share, shift)
        model.score_, model.baseline_score_ = unplain(header["scores"])
        model.n_features_in_ = regressor.n_features_in_
        if hasattr(regressor, "feature_names_in_"):
            model.feature_names_in_ = regressor.feature_names_in_
        return model
