r"""Idea formation: warps and maps between spaces, composed and learned jointly.

Blocks are flows :math:`\varphi^m` of a space and maps :math:`f_m` to the next one. The model
:math:`f_D\circ\varphi^D\circ\dots\circ f_1\circ\varphi^1` minimises

.. math:: \sum_m\Big[\frac{\nu_mL_m}2\sum_s\|v^m_s\|_{\Gamma^m}^2 + \lambda_m\|f_m\|_{K^m}^2\Big]
          + \ell(f_D\circ\dots\circ\varphi^1(X), Y)

in one of two forms. The *reduced* one has the data between the blocks as unknowns, every path
:math:`q^m` and image :math:`X^m`, which nuggets r and ρ let leave the flow and the map. The
*network* is backpropagation through the layers: weights where a kernel has features and no nugget,
sums of kernels otherwise. Without flows, and with activation features, it is a plain network.

The scaled momenta :math:`\nu p` are the back-propagated gradients, so they pass from block to
block: at a minimum the jump conditions hold,

.. math:: \nu_m p^m_L = 2\lambda_m\nabla f_m(q)^TZ^m,\qquad \nu_{m+1}p^{m+1}_0 = 2\lambda_mZ^m,
          \qquad 2\lambda_DZ^D = -\partial\ell,

with :math:`p_0 = p_1 + hH_q(q_1,p_1)` and :math:`f_m = K^m(\cdot,q)Z^m`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array

from ideareg._types import Points, Rows, Scalar
from ideareg.hamiltonian import Hamiltonian
from ideareg.kernels import AbstractFeatureKernel, AbstractOperatorKernel, Kernel, as_kernel
from ideareg.kernels.base import check_positive, contains_nugget, real_array

# What is unknown: an array for each block, or its weights.
Unknowns = tuple[Any, ...]


class Flow(eqx.Module):
    r"""A block that warps its space by L layers :math:`x + v_s(x)`.

    Parameters
    ----------
    kernel : kernel or function of two points
        Γ; a scalar kernel k means kI.
    nu : scalar
        ν, the price of the action.
    nugget : scalar
        r >= 0: training may leave the flow.
    depth : int
        L; with 0 the block is the identity.
    """

    kernel: Kernel = eqx.field(converter=as_kernel)
    nu: Scalar = eqx.field(converter=real_array, default=1.0)
    nugget: Scalar = eqx.field(converter=real_array, default=0.0)
    depth: int = eqx.field(static=True, default=4)

    def __check_init__(self) -> None:
        if not isinstance(self.depth, int) or self.depth < 0:
            raise ValueError(f"Flow: depth must be a number of layers >= 0, got {self.depth!r}.")
        check_positive(self, nu=self.nu)
        _check_kernel(self)

    @property
    def hamiltonian(self) -> Hamiltonian:
        """The energy whose flow this is."""
        return Hamiltonian(self.kernel, self.nugget)


class Map(eqx.Module):
    r"""A block that maps its space to the next one, :math:`f = K(\cdot,q)Z`.

    Parameters
    ----------
    kernel : kernel or function of two points
        K; a scalar kernel k means kI.
    penalty : scalar
        λ, the price of :math:`\|f\|_K^2`.
    nugget : scalar
        ρ >= 0: the data after the map may differ from its values.
    dim : int, optional
        Coordinates of the next space. The last map needs none: it has those of the targets; nor do
        kernels with ``n_outputs``, such as `REM`.
    """

    kernel: Kernel = eqx.field(converter=as_kernel)
    penalty: Scalar = eqx.field(converter=real_array, default=1.0)
    nugget: Scalar = eqx.field(converter=real_array, default=0.0)
    dim: int | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        if self.dim is not None and (not isinstance(self.dim, int) or self.dim < 1):
            raise ValueError(f"Map: dim must be a positive integer, got {self.dim!r}.")
        check_positive(self, penalty=self.penalty)
        _check_kernel(self)


Block = Flow | Map


def _check_kernel(block: Block) -> None:
    check_positive(block, allow_zero=True, nugget=block.nugget)
    if contains_nugget(block.kernel):
        raise ValueError(
            f"{type(block).__name__}: pass the nugget as nugget=, not inside the kernel."
        )


class Weights(eqx.Module):
    """The weights of a block with features ψ: w ψ(x), shapes (L, d, F) or (e, F)."""

    w: Array = eqx.field(converter=real_array)


def squared(outputs: Rows, targets: Rows) -> Scalar:
    r"""Return :math:`\sum|Y'-Y|^2`."""
    return ((outputs - targets) ** 2).sum()


def _lift(block: Block, q: Points, A: Rows) -> Rows:
    """Return (K(q, q) + r) A."""
    return block.kernel.apply(q, None, A) + block.nugget * A


def _solve(block: Block, q: Points, rows: Rows) -> Rows:
    """Return (K(q, q) + r)^-1 applied to rows."""
    gram = block.kernel.gram(q)
    factor = cho_factor(gram + block.nugget * jnp.eye(len(gram)))
    columns = rows.reshape(len(gram), -1) if _couples(block) else rows
    return cho_solve(factor, columns).reshape(rows.shape)


def _couples(block: Block) -> bool:
    return isinstance(block.kernel, AbstractOperatorKernel)


def features_of(block: Block) -> AbstractFeatureKernel:
    assert isinstance(block.kernel, AbstractFeatureKernel)
    return block.kernel


def _layer(block: Block, q: Points, unknown: Any) -> tuple[Rows, Scalar]:
    """Return what a layer adds or maps to, and the squared norm of its function."""
    if isinstance(unknown, Weights):
        return features_of(block).feature_matrix(q) @ unknown.w.T, (unknown.w**2).sum()
    lifted = _lift(block, q, unknown)
    return lifted, (unknown * lifted).sum()


class Formation(eqx.Module):
    r"""Blocks in the order in which data pass them, and the loss at the end.

    Parameters
    ----------
    blocks : sequence of Flow and Map
    loss : callable
        ℓ, of the outputs and the targets; `squared` by default.

    Raises
    ------
    TypeError, ValueError
        If there is no block, something else among them, or no map that gives outputs where one is
        needed.

    Examples
    --------
    >>> from ideareg.kernels import Activation
    >>> network = Formation([Map(Activation("tanh"), 0.1, dim=3), Map(Activation("tanh"), 0.1)])
    >>> network.dims(2, 1)
    [3, 1]
    """

    blocks: tuple[Block, ...] = eqx.field(converter=tuple)
    loss: Callable[[Rows, Rows], Scalar] = squared

    def __check_init__(self) -> None:
        if not self.blocks:
            raise ValueError("Formation: give at least one block.")
        for block in self.blocks:
            if not isinstance(block, Flow | Map):
                raise TypeError(f"Formation: blocks are Flow or Map, got {type(block).__name__}.")
        if not any(isinstance(block, Map) or block.depth for block in self.blocks):
            raise ValueError("Formation: flows of depth 0 alone leave nothing to learn.")

    def value(self, data: Unknowns, X: Points, Y: Rows) -> Scalar:
        r"""Return the reduced objective.

        .. math:: \sum_m\frac{\nu L}2\sum_s\Delta q^T(\Gamma+r)^{-1}\Delta q
                  + \lambda X^{mT}(K+\rho)^{-1}X^m + \ell(X^D, Y)

        Parameters
        ----------
        data : tuple of Array
            For each flow the states after its layers, (L, n, d); for each map its image, (n, e).
        X : Array, shape (n, d)
        Y : Array, shape (n, k)
        """
        total = jnp.zeros(())
        for block, q, after, coefficient in self._walk(data, X):
            if isinstance(block, Flow):
                steps = jnp.diff(after, axis=0, prepend=q[None])
                total = total + 0.5 * block.nu * (coefficient * steps).sum()
            else:
                total = total + block.penalty * (coefficient * after).sum()
        return total + self.loss(end_of(data, X), Y)

    def coefficients(self, data: Unknowns, X: Points) -> Unknowns:
        """Return the momenta of each flow, (L, n, d), and Z of each map, (n, e)."""
        return tuple(coefficient for _, _, _, coefficient in self._walk(data, X))

    def _walk(self, data: Unknowns, X: Points) -> Iterator[tuple[Block, Points, Array, Array]]:
        """Visit the blocks: what comes in, what comes out, and its coefficients."""
        q = X
        for block, after in zip(self.blocks, data, strict=True):
            if isinstance(block, Map):
                coefficient, end = _solve(block, q, after), after
            elif block.depth == 0:
                coefficient, end = after, q
            else:
                states = jnp.concatenate([q[None], after])
                coefficient = block.depth * jax.lax.map(
                    lambda ends, block=block: _solve(block, ends[0], ends[1] - ends[0]),
                    (states[:-1], states[1:]),
                )
                end = after[-1]
            yield block, q, after, coefficient
            q = end

    def run(self, unknowns: Unknowns, X: Points, nudges: Unknowns | None = None) -> Any:
        """Return the data after every layer of the network, and the sum of its penalties.

        Parameters
        ----------
        unknowns : tuple
            Of each block its `Weights`, or hp of each layer, (L, n, d), and Z, (n, e).
        X : Array, shape (n, d)
        nudges : tuple of Array, optional
            To be added to the data; their gradient is the back-propagated one.
        """
        q, data, total = jnp.asarray(X), [], jnp.zeros(())
        for m, (block, unknown) in enumerate(zip(self.blocks, unknowns, strict=True)):
            nudge = None if nudges is None else nudges[m]
            if isinstance(block, Map):
                q, size = _layer(block, q, unknown)
                q = q if nudge is None else q + nudge
                data.append(q)
                total = total + block.penalty * size
                continue

            def step(q: Points, parts: Any, block: Flow = block) -> Any:
                change, size = _layer(block, q, parts[0])
                q = q + change if parts[1] is None else q + change + parts[1]
                return q, (q, size)

            q, (states, sizes) = jax.lax.scan(step, q, (unknown, nudge), length=block.depth)
            data.append(states)
            total = total + 0.5 * block.nu * block.depth * sizes.sum()
        return tuple(data), total

    def network_value(
        self, unknowns: Unknowns, X: Points, Y: Rows, nudges: Unknowns | None = None
    ) -> Scalar:
        """Return the objective of the network; see `run`."""
        data, penalty = self.run(unknowns, X, nudges)
        return penalty + self.loss(end_of(data, X), Y)

    @property
    def last_map(self) -> int:
        """Number of the block whose outputs meet the targets, -1 without a map."""
        return max((m for m, b in enumerate(self.blocks) if isinstance(b, Map)), default=-1)

    def dims(self, d: int, k: int) -> list[int]:
        """Return the coordinates after each block, for inputs of d and targets of k.

        Raises
        ------
        ValueError
            If a map between blocks has no ``dim``.
        """
        found = []
        for m, block in enumerate(self.blocks):
            if isinstance(block, Map):
                given = block.dim or getattr(block.kernel, "n_outputs", None)
                if given is None and m != self.last_map:
                    raise ValueError(
                        f"Formation: block {m} is a Map to a space of unknown dimension; give dim=."
                    )
                d = k if given is None else given
            found.append(d)
        return found

    def first_data(self, X: Points, Y: Rows, random_state: int = 0) -> Unknowns:
        """Return a start of the reduced form.

        Flows stand still, maps are random projections, and the last one, where it can, meets the
        targets.
        """
        rng, q, data = np.random.default_rng(random_state), np.asarray(X), []
        dims = self.dims(q.shape[1], Y.shape[1])
        for m, (block, e) in enumerate(zip(self.blocks, dims, strict=True)):
            if isinstance(block, Flow):
                data.append(np.repeat(q[None], block.depth, axis=0))
                continue
            turned = q @ rng.normal(size=(q.shape[1], e)) / np.sqrt(q.shape[1])
            q = np.asarray(Y, float) if m == self.last_map and Y.shape[1] == e else turned
            data.append(q)
        return tuple(data)

    def first_unknowns(self, X: Points, Y: Rows, random_state: int = 0) -> Unknowns:
        """Return a start of the network: no warps, and maps of random weights."""
        rng, q, unknowns = np.random.default_rng(random_state), jnp.asarray(X), []
        aims = self.first_data(X, Y, random_state)
        for block, aim in zip(self.blocks, aims, strict=True):
            start: Any = np.zeros(aim.shape)
            if isinstance(block.kernel, AbstractFeatureKernel) and not float(block.nugget):
                n_features = block.kernel.feature_matrix(q[:1]).shape[1]
                shape = (*aim.shape[:-2], aim.shape[-1], n_features)
                size = 0.0 if isinstance(block, Flow) else 1 / np.sqrt(n_features)
                start = Weights(real_array(size * rng.normal(size=shape)))
            elif isinstance(block, Map):
                # A little nugget, for duplicated rows.
                soft = eqx.tree_at(lambda b: b.nugget, block, block.nugget + 0.1)
                start = np.asarray(_solve(soft, q, jnp.asarray(aim)))
            q = q if isinstance(block, Flow) else _layer(block, q, start)[0]
            unknowns.append(start)
        return tuple(unknowns)


def end_of(data: Unknowns, X: Points) -> Rows:
    """Return the data after the last block."""
    end = X
    for part in data:
        end = part if part.ndim == 2 else (part[-1] if len(part) else end)
    return end
