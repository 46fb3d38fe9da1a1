r"""How far an input can move before a prediction does: certificates from norms alone, no search.

A velocity :math:`v = \Gamma(\cdot,q)p` has the norm :math:`\|v\|^2 = p^T\Gamma(q,q)p`, and with the
metric m of `smoothness` it stretches space by :math:`\sqrt m\,\|v\|` at most; so does the regressor
by its norm. Composed over the layers that prediction really uses this bounds

.. math:: |f\circ\varphi(x+u) - f\circ\varphi(x)|
          \le \min\big(L\,|u|_w,\ |\nabla(f\circ\varphi)(x)\cdot u| + \tfrac12B\,|u|_w^2\big),

in any norm :math:`|u|_w^2 = \sum_kw_ku_k^2`; the best of a few natural ones is taken. All of it
holds in exact arithmetic, for the model as fitted: it says nothing of how good the model is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from ideareg._types import Points, Scalar
from ideareg.hamiltonian import Hamiltonian, State
from ideareg.integrators import RK4, AbstractIntegrator, ImplicitMidpoint, StormerVerlet
from ideareg.kernels import Kernel
from ideareg.kernels.smoothness import is_scalar, smoothness
from ideareg.uncertainty import Predictor

Floats = NDArray[np.float64]

# Radii are sought between 10 to the minus and plus this; beyond it they are 0 and infinite.
DECADES = 30
BISECTIONS = 64
# An attack: balls tried, ascent steps in each, and their size in units of the ball.
ROUNDS, ASCENT, STRIDE = 12, 8, 0.4


def _times(a: Any, b: Any) -> Any:
    """Return the product with 0 times infinity 0: no momentum moves nothing, by any kernel."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where((np.asarray(a) == 0) | (np.asarray(b) == 0), 0.0, np.multiply(a, b))


class Growth(NamedTuple):
    """Bounds on the first and the second derivative of a map, in one norm.

    Examples
    --------
    >>> twice = Growth(2.0, 1.0).after(Growth(3.0, 0.5))
    >>> float(twice.slope), float(twice.bend)
    (6.0, 10.0)
    """

    slope: Any
    bend: Any

    def __add__(self, other: Any) -> Growth:
        """Return the bounds for the sum of two maps."""
        return Growth(self.slope + other.slope, self.bend + other.bend)

    def times(self, factor: Any) -> Growth:
        """Return the bounds for the map times a number."""
        return Growth(_times(abs(factor), self.slope), _times(abs(factor), self.bend))

    def after(self, first: Growth) -> Growth:
        """Return the bounds for this map after another."""
        bend = _times(self.bend, _times(first.slope, first.slope)) + _times(self.slope, first.bend)
        return Growth(_times(self.slope, first.slope), bend)

    def implicit(self) -> Growth:
        """Return the bounds for the inverse of identity minus this map; it needs a slope < 1."""
        if not self.slope < 1:
            return Growth(np.inf, np.inf)
        slope = 1 / (1 - self.slope)
        return Growth(slope, _times(self.bend, slope**3))


IDENTITY = Growth(1.0, 0.0)


def _layer(integrator: AbstractIntegrator, v: list[Growth], h: float) -> Growth:
    """Return the growth of one layer from that of the velocity at its stages.

    It mirrors ``carry`` of the integrators; those that are not named take one explicit step.
    """
    if isinstance(integrator, ImplicitMidpoint):
        return (IDENTITY + v[0].times(h / 2)).after(v[0].times(h / 2).implicit())
    if isinstance(integrator, StormerVerlet):
        return v[1].times(h / 2).implicit().after(IDENTITY + v[0].times(h / 2))
    if isinstance(integrator, RK4):
        k = [v[0]]
        for stage, reach in zip(v[1:], (0.5, 0.5, 1.0), strict=True):
            k.append(stage.after(IDENTITY + k[-1].times(h * reach)))
        return IDENTITY + (k[0] + k[1].times(2) + k[2].times(2) + k[3]).times(h / 6)
    return IDENTITY + v[0].times(h)


@jax.jit
def column_energies(kernel: Kernel, states: State) -> Float[Array, "S d"]:
    r"""Return :math:`p_a^T\Gamma(q,q)p_a` of each coordinate a of S states, (S, n, d) -> (S, d).

    Each row sums to :math:`\|v\|^2`. Coupled coordinates share theirs evenly.
    """

    def energy(state: State) -> Array:
        each = (state.p * kernel.apply(state.q, None, state.p)).sum(0)
        return each if is_scalar(kernel) else jnp.full_like(each, each.mean())

    return jnp.maximum(jax.lax.map(energy, states), 0.0)


def _stage_energies(kernel: Kernel, stages: Any) -> Floats:
    """Return the column energies of every stage of every layer, shape (L, stages, d)."""

    def of(state: State) -> Floats:
        depth, d = state.q.shape[0], state.q.shape[-1]
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[-2:]), state)
        return np.asarray(column_energies(kernel, flat)).reshape(depth, -1, d)

    def is_state(part: Any) -> bool:
        return isinstance(part, State)

    return np.concatenate([of(s) for s in jax.tree.leaves(stages, is_leaf=is_state)], axis=1)


def _speeds(kernel: Kernel, energies: Floats, metric: Floats) -> Floats:
    """Return the norm of the velocities, with values measured by ``metric``."""
    if is_scalar(kernel):
        return np.sqrt(energies @ metric)
    return np.sqrt(metric.max() * energies.sum(-1))


def _growth(kernel: Any, norm: Any, metric: Floats) -> Growth:
    """Return the growth of a function of this norm in the space of ``kernel``."""
    smooth = smoothness(kernel, len(metric))
    slope = np.sqrt((smooth.slope / metric).max())
    return Growth(_times(norm, slope), _times(norm, (smooth.bend / metric).max()))


def flow_growth(fitted: Predictor, metric: Floats) -> Growth:
    r"""Return bounds on the flow that carries predictions, layer by layer.

    A residual layer has :math:`|x+u+h\,v(x+u)-x-h\,v(x)|_w\le(1+h\,\kappa\|v\|)|u|_w` with
    :math:`\kappa^2=\max_km_k/w_k`, at the stages where the integrator evaluated v; an implicit
    layer has a bound where h κ‖v‖ / 2 < 1, and an infinite one elsewhere.

    Parameters
    ----------
    fitted : Predictor
    metric : ndarray, shape (d,)
        The weights w > 0 of the norm.

    Returns
    -------
    Growth
    """
    total = IDENTITY
    if fitted.warp.depth == 0:
        return total
    kernel, h = fitted.warp.hamiltonian.kernel, float(fitted.trajectory.h)
    speeds = _speeds(kernel, _stage_energies(kernel, fitted.trajectory.stages), metric)
    for layer in speeds:
        v = [_growth(kernel, speed, metric) for speed in layer]
        total = _layer(fitted.warp.integrator, v, h).after(total)
    return total


def continuous_lipschitz(ham: Hamiltonian, state: State) -> float:
    r"""Return :math:`e^{\kappa\sqrt{2H}}`, which bounds the flow itself over unit time.

    The norm of the velocity is :math:`\sqrt{2H}` all along without a nugget, and at most that with
    one, for :math:`\|v\|^2=p^T\Gamma p\le2H` and H is conserved.

    Examples
    --------
    >>> from ideareg.kernels import Gaussian
    >>> state = State(jnp.zeros((1, 1)), jnp.ones((1, 1)))
    >>> round(continuous_lipschitz(Hamiltonian(Gaussian()), state), 4)
    2.7183
    """
    ones = np.ones(state.q.shape[1])
    norm = float(jnp.sqrt(2 * ham.energy(state)))
    with np.errstate(over="ignore"):
        return float(np.exp(_growth(ham.kernel, norm, ones).slope))


class Bound(NamedTuple):
    """How a regressor can change, in the norm of ``metric`` (d,): `Growth` of each output, (k,)."""

    metric: Floats
    slope: Floats
    bend: Floats


def bounds(fitted: Predictor) -> list[Bound]:
    r"""Return bounds on the regressor :math:`f\circ\varphi` in several norms; all of them hold.

    The norms are those of the flow, of the head, between the two, and the Euclidean one.
    """
    posterior, d = fitted.posterior, fitted.posterior.points.shape[1]
    squares = np.asarray(_squared_norms(fitted))
    norms = np.sqrt(np.maximum(squares, 0.0))
    warp = smoothness(fitted.warp.hamiltonian.kernel, d).slope
    head = smoothness(posterior.kernel, d).slope
    metrics = [warp, head, np.sqrt(warp * head), np.ones(d)]
    found = []
    for metric in metrics:
        if not (np.isfinite(metric).all() and (metric > 0).all()):
            continue
        growth = _growth(posterior.kernel, norms, metric).after(flow_growth(fitted, metric))
        found.append(Bound(metric, growth.slope, growth.bend))
    return found


@jax.jit
def _squared_norms(fitted: Predictor) -> Float[Array, " k"]:
    return fitted.posterior.squared_norms()


def lipschitz_bound(found: list[Bound]) -> Floats:
    """Return the least Lipschitz constant of each output, (k,), for Euclidean distances."""
    each = [_times(bound.slope, np.sqrt(bound.metric.max())) for bound in found]
    return np.asarray(np.min(each, axis=0), dtype=np.float64)


@jax.jit
def gradients(fitted: Predictor, X: Points) -> Float[Array, "n k d"]:
    """Return the gradients of the regressor at the rows of X."""

    def total(X: Array, output: int) -> Scalar:
        # Each value depends on its own row alone.
        return fitted.posterior.mean(fitted.flow(X))[:, output].sum()

    outputs = range(fitted.posterior.dual.shape[1])
    return jnp.stack([jax.grad(total)(X, o) for o in outputs], axis=1)


def largest_change(
    stack: list[tuple[float, list[Bound]]], gradient: Floats, stretch: Floats, radius: Floats
) -> Floats:
    r"""Return how much a weighted sum of regressors can change within a distance.

    Parameters
    ----------
    stack : list of (weight, list of Bound)
    gradient : ndarray, shape (n, k, d)
        Of the sum, at each point.
    stretch : ndarray, shape (n, d)
        How far coordinate k of the model can move per unit of distance.
    radius : ndarray, shape (n,)

    Returns
    -------
    ndarray, shape (n, k)
    """
    steep = np.zeros(gradient.shape[:2])
    curved = np.zeros(gradient.shape[:2])
    for weight, found in stack:
        moved = [radius * (stretch * np.sqrt(b.metric)).max(1) for b in found]
        once = [_times(b.slope, far[:, None]) for b, far in zip(found, moved, strict=True)]
        twice = [_times(b.bend, far[:, None] ** 2) for b, far in zip(found, moved, strict=True)]
        steep += weight * np.min(once, axis=0)
        curved += weight / 2 * np.min(twice, axis=0)
    along = np.sqrt(((gradient * stretch[:, None]) ** 2).sum(-1))
    return np.minimum(steep, along * radius[:, None] + curved)


def certified_radius(
    stack: list[tuple[float, list[Bound]]],
    gradient: Floats,
    tolerance: Floats,
    stretch: Callable[[Floats], Floats],
) -> Floats:
    """Return the distance within which no output changes by more than its tolerance.

    Parameters
    ----------
    stack : list of (weight, list of Bound)
    gradient : ndarray, shape (n, k, d)
    tolerance : ndarray, shape (n, k)
    stretch : callable
        Takes radii (n,) and returns, (n, d), how far each coordinate of the model can move per
        unit of distance within them; it may only grow with the radius.

    Returns
    -------
    ndarray, shape (n,)
        The lower end of a bisection, so that rounding errs on the safe side.
    """
    low, high = np.full((2, len(gradient)), [[-DECADES], [DECADES]], dtype=np.float64)

    def holds(decades: Floats) -> NDArray[np.bool_]:
        radius = 10.0**decades
        change = largest_change(stack, gradient, stretch(radius), radius)
        return np.asarray((change <= tolerance).all(1))

    never, always = ~holds(low), holds(high)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        good = holds(middle)
        low, high = np.where(good, middle, low), np.where(good, high, middle)
    return np.where(never, 0.0, np.where(always, np.inf, 10.0**low))


def attacked_radius(
    value: Callable[[Floats], Floats],
    slope: Callable[[Floats], Floats],
    X: Floats,
    tolerance: Floats,
    start: Floats,
) -> Floats:
    """Return the least distance at which a search found an output changed by its tolerance.

    Projected gradient ascent of each output, up and down, in balls that grow until one holds a
    hit and shrink below it after. Every true radius lies between `certified_radius` and this.

    Parameters
    ----------
    value, slope : callable
        Map points (n, d) to outputs (n, k), and to their gradients (n, k, d).
    X : ndarray, shape (n, d)
    tolerance : ndarray, shape (n, k)
    start : ndarray, shape (n,)
        Radii of the first balls.

    Returns
    -------
    ndarray, shape (n,)
        Infinite where nothing was found.
    """
    before = value(X)
    nearest = np.full(len(X), np.inf)

    def unit(G: Floats) -> Floats:
        return G / np.maximum(np.linalg.norm(G, axis=1, keepdims=True), 1e-300)

    for output in range(before.shape[1]):
        for sign in (1.0, -1.0):

            def uphill(U: Floats, output: int = output, sign: float = sign) -> Floats:
                return unit(sign * slope(X + U)[:, output])

            def hit(U: Floats, output: int = output, sign: float = sign) -> NDArray[np.bool_]:
                change = sign * (value(X + U) - before)[:, output]
                return np.asarray(change > tolerance[:, output])

            radius = np.where(np.isfinite(nearest), nearest, start)
            for _ in range(ROUNDS):
                U = radius[:, None] * uphill(np.zeros_like(X))
                for _ in range(ASCENT):
                    U = U + STRIDE * radius[:, None] * uphill(U)
                    U = U * np.minimum(1.0, radius / np.linalg.norm(U, axis=1))[:, None]
                found = hit(U)
                shrunk = _first_hit(hit, U) if found.any() else nearest
                nearest = np.where(found, np.minimum(nearest, shrunk), nearest)
                radius = np.where(found, 0.97 * shrunk, np.minimum(2 * radius, nearest))
    return nearest


def _first_hit(hit: Callable[[Floats], NDArray[np.bool_]], U: Floats) -> Floats:
    """Return the length of U cut back, by bisection, to where it still hits."""
    low, high = np.zeros(len(U)), np.ones(len(U))
    for _ in range(12):
        middle = (low + high) / 2
        found = hit(middle[:, None] * U)
        low, high = np.where(found, low, middle), np.where(found, middle, high)
    return high * np.linalg.norm(U, axis=1)
