"""Two flows with one face: of momentum at points, and of momentum on a grid."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from ideareg._types import Result
from ideareg.gridflow import Box, Carrier, Path
from ideareg.gridflow import shoot as shoot_grid
from ideareg.hamiltonian import Hamiltonian, State
from ideareg.integrators import AbstractIntegrator
from ideareg.kernels import Kernel
from ideareg.registration.affine import Affine
from ideareg.shooting import Trajectory, inverse_transport, shoot, transport, transport_path

Floats = NDArray[np.float64]

# Rows go through a grid's flow in blocks of at most so many, padded to a power of two.
LARGEST_BLOCK, SMALLEST_BLOCK = 1 << 16, 1 << 6


class PointFlow(NamedTuple):
    """The flow of momenta at control points.

    Attributes
    ----------
    kernel : kernel
    control_points, momentum : ndarray, shape (c, d)
    depth : int
    scheme : AbstractIntegrator
    """

    kernel: Kernel
    control_points: Floats
    momentum: Floats
    depth: int
    scheme: AbstractIntegrator

    @property
    def dimension(self) -> int:
        """Number of coordinates."""
        return self.momentum.shape[1]

    def path(self, horizon: float = 1.0) -> Trajectory:
        """Return the way of the control points."""
        state = State(self.control_points, self.momentum)
        return shoot(Hamiltonian(self.kernel), state, self.depth, self.scheme, horizon)

    def energies(self) -> Floats:
        """Return H at each time step, shape (depth + 1,)."""
        return np.asarray(self.path().energies)

    def forward(self, X: Floats, horizon: float = 1.0) -> Floats:
        """Push points, shape (m, d), forward from time 0."""
        ham = Hamiltonian(self.kernel)
        return np.asarray(transport(ham, self.scheme, self.path(horizon), X))

    def backward(self, Y: Floats) -> Floats:
        """Push points, shape (m, d), backward from time 1 to 0.

        Raises
        ------
        ArithmeticError
            If a step of the flow cannot be undone.
        """
        found = inverse_transport(Hamiltonian(self.kernel), self.scheme, self.path(), Y)
        if found.outcome is not Result.converged:
            failed = int(found.stats["layers_failed"])
            raise ArithmeticError(
                f"{failed} of {self.depth} steps could not be undone: raise depth, or nu."
            )
        return np.asarray(found.value)

    def slopes(self, X: Floats) -> Floats:
        """Return the derivative of the push-forward at points, shape (m, d, d)."""
        return np.asarray(_slopes(Hamiltonian(self.kernel), self.scheme, self.path(), X))

    def steps(self, X: Floats) -> Floats:
        """Return points at each time step, shape (depth + 1, m, d)."""
        return np.asarray(transport_path(Hamiltonian(self.kernel), self.scheme, self.path(), X))


class GridFlow(NamedTuple):
    """The flow of momenta at the nodes of a periodic box.

    Attributes
    ----------
    box : Box
    frame : Affine
        From coordinates of the box to space.
    momentum : ndarray, shape (c, d)
        In the directions of space.
    depth : int
    """

    box: Box
    frame: Affine
    momentum: Floats
    depth: int

    @property
    def dimension(self) -> int:
        """Number of coordinates."""
        return self.momentum.shape[1]

    @property
    def control_points(self) -> Floats:
        """Where the nodes lie, shape (c, d)."""
        return self.frame(self.box.nodes())

    def path(self, horizon: float = 1.0) -> Path:
        """Return the velocity over time."""
        nodes = (self.momentum @ self.frame.matrix).T.reshape(-1, *self.box.shape)
        return _shoot(self.box, nodes, self.depth, horizon)

    def energies(self) -> Floats:
        """Return H at each time step, shape (depth + 1,)."""
        return np.asarray(self.path().energies)

    def forward(self, X: Floats, horizon: float = 1.0) -> Floats:
        """Push points, shape (m, d), forward from time 0."""
        return self._carried(X, self.path(horizon), False)

    def backward(self, Y: Floats, horizon: float = 1.0) -> Floats:
        """Push points, shape (m, d), backward to time 0."""
        return self._carried(Y, self.path(horizon), True)

    def slopes(self, X: Floats) -> Floats:
        """Return the derivative of the push-forward at points, shape (m, d, d)."""
        carrier, turn = _carrier(self.box, self.path()), self.frame.matrix
        inside = _in_blocks(lambda x: _carried_slopes(carrier, x), self.frame.inverse()(X))
        return turn @ inside @ turn.T

    def steps(self, X: Floats) -> Floats:
        """Return points at each time step, shape (depth + 1, m, d)."""
        carrier = _carrier(self.box, self.path())
        inside = _in_blocks(
            lambda x: jnp.moveaxis(_carried_steps(carrier, x), 0, 1), self.frame.inverse()(X)
        )
        return np.stack([self.frame(x) for x in np.moveaxis(inside, 1, 0)])

    def _carried(self, X: Floats, path: Path, back: bool) -> Floats:
        carrier = _carrier(self.box, path)
        inside = self.frame.inverse()(X)
        return self.frame(_in_blocks(lambda x: _carry(carrier, x, back), inside))


Flow = PointFlow | GridFlow


@eqx.filter_jit
def _slopes(ham: Hamiltonian, scheme: AbstractIntegrator, path: Trajectory, X: Any) -> Any:
    # Points do not act on each other, so one derivative serves all.
    return _columns(lambda x: transport(ham, scheme, path, x), jnp.asarray(X))


@eqx.filter_jit
def _carried_slopes(carrier: Carrier, X: Any) -> Any:
    return _columns(carrier, jnp.asarray(X))


def _columns(move: Any, X: Any) -> Any:
    """Return the derivative of a map of rows at each of them, shape (m, d, d)."""

    def column(direction: Any) -> Any:
        toward = jnp.broadcast_to(direction, X.shape)
        return jax.jvp(move, (X,), (toward,))[1]

    return jnp.moveaxis(jax.lax.map(column, jnp.eye(X.shape[1])), 0, -1)


@eqx.filter_jit
def _shoot(box: Box, nodes: Any, depth: int, horizon: Any) -> Path:
    return shoot_grid(box, box.coefficients(jnp.asarray(nodes)), depth, horizon)


@eqx.filter_jit
def _carrier(box: Box, path: Path) -> Carrier:
    return Carrier.of(box, path, smooth=True)


@eqx.filter_jit
def _carry(carrier: Carrier, X: Any, back: bool) -> Any:
    return carrier(X, back)


@eqx.filter_jit
def _carried_steps(carrier: Carrier, X: Any) -> Any:
    return carrier.steps(X)


def _in_blocks(move: Any, X: Floats) -> Floats:
    """Apply a function of rows to blocks of few different sizes, so that few are compiled."""
    size = min(max(1 << (len(X) - 1).bit_length(), SMALLEST_BLOCK), LARGEST_BLOCK)
    parts = []
    for first in range(0, len(X), size):
        block = X[first : first + size]
        padded = np.concatenate([block, np.zeros((size - len(block), X.shape[1]))])
        parts.append(np.asarray(move(padded))[: len(block)])
    return np.concatenate(parts)
