r"""A block: the flow :math:`\varphi` that warps a space, and everything that fixes it.

The flow is that of :math:`H = \frac12p^T(\Gamma(q,q)+rI)p` from control points c with initial
momentum p₀. Learning sees the whitened momentum z instead,

.. math:: p_0 = \nu^{-1/2}C^{-T}z,\qquad CC^T = \Gamma(c,c) + rI,

so that the action :math:`\nu H` is :math:`\frac12|z|^2`: a standard normal prior, whatever
:math:`\nu` and the kernel. ``temper`` is :math:`\nu^{-1/2}`, and 0 (no warp) is an ordinary value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from ideareg._linalg import cholesky_with_jitter
from ideareg._types import Flag, Points, Result, Rows, Scalar, Solution
from ideareg.hamiltonian import Hamiltonian, State
from ideareg.integrators import AbstractIntegrator
from ideareg.kernels import AbstractOperatorKernel, Kernel
from ideareg.kernels.stretched import stretch
from ideareg.shooting import Trajectory, inverse_transport, shoot, transport

# Keeps the whitening of nearly coinciding control points finite; relative to k(x, x) = 1.
WHITENING_JITTER = 1e-6

Flow = Callable[[Rows], Rows]


class Warp(eqx.Module):
    """The flow of control points, as a function of whitened momentum.

    Attributes
    ----------
    kernel : kernel
        Γ, in units of ``exp(log_scale)``.
    integrator : AbstractIntegrator
    depth : int
        Number of layers L; 0 is the identity.
    momentum : Array, shape (M, d)
        Whitened momentum z.
    control_points : Array, shape (M, d)
    log_scale : Array, shape (d,)
    temper : Array, shape ()
        ν^(-1/2).
    nugget : Array, shape ()
        r, felt by the control points alone.
    present : Array, shape (M,)
        1 for control points, 0 for padding, whose momentum stays 0.
    """

    kernel: Kernel
    integrator: AbstractIntegrator
    depth: int = eqx.field(static=True)
    momentum: Float[Array, "M d"]
    control_points: Float[Array, "M d"]
    log_scale: Float[Array, " d"]
    temper: Scalar
    nugget: Scalar
    present: Float[Array, " M"]

    @property
    def hamiltonian(self) -> Hamiltonian:
        """The energy whose flow this is."""
        return Hamiltonian(stretch(self.kernel, jnp.exp(self.log_scale)), self.nugget)

    def whitening(self) -> tuple[Float[Array, "P P"], Scalar, Flag]:
        """Return C, the jitter that its factorisation took on top of the nugget, and success."""
        c, ham = self.control_points, self.hamiltonian
        present = self.present
        if isinstance(ham.kernel, AbstractOperatorKernel):
            present = jnp.repeat(present, c.shape[1])
        gram = ham.kernel.gram(c) * present * present[:, None]
        gram = gram + jnp.diag(jnp.where(present > 0, ham.nugget, 1.0))
        return cholesky_with_jitter(gram, WHITENING_JITTER)

    def initial_state(self) -> State:
        """Return the control points and their momentum p₀."""
        c, z = self.control_points, self.temper * self.momentum * self.present[:, None]
        if isinstance(self.hamiltonian.kernel, AbstractOperatorKernel):
            z = z.reshape(-1, 1)
        C, _, _ = self.whitening()
        return State(c, solve_triangular(C.T, z, lower=False).reshape(c.shape))

    def whitened(self, p: Points) -> Points:
        """Return the whitened momentum z of the initial momentum p; ν must be finite."""
        coupled = isinstance(self.hamiltonian.kernel, AbstractOperatorKernel)
        columns = p.reshape(-1, 1) if coupled else p
        return (self.whitening()[0].T @ columns).reshape(p.shape) / self.temper

    def at_depth(self, depth: int) -> Warp:
        """Return the same flow cut into ``depth`` layers: the momentum has no depth."""
        if depth < 1:
            raise ValueError(f"depth must be a number of layers >= 1, got {depth}.")
        return dataclasses.replace(self, depth=depth)

    def trajectory(self) -> Trajectory:
        """Shoot the control points through all layers."""
        return shoot(self.hamiltonian, self.initial_state(), self.depth, self.integrator)

    def along(self, trajectory: Trajectory) -> Flow:
        """Return the map of passive points that goes with ``trajectory``."""
        if self.depth == 0:
            return lambda X: X
        ham = self.hamiltonian
        return lambda X: transport(ham, self.integrator, trajectory, X)

    def __call__(self, X: Points) -> Points:
        """Carry the points X, shape (n, d), along the flow."""
        return X if self.depth == 0 else self.along(self.trajectory())(X)

    def back_along(self, trajectory: Trajectory) -> Callable[[Points], Solution[Points]]:
        """Return the inverse of the map of passive points that goes with ``trajectory``."""
        if self.depth == 0:
            return lambda Y: Solution(Y, jnp.asarray(Result.converged), {})
        ham = self.hamiltonian
        return lambda Y: inverse_transport(ham, self.integrator, trajectory, Y)

    def inverse(self, Y: Points) -> Solution[Points]:
        """Return the points that the flow carries to Y."""
        return self.back_along(self.trajectory())(Y)


def action(warp: Warp) -> Scalar:
    r"""Return :math:`\frac12|z|^2`, which is :math:`\nu H` of the initial state."""
    return 0.5 * (warp.present[:, None] * warp.momentum**2).sum()
