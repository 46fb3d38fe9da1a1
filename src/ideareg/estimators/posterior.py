"""The posterior of the warp of a fitted regressor, by sampling."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from ideareg._numerics import numerics
from ideareg._rows import in_chunks, pad
from ideareg.bent import BentMixture
from ideareg.calibration import Mixture
from ideareg.estimators._base import random_stream
from ideareg.estimators._settings import check_integer
from ideareg.posterior import Draws, moments_of_draws, sample_momentum
from ideareg.readout import Batch
from ideareg.stack import CHUNK_SPREAD, noise

Floats = NDArray[np.float64]

# Warps that a prediction mixes at most; more are thinned.
MIXED = 200


class WarpSamples:
    """Momenta drawn from the posterior of one warp, ready to predict.

    Attributes
    ----------
    draws_ : Draws
        Momenta, acceptance, divergences, R-hat and effective sizes, see `ideareg.posterior`.
    """

    def __init__(self, model: Any, rows: Batch, draws: Draws) -> None:
        self._model, self._rows, self.draws_ = model, rows, draws

    def predict_mixture(self, X: ArrayLike) -> Mixture | BentMixture:
        """Return the distribution of an observation: one normal per draw, equally weighted.

        At most 200 draws are mixed, evenly spaced along the chains.
        """
        model, momentum = self._model, self.draws_.momentum
        drawn = momentum.reshape(-1, *momentum.shape[2:])
        drawn = drawn[np.linspace(0, len(drawn) - 1, min(len(drawn), MIXED)).astype(int)]
        fitted = model.warps_[0].model
        with numerics():
            level = noise(model.warps_[0])

            def moments(Z: Floats) -> Any:
                # rows first, so that chunks can be put together
                pair = moments_of_draws(fitted, self._rows, drawn, Z)
                return (np.moveaxis(np.asarray(part), 0, 1) for part in pair)

            mean, variance = in_chunks(moments, model._inputs(X), CHUNK_SPREAD)
        means, variances = (np.moveaxis(part, 1, 0) for part in (mean, variance))
        weight = np.full(len(means), 1 / len(means))
        latent = Mixture(weight, means, np.sqrt(variances + level))
        return model._in_units(latent, model._scalings * len(means))

    def predict(self, X: ArrayLike, return_std: bool = False) -> Any:
        """Return the mean, and on request the standard deviation of a new observation."""
        mean, std = self.predict_mixture(X).moments()
        return (mean, std) if return_std else mean


def sample_posterior(
    model: Any,
    X: ArrayLike,
    y: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    n_warmup: int = 500,
    n_samples: int = 500,
    n_chains: int = 2,
    random_state: Any = 0,
) -> WarpSamples:
    """Draw the momentum of a fitted warp from its posterior, by NUTS; for some hundred rows.

    Kernels, noise and points stay as fitted: it is the density that the standard deviations of
    ``model`` take for a normal one, so that comparing the two judges that approximation. It needs
    ``blackjax``: ``pip install 'ideareg[bayes]'``.

    Parameters
    ----------
    model : WarpingRegressor
        Fitted. Of a stack the heaviest warp is taken; `WarpingRegressor.member` gives others.
    X, y, sample_weight
        The rows of the fit.
    n_warmup, n_samples, n_chains : int
        Steps of adaptation and draws of each chain, and chains.
    random_state : int, RandomState or None, default=0

    Returns
    -------
    WarpSamples
        With ``predict(X, return_std=True)``, ``predict_mixture(X)`` and ``draws_``.

    Raises
    ------
    ValueError
        If the warp has no momentum (ν = ∞ or depth 0) or the loss is no likelihood.
    ImportError
        Without blackjax.
    """
    check_is_fitted(model)
    counts = {"n_warmup": (n_warmup, 10), "n_samples": (n_samples, 4), "n_chains": (n_chains, 2)}
    for name, (value, least) in counts.items():
        check_integer(name, value, least)
    model._check_density()
    one = model.member(0)
    fitted = one.warps_[0].model
    if not float(fitted.warp.temper) or fitted.warp.depth == 0:
        raise ValueError(
            "sample_posterior: the heaviest warp moves nothing (nu=inf or depth=0); "
            "take another by model.member(i), or fit with a finite nu."
        )
    with numerics():
        rows = one._batch(X, y, sample_weight, one.warps_[0])
        # A column in which no row differs, or that pads, is none to move in.
        moves = pad(one._scale_x.varies[None].astype(float), fitted.warp.momentum.shape[1], axis=1)
        draws = sample_momentum(
            fitted,
            rows,
            fitted.warp.present[:, None] * moves,
            seed=int(random_stream(random_state).randint(2**31 - 1)),
            warmup=int(n_warmup),
            draws=int(n_samples),
            chains=int(n_chains),
        )
    return WarpSamples(one, rows, draws)
