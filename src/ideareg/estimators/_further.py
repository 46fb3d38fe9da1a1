"""Rows that come in pieces: ``partial_fit``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Self

import jax
import numpy as np
from numpy.typing import ArrayLike

from ideareg._numerics import scoped
from ideareg.assembly import Settings
from ideareg.estimators._attributes import describe_warps
from ideareg.estimators._base import with_callbacks
from ideareg.estimators._settings import read_settings
from ideareg.further import taking_in
from ideareg.readout import Batch
from ideareg.recipe import FittedWarp

# Inducing points of a head that is to take in rows without end, at a price of their square for
# each: with so many, two cores take in some ten thousand rows a second.
MOST_POINTS = 512


class PartialFitMixin:
    """``partial_fit`` of a regressor that knows how to fit, scale and bend rows."""

    warps_: list[FittedWarp]
    local: bool | str
    loss: str
    _fit: Callable[..., Self]
    _batch: Callable[..., Batch]

    @with_callbacks
    @scoped
    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> Self:
        r"""Fit the first rows; after that, let more rows condition the head.

        The first call is a fit without corrections by near rows. Give it a fair sample: warp,
        lengths, noise, tails, inducing points, the units of the columns and the weights of the
        stack are learned from it, and stay. Later rows count in mean and variance as if they had
        been there, to rounding, since a sparse head knows rows by their sums alone; the spread of
        the warp is not measured anew. A call takes :math:`O(n M^2 + M^3)` for n rows and M
        inducing points, 512 of them where ``n_inducing`` is None and the first rows are enough,
        and nothing of the rows is kept. An exact head takes its rows for inducing points.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), optional
            A weight of k counts as k equal rows.

        Returns
        -------
        self

        See Also
        --------
        condition : Other rows instead of those before.

        Raises
        ------
        ValueError
            For parameters and rows that ``fit`` refuses, and where all rows are kept:
            ``local=True``, ``n_control_points="rows"``, the ε-insensitive loss, and after a fit in
            which near rows correct.

        Examples
        --------
        >>> import numpy as np
        >>> from ideareg import WarpingRegressor
        >>> X = np.linspace(-1, 1, 400)[:, None]
        >>> y = np.tanh(20 * X[:, 0])
        >>> model = WarpingRegressor(nu=5.0, max_iter=20)
        >>> for part in range(4):
        ...     model = model.partial_fit(X[part::4], y[part::4])
        >>> abs(model.predict([[0.5]])[0] - 1) < 0.05
        True
        """
        if not hasattr(self, "warps_"):
            return self._fit(self._sums_alone(), X, y, sample_weight)
        self._check_sums_alone()

        def further(warp: FittedWarp) -> FittedWarp:
            rows = self._batch(X, y, sample_weight, warp)
            taken = taking_in(warp.model, warp.predictor, rows)
            model, predictor = jax.tree.map(np.asarray, taken)
            return warp._replace(model=model, predictor=predictor)

        self.warps_ = [further(warp) for warp in self.warps_]
        describe_warps(self)
        return self

    def _sums_alone(self) -> Settings:
        """Return the settings of a fit that keeps no rows."""
        settings = read_settings(self)
        for refused, why in (
            (self.local is True, "local=True"),
            (settings.control_rows, "n_control_points='rows'"),
            (self.loss == "epsilon_insensitive", "loss='epsilon_insensitive'"),
        ):
            if refused:
                raise ValueError(f"partial_fit: {why} keeps all rows; it needs those at once.")
        return replace(settings, local_gain=None, most_points=MOST_POINTS)

    def _check_sums_alone(self) -> None:
        """Refuse to go on from a fit that keeps rows."""
        self._sums_alone()
        if any(warp.local is not None for warp in self.warps_):
            raise ValueError(
                "partial_fit: near rows correct the predictions of this model (local_share_), and "
                "it keeps them; begin with partial_fit, or fit it with local=False."
            )
