r"""Many particles as samples of one measure: the mean field of a flow, and how fast it is reached.

With :math:`p_i = \bar p_i/N` the velocity :math:`\frac1N\sum_i\Gamma(\cdot,q_i)\bar p_i` tends to
that of the momentum density m, which obeys EPDiff,

.. math:: \partial_tm + (v\cdot\nabla)m + (\nabla v)^Tm + m\,\mathrm{div}\,v = 0,\qquad v=\Gamma*m.

Every set of particles solves it exactly, in the weak sense. Particles on a regular grid are a
quadrature of the density and miss its flow by :math:`O(N^{-2/d})`; independent samples miss it by
:math:`O(N^{-1/2})`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from ideareg._rows import centres
from ideareg._types import Points, Scalar
from ideareg.hamiltonian import Hamiltonian, State
from ideareg.integrators import RK4
from ideareg.kernels import AbstractKernel, Kernel, as_kernel
from ideareg.shooting import Trajectory, shoot, transport

Floats = NDArray[np.float64]

# Share of the wave numbers that products keep: the rest would alias.
KEPT = 2 / 3
# Periods on either side whose images of the kernel are felt.
IMAGES = 3
REDUCTIONS = ("centres", "sample")


def particles(positions: Any, density: Any, weights: Any) -> State:
    r"""Return particles with momenta :math:`p_i = w_i\bar p_i`, a quadrature of a density.

    Parameters
    ----------
    positions, density : array, shape (n, d)
        q and the momentum density there.
    weights : array, shape (n,)
        Volumes of cells, or 1/n for samples of a probability.

    Examples
    --------
    >>> particles([[0.0], [1.0]], [[2.0], [4.0]], [0.5, 0.5]).p.tolist()
    [[1.0], [2.0]]
    """
    return State(positions, np.asarray(density) * np.asarray(weights)[:, None])


def with_passive(state: State, X: Any) -> State:
    """Return the state with rows X, shape (m, d), that have no momentum: the flow stays what it is.

    Examples
    --------
    >>> with_passive(State([[0.0]], [[1.0]]), [[3.0]]).p.tolist()
    [[1.0], [0.0]]
    """
    rows = np.asarray(X, dtype=np.asarray(state.q).dtype)
    q = np.concatenate([np.asarray(state.q), rows])
    return State(q, np.concatenate([np.asarray(state.p), np.zeros(rows.shape)]))


def coarsen(state: State, count: int, how: str = "centres", seed: int = 0) -> State:
    """Return fewer particles that carry the same total momentum.

    Parameters
    ----------
    state : State
    count : int
        At most as many particles.
    how : {"centres", "sample"}
        Centres of clusters with the sums of their members' momenta, which is a quadrature; or
        particles drawn at random, with momenta scaled up.
    seed : int

    Returns
    -------
    State

    Raises
    ------
    ValueError
        If ``how`` is neither, or ``count`` is not between 1 and the number of particles.
    """
    q, p = np.asarray(state.q, dtype=np.float64), np.asarray(state.p, dtype=np.float64)
    if not 1 <= count <= len(q):
        raise ValueError(f"count must be between 1 and the {len(q)} particles, got {count}.")
    if how not in REDUCTIONS:
        raise ValueError(f"how must be one of {', '.join(REDUCTIONS)}, got {how!r}.")
    if how == "sample":
        chosen = np.random.default_rng(seed).choice(len(q), count, replace=False)
        return State(q[chosen], p[chosen] * len(q) / count)
    middle = centres(q, np.ones(len(q)), count, seed)
    nearest = ((q[:, None] - middle) ** 2).sum(-1).argmin(1)
    total = np.zeros((len(middle), q.shape[1]))
    np.add.at(total, nearest, p)
    return State(middle, total)


class Settled(NamedTuple):
    """How the flow of few particles approaches that of all.

    Attributes
    ----------
    sizes : ndarray of int, shape (k,)
    flow_error : ndarray, shape (k,)
        Root mean square distance of passive points at the end, from where all particles take them.
    weight_norm : ndarray, shape (k,)
        Norm of the velocity, :math:`\\sqrt{2H}`: of the weights of each layer, if Γ has features.
    full_norm : float
        The same for all particles.
    enough : int or None
        The first size from which on the error stays below the tolerance; None if none does.
    """

    sizes: NDArray[np.int64]
    flow_error: Floats
    weight_norm: Floats
    full_norm: float
    enough: int | None


def settle(
    state: State,
    kernel: Kernel,
    sizes: Sequence[int],
    *,
    at: Any = None,
    how: str = "centres",
    tolerance: float = 0.01,
    depth: int = 10,
    repeats: int = 1,
    seed: int = 0,
) -> Settled:
    """Show how flow and weights settle as more of the particles are used.

    Parameters
    ----------
    state : State
        All particles: rows and their momenta, as those of a fitted model.
    kernel : kernel
        Γ.
    sizes : sequence of int
        Numbers of particles to try, ascending.
    at : array, shape (m, d), optional
        Passive points whose flow is compared; the rows themselves by default.
    how : {"centres", "sample"}
        See `coarsen`.
    tolerance : float
        Relative to the root mean square displacement by the flow of all.
    depth : int
        Time steps.
    repeats : int
        Draws whose square errors are averaged.
    seed : int

    Returns
    -------
    Settled

    Raises
    ------
    ValueError
        If a size is not between 1 and the number of particles.

    Examples
    --------
    >>> from ideareg.kernels import Gaussian
    >>> t = np.linspace(0, 1, 65)[:, None]
    >>> with jax.enable_x64(True):
    ...     found = settle(State(t, np.sin(6 * t) / 65), Gaussian(0.3), [4, 8, 16, 32])
    >>> found.enough
    8
    """
    ham = Hamiltonian(as_kernel(kernel))
    points = np.asarray(state.q if at is None else at, dtype=np.float64)
    goal, norm = _flow(ham, state, points, depth)
    moved = _rms(goal - points)
    errors, norms = [], []
    for size in sizes:
        draws = []
        for k in range(repeats):
            few = coarsen(state, size, how, seed + k)
            end, length = _flow(ham, few, points, depth)
            draws.append((_rms(end - goal), length))
        errors.append(_rms(np.array([[error] for error, _ in draws])))
        norms.append(float(np.mean([length for _, length in draws])))
    below = np.array(errors) <= tolerance * moved
    # From the last size that is not good enough.
    late = [size for i, size in enumerate(sizes) if below[i:].all()]
    return Settled(
        np.asarray(sizes), np.array(errors), np.array(norms), norm, late[0] if late else None
    )


def _flow(ham: Hamiltonian, state: State, points: Floats, depth: int) -> tuple[Floats, float]:
    path = shoot(ham, state, depth, RK4())
    moved = transport(ham, RK4(), path, points)
    return np.asarray(moved), float(np.sqrt(2 * float(path.energies[0])))


def _rms(steps: Floats) -> float:
    return float(np.sqrt((steps**2).sum(-1).mean()))


def rate(sizes: Any, errors: Any) -> float:
    """Return r of the law error ~ size^-r, by least squares on logarithms.

    Examples
    --------
    >>> round(rate([10, 20, 40], [1.0, 0.25, 0.0625]), 6)
    2.0
    """
    return -float(np.polyfit(np.log(np.asarray(sizes)), np.log(np.asarray(errors)), 1)[0])


@eqx.filter_jit
def _weak_terms(ham: Hamiltonian, states: State, field: Callable[[Array], Array]) -> Any:
    """Return :math:`\\int w\\cdot dm` and :math:`\\int m\\cdot(Dw\\,v - Dv\\,w)` of each state."""

    def terms(state: State) -> tuple[Scalar, Scalar]:
        q, p = jnp.asarray(state.q), jnp.asarray(state.p)
        v, w = ham.velocity(q, state), jax.vmap(field)(q)
        Dw_v = jax.vmap(lambda x, u: jax.jvp(field, (x,), (u,))[1])(q, v)
        Dv_w = jax.jvp(lambda x: ham.velocity(x, state), (q,), (w,))[1]
        return jnp.vdot(p, w), jnp.vdot(p, Dw_v - Dv_w)

    return jax.lax.map(terms, states)


def weak_residual(
    ham: Hamiltonian, trajectory: Trajectory, field: Callable[[Float[Array, " d"]], Any]
) -> float:
    r"""Return by how much a flow of particles misses EPDiff in its weak form.

    .. math:: \Big[\int w\cdot dm\Big]_0^1 - \int_0^1\int m\cdot(Dw\,v - Dv\,w)\,dt

    for a test field w, the integral over time by Simpson's rule. It is zero up to the time step.

    Parameters
    ----------
    ham : Hamiltonian
        Without nugget.
    trajectory : Trajectory
        Of an even number of steps.
    field : callable
        w, from a point (d,) to a vector (d,), smooth.

    Returns
    -------
    float
    """
    steps = len(trajectory.q) - 1
    if steps < 2 or steps % 2:
        raise ValueError(
            f"trajectory needs an even number of steps for Simpson's rule, got {steps}."
        )
    pairing, source = _weak_terms(ham, State(trajectory.q, trajectory.p), field)
    weights = np.ones(steps + 1)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    integral = float(trajectory.h) / 3 * weights @ np.asarray(source)
    return abs(float(pairing[-1] - pairing[0]) - integral)


class Grid(NamedTuple):
    """A periodic line, 0 <= x < length, and a kernel on it as a convolution.

    Attributes
    ----------
    x : ndarray, shape (n,)
    length : float
    symbol : ndarray, shape (n // 2 + 1,)
        Fourier transform of the kernel, so that v = Γ*m is a product.
    """

    x: Floats
    length: float
    symbol: Floats

    @classmethod
    def of(cls, kernel: AbstractKernel, length: float, n: int) -> Grid:
        """Sample a translation-invariant kernel, its images in neighbouring periods included."""
        if n < 8 or n % 2:
            raise ValueError(f"n must be an even number of nodes, at least 8, got {n}.")
        x = length / n * np.arange(n)
        images = (x[:, None] + length * np.arange(-IMAGES, IMAGES + 1)).reshape(-1, 1)
        values = np.asarray(kernel.gram(jnp.asarray(images), jnp.zeros((1, 1))))
        around = values.reshape(n, -1).sum(1)
        return cls(x, length, np.fft.rfft(around).real * length / n)

    def velocity(self, m: Floats) -> Floats:
        """Return v = Γ*m at the nodes."""
        return np.fft.irfft(self.symbol * np.fft.rfft(m), len(m))

    def rate(self, m: Floats) -> Floats:
        r"""Return :math:`\partial_tm = -(vm)_x - mv_x`, aliasing removed."""
        n = len(m)
        waves = np.arange(n // 2 + 1)
        slope, kept = 2j * np.pi / self.length * waves, waves <= KEPT * n / 2
        smooth = kept * np.fft.rfft(m)
        here = np.fft.irfft(smooth, n)
        v = np.fft.irfft(self.symbol * smooth, n)
        dv = np.fft.irfft(slope * self.symbol * smooth, n)
        return -np.fft.irfft(kept * (slope * np.fft.rfft(v * here) + np.fft.rfft(dv * here)), n)


def epdiff(grid: Grid, m: Any, steps: int, horizon: float = 1.0) -> Floats:
    """Return the momentum density on a periodic line at the horizon, by a spectral method and RK4.

    Parameters
    ----------
    grid : Grid
        With the kernel :math:`e^{-|x|}` this is the Camassa-Holm equation.
    m : array, shape (n,)
        Density at time 0, smooth.
    steps : int
        Time steps.
    horizon : float

    Returns
    -------
    ndarray, shape (n,)

    Raises
    ------
    ValueError
        If m does not fit the grid, or is not finite.
    FloatingPointError
        If the solution became infinite: the waves steepen more than the grid can show.
    """
    now = np.asarray(m, dtype=np.float64)
    if now.shape != grid.x.shape or not np.isfinite(now).all():
        raise ValueError(f"m must be {len(grid.x)} finite numbers, got shape {now.shape}.")
    h = horizon / steps
    for _ in range(steps):
        a = grid.rate(now)
        b = grid.rate(now + h / 2 * a)
        c = grid.rate(now + h / 2 * b)
        now = now + h / 6 * (a + 2 * (b + c) + grid.rate(now + h * c))
    if not np.isfinite(now).all():
        raise FloatingPointError("the density became infinite: take more steps, or more nodes.")
    return now


def quadrature(density: Callable[[Points], Any], low: float, high: float, count: int) -> State:
    """Return particles at the midpoints of equal cells of a line, each with its cell's momentum."""
    middle = low + (high - low) * (np.arange(count)[:, None] + 0.5) / count
    return particles(middle, density(middle), np.full(count, (high - low) / count))
