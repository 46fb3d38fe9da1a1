r"""Layers of inducing patches on any space that a group acts on: series, graphs, sets.

A layer is the REM kernel of a group G and a window R, :math:`K(x,x')_{gg'} = k(u_g,u'_{g'})` with
the view :math:`u_g = (x(g\cdot r))_{r\in R}`, with the dot-product kernel and the Nyström features
of `ideareg.convolution`. Views end with one constant more, the root mean square norm of the views
that the layer was fitted on, so that k tells all of them apart and not only their directions.

What comes out is a function on G, on which the next layer sees :math:`(f(gs))_{s\in S}`, S the
elements that bring point 0 into its window. The last layer averages over G: its features, and all
that is made of them, are invariant, to rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ideareg.convolution import (
    SAMPLED_IMAGES,
    SAMPLED_PATCHES,
    AbstractLayer,
    Floats,
    Maps,
    in_batches,
    root_gram,
    sphere_means,
)
from ideareg.kernels.groups import Group, Ints


class View(NamedTuple):
    """What a layer is before it has seen data.

    Attributes
    ----------
    points : ndarray of int
        R, the window.
    patches : int
        M, the number of inducing views and of the channels that come out.
    alpha : float
        Sharpness of κ.
    """

    points: Ints
    patches: int
    alpha: float


class ViewLayer(AbstractLayer):
    """One layer: views, their features on inducing views, averaged.

    Attributes
    ----------
    inducing : Array, shape (window * channels + 1, M)
        Unit vectors.
    whitening : Array, shape (M, M)
        (k(Z, Z) + ε)^(-1/2).
    index : Array of int, shape (outputs, averaged, window)
        The points that each view is made of.
    bias : Array, shape ()
        The constant that views end with.
    """

    inducing: Float[Array, "d M"]
    whitening: Float[Array, "M M"]
    index: Int[Array, "o w p"]
    bias: Float[Array, ""]
    alpha: float
    centred: bool = eqx.field(static=True)

    @property
    def entries(self) -> int:
        """Numbers that a row takes in memory."""
        return int(np.prod(self.index.shape[:2])) * max(self.inducing.shape)

    def __call__(self, maps: Maps) -> Maps:
        """Return the features of functions (n, 1, points, c), shape (n, 1, outputs, M)."""
        seen = maps[:, 0, self.index].reshape(len(maps), *self.index.shape[:2], -1)
        norm = jnp.sqrt((seen**2).sum(-1, keepdims=True) + self.bias**2)
        cosine = (seen @ self.inducing[:-1] + self.bias * self.inducing[-1]) / norm
        values = norm * jnp.exp(self.alpha * (jnp.minimum(cosine, 1.0) - 1.0))
        return (values.mean(2) @ self.whitening)[:, None]


def fit_views(
    maps: Floats, plans: tuple[View, ...], group: Group, random: np.random.RandomState
) -> tuple[ViewLayer, ...]:
    """Fit a stack of layers without labels, each on what those before make of a sample of the rows.

    Parameters
    ----------
    maps : ndarray, shape (n, 1, points, channels)
    plans : tuple of View
    group : Group
    random : RandomState

    Raises
    ------
    ValueError
        If all views are 0.
    """
    if len(maps) > SAMPLED_IMAGES:
        maps = maps[np.sort(random.choice(len(maps), SAMPLED_IMAGES, replace=False))]
    layers: tuple[ViewLayer, ...] = ()
    for plan, index in zip(plans, view_indices(plans, group), strict=True):
        layers = (*layers, _fit_layer(maps, plan, index, random))
        if len(layers) < len(plans):
            maps = np.concatenate(list(in_batches(layers[-1:], maps)))
    return layers


def view_indices(plans: tuple[View, ...], group: Group) -> list[Ints]:
    """Return what each layer sees, shapes (outputs, averaged, window)."""
    found = []
    table = group.table
    for i, plan in enumerate(plans):
        window = plan.points
        if i == 1:
            table = group.regular().table
        if i > 0:
            window = np.flatnonzero(np.isin(group.table[:, 0], plan.points))
        seen = table[:, window]
        last = i == len(plans) - 1
        # Views that several elements share come equally often, so once each is their mean.
        found.append(np.unique(seen, axis=0)[None] if last else seen[:, None])
    return found


def _fit_layer(maps: Floats, plan: View, index: Ints, random: np.random.RandomState) -> ViewLayer:
    views = index.reshape(-1, index.shape[2])
    row, view = np.divmod(_some(len(maps) * len(views), random), len(views))
    taken = maps[row[:, None], 0, views[view]].reshape(len(row), -1).astype(np.float64)
    bias = float(np.sqrt((taken**2).sum(1).mean()))
    if bias == 0:
        raise ValueError("X: every row is 0, so there is nothing to learn from.")
    taken = np.column_stack([taken, np.full(len(taken), bias)])
    unit = taken / np.linalg.norm(taken, axis=1, keepdims=True)
    inducing = sphere_means(unit, plan.patches, random)
    a, b = (
        np.ascontiguousarray(part, dtype=maps.dtype)
        for part in (inducing.T, root_gram(inducing, plan.alpha))
    )
    return ViewLayer(
        inducing=a, whitening=b, index=index.astype(np.int32), bias=np.asarray(bias, maps.dtype),
        alpha=float(plan.alpha), centred=False,
    )  # fmt: skip


def _some(count: int, random: np.random.RandomState) -> Ints:
    if count <= SAMPLED_PATCHES:
        return np.arange(count)
    return np.sort(random.choice(count, SAMPLED_PATCHES, replace=False))
