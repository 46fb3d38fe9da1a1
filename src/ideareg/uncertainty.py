r"""What a prediction is worth: the variance of the head plus that of the warp before it.

The whitened momentum z has a standard normal prior. Its posterior is taken to be normal about the
fitted z (Laplace) with the Gauss-Newton precision

.. math:: A = I + J^T(K^\varphi + sW^{-1})^{-1}J,\qquad J = \partial f(\varphi_z(X))/\partial z,

where the head may follow: what it can undo of a change of the warp costs nothing. A prediction
moves with z by :math:`j(x) = \partial f(\varphi_z(x))/\partial z` less what the head undoes, and
gains the variance :math:`j^TA^{-1}j`. A is at least the identity by construction, and its parts are
sums over tiles of rows.
"""

from __future__ import annotations

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from ideareg._types import Points, Rows, Scalar, Solution
from ideareg.blocks import Warp
from ideareg.pointwise import AbstractPointwise
from ideareg.readout import AbstractProcess, Batch, Posterior, sum_over_tiles
from ideareg.shooting import Trajectory
from ideareg.training import Model


class WarpPosterior(eqx.Module):
    r"""Square roots of the covariance of z, as they act on a prediction.

    :math:`j(x)^TA^{-1}j(x) = |g(x)^TS - k(x,P)H|^2` with g the gradient of the regressor at x with
    respect to the S stage parameters of the flow.

    Attributes
    ----------
    stages : Array, shape (S, R)
    head : Array, shape (k, M, R)
    log_volume : Array, shape ()
        :math:`\frac12\log\det A`, the Occam factor of the warp in nats.
    """

    stages: Float[Array, "S R"]
    head: Float[Array, "k M R"]
    log_volume: Scalar


class Predictor(eqx.Module):
    """A fitted model, ready to predict: its flow recorded, its head conditioned on the rows.

    Attributes
    ----------
    warp : Warp
    trajectory : Trajectory
        That of the control points.
    posterior : Posterior
        Of the head, on the warped rows.
    spread : WarpPosterior
        Of the warp.
    """

    warp: Warp
    trajectory: Trajectory
    posterior: Posterior
    spread: WarpPosterior

    def flow(self, X: Rows) -> Rows:
        """Carry the points X, shape (n, d), along the recorded flow."""
        return self.warp.along(self.trajectory)(X)

    def inverse(self, Y: Points) -> Solution[Points]:
        """Return the points that the flow carries to Y."""
        return self.warp.back_along(self.trajectory)(Y)


def _row_gradients(
    warp: Warp, trajectory: Trajectory, posterior: Posterior, X: Points, output: int
) -> Float[Array, "n S"]:
    """Return the gradients of the regressor at each row by the stages of the flow."""
    flat, restore = ravel_pytree(trajectory.stages)

    def value(stages: Array, x: Array) -> Array:
        moved = eqx.tree_at(lambda t: t.stages, trajectory, restore(stages))
        return posterior.mean(warp.along(moved)(x[None]))[0, output]

    return jax.vmap(jax.grad(value), in_axes=(None, 0))(flat, X)


def conclude(
    model: Model,
    rows: Batch,
    loss: str | AbstractPointwise = "evidence",
    sample: Batch | None = None,
) -> Predictor:
    """Shoot once, condition the head on the rows, and measure the spread of the warp.

    The spread is measured on a ``sample`` of the rows, if there is one, each of which then stands
    for several: its price per row is by far the highest, while all rows together only say more
    exactly what a sample says. Under a pointwise loss there is no posterior: the spread has no
    directions.
    """
    return concluded(model, rows, loss, sample)[0]


def concluded(
    model: Model,
    rows: Batch,
    loss: str | AbstractPointwise = "evidence",
    sample: Batch | None = None,
) -> tuple[Predictor, Float[Array, "R M"]]:
    """Do what `conclude` does, and also return what the head undoes of changes before it.

    That matrix is the second that `ideareg.readout.AbstractProcess.conditioned` returns; it has no
    rows under a pointwise loss.
    """
    return _conclude(model, rows, loss, sample)  # one signature: it is compiled once


@partial(jax.jit, static_argnames="loss")
def _conclude(
    model: Model, rows: Batch, loss: str | AbstractPointwise, sample: Batch | None
) -> tuple[Predictor, Float[Array, "R M"]]:
    warp, head = model.warp, model.head
    if not isinstance(head, AbstractProcess):
        raise TypeError(f"conclude: {type(head).__name__} is learned, so nothing is left to do")
    if isinstance(loss, AbstractPointwise):
        trajectory = warp.trajectory()
        posterior, _ = head.least(loss, warp.along(trajectory), rows)
        spread = no_spread(trajectory, posterior)
        return Predictor(warp, trajectory, posterior, spread), posterior.factor

    D, trajectory = shot(warp)
    posterior, undoing = head.conditioned(warp.along(trajectory), rows)
    return measured(warp, trajectory, D, posterior, undoing, rows, sample), undoing


def measured(
    warp: Warp, trajectory: Trajectory, D: Float[Array, "S R"], posterior: Posterior,
    undoing: Float[Array, "M M"], rows: Batch, sample: Batch | None,
) -> Predictor:  # fmt: skip
    """Return the predictor with the spread of its warp, measured on the sample if there is one."""
    if sample is not None:
        share = rows.weight.sum() / sample.weight.sum()
        rows = sample._replace(weight=share * sample.weight)
    spread = laplace(warp, trajectory, D, posterior, undoing, rows)
    return Predictor(warp, trajectory, posterior, spread)


def shot(warp: Warp) -> tuple[Float[Array, "S R"], Trajectory]:
    """Return the derivative of the stages by the momentum z, and the trajectory."""

    def stages(z: Array) -> tuple[Array, Trajectory]:
        trajectory = eqx.tree_at(lambda w: w.momentum, warp, z).trajectory()
        return ravel_pytree(trajectory.stages)[0], trajectory

    D, trajectory = jax.jacfwd(stages, has_aux=True)(warp.momentum)
    return D.reshape(-1, warp.momentum.size), trajectory


_shot = jax.jit(shot)


def at_depth(fitted: Predictor, depth: int) -> Predictor:
    """Return a fitted model with its flow cut into ``depth`` layers, the head as it was.

    The momentum has no depth, and neither has the head: the flow is the same up to O(1/depth), and
    so are the prediction and its spread.
    """
    if fitted.warp.depth in (0, depth):
        return fitted
    warp = fitted.warp.at_depth(depth)
    (before, _), (after, trajectory) = _shot(fitted.warp), _shot(warp)
    # What the posterior says of z, read off its effect on the stages.
    root = np.linalg.lstsq(np.asarray(before), np.asarray(fitted.spread.stages))[0]
    spread = eqx.tree_at(lambda s: s.stages, fitted.spread, np.asarray(after) @ root)
    return Predictor(warp, jax.tree.map(np.asarray, trajectory), fitted.posterior, spread)


def no_spread(trajectory: Trajectory, posterior: Posterior) -> WarpPosterior:
    """Return the spread of a warp that counts as known."""
    parameters = ravel_pytree(trajectory.stages)[0].size
    points, outputs = posterior.dual.shape
    nothing = jnp.zeros((parameters, 0)), jnp.zeros((outputs, points, 0))
    return WarpPosterior(*nothing, jnp.zeros(()))


def laplace(
    warp: Warp, trajectory: Trajectory, D: Float[Array, "S R"], posterior: Posterior,
    undoing: Float[Array, "M M"], rows: Batch,
) -> WarpPosterior:  # fmt: skip
    """Return the posterior of the warp, with D the derivative of its stages by its momentum."""
    flow, outputs = warp.along(trajectory), rows.Y.shape[1]

    def sums(tile: Batch) -> tuple[Array, Array]:
        J = jnp.stack(
            [_row_gradients(warp, trajectory, posterior, tile.X, o) @ D for o in range(outputs)]
        )
        WJ = tile.weight[:, None] * J
        K = posterior.cross(flow(tile.X))
        return jnp.einsum("nm,onr->omr", K, WJ), jnp.einsum("onr,ons->rs", J, WJ)

    KJ, JJ = sum_over_tiles(sums, rows)
    undone = [undoing @ M for M in KJ]
    precision = jnp.eye(len(JJ)) + (JJ - sum(U.T @ U for U in undone)) / posterior.noise
    values, Q = jnp.linalg.eigh(precision)
    # The prior alone gives 1: anything less is rounding.
    values = jnp.maximum(values, 1.0)
    root = Q / jnp.sqrt(values)
    head = jnp.stack([undoing.T @ (U @ root) for U in undone])
    return WarpPosterior(D @ root, head, 0.5 * jnp.log(values).sum())


@jax.jit
def predict_mean(fitted: Predictor, X: Points) -> Float[Array, "n k"]:
    """Return the mean at the rows of X, shape (n, k)."""
    return fitted.posterior.mean(fitted.flow(X))


@jax.jit
def predict_moments(
    fitted: Predictor, X: Points
) -> tuple[Float[Array, "n k"], Float[Array, "n k"]]:
    """Return mean and variance of the function at the rows of X, each of shape (n, k)."""
    posterior, q = fitted.posterior, fitted.flow(X)
    K = posterior.cross(q)
    outputs = range(posterior.dual.shape[1])
    variance = [(_sensitivities(fitted, X, K, o) ** 2).sum(1) for o in outputs]
    return K @ posterior.dual, posterior.variance(q)[:, None] + jnp.stack(variance, axis=1)


@jax.jit
def power_function(fitted: Predictor, X: Points) -> Float[Array, " n"]:
    r"""Return :math:`\sigma(x)`, the largest error of a function of norm 1 in the warped space.

    .. math:: \sigma^2(x) = K^\varphi(x,x)
              - K^\varphi(x,X)(K^\varphi(X,X)+\lambda)^{-1}K^\varphi(X,x)
    """
    return jnp.sqrt(fitted.posterior.variance(fitted.flow(X)))


@jax.jit
def regressor_norms(fitted: Predictor) -> Float[Array, " k"]:
    r"""Return the norm of the regressor in the warped space, :math:`\|f\|_K`, per output."""
    squares = fitted.posterior.squared_norms() / fitted.posterior.amplitude
    return jnp.sqrt(jnp.maximum(squares, 0.0))


@jax.jit
def predict_covariance(fitted: Predictor, X: Points) -> Float[Array, "k n n"]:
    """Return the covariances of the function between the rows of X, one matrix per output."""
    posterior, q = fitted.posterior, fitted.flow(X)
    K = posterior.cross(q)
    head = posterior.covariance(q)

    def total(output: int) -> Array:
        T = _sensitivities(fitted, X, K, output)
        return head + T @ T.T

    return jnp.stack([total(o) for o in range(posterior.dual.shape[1])])


def _sensitivities(fitted: Predictor, X: Points, K: Array, output: int) -> Float[Array, "n R"]:
    """Return how far each prediction moves along each posterior direction of the momentum."""
    gradients = _row_gradients(fitted.warp, fitted.trajectory, fitted.posterior, X, output)
    return gradients @ fitted.spread.stages - K @ fitted.spread.head[output]
