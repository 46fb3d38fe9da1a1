r"""Residual networks in weight space, and the bridge to their momenta.

The network :math:`(I+w_L\psi)\circ\dots\circ(I+w_1\psi)` with the scaled decay
:math:`\frac{\nu L}2\sum_s\|w_s\|^2` is the `LeastAction` problem of the kernel
:math:`\psi(x)^T\psi(y)` in other unknowns. At a stationary point

.. math::
    w_s = \frac1L\sum_i p_{s,i}\,\psi(q_{s,i})^T,\qquad
    p_{s,i} = -\frac1\nu\,\frac{\partial\ell}{\partial q_{s+1,i}},

so every trained network has momenta: they are its back-propagated gradients, scaled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from numpy.typing import NDArray
from scipy.optimize import minimize

from ideareg._types import Points, Result, Rows, Scalar
from ideareg.kernels import AbstractFeatureKernel
from ideareg.leastaction import LeastAction, need_float64
from ideareg.shooting import Trajectory

Floats = NDArray[np.float64]
Weights = Float[Array, "L d F"]

MEMORY = 40
# Steps of Adam between two looks at the clock of the host.
CHUNK = 100


class ResNet(eqx.Module):
    r"""Residual layers :math:`x + w_s\psi(x)`, activation before the linear map.

    Parameters
    ----------
    weights : Array, shape (L, d, F)
        For `Activation` features F = d + 1 and :math:`w_s = (W_s, b_s)`.
    kernel : AbstractFeatureKernel
        The kernel with features ψ.

    Examples
    --------
    >>> from ideareg.kernels import Activation
    >>> ResNet(jnp.zeros((3, 2, 3)), Activation("tanh"))(jnp.ones((1, 2))).tolist()
    [[1.0, 1.0]]
    """

    weights: Weights
    kernel: AbstractFeatureKernel

    @property
    def depth(self) -> int:
        """Number L of layers."""
        return len(self.weights)

    def states(self, X: Rows) -> Float[Array, "states n d"]:
        """Return the points before the first layer and after each, shape (L + 1, n, d)."""
        X = jnp.asarray(X, self.weights.dtype)

        def layer(x: Array, w: Array) -> tuple[Array, Array]:
            x = x + self.kernel.feature_matrix(x) @ w.T
            return x, x

        return jnp.concatenate([X[None], jax.lax.scan(layer, X, self.weights)[1]])

    def __call__(self, X: Rows) -> Rows:
        """Carry the points X, shape (n, d), through all layers."""
        return self.states(X)[-1]

    @property
    def norms(self) -> Float[Array, " L"]:
        r"""The squared norms :math:`L^2\|w_s\|^2`; at a minimum constant to O(1/L)."""
        return self.depth**2 * (self.weights**2).sum((1, 2))

    def decay(self, nu: Scalar | float) -> Scalar:
        r"""Return :math:`\frac{\nu L}2\sum_s\|w_s\|^2`, ν times the action."""
        return 0.5 * nu * self.depth * (self.weights**2).sum()

    def momenta(
        self, X: Points, loss: Callable[[Points], Scalar], nu: Scalar | float
    ) -> Float[Array, "L n d"]:
        r"""Return :math:`p_s = -\frac1\nu\partial\ell/\partial q_{s+1}` of every layer.

        Parameters
        ----------
        X : Array, shape (n, d)
            The training points.
        loss : callable
            ℓ, of the points after the last layer.
        nu : scalar
        """

        def after(nudges: Array) -> Scalar:
            def layer(x: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
                w, nudge = part
                return x + self.kernel.feature_matrix(x) @ w.T + nudge, None

            x, _ = jax.lax.scan(layer, jnp.asarray(X, nudges.dtype), (self.weights, nudges))
            return loss(x)

        still = jnp.zeros((self.depth, *np.shape(X)), self.weights.dtype)
        return -jax.grad(after)(still) / nu

    def weights_from(self, X: Points, momenta: Float[Array, "L n d"]) -> Weights:
        r"""Return :math:`\frac1L\sum_ip_{s,i}\psi(q_{s,i})^T` along this network."""
        return _layers(self.kernel, self.states(X)[:-1], momenta) / self.depth


def _layers(kernel: AbstractFeatureKernel, q: Array, p: Array) -> Array:
    return jnp.stack([each.T @ kernel.feature_matrix(at) for at, each in zip(q, p, strict=True)])


def from_trajectory(kernel: AbstractFeatureKernel, trajectory: Trajectory) -> ResNet:
    r"""Return the network whose layers a trajectory of `SymplecticEuler` passed through.

    :math:`w_s = h\sum_i p_{s,i}\psi(q_{s,i})^T`; its size does not depend on the number of points.
    """
    q, p = jnp.asarray(trajectory.q[:-1]), jnp.asarray(trajectory.p[:-1])
    return ResNet(trajectory.h * _layers(kernel, q, p), kernel)


class Trained(NamedTuple):
    """Outcome of `train`.

    Attributes
    ----------
    network : ResNet
        NumPy leaves.
    value : float
        Decay plus loss.
    gradient : float
        Largest entry of the gradient.
    result : Result
    iterations : int
    history : list of float
        Value after each iteration (L-BFGS) or each hundred of steps (Adam).
    """

    network: ResNet
    value: float
    gradient: float
    result: Result
    iterations: int
    history: list[float]


def _feature_kernel(problem: LeastAction) -> AbstractFeatureKernel:
    if not isinstance(problem.kernel, AbstractFeatureKernel):
        raise TypeError(
            "a residual network needs a kernel with features, such as Activation or "
            f"RandomFourier; got {type(problem.kernel).__name__}."
        )
    if float(problem.nugget) > 0:
        raise ValueError("a residual network has no nugget: its points follow the layers.")
    return problem.kernel


@eqx.filter_jit
def _objective(weights: Any, problem: LeastAction) -> tuple[Scalar, Array]:
    kernel = cast(AbstractFeatureKernel, problem.kernel)

    def value(weights: Array) -> Scalar:
        network = ResNet(weights, kernel)
        return network.decay(problem.nu) + problem.loss(network(problem.start))

    return jax.value_and_grad(value)(weights)


def train(
    problem: LeastAction,
    depth: int,
    *,
    solver: str = "lbfgs",
    start: Any = None,
    max_iter: int = 5000,
    tol: float = 1e-8,
    learning_rate: float = 1e-2,
) -> Trained:
    r"""Train the residual network of ``depth`` layers in weight space.

    .. math:: \min_{w_1,\dots,w_L}\ \frac{\nu L}2\sum_s\|w_s\|^2 + \ell(\varphi_L(X))

    The same minimum as `ideareg.leastaction.solve` finds in momentum space; a regressor in the
    loss (`Regression`) is eliminated exactly at every step.

    Parameters
    ----------
    problem : LeastAction
        Its kernel must have features.
    depth : int
    solver : {"lbfgs", "adam"}
    start : array, shape (depth, d, F), optional
        First guess; zero by default, which is the identity.
    max_iter : int
        Iterations of L-BFGS, or steps of Adam.
    tol : float
        Converged when no entry of the gradient is larger, relative to the largest at the start.
    learning_rate : float
        Of Adam.

    Returns
    -------
    Trained

    Raises
    ------
    TypeError
        If the kernel has no features.
    ValueError
        For an unknown solver, a depth below 1, and a problem with a nugget or in single precision.

    Examples
    --------
    >>> from ideareg.kernels import Activation
    >>> from ideareg.leastaction import Distance, LeastAction
    >>> X = np.array([[0.0], [1.0]])
    >>> with jax.enable_x64(True):
    ...     done = train(LeastAction(Activation(), X, Distance(X + 1.0), nu=0.1), 3)
    >>> done.result.name, bool(np.ptp(np.asarray(done.network.norms)) < 0.1)
    ('converged', True)
    """
    if depth < 1:
        raise ValueError(f"depth must be a number of layers >= 1, got {depth}.")
    if solver not in ("lbfgs", "adam"):
        raise ValueError(f"solver must be 'lbfgs' or 'adam', got {solver!r}.")
    need_float64(problem)
    kernel = _feature_kernel(problem)
    n_features = kernel.feature_matrix(jnp.asarray(problem.start[:1])).shape[1]
    shape = (depth, problem.start.shape[1], n_features)
    weights = np.zeros(shape) if start is None else np.asarray(start, np.float64).reshape(shape)
    steepest = float(jnp.abs(_objective(weights, problem)[1]).max())
    method = _by_lbfgs if solver == "lbfgs" else _by_adam
    weights, iterations, history = method(problem, weights, max_iter, tol * steepest, learning_rate)
    value, gradient = _objective(weights, problem)
    largest = float(jnp.abs(gradient).max())
    result = Result.converged if largest <= max(tol * steepest, 1e-14) else Result.max_steps
    if not np.isfinite(value):
        result = Result.not_finite
    network = jax.tree.map(np.asarray, ResNet(jnp.asarray(weights), kernel))
    return Trained(network, float(value), largest, result, iterations, history)


def _by_lbfgs(
    problem: LeastAction, weights: Floats, max_iter: int, gtol: float, _: float
) -> tuple[Floats, int, list[float]]:
    history: list[float] = []

    def evaluate(flat: Floats) -> tuple[float, Floats]:
        value, gradient = _objective(flat.reshape(weights.shape), problem)
        return float(value), np.asarray(gradient, dtype=np.float64).ravel()

    def note(intermediate_result: Any) -> None:
        history.append(float(intermediate_result.fun))

    options = {"maxiter": max_iter, "maxfun": 3 * max_iter, "maxcor": MEMORY, "ftol": 0.0,
               "gtol": gtol}  # fmt: skip
    outcome = minimize(
        evaluate, weights.ravel(), jac=True, method="L-BFGS-B", callback=note, options=options
    )
    return outcome.x.reshape(weights.shape), max(int(outcome.nit), 1), history


def _by_adam(
    problem: LeastAction, weights: Floats, max_iter: int, gtol: float, learning_rate: float
) -> tuple[Floats, int, list[float]]:
    # The rate falls to zero, so that the end is a minimum and not a cloud about it.
    optimiser = optax.adam(optax.cosine_decay_schedule(learning_rate, max_iter))
    now, history, steps = jnp.asarray(weights), [], 0
    state = optimiser.init(now)

    @eqx.filter_jit
    def chunk(now: Array, state: Any, problem: LeastAction) -> tuple[Array, Any, Array, Array]:
        def step(carry: tuple[Array, Any], _: None) -> tuple[tuple[Array, Any], None]:
            now, state = carry
            updates, state = optimiser.update(_objective(now, problem)[1], state)
            return (optax.apply_updates(now, updates), state), None

        (now, state), _ = jax.lax.scan(step, (now, state), length=CHUNK)
        value, gradient = _objective(now, problem)
        return now, state, value, jnp.abs(gradient).max()

    while steps < max_iter:
        now, state, value, largest = chunk(now, state, problem)
        steps += CHUNK
        history.append(float(value))
        if float(largest) <= gtol:
            break
    return np.asarray(now), steps, history
