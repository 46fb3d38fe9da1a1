"""More inducing points once the warp is known: cheap where the descent could not afford them.

A descent pays for M inducing points at every step, and needs few, since it moves them. Conditioning
pays once, so rows join them there. Amplitude and noise, which made up for what few points do not
see, are chosen anew, by the likelihood of the process through all of its points.
"""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from scipy.optimize import minimize

from ideareg._types import Points, Scalar
from ideareg.blocks import Warp
from ideareg.readout import Batch, SparseHead, Spectrum
from ideareg.shooting import Trajectory
from ideareg.training import Model
from ideareg.uncertainty import Predictor, measured, shot

# Points that a head is conditioned with: a quarter of the rows, but no more than these, and no more
# than makes rows × points² this much, which takes about four minutes on two cores.
SHARE, MOST_POINTS, MOST_WORK = 0.25, 2048, 4.2e12
# A descent needs more for its gradients; here it would be the least variance of a prediction.
JITTER: Any = np.float64(1e-9)
# How far amplitude and noise may go from where the descent left them, in natural logarithms.
FARTHEST = 7.0


def joining(rows: int, learned: int, most: int = MOST_POINTS) -> int:
    """Return how many of ``rows`` join the ``learned`` inducing points, ``most`` in all.

    Examples
    --------
    >>> joining(1000, 256), joining(4000, 256), joining(40_000, 256), joining(4_000_000, 256)
    (0, 744, 1792, 768)
    """
    points = min(int(SHARE * rows), most, int(math.sqrt(MOST_WORK / rows)))
    return max(points - learned, 0)


def enlarged(warp: Warp, head: SparseHead, joined: Points, present: Array) -> SparseHead:
    """Return the head with points, before the warp, that join its inducing ones where present."""
    grown: SparseHead = _joined(warp, head, joined, present, head.jitter)[0]
    return jax.tree.map(np.asarray, grown)


def conclude_with(
    model: Model,
    rows: Batch,
    joined: Points,
    *,
    learn: bool,
    sample: Batch | None = None,
) -> tuple[Model, Predictor, Array]:
    """Condition a sparse head on the rows as `uncertainty.concluded` does, with more points.

    Parameters
    ----------
    model : Model
        With a `SparseHead`.
    rows : Batch
        All rows.
    joined : array, shape (m, d)
        Points that join the inducing ones, before the warp.
    learn : bool
        Choose amplitude and noise anew.
    sample : Batch, optional
        The rows on which the spread of the warp is measured.

    Returns
    -------
    Model
        With the head that has all points; those of ``model`` come first.
    Predictor
    Array
        What the head undoes.
    """
    present = np.ones(len(joined))
    head, D, trajectory = _joined(model.warp, model.head, joined, present, JITTER)
    spectrum = _seen(model.warp, trajectory, head, rows)
    if learn:
        head = most_likely(head, spectrum)
    fitted, undoing = _concluded(model.warp, head, D, trajectory, spectrum, rows, sample)
    return Model(model.warp, head), fitted, undoing


def most_likely(head: SparseHead, spectrum: Spectrum) -> SparseHead:
    """Return the head with the amplitude and the noise of greatest likelihood, see `Spectrum`."""
    v, squares = np.asarray(spectrum.values), float(spectrum.squares)
    bb, outputs = (np.asarray(spectrum.targets) ** 2).sum(1), spectrum.targets.shape[1]
    count, floor = float(spectrum.rows), float(head.noise_floor)

    def negative(logs: np.ndarray) -> tuple[float, np.ndarray]:
        a, free = np.exp(logs)
        s = free + floor
        r = a / s
        shrunk = 1 / (1 + r * v)
        volume, explained = (r * v * shrunk).sum(), r * (bb * shrunk).sum()
        value = outputs * (count * math.log(2 * math.pi * s) + np.log1p(r * v).sum())
        value += (squares - explained) / s
        curved = r * (bb * shrunk**2).sum() / s
        by_a = outputs * volume - curved
        by_s = outputs * (count - volume) - (squares - explained) / s + curved
        return value / (2 * count), np.array([by_a, by_s * free / s]) / (2 * count)

    start = np.array([float(head.log_amplitude), float(head.log_noise)])
    bounds = [(middle - FARTHEST, middle + FARTHEST) for middle in start]
    found = minimize(
        negative, start, jac=True, method="L-BFGS-B", bounds=bounds,
        options={"ftol": 0.0, "gtol": 1e-12, "maxiter": 200},
    )  # fmt: skip
    logs = [np.float64(x) for x in found.x]
    return eqx.tree_at(lambda h: [h.log_amplitude, h.log_noise], head, logs)


@jax.jit
def _joined(
    warp: Warp, head: SparseHead, joined: Array, present: Array, jitter: Scalar
) -> tuple[SparseHead, Array, Trajectory]:
    D, trajectory = shot(warp)
    points = jnp.concatenate([head.inducing, warp.along(trajectory)(joined)])
    leaves = [points, jnp.concatenate([head.present, present]), jnp.asarray(jitter)]
    return eqx.tree_at(lambda h: [h.inducing, h.present, h.jitter], head, leaves), D, trajectory


@jax.jit
def _seen(warp: Warp, trajectory: Trajectory, head: SparseHead, rows: Batch) -> Spectrum:
    return head.spectrum(warp.along(trajectory), rows)


@jax.jit
def _concluded(
    warp: Warp, head: SparseHead, D: Array, trajectory: Trajectory, spectrum: Spectrum,
    rows: Batch, sample: Batch | None,
) -> tuple[Predictor, Array]:  # fmt: skip
    posterior, undoing = head.posterior(spectrum)
    return measured(warp, trajectory, D, posterior, undoing, rows, sample), undoing
