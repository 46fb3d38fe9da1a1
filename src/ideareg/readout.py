"""The head: Gaussian process regression on the warped rows, exact or through inducing points.

Its kernel is a·k(x/ℓ, x'/ℓ) and its noise s, all learned; the ridge of kernel regression is s and
the mean of the process is the regressor. Rows arrive through a *flow*, in tiles where there are
many, so that nothing of size rows × rows or rows × layers is ever stored.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import solve_triangular
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from ideareg._types import Matrix, Points, Scalar
from ideareg.blocks import Flow
from ideareg.convex import risk, solve
from ideareg.kernels import AbstractKernel
from ideareg.kernels.stretched import Stretched
from ideareg.losses import (
    Moments,
    Terms,
    exact_terms,
    inverse_root,
    loss_value,
    sparse_terms,
    whitened_sums,
)
from ideareg.pointwise import AbstractPointwise

S = TypeVar("S")

# On the diagonal of the Gram matrix of the inducing points while they are learned; relative to
# k(x, x) = 1. Of a·k(x, x) it is the least variance of a prediction.
INDUCING_JITTER: Any = np.float64(1e-7)
# Rows at a time: the matrix rows × inducing points then stays in cache. An accelerator wants more
# to do at once: at 100,000 rows that takes an H100 from 46 to 17 ms a gradient.
TILE, ACCELERATOR_TILE = 1024, 8192
# The axis of the devices over which rows are shared.
ROWS = "rows"


class Batch(NamedTuple):
    """Padded rows on the device: inputs (n, d), targets (n, k), weights (n,)."""

    X: Float[Array, "n d"]
    Y: Float[Array, "n k"]
    weight: Float[Array, " n"]


class SharedBatch(Batch):
    """Rows in equal parts on all devices of all processes, see `ideareg.distributed`."""


def mesh() -> Mesh:
    """Return all devices of all processes in one line."""
    return Mesh(np.array(jax.devices()), (ROWS,))


class Posterior(eqx.Module):
    r"""What prediction needs of a fitted head.

    Mean :math:`k(x, P)\alpha`, variance :math:`a\,k(x,x) - |F\,k(P,x)|^2`, for warped x.
    """

    kernel: Stretched
    points: Float[Array, "M d"]
    dual: Float[Array, "M k"]
    factor: Float[Array, "R M"]
    amplitude: Scalar
    noise: Scalar
    present: Float[Array, " M"]

    def cross(self, q: Points) -> Matrix:
        """Return k(q, P), shape (n, M); 0 at padding."""
        return self.kernel.gram(q, self.points) * self.present

    def mean(self, q: Points) -> Float[Array, "n k"]:
        """Return the mean at warped points, shape (n, k)."""
        return self.cross(q) @ self.dual

    def variance(self, q: Points) -> Float[Array, " n"]:
        """Return the variance of the function, without noise, shape (n,)."""
        explained = ((self.cross(q) @ self.factor.T) ** 2).sum(1)
        return jnp.maximum(self.amplitude * self.kernel.diagonal(q) - explained, 0.0)

    def covariance(self, q: Points) -> Float[Array, "n n"]:
        """Return the covariance of the function, without noise, shape (n, n)."""
        half = self.cross(q) @ self.factor.T
        return self.amplitude * self.kernel.gram(q) - half @ half.T

    def squared_norms(self) -> Float[Array, " k"]:
        """Return the squared norm of the mean in the space of k, not a·k, for each output."""
        gram = self.kernel.gram(self.points) * self.present[:, None]
        return (self.dual * ((gram * self.present) @ self.dual)).sum(0)


class Spectrum(eqx.Module):
    r"""Rows as a sparse head sees them, whatever its amplitude and noise.

    With features :math:`T = KL^{-T}`, :math:`LL^T` the Gram matrix of the inducing points,
    :math:`T^TWT = Q\,\mathrm{diag}(v)\,Q^T`. For k outputs the likelihood of the process through
    its inducing points is that of independent coordinates, at no price for any a and s:

    .. math:: -2\log p(Y) = k\sum_i w_i\log 2\pi s + k\sum_j\log(1 + rv_j)
              + \frac1s\Big(\mathrm{tr}\,Y^TWY - \sum_j\frac{r|b_j|^2}{1 + rv_j}\Big),\quad r = a/s.

    Attributes
    ----------
    directions : Array, shape (M, M)
        :math:`Q^TL^{-1}`.
    values : Array, shape (M,)
        v.
    targets : Array, shape (M, k)
        :math:`b = Q^TT^TWY`.
    squares : Array, shape ()
        tr YᵀWY.
    rows : Array, shape ()
        Σ wᵢ.
    """

    directions: Float[Array, "M M"]
    values: Float[Array, " M"]
    targets: Float[Array, "M k"]
    squares: Scalar
    rows: Scalar

    @classmethod
    def of(cls, Li: Matrix, TT: Matrix, TY: Matrix, squares: Scalar, rows: Scalar) -> Spectrum:
        """Return that of the sums TᵀWT, TᵀWY, tr YᵀWY and Σ wᵢ, given L⁻¹."""
        values, Q = jnp.linalg.eigh(TT)
        return cls(Q.T @ Li, jnp.maximum(values, 0.0), Q.T @ TY, squares, rows)


class AbstractHead(eqx.Module):
    """A Gaussian process on warped rows with learnable lengths, amplitude and noise."""

    kernel: eqx.AbstractVar[AbstractKernel]
    log_scale: eqx.AbstractVar[Float[Array, " d"]]
    log_amplitude: eqx.AbstractVar[Scalar]
    log_noise: eqx.AbstractVar[Scalar]
    noise_floor: eqx.AbstractVar[Scalar]

    @property
    def unit(self) -> Stretched:
        """The kernel in its own lengths, before the amplitude."""
        return Stretched(self.kernel, jnp.exp(self.log_scale))

    @property
    def amplitude(self) -> Scalar:
        """Variance a of the function."""
        return jnp.exp(self.log_amplitude)

    @property
    def noise(self) -> Scalar:
        """Variance s of one observation."""
        return jnp.exp(self.log_noise) + self.noise_floor

    @abc.abstractmethod
    def charge(self, loss: str | AbstractPointwise, flow: Flow, rows: Batch) -> Scalar:
        """Return the loss of the head on the warped rows; λ of a pointwise loss is the noise."""


class AbstractProcess(AbstractHead):
    """A head that is conditioned on the rows rather than learned."""

    def charge(self, loss: str | AbstractPointwise, flow: Flow, rows: Batch) -> Scalar:
        """Return the loss of the best regressor on the warped rows."""
        if isinstance(loss, AbstractPointwise):
            q = flow(rows.X)
            return risk(loss, self.similarity(q, q), rows.Y, rows.weight, self.noise)
        terms = self.terms(flow, rows)
        return loss_value(loss, terms, self.noise, rows.weight.sum(), rows.Y.shape[1])

    def least(
        self, loss: AbstractPointwise, flow: Flow, rows: Batch
    ) -> tuple[Posterior, Float[Array, "n k"]]:
        """Return the regressor of least pointwise loss, and the dual Z of the rows.

        The regressor comes as a posterior that explains no variance.
        """
        q = flow(rows.X)
        Z = solve(loss, self.similarity(q, q), rows.Y, rows.weight, self.noise)
        points, dual, present = self.spread_dual(q, Z, rows)
        nothing = jnp.zeros((0, len(points)))
        parts = points, dual, nothing, self.amplitude, self.noise, present
        return Posterior(self.unit, *parts), Z

    @abc.abstractmethod
    def spread_dual(self, q: Points, Z: Matrix, rows: Batch) -> tuple[Points, Matrix, Array]:
        """Return points, coefficients and presence such that f = k(·, points) coefficients."""

    @abc.abstractmethod
    def terms(self, flow: Flow, rows: Batch) -> Terms:
        """Return what the losses are made of."""

    def condition(self, flow: Flow, rows: Batch) -> Posterior:
        """Return the posterior given the rows."""
        return self.conditioned(flow, rows)[0]

    @abc.abstractmethod
    def conditioned(self, flow: Flow, rows: Batch) -> tuple[Posterior, Matrix]:
        r"""Return the posterior given the rows, and what it undoes of changes before it.

        The latter is a matrix H: of a change J of the regressor at the rows the head undoes
        :math:`|HK^TWJ|^2/s`, with K the kernel between the rows and its points.
        """

    @abc.abstractmethod
    def similarity(self, q1: Points, q2: Points) -> Matrix:
        """Return the kernel of which `condition` is the ridge regression, between warped points."""


class ExactHead(AbstractProcess):
    """Every row is its own centre: O(n³), for some hundred rows."""

    kernel: AbstractKernel
    log_scale: Float[Array, " d"]
    log_amplitude: Scalar
    log_noise: Scalar
    noise_floor: Scalar

    def terms(self, flow: Flow, rows: Batch) -> Terms:
        """Return what the losses are made of."""
        gram = self.unit.gram(flow(rows.X))
        return exact_terms(gram, rows.Y, rows.weight, self.amplitude, self.noise)

    def conditioned(self, flow: Flow, rows: Batch) -> tuple[Posterior, Matrix]:
        """Return the posterior given the rows, and what it undoes: the rows are its points."""
        q = flow(rows.X)
        root = jnp.sqrt(rows.weight)
        a, s = self.amplitude, self.noise
        gram = self.unit.gram(q)
        B = jnp.eye(len(q)) + (a / s) * root[:, None] * gram * root[None, :]
        L = jnp.linalg.cholesky(B)
        half = solve_triangular(L, jnp.diag(root), lower=True)
        dual = (a / s) * (half.T @ (half @ rows.Y))
        present = (rows.weight > 0).astype(a.dtype)
        posterior = Posterior(self.unit, q, dual, (a / jnp.sqrt(s)) * half, a, s, present)
        gram = gram * present * present[:, None]
        Li = inverse_root(gram + jnp.diag(1 - present + INDUCING_JITTER))
        TT, _ = whitened_sums(Li, gram, rows.Y, rows.weight)
        return posterior, jnp.sqrt(a / s) * inverse_root(jnp.eye(len(q)) + (a / s) * TT) @ Li

    def spread_dual(self, q: Points, Z: Matrix, rows: Batch) -> tuple[Points, Matrix, Array]:
        """Return the rows themselves."""
        return q, self.amplitude * Z, (rows.weight > 0).astype(Z.dtype)

    def similarity(self, q1: Points, q2: Points) -> Matrix:
        """Return a·k."""
        return self.amplitude * self.unit.gram(q1, q2)


class SparseHead(AbstractProcess):
    """The process seen through M inducing points in the warped space: O(n M²)."""

    kernel: AbstractKernel
    log_scale: Float[Array, " d"]
    log_amplitude: Scalar
    log_noise: Scalar
    noise_floor: Scalar
    inducing: Float[Array, "M d"]
    present: Float[Array, " M"]
    jitter: Scalar = INDUCING_JITTER

    def gram(self) -> Matrix:
        """Return the jittered Gram matrix of the inducing points; padding is orthogonal to all."""
        gram = self.unit.gram(self.inducing) * self.present * self.present[:, None]
        return gram + jnp.diag(1 - self.present + self.jitter)

    def cross(self, q: Points) -> Matrix:
        """Return k(q, inducing), shape (n, M)."""
        return self.unit.gram(q, self.inducing) * self.present

    def moments(self, Li: Matrix, flow: Flow, rows: Batch) -> Moments:
        """Sum over the rows, tile by tile, what the evidence needs of them."""

        def of(tile: Batch) -> Moments:
            q = flow(tile.X)
            TT, TY = whitened_sums(Li, self.cross(q), tile.Y, tile.weight)
            squares = tile.weight @ (tile.Y**2).sum(1)
            return Moments(TT, TY, squares, tile.weight @ self.unit.diagonal(q))

        return sum_over_tiles(of, rows)

    def terms(self, flow: Flow, rows: Batch) -> Terms:
        """Return what the losses are made of."""
        gram = self.gram()
        Li = jax.lax.stop_gradient(inverse_root(gram))
        moments = self.moments(Li, flow, rows)
        return sparse_terms(gram, Li, moments, self.amplitude, self.noise)

    def conditioned(self, flow: Flow, rows: Batch) -> tuple[Posterior, Matrix]:
        """Return the posterior given the rows, and what it undoes."""
        return self.posterior(self.spectrum(flow, rows))

    def first(self, count: int, jitter: Scalar) -> SparseHead:
        """Return the head with its first inducing points alone, and another jitter."""
        leaves = [self.inducing[:count], self.present[:count], jitter]
        return eqx.tree_at(lambda h: [h.inducing, h.present, h.jitter], self, leaves)

    def spectrum(self, flow: Flow, rows: Batch) -> Spectrum:
        """Return the rows as the inducing points see them."""
        Li = inverse_root(self.gram())
        TT, TY, squares, _ = self.moments(Li, flow, rows)
        return Spectrum.of(Li, TT, TY, squares, rows.weight.sum())

    def posterior(self, spectrum: Spectrum) -> tuple[Posterior, Matrix]:
        r"""Return what `conditioned` does, from the spectrum of the rows.

        Here :math:`H^TH=L^{-T}(s/a+T^TWT)^{-1}L^{-1}`.
        """
        a, s, P = self.amplitude, self.noise, spectrum.directions
        values = (a / s) * spectrum.values
        dual = (a / s) * (P.T @ (spectrum.targets / (1 + values)[:, None]))
        factor = jnp.sqrt(a * values / (1 + values))[:, None] * P
        posterior = Posterior(self.unit, self.inducing, dual, factor, a, s, self.present)
        return posterior, jnp.sqrt((a / s) / (1 + values))[:, None] * P

    def spread_dual(self, q: Points, Z: Matrix, rows: Batch) -> tuple[Points, Matrix, Array]:
        """Return the inducing points, through which the rows are seen."""
        Li = inverse_root(self.gram())
        return self.inducing, self.amplitude * Li.T @ (Li @ (self.cross(q).T @ Z)), self.present

    def similarity(self, q1: Points, q2: Points) -> Matrix:
        """Return the Nyström kernel a·k(x, U)k(U, U)⁻¹k(U, x')."""
        Li = inverse_root(self.gram())
        return self.amplitude * (self.cross(q1) @ Li.T) @ (self.cross(q2) @ Li.T).T


class PrimalHead(AbstractHead):
    r"""A regressor whose coefficients are learned along with the warp.

    :math:`f(x) = o + k(\varphi(x), \varphi(U))\,PA` with the centres U carried by the flow. P is a
    constant that makes the penalty and the curvature of the loss in A nearly the identity at the
    start; it changes the path of a descent, not where it leads.

    Attributes
    ----------
    centres : Array, shape (M, d)
        U, before the warp.
    present : Array, shape (M,)
        0 for padding.
    root : Array, shape (M, R)
        P.
    coefficients : Array, shape (R, k)
        A.
    offset : Array, shape (k,)
        o, what the regressor returns far from all centres.
    """

    kernel: AbstractKernel
    log_scale: Float[Array, " d"]
    log_amplitude: Scalar
    log_noise: Scalar
    noise_floor: Scalar
    centres: Float[Array, "M d"]
    present: Float[Array, " M"]
    root: Float[Array, "M R"]
    coefficients: Float[Array, "R k"]
    offset: Float[Array, " k"]

    def cross(self, q: Points, u: Points) -> Matrix:
        """Return k(q, u) for warped rows and warped centres; 0 at padding."""
        return self.unit.gram(q, u) * self.present

    def charge(self, loss: str | AbstractPointwise, flow: Flow, rows: Batch) -> Scalar:
        """Return the penalised pointwise loss of the regressor on the warped rows."""
        if not isinstance(loss, AbstractPointwise):
            raise TypeError(f"PrimalHead needs a pointwise loss, got {loss!r}")
        u, dual = flow(self.centres), self.root @ self.coefficients
        f = self.offset + self.cross(flow(rows.X), u) @ dual
        penalty = jnp.vdot(dual, self.cross(u, u) @ dual)
        return self.noise * penalty + rows.weight @ loss.value(f, rows.Y)

    def similarity(self, q1: Points, q2: Points) -> Matrix:
        """Return k between warped points."""
        return self.unit.gram(q1, q2)


def tile_size(n: int) -> int:
    """Return the rows of each of the equal tiles into which ``n`` rows are cut."""
    tile = TILE if jax.default_backend() == "cpu" else ACCELERATOR_TILE
    if n <= tile:
        return n
    count = -(-n // tile)
    while n % count:
        count += 1  # not every bucket is a multiple of a tile: equal tiles, somewhat smaller
    if n // count < tile // 2:
        raise ValueError(f"rows: {n} do not divide into tiles; pad with rows of weight 0.")
    return n // count


def sum_over_tiles(of: Callable[[Batch], S], rows: Batch) -> S:
    """Add up ``of`` over tiles of the rows, recomputing each tile in reverse mode.

    Each device sums its own part of shared rows; all get the sum.
    """
    if isinstance(rows, SharedBatch):

        def total(part: SharedBatch) -> S:
            own, unravel = ravel_pytree(sum_over_tiles(of, Batch(*part)))
            found: S = unravel(_over_devices(own))
            return found

        by_device, everywhere = PartitionSpec(ROWS), PartitionSpec()
        # Types that vary by device would turn a gradient inside of a tile into a sum over all.
        return jax.shard_map(
            total, mesh=mesh(), in_specs=by_device, out_specs=everywhere, check_vma=False
        )(rows)
    size = tile_size(len(rows.X))
    if size == len(rows.X):
        return of(rows)
    count = len(rows.X) // size
    tiles = jax.tree.map(lambda a: a.reshape(count, size, *a.shape[1:]), rows)
    zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(of, _first(tiles)))

    def add(total: S, tile: Batch) -> tuple[S, None]:
        return jax.tree.map(jnp.add, total, jax.checkpoint(of)(tile)), None

    return jax.lax.scan(add, zero, tiles)[0]


@jax.custom_vjp
def _over_devices(own: Array) -> Array:
    """Return the sum over devices, by one message; reverse mode would send as much again."""
    return jax.lax.psum(own, ROWS)


# What comes back to a sum is the same on all devices, and comes in equal parts.
_over_devices.defvjp(
    lambda own: (_over_devices(own), None), lambda _, part: (jax.device_count() * part,)
)


def _first(tiles: Batch) -> Batch:
    return jax.tree.map(lambda a: a[0], tiles)
