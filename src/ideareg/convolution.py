r"""Layers of inducing patches: convolutional networks whose layers are REM kernels, by Nyström.

A layer is the REM kernel of the translations of a grid, :math:`K(x,x')_{\tau\tau'} = k(u,u')` for
the patches :math:`u = R\tau^{-1}x`, with the base kernel

.. math:: k(u, u') = |u|\,|u'|\,\kappa(\cos\angle(u, u')),\qquad \kappa(t) = e^{\alpha(t-1)},

positive definite because all derivatives of κ are positive. Its features on M inducing patches Z,
unit vectors, are

.. math:: \varphi(u) = (k(Z,Z)+\epsilon I)^{-1/2}\,k(Z,u),

and the layer gives :math:`A\varphi`, A the Gaussian weights of the pooling: the Nyström features of
the kernel :math:`AKA^T`. With all patches of the data as Z, and ε = 0, nothing is approximated. The
next layer has inner products of these features for those of pixels, so that a stack is a deep
kernel, not a random net: nothing is learned from labels but the read-out, unless
`ideareg.refinement` moves the inducing patches.

Products with inducing patches are a convolution and norms a box filter, so a batch of maps costs
its own size times M in memory, and patches are never formed. Grids have two axes, a series is one
of height 1. With periodic borders a layer commutes with all translations by its stride; with zeros
outside, with those that keep what is not zero away from the border.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

Floats = NDArray[np.floating[Any]]
Maps = Float[Array, "n h w c"]

# On the diagonal of k(Z, Z), which is 1: features of lesser weight are noise.
WHITENING_RIDGE = 1e-3
# Inducing patches are centres of that many, taken from that many images.
SAMPLED_PATCHES = 20_000
SAMPLED_IMAGES = 2_000
MEANS_ITERATIONS = 25
# Bytes that the widest maps of a batch may take; small, so that they stay near the cache.
BATCH_BYTES = 8 << 20
# Squared norms below this share of a patch's own square are the rounding of its mean.
FLAT = 1e-6


class Plan(NamedTuple):
    """What a layer is before it has seen data.

    Attributes
    ----------
    window : int
        Width of patches, odd; less along an axis that is shorter.
    patches : int
        M, the number of inducing patches and of the channels that come out.
    alpha : float
        Sharpness of κ.
    stride : int
        Steps of the pooled grid.
    sigma : float
        Deviation of the pooling weights, in points; 0 for none.
    centred : bool
        Patches less their mean: no layer sees a change of brightness.
    """

    window: int
    patches: int
    alpha: float
    stride: int
    sigma: float
    centred: bool


class AbstractLayer(eqx.Module):
    """What layers of inducing patches have in common.

    Attributes
    ----------
    inducing : Array, shape (..., M)
        Unit vectors, along all axes but the last.
    whitening : Array, shape (M, M)
        (k(Z, Z) + ε)^(-1/2).
    alpha : float
        Sharpness of κ.
    centred : bool
        Whether patches are taken less their mean.
    """

    inducing: eqx.AbstractVar[Array]
    whitening: eqx.AbstractVar[Array]
    alpha: eqx.AbstractVar[float]
    centred: eqx.AbstractVar[bool]

    @property
    @abc.abstractmethod
    def entries(self) -> int:
        """Numbers that a row takes in memory."""

    @abc.abstractmethod
    def __call__(self, maps: Maps) -> Maps:
        """Return the features of maps (n, h, w, c), shape (n, p, q, M)."""


Layers = tuple[AbstractLayer, ...]


class PatchLayer(AbstractLayer):
    """One layer: patches, their features on inducing patches, pooled.

    Attributes
    ----------
    inducing : Array, shape (height, width, channels, M)
        Unit vectors, as the filters of a convolution.
    whitening : Array, shape (M, M)
        (k(Z, Z) + ε)^(-1/2).
    rows, columns : Array, shape (out, in)
        The pooling along each axis.
    """

    inducing: Float[Array, "a b c M"]
    whitening: Float[Array, "M M"]
    rows: Float[Array, "p h"]
    columns: Float[Array, "q w"]
    alpha: float
    centred: bool = eqx.field(static=True)
    periodic: bool = eqx.field(static=True)

    @property
    def entries(self) -> int:
        """Numbers that an image takes in memory."""
        return self.rows.shape[1] * self.columns.shape[1] * self.inducing.shape[3]

    def __call__(self, maps: Maps) -> Maps:
        """Return the pooled features of maps (n, h, w, c), shape (n, p, q, M)."""
        height, width, channels = self.inducing.shape[:3]
        padded = pad(maps, (height, width), self.periodic)
        box = jnp.ones((height, width, 1, 1), maps.dtype)
        square = _convolve((padded**2).sum(-1, keepdims=True), box)
        if self.centred:
            mean = _convolve(padded.sum(-1, keepdims=True), box)
            spread = square - mean**2 / (height * width * channels)
            square = jnp.where(spread > FLAT * square, spread, 0.0)
        # Where the patch is 0 its features are, whatever the angle; so are their derivatives.
        some = square > 0
        safe = jnp.sqrt(jnp.where(some, square, 1.0))
        norm = jnp.where(some, safe, 0.0)
        cosine = _convolve(padded, self.inducing) / safe
        values = norm * jnp.exp(self.alpha * (jnp.minimum(cosine, 1.0) - 1.0))
        pooled = jnp.einsum("ph,nhwm->npwm", self.rows, values)
        return jnp.einsum("qw,npwm->npqm", self.columns, pooled) @ self.whitening


@jax.custom_vjp
def _convolve(padded: Maps, filters: Array) -> Maps:
    return jax.lax.conv_general_dilated(
        padded, filters, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _convolve_forward(padded: Maps, filters: Array) -> tuple[Maps, tuple[Maps, Array]]:
    return _convolve(padded, filters), (padded, filters)


def _convolve_back(parts: tuple[Maps, Array], pushed: Maps) -> tuple[Maps, Array]:
    # A product for each place in the window: XLA's own takes 2.5 times as long on a processor.
    padded, filters = parts
    (a, b, c, M), (h, w) = filters.shape, pushed.shape[1:3]
    onto, filtered = jnp.zeros_like(padded), []
    for i, j in np.ndindex(a, b):
        seen = padded[:, i : i + h, j : j + w]
        filtered.append(seen.reshape(-1, c).T @ pushed.reshape(-1, M))
        onto = onto.at[:, i : i + h, j : j + w].add(pushed @ filters[i, j].T)
    return onto, jnp.stack(filtered).reshape(filters.shape)


_convolve.defvjp(_convolve_forward, _convolve_back)


def pad(maps: Any, window: tuple[int, int], periodic: bool) -> Any:
    """Return maps with the border that windows centred on each point need."""
    widths = [((side - 1) // 2, side // 2) for side in window]
    module = np if isinstance(maps, np.ndarray) else jnp
    return module.pad(maps, ((0, 0), *widths, (0, 0)), mode="wrap" if periodic else "constant")


def kappa_gram(inducing: Floats, alpha: float) -> Floats:
    """Return k(Z, Z) of unit vectors Z (M, d), shape (M, M)."""
    return np.exp(alpha * (np.minimum(inducing @ inducing.T, 1.0) - 1.0))


def root_gram(inducing: Floats, alpha: float, ridge: float = WHITENING_RIDGE) -> Floats:
    """Return (k(Z, Z) + ε)^(-1/2) of unit vectors Z (M, d)."""
    values, vectors = np.linalg.eigh(kappa_gram(inducing, alpha))
    return (vectors / np.sqrt(np.maximum(values, 0.0) + ridge)) @ vectors.T


def pooling(side: int, stride: int, sigma: float, periodic: bool) -> Floats:
    """Return Gaussian weights of a pooled axis, shape (ceil(side / stride), side).

    The pooled points lie symmetrically; the weights of a point far from the border add up to 1.
    """
    out = -(-side // stride)
    first = 0.0 if periodic else (side - 1 - (out - 1) * stride) / 2
    gap = (first + stride * np.arange(out))[:, None] - np.arange(side)
    if periodic:
        gap = (gap + side / 2) % side - side / 2
    if sigma == 0:
        return (np.abs(gap) == np.abs(gap).min(1, keepdims=True)).astype(float)
    far = np.arange(-100, 101) - first % 1
    total = np.exp(-0.5 * (far / sigma) ** 2).sum()
    return np.exp(-0.5 * (gap / sigma) ** 2) / total


def sample_patches(
    maps: Floats, plan: Plan, periodic: bool, random: np.random.RandomState
) -> Floats:
    """Return unit patches at random places of maps (n, h, w, c), shape (at most, d).

    Patches that are 0, or flat where a mean is taken off, are left out.
    """
    n, *sides, _ = maps.shape
    window = tuple(min(plan.window, side) for side in sides)
    views = np.lib.stride_tricks.sliding_window_view(
        pad(maps, window, periodic), window, axis=(1, 2)
    )
    places = n * sides[0] * sides[1]
    chosen = np.arange(places)
    if places > SAMPLED_PATCHES:
        chosen = np.sort(random.choice(places, SAMPLED_PATCHES, replace=False))
    image, row, column = np.unravel_index(chosen, (n, *sides))
    taken = np.moveaxis(views[image, row, column], 1, -1).reshape(len(chosen), -1)
    taken = taken.astype(np.float64)
    square = (taken**2).sum(1)
    if plan.centred:
        taken = taken - taken.mean(1, keepdims=True)
    norm = np.sqrt((taken**2).sum(1))
    kept = (norm > 0) & (norm**2 > FLAT * square)
    return taken[kept] / norm[kept, None]


def sphere_means(unit: Floats, count: int, random: np.random.RandomState) -> Floats:
    """Return at most ``count`` unit vectors that stand for the rows of ``unit``, by k-means.

    One thread and single precision: the sums have one order, and nothing hangs on their last bits.
    """
    distinct = np.unique(unit.astype(np.float32), axis=0)
    if len(distinct) > count:
        model = KMeans(
            count, init="random", n_init=1, max_iter=MEANS_ITERATIONS, random_state=random
        )
        with threadpool_limits(limits=1):
            distinct = model.fit(distinct).cluster_centers_
    norm = np.linalg.norm(distinct.astype(np.float64), axis=1, keepdims=True)
    return distinct[norm[:, 0] > 0] / norm[norm[:, 0] > 0]


def fit_layer(
    maps: Floats, plan: Plan, periodic: bool, random: np.random.RandomState
) -> PatchLayer:
    """Choose inducing patches by k-means on the sphere, without labels.

    Parameters
    ----------
    maps : ndarray, shape (n, h, w, c)
    plan : Plan
    periodic : bool
        Whether the grid wraps around; zeros lie outside otherwise.
    random : RandomState

    Raises
    ------
    ValueError
        If all patches are flat.
    """
    sides, channels = maps.shape[1:3], maps.shape[3]
    unit = sample_patches(maps, plan, periodic, random)
    if not len(unit):
        raise ValueError("X: every patch of the images is flat, so there is nothing to learn from.")
    found = sphere_means(unit, plan.patches, random)
    return layer_of(found, sides, channels, plan, periodic, maps.dtype)


def layer_of(
    inducing: Floats, sides: Any, channels: int, plan: Plan, periodic: bool, dtype: Any,
    ridge: float = WHITENING_RIDGE,
) -> PatchLayer:  # fmt: skip
    """Return the layer of given inducing patches, unit vectors (M, height * width * channels)."""
    window = tuple(min(plan.window, side) for side in sides)
    whitening = root_gram(inducing, plan.alpha, ridge)
    rows, columns = (pooling(side, plan.stride, plan.sigma, periodic) for side in sides)
    filters = np.moveaxis(inducing.reshape(-1, *window, channels), 0, -1)
    parts = (filters, whitening, rows, columns)
    a, b, c, d = (np.ascontiguousarray(part, dtype=dtype) for part in parts)
    return PatchLayer(
        inducing=a, whitening=b, rows=c, columns=d, alpha=float(plan.alpha), centred=plan.centred,
        periodic=periodic,
    )  # fmt: skip


def fit_layers(
    images: Floats, plans: tuple[Plan, ...], periodic: bool, random: np.random.RandomState
) -> tuple[PatchLayer, ...]:
    """Fit a stack of layers, each on what those before make of a sample of the images."""
    chosen = np.arange(len(images))
    if len(images) > SAMPLED_IMAGES:
        chosen = np.sort(random.choice(len(images), SAMPLED_IMAGES, replace=False))
    maps = images[chosen]
    layers: tuple[PatchLayer, ...] = ()
    for plan in plans:
        layers = (*layers, fit_layer(maps, plan, periodic, random))
        if len(layers) < len(plans):
            maps = np.concatenate(list(in_batches(layers[-1:], maps)))
    return layers


@eqx.filter_jit
def _run(layers: Layers, maps: Maps) -> Maps:
    for layer in layers:
        maps = layer(maps)
    return maps


def batch_rows(layers: Layers, itemsize: int) -> int:
    """Return how many images a batch holds."""
    widest = max(layer.entries for layer in layers)
    return int(max(1, min(256, BATCH_BYTES // (itemsize * widest))))


def in_batches(layers: Layers, images: Floats) -> Iterator[Floats]:
    """Yield the maps after the last layer, batch by batch, all of one compiled shape."""
    size = batch_rows(layers, images.dtype.itemsize)
    for start in range(0, len(images), size):
        part = images[start : start + size]
        # Padded with zero images, so that one shape is compiled.
        full = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)])
        yield np.asarray(_run(layers, full))[: len(part)]
