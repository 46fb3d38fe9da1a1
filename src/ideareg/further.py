r"""More rows for a fitted model: its head takes them in, its warp and its lengths stay.

A sparse head knows the rows by sums alone, :math:`T^TWT` and :math:`T^TWY`, so those of new rows
add to those of the rows before. They are read off the posterior: with
:math:`F^TF = L^{-T}\,Q\,\mathrm{diag}(au)\,Q^TL^{-1}` the variance that it explains,

.. math:: T^TWT = \frac sa\,Q\,\mathrm{diag}(w)\,Q^T,\quad w = \frac u{1-u},\qquad
    T^TWY = \frac sa\,Q\,\mathrm{diag}(1+w)\,Q^TL^T\alpha,

where α is the dual. What few bits are left of 1 − u in a direction that rows have long settled
changes only how much the rows before weigh there against new ones. Where the head was exact, the
rows that it knows become the inducing points of a sparse one.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp

from ideareg.losses import inverse_root
from ideareg.readout import AbstractHead, Batch, Posterior, SparseHead, Spectrum
from ideareg.training import Model
from ideareg.uncertainty import Predictor

# A posterior never explains more than this share of a variance, whatever rounding says.
MOST_EXPLAINED = 1 - 1e-14


@jax.jit
def taking_in(model: Model, fitted: Predictor, rows: Batch) -> tuple[Model, Predictor]:
    """Return a fitted model conditioned on more rows.

    The spread of the warp stays that of the rows before.

    Parameters
    ----------
    model : Model
        With a head that is a process.
    fitted : Predictor
        Made of it.
    rows : Batch
        New ones.
    """
    head, flow = _sparse(model.head, fitted.posterior), fitted.warp.along(fitted.trajectory)
    TT, TY = _sums_of(head, fitted.posterior)
    Li = inverse_root(head.gram())
    new = head.moments(Li, flow, rows)
    unknown = jnp.full((), jnp.nan)  # squares and count of all rows, which no posterior needs
    spectrum = Spectrum.of(Li, TT + new.TT, TY + new.TY, unknown, unknown)
    posterior, _ = head.posterior(spectrum)
    return Model(model.warp, head), eqx.tree_at(lambda f: f.posterior, fitted, posterior)


def _sparse(head: AbstractHead, posterior: Posterior) -> SparseHead:
    """Return the head with the points of its posterior as inducing ones."""
    if isinstance(head, SparseHead):
        return head
    parts = head.kernel, head.log_scale, head.log_amplitude, head.log_noise, head.noise_floor
    return SparseHead(*parts, posterior.points, posterior.present)


def _sums_of(head: SparseHead, posterior: Posterior) -> tuple[jax.Array, jax.Array]:
    """Return TᵀWT and TᵀWY of the rows that led to a posterior."""
    L = jnp.linalg.cholesky(head.gram())
    ratio = posterior.noise / posterior.amplitude
    half = posterior.factor @ L / jnp.sqrt(posterior.amplitude)
    explained, Q = jnp.linalg.eigh(half.T @ half)
    explained = jnp.clip(explained, 0.0, MOST_EXPLAINED)
    w = explained / (1 - explained)
    targets = (1 + w)[:, None] * (Q.T @ (L.T @ posterior.dual))
    return ratio * (Q * w) @ Q.T, ratio * Q @ targets
