r"""Regressors of least convex loss in the span of a kernel, and what they charge for a warp.

.. math:: R(G) = \min_Z\ \lambda\,\mathrm{tr}\,Z^TGZ + \sum_i w_i\,\ell\big((GZ)_i, y_i\big)

is solved to rounding: in the dual by an interior-point method, which a projected Newton method ends
with exact zeros, or by Newton's method for smooth losses. Its derivative needs neither the iterates
nor their number: by the envelope theorem it is
:math:`-\lambda ZZ^T`, hence :math:`\partial R/\partial q_i = -2\lambda\sum_j(Z_i\cdot Z_j)\,
\partial_1k(q_i,q_j)`, which vanishes with :math:`Z_i`.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Float

from ideareg._linalg import cholesky_with_jitter
from ideareg._types import Scalar
from ideareg.pointwise import AbstractBoxed, AbstractPointwise, AbstractSmooth, Box

NEWTON_STEPS = 200
# On the diagonal of Newton's matrix, relative to it: it alters the path, never the solution.
NEWTON_JITTER = 1e-12
# The optimality conditions hold to this, relative to the size of the targets.
TOLERANCE = 1e-13
HALVINGS = 12
# The interior-point method goes on until complementarity is this small, relative to its start.
INTERIOR_STEPS, INTERIOR_TOLERANCE = 80, 1e-12


@functools.partial(jax.jit, static_argnames="loss")
def solve(
    loss: AbstractPointwise,
    gram: Float[Array, "n n"],
    Y: Float[Array, "n k"],
    weight: Float[Array, " n"],
    ridge: Scalar,
) -> Float[Array, "n k"]:
    r"""Return the dual Z of the regressor :math:`f = K(\cdot, q)Z` of least loss.

    Parameters
    ----------
    loss : AbstractPointwise
    gram : Array, shape (n, n)
    Y : Array, shape (n, k)
        Targets: ±1, one-hot or real, as the loss has them.
    weight : Array, shape (n,)
        Rows of weight 0 are inert: their dual is 0.
    ridge : Array, shape ()
        λ, positive.

    Returns
    -------
    Array, shape (n, k)
        For a loss with a quadratic dual, exactly 0 in rows without charge.

    Examples
    --------
    >>> from ideareg.pointwise import Hinge
    >>> one = jnp.ones(1)
    >>> solve(Hinge(), jnp.eye(1), jnp.ones((1, 1)), one, jnp.array(0.1)).item()
    1.0
    """
    if isinstance(loss, AbstractBoxed):
        box = loss.dual(Y, weight, ridge)
        columns = (box.linear.T, box.diagonal.T, box.lower.T, box.upper.T)
        # A loop over outputs rather than a batch: batched factorisations are slow here.
        return jax.lax.map(
            lambda c: box_minimum(gram, Box(c[0], c[1], c[2], c[3], box.band)), columns
        ).T
    assert isinstance(loss, AbstractSmooth)
    return _newton(loss, gram, Y, weight, ridge)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def risk(
    loss: AbstractPointwise,
    gram: Float[Array, "n n"],
    Y: Float[Array, "n k"],
    weight: Float[Array, " n"],
    ridge: Scalar,
) -> Scalar:
    """Return R(G), see the module. It can be differentiated by ``gram`` alone."""
    return _risk_forward(loss, gram, Y, weight, ridge)[0]


def _risk_forward(
    loss: AbstractPointwise, gram: Array, Y: Array, weight: Array, ridge: Array
) -> Any:
    Z = solve(loss, gram, Y, weight, ridge)
    f = gram @ Z
    value = ridge * jnp.vdot(Z, f) + weight @ loss.value(f, Y)
    return value, (Z, Y, weight, ridge)


def _risk_backward(loss: AbstractPointwise, saved: Any, cotangent: Array) -> Any:
    Z, Y, weight, ridge = saved
    still = jnp.zeros_like(Y), jnp.zeros_like(weight), jnp.zeros_like(ridge)
    return -cotangent * ridge * (Z @ Z.T), *still


risk.defvjp(_risk_forward, _risk_backward)


def box_minimum(gram: Float[Array, "n n"], box: Box) -> Float[Array, " n"]:
    r"""Minimise :math:`\frac12z^T(G+D)z - b^Tz + \varepsilon|z|_1` within bounds.

    Projected Newton: entries that press against a bound, or against the kink at 0, stay there; the
    others take a Newton step, shortened along the projected path. Entries at a bound are exactly
    there.

    Parameters
    ----------
    gram : Array, shape (n, n)
        Positive semi-definite.
    box : Box
        One column of it, arrays of shape (n,).
    """
    A = gram + jnp.diag(box.diagonal)
    identity = jnp.eye(len(A))
    tolerance = TOLERANCE * jnp.maximum(jnp.abs(box.linear).max(), 1e-300)
    steepest = 1 / jnp.abs(A).sum(1).max()
    halvings = 0.5 ** jnp.arange(HALVINGS)

    def quadratic(z: Array) -> Array:
        return (0.5 * z * (A @ z) - box.linear * z + box.band * jnp.abs(z)).sum()

    def orthant(z: Array) -> tuple[Array, Array, Array]:
        """Return the gradient and the bounds of the smooth piece that descent from z lies in."""
        g = A @ z - box.linear
        if not box.band:
            return g, box.lower, box.upper
        onward = -jnp.sign(g) * (jnp.abs(g) > box.band)
        side = jnp.where(z != 0, jnp.sign(z), onward)
        lower = jnp.where(side < 0, box.lower, 0.0)
        return g + box.band * side, lower, jnp.where(side > 0, box.upper, 0.0)

    def measure(z: Array) -> tuple[Array, Array, Array, Array, Array]:
        g, lower, upper = orthant(z)
        free = ~(((z <= lower) & (g >= 0)) | ((z >= upper) & (g <= 0)))
        return g, lower, upper, free, jnp.abs(g * free).max()

    def unfinished(state: Any) -> Array:
        _, residual, count, moved = state
        return (residual > tolerance) & (count < NEWTON_STEPS) & moved

    def step(state: Any) -> Any:
        z, residual, count, _ = state
        g, lower, upper, free, _ = measure(z)
        M = jnp.where(free[:, None] & free, A, identity)
        L, _, _ = cholesky_with_jitter(M, NEWTON_JITTER * jnp.diagonal(M).max())
        direction = -cho_solve((L, True), g * free)
        newton = z + halvings[:, None] * direction
        slope = z - steepest * halvings[:3, None] * g * free
        trials = jnp.clip(jnp.concatenate([newton, slope]), lower, upper)
        best = trials[jnp.argmin(jax.lax.map(quadratic, trials))]
        # Close to the solution values differ by rounding only: there the residual decides.
        full = measure(trials[0])[-1]
        new = jnp.where(full < 0.5 * residual, trials[0], best)
        return new, measure(new)[-1], count + 1, (new != z).any()

    start = _interior(A, box)
    state = (start, measure(start)[-1], jnp.array(0), jnp.array(True))
    return jax.lax.while_loop(unfinished, step, state)[0]


class _Inside(NamedTuple):
    """A point between the bounds, z = x₊ − x₋; its room to either bound, and their multipliers."""

    x: Float[Array, "2 n"]
    room: Float[Array, "2 n"]
    low: Float[Array, "2 n"]
    high: Float[Array, "2 n"]


def _interior(A: Float[Array, "n n"], box: Box) -> Float[Array, " n"]:
    """Return nearly the minimum of `box_minimum`, entries near a bound being put on it.

    Mehrotra's predictor and corrector, with one factorisation for both. Far from the minimum it
    does not care how ill-conditioned A is, which stalls methods that stay on the bounds.
    """
    sign = jnp.array([[1.0], [-1.0]])
    cap = jnp.stack([box.upper, -box.lower])
    present, capped = cap > 0, (cap > 0) & jnp.isfinite(cap)
    identity, count = jnp.eye(len(A)), present.sum() + capped.sum()

    def slope(x: Array) -> Array:
        return A @ (sign * jnp.where(present, x, 0.0)).sum(0) - box.linear

    def gap(at: _Inside) -> Array:
        high = jnp.where(capped, at.room * at.high, 0.0)
        return (jnp.where(present, at.x * at.low, 0.0) + high).sum() / jnp.maximum(count, 1)

    def step(state: Any) -> Any:
        at, steps, start = state
        off = sign * slope(at.x) + box.band - at.low + at.high
        stiff = at.low / at.x + at.high / at.room
        e = jnp.sqrt(jnp.where(present, 1 / stiff, 0.0).sum(0))
        L = jnp.linalg.cholesky(identity + e[:, None] * A * e)

        def move(low: Array, high: Array) -> _Inside:
            """Return the step at whose end x·low and room·high are what is given."""
            h = low / at.x - at.low - (high / at.room - at.high) - off
            along = (sign * jnp.where(present, h / stiff, 0.0)).sum(0)
            dz = e * cho_solve((L, True), jnp.where(e > 0, along / jnp.where(e > 0, e, 1), 0.0))
            dx = jnp.where(present, (h - sign * (A @ dz)) / stiff, 0.0)
            dlow = low / at.x - at.low - at.low / at.x * dx
            dhigh = jnp.where(capped, high / at.room - at.high + at.high / at.room * dx, 0.0)
            return _Inside(dx, jnp.where(capped, -dx, 0.0), dlow, dhigh)

        def reach(by: _Inside) -> Array:
            """Return the longest step, at most 1, that stays inside."""
            ratios = [jnp.where(d < 0, -a / d, jnp.inf).min() for a, d in zip(at, by, strict=True)]
            return jnp.minimum(1.0, jnp.stack(ratios).min())

        def moved(by: _Inside, t: Array) -> _Inside:
            return _Inside(*(a + t * d for a, d in zip(at, by, strict=True)))

        zero, mu = jnp.zeros_like(at.x), gap(at)
        guess = move(zero, zero)
        target = mu * (gap(moved(guess, reach(guess))) / mu) ** 3
        low = target - guess.x * guess.low
        high = jnp.where(capped, target - guess.room * guess.high, 0.0)
        by = move(low, high)
        return moved(by, 0.995 * reach(by)), steps + 1, start

    def unfinished(state: Any) -> Array:
        at, steps, start = state
        return (gap(at) > INTERIOR_TOLERANCE * start) & (steps < INTERIOR_STEPS)

    middle = jnp.where(capped, cap / 2, 1.0)
    size = jnp.abs(slope(middle)).max() + box.band + 1e-300
    at = _Inside(middle, middle, jnp.full_like(middle, size), jnp.where(capped, size, 0.0))
    at, _, _ = jax.lax.while_loop(unfinished, step, (at, jnp.array(0), gap(at)))
    x = jnp.where(at.x < at.low, 0.0, jnp.where(capped & (at.room < at.high), cap, at.x))
    x = jnp.where(present, x, 0.0)
    return jnp.clip(x[0] - x[1], box.lower, box.upper)


def _newton(
    loss: AbstractSmooth, gram: Array, Y: Array, weight: Array, ridge: Array
) -> Float[Array, "n k"]:
    """Solve 2λZ + w∇ℓ(GZ) = 0 by Newton's method with halved steps."""
    n, k = Y.shape

    def each(f: Array, y: Array) -> Array:
        return loss.value(f[None], y[None])[0]

    slope, curvature = (jax.vmap(d(each)) for d in (jax.grad, jax.hessian))

    def cost(Z: Array) -> Array:
        f = gram @ Z
        return ridge * jnp.vdot(Z, f) + weight @ loss.value(f, Y)

    def residual(Z: Array) -> Array:
        return 2 * ridge * Z + weight[:, None] * slope(gram @ Z, Y)

    def unfinished(state: Any) -> Array:
        _, size, count, moved = state
        return (size > TOLERANCE) & (count < NEWTON_STEPS) & moved

    def step(state: Any) -> Any:
        Z, size, count, _ = state
        H = weight[:, None, None] * curvature(gram @ Z, Y)
        M = jnp.einsum("iab,ij->iajb", H, gram).reshape(n * k, n * k)
        M = M + 2 * ridge * jnp.eye(n * k)
        direction = -jnp.linalg.solve(M, residual(Z).ravel()).reshape(n, k)
        trials = Z + 0.5 ** jnp.arange(HALVINGS)[:, None, None] * direction
        best = trials[jnp.argmin(jax.lax.map(cost, trials))]
        full = jnp.abs(residual(trials[0])).max()
        new = jnp.where(full < 0.5 * size, trials[0], best)
        return new, jnp.abs(residual(new)).max(), count + 1, (new != Z).any()

    start = jnp.zeros_like(Y)
    state = (start, jnp.abs(residual(start)).max(), jnp.array(0), jnp.array(True))
    Z = jax.lax.while_loop(unfinished, step, state)[0]
    return jnp.where(weight[:, None] > 0, Z, 0.0)
