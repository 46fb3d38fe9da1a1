r"""One-step maps of the flow, as data.

A step is split in two. ``advance`` moves the momentum-carrying points and returns its *stages*, the
states in which it evaluated the velocity; ``carry`` moves passive points through the same step from
the stages alone. A passive point moves as a momentum-carrying one with p = 0 would (in `Geodesic`:
up to the order), so any number of them can follow later, in any order.

H is not separable: the schemes that keep the symplectic form are implicit, by fixed-point
iterations that converge while h times the Lipschitz constant of the velocity is below one. The
``converged`` flag of ``advance`` reports them; where ``carry`` cannot solve, its result is NaN.
"""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from ideareg._linalg import fixed_point
from ideareg._types import Flag, Rows, Scalar
from ideareg.hamiltonian import Hamiltonian, State

Stages = Any


def move(state: State, h: Scalar | float, rate: State) -> State:
    """Return ``state + h * rate``."""
    return jax.tree.map(lambda z, dz: z + h * dz, state, rate)


def _implicit_kick(
    ham: Hamiltonian, q: jax.Array, p: jax.Array, h: Scalar | float
) -> tuple[jax.Array, Flag]:
    """Solve p' = p - h H_q(q, p')."""
    return fixed_point(lambda new: p + h * ham.force(State(q, new)), p)


def _or_nan(x: Rows, converged: Flag) -> Rows:
    return jnp.where(converged, x, jnp.nan)


class AbstractIntegrator(eqx.Module):
    """A one-step map of the Hamiltonian flow.

    Attributes
    ----------
    order : int
        Order of the global error in the step size.
    symplectic : bool
        Whether the map is (conjugate to) a symplectic one, so that energy errors stay bounded.
    explicit : bool
        Whether it only evaluates the field; else it solves equations, with derivatives that take
        forward mode.
    """

    order: eqx.AbstractClassVar[int]
    symplectic: eqx.AbstractClassVar[bool]
    explicit: eqx.AbstractClassVar[bool]

    @abc.abstractmethod
    def advance(
        self, ham: Hamiltonian, state: State, h: Scalar | float
    ) -> tuple[State, Stages, Flag]:
        """Move the momentum-carrying points by one step.

        Parameters
        ----------
        ham : Hamiltonian
        state : State
        h : scalar
            Step size; negative steps run backwards.

        Returns
        -------
        state : State
        stages : pytree
            What `carry` needs.
        converged : Array, shape ()
        """

    @abc.abstractmethod
    def carry(self, ham: Hamiltonian, stages: Stages, x: Rows, h: Scalar | float) -> Rows:
        """Move passive points x, shape (m, d), through the step that left ``stages``."""


class SymplecticEuler(AbstractIntegrator):
    r"""One layer of a residual network, exactly; order 1, symplectic in (q_s, p_{s-1}).

    :math:`q_{s+1} = q_s + h\,(\Gamma(q_s,q_s)+r)p_s`, then
    :math:`p_{s+1} = p_s - h\,H_q(q_{s+1}, p_{s+1})`, the stationarity condition of the discrete
    least action problem. Passive points move explicitly, :math:`x + h\,\Gamma(x,q_s)p_s`.

    As a map of :math:`(q_s, p_{s-1})` this is the symplectic Euler scheme; as a map of
    :math:`(q_s, p_s)` it is conjugate to it, and its energy errors are as bounded.

    Examples
    --------
    >>> from ideareg.kernels import Constant
    >>> state = State(jnp.zeros((1, 1)), jnp.ones((1, 1)))
    >>> new, _, converged = SymplecticEuler().advance(Hamiltonian(Constant()), state, 0.5)
    >>> new.q.item(), new.p.item(), converged.item()
    (0.5, 1.0, True)
    """

    order: ClassVar[int] = 1
    symplectic: ClassVar[bool] = True
    explicit: ClassVar[bool] = False

    def advance(
        self, ham: Hamiltonian, state: State, h: Scalar | float
    ) -> tuple[State, State, Flag]:
        """Drift explicitly, then kick implicitly at the new positions."""
        q = state.q + h * ham.drift(state)
        p, converged = _implicit_kick(ham, q, state.p, h)
        return State(q, p), state, converged

    def carry(self, ham: Hamiltonian, stages: State, x: Rows, h: Scalar | float) -> Rows:
        """Apply the residual layer x + v(x)."""
        return x + h * ham.velocity(x, stages)


class ImplicitMidpoint(AbstractIntegrator):
    r"""Implicit midpoint rule; order 2, symplectic and reversible.

    :math:`z' = z + h\,J\nabla H((z+z')/2)`. A step of -h undoes a step of h.
    """

    order: ClassVar[int] = 2
    symplectic: ClassVar[bool] = True
    explicit: ClassVar[bool] = False

    def advance(
        self, ham: Hamiltonian, state: State, h: Scalar | float
    ) -> tuple[State, State, Flag]:
        """Solve for the midpoint and reflect the state in it."""
        middle, converged = fixed_point(lambda z: move(state, h / 2, ham.field(z)), state)
        return jax.tree.map(lambda m, z: 2 * m - z, middle, state), middle, converged

    def carry(self, ham: Hamiltonian, stages: State, x: Rows, h: Scalar | float) -> Rows:
        """Solve for the midpoint of x and reflect x in it."""
        middle, converged = fixed_point(lambda z: x + h / 2 * ham.velocity(z, stages), x)
        return _or_nan(2 * middle - x, converged)


class StormerVerlet(AbstractIntegrator):
    r"""Stormer-Verlet for a Hamiltonian that is not separable; order 2, symplectic and reversible.

    :math:`p_{1/2} = p - \frac h2H_q(q,p_{1/2})`,
    :math:`q' = q + \frac h2(H_p(q,p_{1/2}) + H_p(q',p_{1/2}))`,
    :math:`p' = p_{1/2} - \frac h2H_q(q',p_{1/2})` [1]_.

    References
    ----------
    .. [1] Hairer, Lubich, Wanner, "Geometric numerical integration", 2nd ed., 2006.
    """

    order: ClassVar[int] = 2
    symplectic: ClassVar[bool] = True
    explicit: ClassVar[bool] = False

    def advance(
        self, ham: Hamiltonian, state: State, h: Scalar | float
    ) -> tuple[State, tuple[State, State], Flag]:
        """Kick implicitly, drift by the mean of both ends, kick explicitly."""
        half, kicked = _implicit_kick(ham, state.q, state.p, h / 2)
        before = State(state.q, half)
        start = state.q + h / 2 * ham.drift(before)
        q, drifted = fixed_point(lambda new: start + h / 2 * ham.drift(State(new, half)), start)
        after = State(q, half)
        new = State(q, half + h / 2 * ham.force(after))
        return new, (before, after), kicked & drifted

    def carry(
        self, ham: Hamiltonian, stages: tuple[State, State], x: Rows, h: Scalar | float
    ) -> Rows:
        """Move x by the mean of the velocities at both ends."""
        before, after = stages
        start = x + h / 2 * ham.velocity(x, before)
        new, converged = fixed_point(lambda z: start + h / 2 * ham.velocity(z, after), start)
        return _or_nan(new, converged)


class RK4(AbstractIntegrator):
    """The classical Runge-Kutta scheme; order 4, explicit, not symplectic."""

    order: ClassVar[int] = 4
    symplectic: ClassVar[bool] = False
    explicit: ClassVar[bool] = True

    def advance(
        self, ham: Hamiltonian, state: State, h: Scalar | float
    ) -> tuple[State, State, Flag]:
        """Combine the field at four stages."""

        def stage(k: State, a: Scalar) -> tuple[State, tuple[State, State]]:
            here = move(state, h * a, k)
            k = ham.field(here)
            return k, (here, k)

        still = jax.tree.map(jnp.zeros_like, state)
        _, (stages, rates) = jax.lax.scan(stage, still, jnp.asarray(_REACH, state.q.dtype))
        rate = jax.tree.map(_simpson, rates)
        return move(state, h, rate), stages, jnp.array(True)

    def carry(self, ham: Hamiltonian, stages: State, x: Rows, h: Scalar | float) -> Rows:
        """Combine the velocity of x at the same four stages."""

        def stage(k: Rows, at: tuple[Scalar, State]) -> tuple[Rows, Rows]:
            a, here = at
            k = ham.velocity(x + h * a * k, here)
            return k, k

        reach = jnp.asarray(_REACH, x.dtype)
        _, rates = jax.lax.scan(stage, jnp.zeros_like(x), (reach, stages))
        return x + h * _simpson(rates)


# How far along the step each stage of RK4 lies, in the direction of the stage before.
_REACH = (0.0, 0.5, 0.5, 1.0)


def _simpson(k: jax.Array) -> jax.Array:
    return (k[0] + 2 * (k[1] + k[2]) + k[3]) / 6


class Leapfrog(AbstractIntegrator):
    r"""The explicit kick-drift-kick of the paper's experiments, kept to reproduce them.

    :math:`p_{1/2} = p - \frac h2H_q(q,p)`, :math:`q' = q + h\,H_p(q,p_{1/2})`,
    :math:`p' = p_{1/2} - \frac h2H_q(q',p_{1/2})`. Because H is not separable this is of order 1,
    not symplectic and not reversible; use `StormerVerlet` for the scheme with those virtues.
    """

    order: ClassVar[int] = 1
    symplectic: ClassVar[bool] = False
    explicit: ClassVar[bool] = True

    def advance(
        self, ham: Hamiltonian, state: State, h: Scalar | float
    ) -> tuple[State, State, Flag]:
        """Kick, drift, kick, all explicit."""
        kicked = State(state.q, state.p + h / 2 * ham.force(state))
        q = state.q + h * ham.drift(kicked)
        p = kicked.p + h / 2 * ham.force(State(q, kicked.p))
        return State(q, p), kicked, jnp.array(True)

    def carry(self, ham: Hamiltonian, stages: State, x: Rows, h: Scalar | float) -> Rows:
        """Drift x with the kicked momentum."""
        return x + h * ham.velocity(x, stages)


class Geodesic(AbstractIntegrator):
    r"""A residual network whose weights are sampled from the continuous flow; explicit, order 1.

    The momentum-carrying points follow the continuous equations by two Runge-Kutta steps a layer,
    which keep the energy to fourth order and cost little, for they are few. Passive points take
    one residual step :math:`x + h\,\Gamma(x,q)p` with the state at the middle of the layer. So the
    momentum means the same whatever the depth, and no implicit step can fail to have a solution,
    as that of `SymplecticEuler` does once h times the Lipschitz constant of the velocity nears 1.

    Examples
    --------
    >>> from ideareg.kernels import Constant
    >>> state = State(jnp.zeros((1, 1)), jnp.ones((1, 1)))
    >>> Geodesic().advance(Hamiltonian(Constant()), state, 0.5)[0].q.item()
    0.5
    """

    order: ClassVar[int] = 1
    symplectic: ClassVar[bool] = False
    explicit: ClassVar[bool] = True

    def advance(
        self, ham: Hamiltonian, state: State, h: Scalar | float
    ) -> tuple[State, State, Flag]:
        """Take two Runge-Kutta steps and keep the state between them."""

        def half(state: State, _: None) -> tuple[State, State]:
            new = RK4().advance(ham, state, h / 2)[0]
            return new, new

        new, states = jax.lax.scan(half, state, length=2)
        middle = jax.tree.map(lambda leaf: leaf[0], states)
        return new, middle, jnp.array(True)

    def carry(self, ham: Hamiltonian, stages: State, x: Rows, h: Scalar | float) -> Rows:
        """Apply the residual layer x + v(x) of the middle."""
        return x + h * ham.velocity(x, stages)


INTEGRATORS: dict[str, type[AbstractIntegrator]] = {
    "symplectic_euler": SymplecticEuler,
    "implicit_midpoint": ImplicitMidpoint,
    "stormer_verlet": StormerVerlet,
    "rk4": RK4,
    "leapfrog": Leapfrog,
    "geodesic": Geodesic,
}


def get_integrator(name: str) -> AbstractIntegrator:
    """Return the integrator called ``name``.

    Raises
    ------
    ValueError
        If there is none of that name.

    Examples
    --------
    >>> get_integrator("rk4").order
    4
    """
    if name not in INTEGRATORS:
        raise ValueError(f"integrator must be one of {', '.join(INTEGRATORS)}, got {name!r}.")
    return INTEGRATORS[name]()
