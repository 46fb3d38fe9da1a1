r"""Geodesic shooting: the initial momentum determines the flow, layer by layer.

`shoot` moves the momentum-carrying points and keeps the stages of each step; `transport` moves any
other points through the recorded flow, and `inverse_transport` brings them back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ideareg._linalg import fixed_point
from ideareg._types import Flag, Result, Rows, Scalar, Solution
from ideareg.hamiltonian import FIELD, Hamiltonian, State
from ideareg.integrators import AbstractIntegrator, Stages


class Trajectory(eqx.Module):
    """The record of a flow with L layers.

    Attributes
    ----------
    q, p : Array, shape (L + 1, n, d)
        Positions and momenta before the first layer and after each.
    stages : pytree
        What passive points need, stacked over the L layers.
    energies : Array, shape (L + 1,)
        The Hamiltonian; its drift tells how far the layers are from the continuous flow.
    converged : Array, shape ()
        Whether every implicit step was solved and everything is finite.
    h : Array, shape ()
        Step size.
    """

    q: Float[Array, "states n d"]
    p: Float[Array, "states n d"]
    stages: Stages
    energies: Float[Array, " states"]
    converged: Flag
    h: Scalar

    @property
    def initial(self) -> State:
        """The state before the first layer."""
        return State(self.q[0], self.p[0])

    @property
    def final(self) -> State:
        """The state after the last layer."""
        return State(self.q[-1], self.p[-1])

    @property
    def action(self) -> Scalar:
        r"""The sum :math:`h\sum_s H(q_s, p_s)` over layers.

        For `SymplecticEuler` it is exactly :math:`\frac L2\sum_s\|v_s\|^2_\Gamma` at horizon 1, the
        penalty on the weights of the network.
        """
        return self.h * self.energies[:-1].sum()


@eqx.filter_jit
def shoot(
    ham: Hamiltonian,
    state0: State,
    depth: int,
    integrator: AbstractIntegrator,
    horizon: Scalar | float = 1.0,
) -> Trajectory:
    """Follow the flow from ``state0`` through ``depth`` layers.

    Reverse mode keeps the field at each stage and recomputes the rest, so memory grows by O(n d)
    per layer, not by O(n^2).

    Parameters
    ----------
    ham : Hamiltonian
    state0 : State
        Initial positions and momenta.
    depth : int
        Number L of layers; 0 leaves every point where it is.
    integrator : AbstractIntegrator
    horizon : scalar
        Final time; each step is ``horizon / depth``.

    Returns
    -------
    Trajectory

    Raises
    ------
    ValueError
        If ``depth`` is negative, or q and p differ in shape or are not matrices.

    Examples
    --------
    >>> from ideareg.integrators import RK4
    >>> from ideareg.kernels import Gaussian
    >>> state = State(jnp.zeros((1, 2)), jnp.array([[1.0, 0.0]]))
    >>> shoot(Hamiltonian(Gaussian()), state, 4, RK4()).final.q.tolist()
    [[1.0, 0.0]]
    """
    if depth < 0:
        raise ValueError(f"depth must be a number of layers >= 0, got {depth}.")
    if state0.q.shape != state0.p.shape or state0.q.ndim != 2:
        raise ValueError(
            "state0 needs positions q and momenta p of one shape (n, d), got "
            f"{state0.q.shape} and {state0.p.shape}."
        )
    # The precision of the state is that of the flow, whatever that of the kernel's numbers.
    dtype = jnp.result_type(state0.q, state0.p)
    state0 = jax.tree.map(lambda leaf: leaf.astype(dtype), state0)
    h = jnp.asarray(horizon, dtype) / max(depth, 1)

    keep = jax.checkpoint_policies.save_only_these_names(FIELD)

    @functools.partial(jax.checkpoint, prevent_cse=False, policy=keep)  # loops share nothing
    def layer(state: State, _: None) -> tuple[State, tuple[State, Stages, Flag]]:
        new, stages, converged = integrator.advance(ham, state, h)
        new = jax.tree.map(lambda leaf: leaf.astype(dtype), new)
        return new, (new, stages, converged)

    _, (later, stages, converged) = jax.lax.scan(layer, state0, length=depth)
    states = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), state0, later)
    # A map of its own rather than an output of the layer: dropped where nobody asks for energies.
    energies = jax.lax.map(jax.checkpoint(lambda state: ham.energy(state)), states)
    finite = jnp.isfinite(states.q[-1]).all() & jnp.isfinite(states.p[-1]).all()
    return Trajectory(states.q, states.p, stages, energies, converged.all() & finite, h)


@eqx.filter_jit
def transport(
    ham: Hamiltonian, integrator: AbstractIntegrator, trajectory: Trajectory, X: Rows
) -> Rows:
    """Carry passive points through all layers of a recorded flow.

    Parameters
    ----------
    ham, integrator
        Those that made the trajectory.
    trajectory : Trajectory
    X : Array, shape (m, d)

    Returns
    -------
    Array, shape (m, d)

    Examples
    --------
    >>> from ideareg.integrators import RK4
    >>> from ideareg.kernels import Constant
    >>> ham, state = Hamiltonian(Constant()), State(jnp.zeros((1, 1)), jnp.ones((1, 1)))
    >>> transport(ham, RK4(), shoot(ham, state, 2, RK4()), jnp.array([[5.0]])).item()
    6.0
    """
    layer = _layer(ham, integrator, trajectory)
    return jax.lax.scan(lambda x, stages: (layer(x, stages), None), X, trajectory.stages)[0]


@eqx.filter_jit
def transport_path(
    ham: Hamiltonian, integrator: AbstractIntegrator, trajectory: Trajectory, X: Rows
) -> Float[Array, "states m d"]:
    """Carry passive points and return them before the first layer and after each, for plots."""
    layer = _layer(ham, integrator, trajectory)

    def visit(x: Rows, stages: Stages) -> tuple[Rows, Rows]:
        x = layer(x, stages)
        return x, x

    return jnp.concatenate([X[None], jax.lax.scan(visit, X, trajectory.stages)[1]])


@eqx.filter_jit
def inverse_transport(
    ham: Hamiltonian,
    integrator: AbstractIntegrator,
    trajectory: Trajectory,
    Y: Rows,
    *,
    max_steps: int = 300,
) -> Solution[Rows]:
    """Undo `transport` exactly: the inverse of the discrete map, not of the continuous flow.

    Layers are inverted from last to first by the iteration ``x <- y - (carry(x) - x)``, which
    converges while the step times the Lipschitz constant of the velocity is below one. Where a
    layer folds space, one of the several preimages comes back, or a failure is reported.

    Parameters
    ----------
    ham, integrator
        Those that made the trajectory.
    trajectory : Trajectory
    Y : Array, shape (m, d)
        Points after the last layer.
    max_steps : int
        Bound on the iterations per layer.

    Returns
    -------
    Solution
        The points before the first layer, shape (m, d); ``stats["layers_failed"]`` counts layers
        that were not inverted to rounding.

    Examples
    --------
    >>> from ideareg.integrators import RK4
    >>> from ideareg.kernels import Constant
    >>> ham, state = Hamiltonian(Constant()), State(jnp.zeros((1, 1)), jnp.ones((1, 1)))
    >>> flow = shoot(ham, state, 2, RK4())
    >>> inverse_transport(ham, RK4(), flow, jnp.array([[6.0]])).value.item()
    5.0
    """
    layer = _layer(ham, integrator, trajectory)

    def undo(y: Rows, stages: Stages) -> tuple[Rows, Flag]:
        return fixed_point(lambda x: y - (layer(x, stages) - x), y, max_steps=max_steps)

    x, converged = jax.lax.scan(undo, Y, trajectory.stages, reverse=True)
    failure = jnp.where(jnp.isfinite(x).all(), Result.max_steps, Result.not_finite)
    result = jnp.where(converged.all(), Result.converged, failure)
    return Solution(x, result, {"layers_failed": (~converged).sum()})


def _layer(
    ham: Hamiltonian, integrator: AbstractIntegrator, trajectory: Trajectory
) -> Callable[[Rows, Stages], Rows]:
    # Checkpointed: reverse mode keeps the points between layers and recomputes what is inside.
    return jax.checkpoint(
        lambda x, stages: integrator.carry(ham, stages, x, trajectory.h), prevent_cse=False
    )
