r"""The posterior of a warp by the No-U-Turn sampler: what a Laplace approximation is judged by.

Control points, kernels, noise and inducing points stay as fitted, and the coefficients of the head
are integrated out, so the density of the whitened momentum z is

.. math:: \log p(z\mid Y) = -\tfrac12|z|^2 + \log\mathcal N\big(Y; 0, K^{\varphi_z}(X,X)+s\big)
          + \text{const},

for a sparse head with its lower bound in place of the evidence. It is the density that
`uncertainty.laplace` takes for a normal one; Hessian and volume term are exact here.

Hoffman and Gelman, "The No-U-Turn sampler", 2014; the sampler and its adaptation are blackjax's.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from ideareg._types import Points, Scalar
from ideareg.readout import AbstractProcess, Batch
from ideareg.training import Model, objective
from ideareg.uncertainty import Predictor, no_spread, predict_moments

# Chains start about the fitted momentum, this far in units of the prior.
DISPERSION = 0.5
# Probability of acceptance that the step size is adapted to: small steps, for bent densities.
ACCEPTANCE = 0.9


class Draws(NamedTuple):
    """What the chains did.

    Attributes
    ----------
    momentum : ndarray, shape (chains, draws, M, d)
        Whitened momenta z.
    acceptance : ndarray, shape (chains,)
        Mean probability of acceptance; 0.9 is aimed at.
    steps : ndarray, shape (chains,)
        Mean number of gradients that a draw took.
    divergences : int
        Draws whose integration broke down: none, if the draws can be trusted.
    rhat, ess : ndarray, shape (unknowns,)
        Potential scale reduction, 1 where chains agree, and effective number of draws, of each
        entry of z that was sampled.
    """

    momentum: NDArray[np.float64]
    acceptance: NDArray[np.float64]
    steps: NDArray[np.float64]
    divergences: int
    rhat: NDArray[np.float64]
    ess: NDArray[np.float64]


def log_density(z: Points, model: Model, rows: Batch) -> Scalar:
    """Return the log density of the whitened momentum z, up to a constant."""
    moved = eqx.tree_at(lambda m: m.warp.momentum, model, z)
    return -objective(moved, moved, rows, "evidence")[0]


def _blackjax() -> Any:
    try:
        return importlib.import_module("blackjax")
    except ImportError as error:
        raise ImportError("sampling needs blackjax: pip install 'ideareg[bayes]'") from error


def sample_momentum(
    model: Model,
    rows: Batch,
    moves: Float[Array, "M d"],
    *,
    seed: int,
    warmup: int,
    draws: int,
    chains: int,
) -> Draws:
    """Run chains one after the other; they share compiled code.

    Parameters
    ----------
    model : Model
        Where the warp has a finite ν and the head is conditioned on the rows.
    rows : Batch
    moves : array, shape (M, d)
        1 for the entries of z to sample; the others stay.
    seed, warmup, draws, chains : int
        Adaptation takes ``warmup`` steps of each chain, before its draws.

    Returns
    -------
    Draws
    """
    blackjax = _blackjax()
    free = np.flatnonzero(moves)
    centre = np.asarray(model.warp.momentum)

    run = partial(_chain, blackjax, free, warmup, draws)
    compiled: Callable[..., Any] = jax.jit(run)
    found = []
    for key in jax.random.split(jax.random.key(seed), chains):
        start, key = jax.random.split(key)
        begin = centre.ravel()[free] + DISPERSION * jax.random.normal(start, (len(free),))
        found.append(jax.tree.map(np.asarray, compiled(key, begin, model, rows)))
    x, accepted, divergent, steps = (np.stack(part) for part in zip(*found, strict=True))
    momentum = np.broadcast_to(centre.ravel(), (*x.shape[:2], centre.size)).copy()
    momentum[:, :, free] = x
    return Draws(
        momentum.reshape(*x.shape[:2], *centre.shape),
        accepted.mean(1),
        steps.mean(1),
        int(divergent.sum()),
        np.atleast_1d(blackjax.diagnostics.potential_scale_reduction(x)),
        np.atleast_1d(blackjax.diagnostics.effective_sample_size(x)),
    )


def _chain(
    blackjax: Any, free: NDArray[np.intp], warmup: int, draws: int,
    key: Array, start: Array, model: Model, rows: Batch,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """Adapt step size and metric, then draw."""
    centre = model.warp.momentum

    def density(x: Array) -> Array:
        z = jnp.ravel(centre).at[free].set(x).reshape(centre.shape)
        value = log_density(z, model, rows)
        return jnp.where(jnp.isfinite(value), value, -jnp.inf)  # no flow there: no probability

    adapt, key = jax.random.split(key)
    warm = blackjax.window_adaptation(blackjax.nuts, density, target_acceptance_rate=ACCEPTANCE)
    (state, parameters), _ = warm.run(adapt, start, num_steps=warmup)
    kernel = blackjax.nuts(density, **parameters).step

    def draw(state: Any, key: Array) -> Any:
        state, info = kernel(key, state)
        record = (info.acceptance_rate, info.is_divergent, info.num_integration_steps)
        return state, (state.position, *record)

    return jax.lax.scan(draw, state, jax.random.split(key, draws))[1]


@jax.jit
def moments_of_draws(
    model: Model, rows: Batch, momenta: Float[Array, "S M d"], X: Points
) -> tuple[Float[Array, "S n k"], Float[Array, "S n k"]]:
    """Return mean and variance of the function at the rows of X under each momentum."""

    def one(z: Array) -> tuple[Array, Array]:
        warp = eqx.tree_at(lambda w: w.momentum, model.warp, z)
        trajectory = warp.trajectory()
        head = model.head
        assert isinstance(head, AbstractProcess)
        posterior = head.condition(warp.along(trajectory), rows)
        spread = no_spread(trajectory, posterior)
        return predict_moments(Predictor(warp, trajectory, posterior, spread), X)

    return jax.lax.map(one, momenta)
