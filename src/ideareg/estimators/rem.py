"""`REMClassifier` and `REMRegressor`: the scikit-learn faces of a deep machine of REM kernels."""

from __future__ import annotations

from os import PathLike
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    RegressorMixin,
    TransformerMixin,
)
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from ideareg import persistence
from ideareg.estimators._base import Progress, random_stream
from ideareg.estimators._document import Arrays
from ideareg.estimators._rem import check_dtype, read_settings
from ideareg.estimators._remfile import machine_arrays, restore
from ideareg.kernelmachine import Machine, fit_machine
from ideareg.labels import Calibration, calibrate, encode
from ideareg.nystrom import Ints, Ridge, Score
from ideareg.pointwise import SquaredHinge
from ideareg.refinement import BATCH

Floats = NDArray[np.floating[Any]]


class _REM(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """What classifier and regressor share: the parameters, images, features, files."""

    machine_: Machine

    def __init__(
        self,
        image_shape: tuple[int, ...] | None = None,
        *,
        n_patches: tuple[int, ...] = (48, 200),
        window: tuple[int, ...] = (5, 3),
        sharpness: tuple[float, ...] = (3.0, 4.0),
        stride: tuple[int, ...] | None = None,
        sigma: tuple[float, ...] | None = None,
        space: Any = None,
        group: Any = None,
        periodic: bool = False,
        n_centres: int = 8_000,
        gamma: float | None = None,
        ridge: float | None = None,
        refine_epochs: int = 0,
        dtype: str = "float32",
        random_state: Any = None,
        verbose: int = 1,
    ) -> None:
        self.image_shape = image_shape
        self.n_patches = n_patches
        self.window = window
        self.sharpness = sharpness
        self.stride = stride
        self.sigma = sigma
        self.space = space
        self.group = group
        self.periodic = periodic
        self.n_centres = n_centres
        self.gamma = gamma
        self.ridge = ridge
        self.refine_epochs = refine_epochs
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose

    def _fit_machine(
        self,
        X: Floats,
        Y: Floats,
        score: Score,
        *,
        variance: bool,
        checkpoint: str | PathLike[str] | None,
    ) -> tuple[Ridge, Floats]:
        """Fit on rows of pixels and targets (n, k); return what held-out rows said."""
        settings = read_settings(self, X.shape[1])
        if checkpoint is not None and settings.refinement is None:
            raise ValueError(
                "checkpoint: without refinement there is no training to go on with; set "
                "refine_epochs, or leave the checkpoint out."
            )
        images = X.reshape(-1, *settings.sides, settings.channels)
        steps = settings.refinement.epochs * len(X) // BATCH if settings.refinement else 0
        progress = Progress(
            self, (X, Y), total=20 + len(X) // 1_000 + steps, visible=bool(self.verbose),
            context=None, callback=None,
        )  # fmt: skip
        random = random_stream(self.random_state)
        with jax.enable_x64(self.dtype == "float64"), progress:
            machine, held, spread = fit_machine(
                images, Y, settings, score, random,
                lambda stage, **record: progress(stage, 0, record), variance=variance,
                checkpoint=checkpoint,
            )  # fmt: skip
        self.machine_ = machine
        self.gamma_, self.ridge_ = machine.regressor.gamma, held.ridge
        self.score_ = held.score
        return held, spread

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = [self.dtype]
        return tags

    @property
    def _n_features_out(self) -> int:
        return len(self.machine_.standard.mean)

    def _images(self, X: ArrayLike) -> Floats:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.dtype(self.dtype), reset=False)
        return np.asarray(X).reshape(-1, *self.image_shape_)

    def transform(self, X: ArrayLike) -> Floats:
        """Return the last layer's features: signed roots, standardised, averaged over the group.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, height * width * channels of the last layer)
        """
        images = self._images(X)
        with jax.enable_x64(self.dtype == "float64"):
            return self.machine_.features(images)

    def _predict(self, X: ArrayLike) -> Floats:
        images = self._images(X)
        with jax.enable_x64(self.dtype == "float64"):
            return self.machine_.predict(images)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the fitted model to one file that `ideareg.load` reads: data only, no pickle."""
        persistence.write(path, type(self).__name__, *self.get_state())

    def get_state(self) -> tuple[dict[str, Any], Arrays]:
        """Return the fitted model as a JSON-able header and named arrays."""
        check_is_fitted(self)
        return machine_arrays(self)

    @classmethod
    def from_state(cls, header: dict[str, Any], arrays: Arrays) -> Any:
        """Rebuild a fitted model from `get_state`."""
        return restore(cls, header, arrays)


class REMClassifier(ClassifierMixin, _REM):
    r"""Classification of images, and of functions on other spaces, by a deep kernel machine.

    .. math:: f(x) = \sum_j \alpha_j\,|G|^{-1}\sum_{g\in G} e^{-\gamma|F(gx)-F(z_j)|^2}

    F are the features of layers of REM kernels: patches less their mean, a dot-product kernel
    :math:`|u||u'|e^{a(\cos\angle(u,u')-1)}` of patches through inducing ones, Gaussian
    pooling, and at the end signed square roots [1]_, so that no few large numbers prevail; see
    `ideareg.convolution`, and `ideareg.views` for series, graphs and sets. Unless
    ``refine_epochs`` asks for more, nothing is learned from labels but the weights on the
    centres :math:`z_j`, by ridge regression on targets ±1, in closed form. γ and the ridge are
    those of greatest held-out likelihood, and probabilities are scaled and shifted on the held-out
    predictions, as Platt did.

    Parameters
    ----------
    image_shape : tuple of int, default=None
        (height, width) or (height, width, channels) of the image that a row is, flattened with
        channels last. A series is an image of height 1. None: a square grey image, if the number
        of columns is a square; if not, a warning, and rows go to the read-out without layers.
    n_patches : tuple of int, default=(48, 200)
        Inducing patches of each layer; their number is that of the layers.
    window : tuple of int, default=(5, 3)
        Width of the patches of each layer; less along an axis that is shorter. With a ``space``
        also the points that are seen from point 0, as a sequence for each layer, or None for all.
    sharpness : tuple of float, default=(3.0, 4.0)
        a of the kernel of each layer.
    stride : tuple of int, default=None
        Steps of each layer's pooled grid. None: the first halves a grid of 16 points or more, the
        last leaves about 5 points an axis, any between halve. Grids less than 3 points wide have no
        layers: pixels go straight to the read-out.
    sigma : tuple of float, default=None
        Deviation of each layer's pooling weights, in points. None: half the stride, and 0.73 of it
        for the last layer.
    space : Group, default=None
        The group whose points a row is a function on, in place of a grid: `cyclic` for periodic
        series, `automorphisms` of a graph, any of `ideareg.kernels.groups`. A row holds the
        channels of each point, one point after the other. Layers see a function from all elements
        of the group, and the last averages over them: predictions are invariant, to rounding. With
        a window of one point they are so under all permutations of the points: rows are sets.
    group : {"p4", "p4m", "c8", "c16"}, group or None, default=None
        What the read-out averages over, besides what the layers know of translations: the quarter
        turns, with reflections too, turns by an eighth or sixteenth with interpolation, any
        group of `ideareg.kernels.groups` that acts on the grid, or a quadrature, such as
        `haar_so3`, that turns channels which are vectors. Time and memory grow with it.
    periodic : bool, default=False
        Whether the grid wraps around. Otherwise zeros lie outside.
    n_centres : int, default=8000
        Centres of the read-out, drawn from the rows; with as many as rows it is exact. Memory is
        some 3 times its square, in float64.
    gamma, ridge : float, default=None
        γ, in units of the mean square norm of the features, and λ. None: chosen.
    refine_epochs : int, default=0
        Passes over the rows that train the inducing patches and the sharpness from labels, see
        `ideareg.refinement`. One fold is kept from it, and held out alone from what is chosen.
    dtype : {"float32", "float64"}, default="float32"
        Of the layers. Sums over rows are in float64.
    random_state : int, RandomState or None, default=None
    verbose : int, default=1
        1 shows a progress bar when standard error is a terminal; 0 never does.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    image_shape_ : tuple of int
        (height, width, channels).
    machine_ : Machine
        Layers and read-out, see `ideareg.kernelmachine`.
    gamma_, ridge_ : float
    score_ : float
        Held-out mean log probability per row.

    References
    ----------
    .. [1] Perronnin, Sánchez, Mensink, "Improving the Fisher kernel for large-scale image
       classification", 2010.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from ideareg import REMClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> model = REMClassifier(n_patches=(16, 32), random_state=0).fit(X[::4], y[::4])
    >>> bool(model.score(X[1::4], y[1::4]) > 0.9)
    True
    """

    _calibration: Calibration

    def fit(
        self, X: ArrayLike, y: ArrayLike, *, checkpoint: str | PathLike[str] | None = None
    ) -> REMClassifier:
        """Fit layers and read-out.

        Parameters
        ----------
        X : array-like of shape (n_samples, height * width * channels)
        y : array-like of shape (n_samples,)
            Labels of any type.
        checkpoint : path-like, optional
            With ``refine_epochs``: a file that the training is written to every few seconds. The
            same call goes on from there after a kill, and ends at the same model, bit for bit.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For parameters out of range, an ``image_shape`` or ``space`` that does not fit the
            columns, a group that does not act on it, images that are flat, y with fewer than two
            classes, and a checkpoint of another fit.
        """
        X, y = validate_data(self, X, y, dtype=np.dtype(check_dtype(self.dtype)))
        check_classification_targets(y)
        self.classes_, codes = np.unique(np.asarray(y), return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y: at least two classes are needed, got one class, {self.classes_.tolist()[0]!r}."
            )
        loss = SquaredHinge()
        Y = encode(loss, codes, len(self.classes_))
        self._offset = Y.mean(0)

        def tuned(f: Floats, rows: Ints) -> Calibration:
            return calibrate(loss, f + self._offset, codes[rows], np.ones(len(rows)))

        def score(f: Floats, rows: Ints) -> float:
            log_p = tuned(f, rows).log_probability(f + self._offset)
            return float(log_p[np.arange(len(rows)), codes[rows]].mean())

        held, _ = self._fit_machine(
            np.asarray(X), Y - self._offset, score, variance=False, checkpoint=checkpoint
        )
        self._calibration = tuned(held.predicted, held.rows)
        return self

    def _log_probability(self, X: ArrayLike) -> Floats:
        f = self._predict(X)  # first: it refuses an estimator that is not fitted
        return self._calibration.log_probability(f + self._offset)

    def decision_function(self, X: ArrayLike) -> Floats:
        """Return log-odds, or log probabilities where there are more than two classes.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
        """
        log_p = self._log_probability(X)
        return log_p[:, 1] - log_p[:, 0] if len(self.classes_) == 2 else log_p

    def predict_log_proba(self, X: ArrayLike) -> Floats:
        """Return the log probabilities of the classes, shape (n_samples, n_classes)."""
        return self._log_probability(X)

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Return the probabilities of the classes, in the order of ``classes_``."""
        return np.exp(self._log_probability(X))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the most probable class of each row of X, shape (n_samples,)."""
        best = self._log_probability(X).argmax(axis=1)
        return self.classes_[best]


class REMRegressor(RegressorMixin, _REM):
    r"""Regression on images, and on functions on other spaces, by a deep kernel machine.

    The machine of `REMClassifier`, with real targets. γ and the ridge are those of least held-out
    square error. The read-out is the posterior mean of a Gaussian process of the same kernel, its
    amplitude such that held-out errors have the variance that it states.

    Parameters
    ----------
    image_shape, n_patches, window, sharpness, stride, sigma, space, group, periodic
        As for `REMClassifier`.
    n_centres, gamma, ridge, refine_epochs, dtype, random_state, verbose
        Likewise.

    Attributes
    ----------
    image_shape_, machine_, gamma_, ridge_
        As for `REMClassifier`.
    score_ : float
        Minus the held-out mean square error, in units of the variance of y.

    Examples
    --------
    >>> import numpy as np
    >>> from ideareg import REMRegressor
    >>> X = np.random.default_rng(0).normal(size=(60, 1, 12))
    >>> y = (X[:, 0] * np.roll(X[:, 0], 1, axis=1)).sum(1)  # what a translation leaves alone
    >>> model = REMRegressor((1, 12), periodic=True, n_patches=(8, 8), random_state=0)
    >>> mean, std = model.fit(X[:, 0], y).predict(X[:, 0], return_std=True)
    >>> mean.shape, bool((std > 0).all())
    ((60,), True)
    """

    def fit(
        self, X: ArrayLike, y: ArrayLike, *, checkpoint: str | PathLike[str] | None = None
    ) -> REMRegressor:
        """Fit layers and read-out.

        Parameters
        ----------
        X : array-like of shape (n_samples, height * width * channels)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        checkpoint : path-like, optional
            As for `REMClassifier`.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For parameters out of range, an ``image_shape`` or ``space`` that does not fit the
            columns, a group that does not act on it, images that are flat, and a checkpoint of
            another fit.
        """
        dtype = np.dtype(check_dtype(self.dtype))
        X, y = validate_data(self, X, y, dtype=dtype, multi_output=True, y_numeric=True)
        Y = np.asarray(y, dtype=np.float64)
        self._one_output = Y.ndim == 1
        Y = Y.reshape(len(Y), -1)
        self._mean, spread = Y.mean(0), Y.std(0)
        self._spread = np.where(spread > 1e-12 * np.abs(self._mean), spread, 1.0)
        Y = (Y - self._mean) / self._spread

        def score(f: Floats, rows: Ints) -> float:
            return -float(((f - Y[rows]) ** 2).mean())

        held, variance = self._fit_machine(
            np.asarray(X), Y, score, variance=True, checkpoint=checkpoint
        )
        error = (held.predicted - Y[held.rows]) ** 2 / variance[:, None]
        self._amplitude = error.mean(0)
        return self

    def predict(self, X: ArrayLike, return_std: bool = False) -> Floats | tuple[Floats, Floats]:
        """Return the predictive mean, and on request how far an observation may be from it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        return_std : bool, default=False
            Also return the standard deviation of a new observation, shaped like the mean: noise
            and what the rows leave open of the function.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs), or a pair
        """
        if not return_std:
            return self._shaped(self._predict(X) * self._spread + self._mean)
        images = self._images(X)
        with jax.enable_x64(self.dtype == "float64"):
            mean, variance = self.machine_.moments(images)
        std = np.sqrt(variance[:, None] * self._amplitude) * self._spread
        return self._shaped(mean * self._spread + self._mean), self._shaped(std)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _shaped(self, Y: Floats) -> Floats:
        return Y[:, 0] if self._one_output else Y
