"""The objective of a fit, and the descent on it.

    J(θ) = ½|z|² + loss(head on φ(X), Y) + a weak prior that keeps lengths and noise in range

over θ = (momentum, control points, lengths, amplitude, noise, inducing points) as one vector.
SciPy's L-BFGS-B runs on the host around one compiled value-and-gradient, so progress, callbacks
and Ctrl-C act between evaluations. Problems that share shapes share the compiled code: what
differs between folds and candidates (weights, ν, which entries may move) is data.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray
from scipy.optimize import minimize

from ideareg._types import Result, Scalar
from ideareg.blocks import Warp, action
from ideareg.pointwise import AbstractPointwise
from ideareg.readout import AbstractHead, Batch

Vector = NDArray[np.float64]

# Standard deviations of the priors on logarithms, about the values at the start.
LOG_PRIOR = 4.0
# ... without the volume term of the evidence, which keeps lengths from shrinking.
POINTWISE_LOG_PRIOR = 0.5
# Pairs that L-BFGS remembers.
MEMORY = 20
# A step is too small to matter when J falls by less than this fraction.
RELATIVE_DECREASE = 1e-9


class Model(eqx.Module):
    """A warp and the head after it."""

    warp: Warp
    head: AbstractHead


class Problem(NamedTuple):
    """One fit: where it starts, what may move, on which rows, by which loss."""

    model: Model
    free: Model  # 1 where an entry is learned, 0 where it stays
    rows: Batch
    loss: str | AbstractPointwise = "evidence"


class Parts(NamedTuple):
    """The summands of J."""

    data: Scalar
    action: Scalar
    prior: Scalar


class Descent(NamedTuple):
    """Outcome of `descend`: the best model, how it ended, and the path."""

    model: Model
    result: Result
    iterations: int
    history: dict[str, list[float]]
    terminal_residual: float


def _learned(model: Model) -> list[Any]:
    """Return the leaves that make up θ, in a fixed order."""
    warp, head = model.warp, model.head
    leaves = [warp.momentum, warp.control_points, warp.log_scale]
    leaves += [head.log_scale, head.log_amplitude, head.log_noise]
    names = ("inducing", "coefficients", "offset")
    own = [getattr(head, name) for name in names if hasattr(head, name)]
    return leaves + own


def pack(model: Model) -> Vector:
    """Return θ as one vector."""
    return np.concatenate([np.ravel(leaf) for leaf in _learned(model)]).astype(np.float64)


def unpack(theta: Any, model: Model) -> Model:
    """Return ``model`` with its learned leaves taken from the vector ``theta``."""
    leaves, start = [], 0
    for leaf in _learned(model):
        size = int(np.prod(np.shape(leaf)))
        leaves.append(theta[start : start + size].reshape(np.shape(leaf)))
        start += size
    return eqx.tree_at(_learned, model, leaves)


def objective(
    model: Model, start: Model, rows: Batch, loss: str | AbstractPointwise
) -> tuple[Scalar, Parts]:
    """Return J and its parts."""
    warp, head = model.warp, model.head
    trajectory = warp.trajectory()
    data = head.charge(loss, warp.along(trajectory), rows)
    wide = not isinstance(loss, AbstractPointwise)
    prior = _log_prior(model, start, LOG_PRIOR if wide else POINTWISE_LOG_PRIOR)
    parts = Parts(data, action(warp), prior)
    # A layer whose implicit step has no solution is no model: the line search must turn back.
    solved = jnp.where(trajectory.converged, 0.0, jnp.nan)
    return data + parts.action + prior + solved, parts


def _log_prior(model: Model, start: Model, spread: float) -> Scalar:
    def logs(m: Model) -> list[Array]:
        head = m.head
        return [m.warp.log_scale, head.log_scale, head.log_amplitude, head.log_noise]

    pairs = zip(logs(model), logs(start), strict=True)
    deviation = jnp.concatenate([jnp.ravel(a - b) for a, b in pairs]) / spread
    return 0.5 * jnp.vdot(deviation, deviation)


@partial(jax.jit, static_argnames="loss")
def value_and_gradient(
    theta: Float[Array, " P"],
    free: Float[Array, " P"],
    start: Model,
    rows: Batch,
    loss: str | AbstractPointwise,
) -> tuple[Scalar, Float[Array, " P"], Parts]:
    """Return J, its gradient over the free entries, and its parts."""

    def J(theta: Array) -> tuple[Array, Parts]:
        return objective(unpack(theta, start), start, rows, loss)

    (value, parts), gradient = jax.value_and_grad(J, has_aux=True)(theta)
    return value, gradient * free, parts


# J, its gradient and its parts at θ, as numbers of JAX or NumPy.
Evaluate = Callable[[Vector], tuple[Any, Any, Parts]]


def evaluator(problem: Problem) -> Evaluate:
    """Return J, its gradient and its parts as a function of θ."""
    start, free = problem.model, pack(problem.free)
    return lambda theta: value_and_gradient(theta, free, start, problem.rows, problem.loss)


class _Stop(Exception):
    """A callback asked to stop."""


def descend(
    problem: Problem,
    *,
    max_iter: int,
    gtol: float = 1e-4,
    callback: Callable[[int, dict[str, float]], bool | None] | None = None,
    evaluator: Callable[[Problem], Evaluate] = evaluator,
) -> Descent:
    """Minimise J from the model of ``problem``.

    Parameters
    ----------
    problem : Problem
    max_iter : int
    gtol : float
        Stop when no entry of the gradient exceeds this, relative to the number of rows.
    callback : callable, optional
        Called with the iteration and its record; a true answer stops.
    evaluator : callable
        Returns the function of θ that is minimised: where and how the sums over rows are done.

    Returns
    -------
    Descent
        Its model is the best iterate, also after Ctrl-C, which is noted in ``result``.
    """
    start, of = problem.model, evaluator(problem)
    tracker = _Tracker(pack(start), callback)

    def evaluate(theta: Vector) -> tuple[float, Vector]:
        value, gradient, parts = of(theta)
        return tracker.see(theta, float(value), np.asarray(gradient), parts)

    scale = max(float(np.sum(problem.rows.weight)), 1.0)
    options = {
        "maxiter": max_iter,
        "maxfun": 3 * max_iter + 20,
        "maxcor": MEMORY,
        "gtol": gtol * scale,
        "ftol": RELATIVE_DECREASE,
    }
    try:
        outcome = minimize(
            evaluate, pack(start), jac=True, method="L-BFGS-B",
            callback=tracker.iterate, options=options,
        )  # fmt: skip
        # Status 2 is a line search that ended at the edge of what the layers can resolve.
        result = Result.converged if outcome.status == 0 else Result.max_steps
    except KeyboardInterrupt:
        result = Result.interrupted
    except _Stop:
        result = Result.converged
    if not np.isfinite(tracker.best_value):
        result = Result.not_finite
    return tracker.descent(start, result)


class _Tracker:
    """Remembers the best iterate and the history of a descent."""

    def __init__(self, theta: Vector, callback: Callable[..., bool | None] | None) -> None:
        self.best = theta
        self.best_value = np.inf
        self.best_gradient = np.zeros_like(theta)
        self.callback = callback
        self.iterations = 0
        self.latest: dict[str, float] = {}
        self.history: dict[str, list[float]] = {}
        self.began = time.perf_counter()

    def see(self, theta: Vector, value: float, gradient: Vector, parts: Parts) -> Any:
        """Take note of an evaluation; where it is not finite, tell the line search to come back."""
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            ceiling = self.best_value if np.isfinite(self.best_value) else 0.0
            return ceiling + 1e3 * (1 + abs(ceiling)), np.zeros_like(theta)
        if value < self.best_value:
            self.best, self.best_value, self.best_gradient = theta.copy(), value, gradient
            self.latest = {
                "loss": value,
                "data_term": float(parts.data),
                "action": float(parts.action),
                "gradient_norm": float(np.abs(gradient).max(initial=0.0)),
            }
        return value, gradient

    def iterate(self, theta: Vector) -> None:
        """Close an iteration."""
        self.iterations += 1
        record = {**self.latest, "seconds": time.perf_counter() - self.began}
        for name, value in record.items():
            self.history.setdefault(name, []).append(value)
        if self.callback is not None and self.callback(self.iterations, record):
            raise _Stop

    def descent(self, start: Model, result: Result) -> Descent:
        """Return the outcome; NumPy leaves, so that nothing is left on a device."""
        size = np.size(start.warp.momentum)
        z, total = self.best[:size], self.best_gradient[:size]
        push = total - z  # the loss alone; z is the gradient of the action
        weight = np.linalg.norm(z) + np.linalg.norm(push)
        residual = float(np.linalg.norm(total) / weight) if weight > 0 else 0.0
        if float(start.warp.temper) == 0:
            residual = 0.0
        model = unpack(self.best, start)
        return Descent(model, result, max(self.iterations, 1), self.history, residual)
