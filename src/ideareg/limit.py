r"""The limit of infinite depth: networks of L layers beside the continuous flow.

Minimal values converge as :math:`V_L = V + c/L + O(L^{-2})`, first momenta as
:math:`p_1 = p(0) + O(1/L)`, and the norms of the layers are equal to O(1/L).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from ideareg._types import Result, Scalar
from ideareg.hamiltonian import State
from ideareg.integrators import RK4
from ideareg.leastaction import LeastAction, Optimum, solve
from ideareg.shooting import Trajectory

Floats = NDArray[np.float64]

ROUGH_STEPS = 10
STEPS_OF_LIMIT = 200


class DepthRow(NamedTuple):
    """One depth of a `depth_study`, all but the first four times the number of layers.

    Attributes
    ----------
    depth : int
    value : float
        Minimum V_L.
    norms : ndarray, shape (L,)
        Squared norms :math:`L^2\\|w_s\\|^2 = p_s^T\\Gamma p_s` of the layers.
    gap : float
        Residual of the boundary condition.
    excess : float
        L (V_L - V).
    momentum_error : float
        L max|p_1 - p(0)|.
    spread : float
        L (max - min) / mean of ``norms``.
    remainder : float
        L² max|what the first-order term leaves of H(q_s, p_s) - H(q_1, p_1)|.
    """

    depth: int
    value: float
    norms: Floats
    gap: float
    excess: float
    momentum_error: float
    spread: float
    remainder: float


class DepthStudy(NamedTuple):
    """What `depth_study` found.

    Attributes
    ----------
    limit : Optimum
        Of the continuous flow.
    constant : float
        c of V_L = V + c/L, predicted from the continuous flow alone.
    rows : list of DepthRow
    """

    limit: Optimum
    constant: float
    rows: list[DepthRow]


def depth_study(
    problem: LeastAction, depths: Sequence[int] = (5, 10, 20, 40), *, steps: int = STEPS_OF_LIMIT
) -> DepthStudy:
    r"""Train the network of each depth and the continuous limit, and compare.

    Minimal values converge as :math:`V_L = V + c/L + O(L^{-2})` with
    :math:`c = -\frac\nu2\int_0^1\dot p\cdot\dot q\,dt`, momenta as
    :math:`p_1 = p(0) + O(1/L)`, and the norms of the layers are equal to :math:`O(1/L)`, with
    :math:`H(q_s,p_s) = \text{const} + \frac1{2L}\dot q\cdot\dot p + O(L^{-2})`.

    Parameters
    ----------
    problem : LeastAction
    depths : sequence of int
        Numbers of layers.
    steps : int
        Runge-Kutta steps of the continuous flow.

    Returns
    -------
    DepthStudy
    """
    # The way down is long and needs few steps; near the minimum Newton needs one or two.
    rough = solve(problem, min(ROUGH_STEPS, steps), RK4())
    limit = solve(problem, steps, RK4(), start=rough.momentum)
    optima = [_network(problem, depth, limit.momentum) for depth in depths]
    work = _work(problem, limit.trajectory)
    constant = -0.5 * float(problem.nu) * float(np.trapezoid(work, dx=1 / steps))
    rows = []
    for depth, best in zip(depths, optima, strict=True):
        energies = best.trajectory.energies[:-1]
        at = np.interp(np.arange(depth) / depth, np.linspace(0, 1, steps + 1), work)
        expected = 0.5 * at / depth
        left = energies - energies[0] - (expected - expected[0])
        rows.append(
            DepthRow(
                depth=depth,
                value=best.value,
                norms=2 * np.asarray(energies),
                gap=best.gap,
                excess=depth * (best.value - limit.value),
                momentum_error=depth * float(np.abs(best.momentum - limit.momentum).max()),
                spread=depth * float(np.ptp(energies) / energies.mean()),
                remainder=depth**2 * float(np.abs(left).max()),
            )
        )
    return DepthStudy(limit, constant, rows)


def _network(problem: LeastAction, depth: int, near: Floats) -> Optimum:
    """Solve from the momentum of the limit, or from zero where so few layers cannot follow it."""
    best = solve(problem, depth, start=near)
    return best if best.result is Result.converged else solve(problem, depth)


def _work(problem: LeastAction, trajectory: Trajectory) -> Floats:
    """Return q̇·ṗ at every state."""

    @jax.jit
    def at(state: State) -> Scalar:
        rate = problem.hamiltonian.field(state)
        return jnp.vdot(rate.q, rate.p)

    states = zip(trajectory.q, trajectory.p, strict=True)
    return np.array([float(at(State(q, p))) for q, p in states])
