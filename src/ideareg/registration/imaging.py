r"""Registration of images by one initial momentum on a grid, coarse to fine.

.. math:: \min_{p_0}\ \nu H(p_0) + R^2\sum_i w_iS_i(I_i\circ\varphi^{-1}, J_i)
          + \sum_k w_k\ell_k(\varphi(x_k))

with similarities S, the radius R of the target and any losses of points that ride along. The
momentum is :math:`p_0 = \Gamma^{-1/2}z` on a periodic box around the target, so that the action is
½ν|z|². At the minimum it lies along the gradient of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from scipy.interpolate import make_interp_spline
from scipy.optimize import OptimizeResult

from ideareg._types import Points, Result, Scalar
from ideareg.gridflow import Box, Carrier, resample, shoot
from ideareg.kernels import AbstractKernel
from ideareg.registration.affine import Affine
from ideareg.registration.descent import least
from ideareg.registration.images import Image, factors
from ideareg.registration.pictures import Picture

Floats = NDArray[np.float64]

Pairs = Sequence[tuple[Image, Image]]

# Nodes are this share of the kernel's half width apart, and a margin around the target is as wide
# as the kernel takes to fall to this share, or half the target.
RESOLUTION, DECAYED = 0.45, 0.1
# Pairs that L-BFGS remembers.
MEMORY = 10
MOST_NODES = {2: 160, 3: 64}


class Rider(NamedTuple):
    """Points that ride along, and what is wanted of them.

    Attributes
    ----------
    points : ndarray, shape (n, d)
        In the coordinates of the box.
    loss : callable
        From points (n, d) in the box to a number.
    weight : float
    """

    points: Any
    loss: Callable[[Points], Scalar]
    weight: Any


class Domain(NamedTuple):
    """A periodic box in space.

    Attributes
    ----------
    frame : Affine
        From coordinates of the box to space: a rotation and a shift.
    lengths : tuple of float
    margin : ndarray, shape (d,)
        Between the border of the box and the first pixel of the target.
    """

    frame: Affine
    lengths: tuple[float, ...]
    margin: Floats

    @classmethod
    def around(cls, target: Image, kernel: AbstractKernel) -> Domain:
        """Return a box whose flow does not reach around the periods."""
        margin = np.minimum(width(kernel, target, DECAYED), target.lengths / 2)
        frame = Affine(target.direction, target.origin - target.direction @ margin)
        return cls(frame, tuple((target.lengths + 2 * margin).tolist()), margin)

    def box(self, kernel: AbstractKernel, spacing: Any) -> Box:
        """Return nodes at most ``spacing`` apart."""
        count = np.maximum(np.ceil(np.array(self.lengths) / spacing), 8).astype(int)
        return Box.of(kernel, self.lengths, tuple(2 * next_fast_len((n + 1) // 2) for n in count))


def width(kernel: AbstractKernel, target: Image, share: float) -> float:
    """Return the distance at which a kernel falls to a share of its largest value."""
    r = np.linspace(0, 2 * target.lengths.max(), 2001)
    x = np.zeros((len(r), target.dimension))
    x[:, 0] = r
    values = np.asarray(kernel.gram(jnp.asarray(x), jnp.zeros((1, target.dimension)))).ravel()
    below = np.flatnonzero(values < share * values[0])
    return float(r[below[0]]) if len(below) else float(r[-1])


class Level(eqx.Module):
    """The objective at one resolution.

    Attributes
    ----------
    box : Box
    start : Array, shape (m, d)
        Nodes of the target's grid that are traced back, in the box.
    finer : list of Array
        Matrices that take displacements of these to all pixels, one for each axis.
    pixels : Array, shape (n, d)
        Pixels of the target, in the box.
    pictures : tuple of Picture
    riders : tuple of Rider
    nu, unit : scalar
        Price of the action, and the length of a pixel, so that z has no units.
    scales : Array, shape (pictures,)
        Price of each picture's mismatch.
    depth : int
    """

    box: Box
    start: Any
    finer: list[Any]
    pixels: Any
    pictures: tuple[Picture, ...]
    riders: tuple[Rider, ...]
    nu: Any
    unit: Any
    scales: Any
    depth: int = eqx.field(static=True)

    def value(self, z: Any) -> Scalar:
        """Return the objective of whitened momentum z, shape (d, n_1, ..., n_d)."""
        p = self.box.momentum(self.unit * z)
        carry = Carrier.of(self.box, shoot(self.box, p, self.depth), smooth=False)
        moved = carry(self.start, back=True) - self.start
        counts = [matrix.shape[1] for matrix in self.finer]
        field = jnp.moveaxis(moved.reshape(*counts, -1), -1, 0)
        for axis, matrix in enumerate(self.finer):
            field = jnp.moveaxis(jnp.tensordot(matrix, field, (1, axis + 1)), 0, axis + 1)
        places = self.pixels.T + field.reshape(len(field), -1)
        loss = sum(scale * of(places) for scale, of in zip(self.scales, self.pictures, strict=True))
        for rider in self.riders:
            loss = loss + rider.weight * rider.loss(carry(rider.points))
        return self.nu * self.box.energy(p) + loss


@eqx.filter_jit
def _value_and_gradient(level: Level, z: Any) -> tuple[Scalar, Array]:
    return jax.value_and_grad(level.value)(z)


def _level(
    domain: Domain, kernel: AbstractKernel, spacing: Any, pairs: Pairs, affine: Affine,
    similarity: str, nu: float, weights: Sequence[float], riders: Sequence[Rider], depth: int,
    dtype: Any, factor: int = 1,
) -> Level:  # fmt: skip
    target = pairs[0][1].coarser(factor)
    box = domain.box(kernel, np.maximum(spacing, target.spacing))
    counts = np.minimum(target.shape, np.ceil(2 * target.lengths / box.spacing).astype(int) + 1)
    axes, finer = [], []
    for n, m, h, margin in zip(target.shape, counts, target.spacing, domain.margin, strict=True):
        nodes, pixels = np.linspace(0, (n - 1) * h, max(m, 4)), h * np.arange(n)
        axes.append(nodes + margin)
        finer.append(np.asarray(make_interp_spline(nodes, np.eye(len(nodes)), k=3)(pixels), dtype))
    start = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    # From the box to space, and back through the affine map.
    back = affine.inverse()
    into = Affine(back.matrix @ domain.frame.matrix, back(domain.frame.shift))
    pixels = domain.frame.inverse()(target.points())
    pictures = tuple(Picture.of(similarity, *pair, into, factor, dtype) for pair in pairs)
    scales = np.asarray(weights, dtype) * np.asarray(target.radius**2, dtype)
    return Level(
        box.cast(dtype), np.asarray(start, dtype), finer, np.asarray(pixels, dtype), pictures,
        tuple(riders), np.asarray(nu, dtype), np.asarray(_pixel(pairs[0][1]), dtype), scales, depth,
    )  # fmt: skip


def _pixel(target: Image) -> float:
    """Return the length of a pixel."""
    return float(target.spacing.prod() ** (1 / target.dimension))


class Shot(NamedTuple):
    """The end of a descent.

    Attributes
    ----------
    box : Box
    momentum : ndarray, shape (c, d)
        p₀ at the nodes, in the directions of the box.
    gap : float
        Largest entry of the objective's gradient in z, relative to the objective at the start.
    result : Result
    iterations : int
    """

    box: Box
    momentum: Any
    gap: float
    result: Result
    iterations: int


def fit_images(
    pairs: Pairs, affine: Affine, kernel: AbstractKernel, *, nu: float, similarity: str,
    weights: Sequence[float], domain: Domain, nodes: int | None = None,
    riders: Sequence[Rider] = (), depth: int = 10, max_iter: int = 200, tol: float = 3e-4,
    dtype: Any = np.float32,
) -> Shot:  # fmt: skip
    """Minimise the objective by L-BFGS, at one resolution after the other.

    Parameters
    ----------
    pairs : sequence of (Image, Image)
        Sources and targets; the targets lie on one grid.
    affine : Affine
        From the source's space to the target's, before the flow.
    kernel : scalar kernel
        Γ, translation-invariant.
    nu : float
    similarity : {"ssd", "ncc", "mi"}
    weights : sequence of float
        Of the mismatch of each pair, beside the riders.
    domain : Domain
    nodes : int, optional
        Of the momentum, along the longest axis of the target.
    riders : sequence of Rider
    depth : int
        Time steps.
    max_iter : int
        At each resolution.
    tol : float
        A resolution ends when the objective falls by less than this share of its first value.
    dtype : dtype

    Returns
    -------
    Shot
    """
    target = pairs[0][1]
    least = RESOLUTION * width(kernel, target, 0.5)
    most = target.lengths.max() / ((MOST_NODES[target.dimension] if nodes is None else nodes) - 1)
    spacing = max(least, most) if nodes is None else most
    z: Any = None
    box: Any = None
    count = 0
    for factor in factors(target.shape):
        level = _level(
            domain, kernel, spacing, pairs, affine, similarity, nu, weights, riders, depth, dtype,
            factor,
        )  # fmt: skip
        z = _prolong(z, box, level.box)
        box = level.box
        found = _descend(level, z, max_iter, tol)
        z = np.asarray(found.x.reshape(z.shape), dtype)
        count += int(found.nit)
    result = Result.converged if found.success else Result.max_steps
    if not np.isfinite(found.fun):
        result = Result.not_finite
    box = domain.box(kernel, np.maximum(spacing, target.spacing))
    p = (
        np.asarray(box.values(box.momentum(_pixel(target) * z.astype(np.float64))))
        .reshape(len(box.shape), -1)
        .T
    )
    return Shot(box, p, float(np.abs(found.jac).max(initial=0.0)), result, count)


def _prolong(z: Any, old: Box | None, new: Box) -> Floats:
    """Return whitened momentum on other nodes, of the same energy."""
    if old is None or z is None:
        return np.zeros((len(new.shape), *new.shape))
    waves = resample(old.coefficients(z), old.shape, new.shape)
    # As the sum over nodes counts in the energy, not the mean.
    ratio = np.prod(old.shape) / np.prod(new.shape)
    return np.asarray(new.values(waves)) * ratio**0.5


def _descend(level: Level, z: Floats, max_iter: int, tol: float) -> OptimizeResult:
    dtype = level.start.dtype

    def value_and_gradient(x: Floats) -> tuple[Scalar, Array]:
        return _value_and_gradient(level, x.reshape(z.shape).astype(dtype))

    return least(value_and_gradient, np.asarray(z, dtype=np.float64).ravel(), max_iter, tol, MEMORY)
