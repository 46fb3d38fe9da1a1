r"""The mechanics of a warp: points q with momenta p under :math:`H = \frac12p^T(\Gamma(q,q)+rI)p`.

The flow carries any point x along :math:`\dot x = \Gamma(x, q)p`. The nugget r lets the
momentum-carrying points leave the flow a little; it never acts on passive points.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from ideareg._types import Momenta, Point, Points, Rows, Scalar
from ideareg.kernels import Kernel, as_kernel
from ideareg.kernels.base import check_positive, contains_nugget, map_row_tiles, real_array

# The name under which reverse mode finds the values of the field, to keep rather than recompute.
FIELD = "field"


class State(eqx.Module):
    """Positions q and momenta p of the n points that shape the flow, each of shape (n, d)."""

    q: Points = eqx.field(converter=real_array)
    p: Momenta = eqx.field(converter=real_array)


class Hamiltonian(eqx.Module):
    r"""Energy and equations of motion of n interacting points.

    Parameters
    ----------
    kernel : kernel or function of two points
        :math:`\Gamma`; a scalar kernel k means :math:`kI`. It must be symmetric.
    nugget : scalar
        r >= 0.

    References
    ----------
    .. [1] Owhadi, "Do ideas have shape? Idea registration as the continuous limit of artificial
       neural networks", Physica D, 2023.

    Examples
    --------
    >>> from ideareg.kernels import Gaussian
    >>> ham = Hamiltonian(Gaussian())
    >>> ham.energy(State(jnp.zeros((1, 2)), jnp.array([[3.0, 4.0]]))).item()
    12.5
    """

    kernel: Kernel = eqx.field(converter=as_kernel)
    nugget: Scalar = eqx.field(converter=real_array, default=0.0)

    def __check_init__(self) -> None:
        check_positive(self, allow_zero=True, nugget=self.nugget)
        if contains_nugget(self.kernel):
            raise ValueError("Hamiltonian: pass the nugget as nugget=r, not inside the kernel.")

    def energy(self, state: State) -> Scalar:
        r"""Return :math:`\frac12p^T(\Gamma(q,q)+rI)p`, the squared RKHS norm of the velocity / 2.

        The flow keeps it, so over unit time it is also the action.
        """
        return 0.5 * jnp.vdot(state.p, self.drift(state))

    def drift(self, state: State) -> Points:
        r"""Return :math:`\dot q = H_p = \Gamma(q,q)p + rp`, shape (n, d)."""
        return self.kernel.apply(state.q, None, state.p) + self._nugget(state) * state.p

    def force(self, state: State) -> Momenta:
        r"""Return :math:`\dot p = -H_q`, shape (n, d)."""
        return self.field(state).p

    def velocity(self, x: Rows, state: State) -> Rows:
        r"""Return the velocity :math:`\Gamma(x,q)p` of passive points x, shape (m, d)."""
        return self.kernel.apply(x, state.q, state.p)

    def field(self, state: State) -> State:
        r"""Return :math:`(\dot q, \dot p)` as a `State`.

        :math:`\dot p_i = -(\nabla v(q_i))^Tp_i` with :math:`v = \Gamma(\cdot,q)p` held still: by
        the symmetry of the kernel this is :math:`-H_q` for half the work of differentiating H, and
        gives v on the way.
        """
        d = state.q.shape[1]

        def at(rows: Rows) -> Rows:
            v, pull_back = jax.vjp(lambda x: self.velocity(x, state), rows[:, :d])
            return jnp.hstack([v, -pull_back(rows[:, d:])[0]])

        # Both in one tile, so that they share its Gram matrix.
        rates = map_row_tiles(at, jnp.hstack([state.q, state.p]), len(state.q), None)
        rates = checkpoint_name(rates, FIELD)
        return State(rates[:, :d] + self._nugget(state) * state.p, rates[:, d:])

    def _nugget(self, state: State) -> Scalar:
        # In the precision of the state, whatever that of the number.
        return jnp.asarray(self.nugget, state.p.dtype)


def linear_momentum(state: State) -> Point:
    r"""Return :math:`\sum_ip_i`, shape (d,): kept by translation-invariant kernels.

    Examples
    --------
    >>> linear_momentum(State(jnp.zeros((2, 1)), jnp.array([[1.0], [2.0]]))).tolist()
    [3.0]
    """
    return state.p.sum(0)


def angular_momentum(state: State) -> Float[Array, "d d"]:
    r"""Return :math:`\sum_i q_ip_i^T - p_iq_i^T`, shape (d, d): kept by rotation-invariant kernels.

    Examples
    --------
    >>> angular_momentum(State(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 2.0]]))).tolist()
    [[0.0, 2.0], [-2.0, 0.0]]
    """
    outer = state.q.T @ state.p
    return outer - outer.T
