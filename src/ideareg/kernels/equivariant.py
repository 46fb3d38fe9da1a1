r"""Reduced, equivariant, multichannel (REM) kernels: a layer from a group, a space and a kernel.

A REM kernel is a base kernel k on what a window R sees of a function x, moved by the group:

.. math:: K(x, x')_{(g,i),(g',i')} = k(Rg^{-1}x, Rg'^{-1}x')\,\delta_{ii'}.

Its functions are :math:`f(x)(g) = h(Rg^{-1}x)` with h of the space of k and of the same norm, so
:math:`f(gx) = gf(x)`: with the translations of a grid and activation features they are the layers
of a convolutional network, ridge regression is a layer trained with weight decay on its filters,
and the flow of Γ = K is a residual one that commutes with the group.

Memory: what `apply` holds is the patches of ``Y``, those of one tile of ``X``, and one tile of
kernel values (`TILE_ENTRIES` each); `gram` holds all patches and its result. Nothing of the size
rows² × pixels² is formed.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ideareg._types import Diagonals, Matrix, Point, Points, Rows
from ideareg.kernels.base import (
    AbstractFeatureKernel,
    AbstractKernel,
    Nugget,
    as_kernel,
    contains_nugget,
    map_row_tiles,
)
from ideareg.kernels.groups import AbstractGroup, Group, Ints
from ideareg.kernels.matrix import AbstractSummable, KernelMap
from ideareg.kernels.stretched import Stretched


class REM(AbstractSummable):
    """Reduced, equivariant, multichannel kernel.

    Rows of data are functions on the points of the group's space, channels last; outputs are
    functions on the group, or on what ``stride`` and ``pool`` leave of it.
    Where inputs and outputs are of one shape, as for translations and equal channels, the kernel
    can shape a flow.

    Parameters
    ----------
    group : AbstractGroup
        See `ideareg.kernels.groups`.
    window : int, sequence of int, or None
        R: the points that are seen from point 0, or the width of a window of a grid, centred
        there; None for all points.
    base : scalar kernel or function of two patches
        k. With features (`Activation`, `Linear`, ...) the layers have filters: see `features`.
    channels, out_channels : int
        Of inputs and outputs. All input channels are in the patch; output channels share k.
    stride : int
        Keep the elements that move point 0 by multiples of it, a subgroup.
    pool : None, "group", or sequence of int
        Elements W whose values are averaged, f(gW): all of them ("group": an invariant kernel), a
        subgroup such as ``group.stabiliser()`` (functions on the quotient), or any others.

    Raises
    ------
    ValueError
        If window, stride or pool do not fit the group, or the base kernel has a nugget.

    Examples
    --------
    >>> from ideareg.kernels import Activation
    >>> from ideareg.kernels.groups import translations
    >>> layer = REM(translations((6, 6)), 3, Activation("tanh"), channels=2, out_channels=4)
    >>> layer.n_inputs, layer.n_outputs, layer.features(jnp.zeros((1, 72))).shape
    (72, 144, (1, 36, 19))
    """

    base: AbstractKernel
    index: Int[Array, "o w p t"]
    weight: Float[Array, "o w p t"] | None
    elements: Int[Array, "o w"]
    n_points: int = eqx.field(static=True)
    channels: int = eqx.field(static=True)
    out_channels: int = eqx.field(static=True)

    def __init__(
        self, group: AbstractGroup, window: Any, base: Any, *, channels: int = 1,
        out_channels: int = 1, stride: int = 1, pool: Any = None,
    ) -> None:  # fmt: skip
        self.base = scalar_base(base)
        for name, value in (("channels", channels), ("out_channels", out_channels)):
            if not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"REM: {name} must be a positive integer, got {value!r}.")
        self.n_points, self.channels = group.n_points, int(channels)
        self.out_channels = int(out_channels)
        # NumPy on the host, like a number that is not a JAX array yet (`real_array`).
        elements: Any = _output_sets(group, stride, pool)
        index: Any
        index, weight = group.sample(window_points(group, window))
        self.elements, self.index = elements, index[elements].astype(np.int32)
        taps: Any = None if weight is None else weight[elements]
        self.weight = taps

    def __repr__(self) -> str:
        outputs, pooled, window, _ = self.index.shape
        return (
            f"REM(base={self.base!r}, points={self.n_points}, window={window}, outputs={outputs}, "
            f"pooled={pooled}, channels={self.channels}->{self.out_channels})"
        )

    @property
    def n_inputs(self) -> int:
        """Entries of a row of data."""
        return self.n_points * self.channels

    @property
    def n_outputs(self) -> int:
        """Entries of a row of outputs."""
        return len(self.index) * self.out_channels

    def patches(self, X: Points) -> Float[Array, "n o w pc"]:
        """Return what the window sees from each element of each output, of each row."""
        if X.ndim != 2 or X.shape[1] != self.n_inputs:
            raise ValueError(
                f"REM: rows must have {self.n_inputs} entries ({self.n_points} points, "
                f"{self.channels} channels), got shape {X.shape}."
            )
        seen = X.reshape(len(X), self.n_points, self.channels)[:, self.index]
        if self.weight is None:
            seen = seen[:, :, :, :, 0]
        else:
            seen = (seen * jnp.asarray(self.weight, X.dtype)[..., None]).sum(4)
        return seen.reshape(*seen.shape[:3], -1)

    def features(self, X: Points) -> Float[Array, "n o F"]:
        r"""Return Ψ with :math:`f(x)(g) = W^T\Psi(x)_g` and :math:`\|f\| = |W|`.

        These are for ridge regression in weight space: W, of shape (F, out_channels), are the
        filters of a convolution, a bias included where the base kernel has one.

        Raises
        ------
        TypeError
            If the base kernel has no features.
        """
        if not isinstance(self.base, AbstractFeatureKernel):
            raise TypeError(
                f"REM: {type(self.base).__name__} has no features; use gram or apply, or a base "
                "kernel that has them, such as Activation or RandomFourier."
            )
        seen = self.patches(X)
        psi = self.base.feature_matrix(seen.reshape(-1, seen.shape[-1]))
        return psi.reshape(*seen.shape[:3], -1).mean(2)

    def channel_gram(self, X: Points, Y: Rows | None = None) -> Matrix:
        """Return the block of one output channel, shape (n * outputs, m * outputs)."""
        if isinstance(self.base, AbstractFeatureKernel):
            left = self.features(X).reshape(-1, self._n_features(X))
            right = left if Y is None else self.features(Y).reshape(-1, left.shape[1])
            return left @ right.T
        U = self.patches(X)
        V = U if Y is None else self.patches(Y)
        pooled, size = U.shape[2:]
        rows = U.reshape(-1, size)
        if pooled == 1:
            return self.base.gram(rows, V.reshape(-1, size))
        # One column of the result at a time, so that no larger matrix is formed.
        ones = jnp.full(pooled, 1 / pooled, U.dtype)
        columns = jax.lax.map(
            lambda seen: self.base.apply(rows, seen, ones), V.reshape(-1, pooled, size)
        )
        return columns.T.reshape(-1, pooled, len(columns)).mean(1)

    def _n_features(self, X: Points) -> int:
        return int(jax.eval_shape(self.features, X[:1]).shape[-1])

    def __call__(self, x: Point, y: Point) -> Float[Array, "a b"]:
        """Return K(x, y), shape (n_outputs, n_outputs), for two rows."""
        return self.gram(x[None], y[None])

    def gram(self, X: Points, Y: Rows | None = None) -> Float[Array, "na mb"]:
        """Return the block matrix, shape (n * n_outputs, m * n_outputs)."""
        gram = self.channel_gram(X, Y)
        return gram if self.out_channels == 1 else jnp.kron(gram, jnp.eye(self.out_channels))

    def apply(
        self, X: Points, Y: Rows | None, P: Rows, tile: int | None = None
    ) -> Float[Array, "n a"]:
        """Return the sums over j of K(x_i, y_j) p_j, shape (n, n_outputs), without the matrix.

        ``tile`` is the number of rows of ``X`` whose patches are in memory at a time.
        """
        Z = X if Y is None else Y
        if P.shape != (len(Z), self.n_outputs):
            raise ValueError(
                f"REM: weights must have shape {(len(Z), self.n_outputs)}, got {P.shape}."
            )
        columns = P.reshape(-1, self.out_channels)
        if isinstance(self.base, AbstractFeatureKernel):
            filters = self.features(Z).reshape(-1, self._n_features(Z)).T @ columns
            return (self.features(X) @ filters).reshape(len(X), -1)
        pooled = self.index.shape[1]
        V = self.patches(Z).reshape(-1, self.index.shape[2] * self.channels)
        spread = jnp.repeat(columns / pooled, pooled, axis=0)

        def some(rows: Points) -> Rows:
            U = self.patches(rows)
            values = self.base.apply(U.reshape(-1, U.shape[-1]), V, spread)
            return values.reshape(*U.shape[:3], -1).mean(2).reshape(len(rows), -1)

        return map_row_tiles(some, X, self.index[..., 0].size * self.channels, tile)

    def diagonal(self, X: Points) -> Diagonals:
        """Return the diagonal blocks, shape (n, n_outputs, n_outputs)."""
        return jax.lax.map(lambda x: self(x, x), X)

    def map_kernels(self, f: KernelMap) -> REM:
        """Return a copy with ``f`` applied to the base kernel."""
        new = f(self.base)
        if isinstance(new, Stretched) and jnp.ndim(new.length_scale) > 0:
            raise ValueError(
                "REM: one length per coordinate would break the symmetry, and patches have other "
                "coordinates; use one length for all."
            )
        return eqx.tree_at(lambda kernel: kernel.base, self, new)


def scalar_base(base: Any) -> AbstractKernel:
    kernel = as_kernel(base)
    if not isinstance(kernel, AbstractKernel):
        raise TypeError(f"base must be a scalar kernel, got {type(kernel).__name__}.")
    if contains_nugget(kernel):
        raise ValueError(
            f"base has a {Nugget.__name__}: patches have no row numbers; add the nugget outside."
        )
    return kernel


def window_points(group: AbstractGroup, window: Any) -> Ints:
    """Return the points of a window around point 0, as `REM` takes it.

    Raises
    ------
    ValueError
        If they are no points of the space.
    """
    if window is None:
        return np.arange(group.n_points)
    if isinstance(window, int | np.integer):
        if not 1 <= window <= min(group.shape):
            raise ValueError(
                f"REM: a window of width {window} does not fit the shape {group.shape}."
            )
        reach = np.arange(window) - (window - 1) // 2
        axes = np.meshgrid(*[reach % side for side in group.shape], indexing="ij")
        return np.ravel_multi_index(tuple(axes), group.shape).ravel()
    points = np.asarray(window)
    if points.ndim != 1 or not points.size or not np.issubdtype(points.dtype, np.integer):
        raise ValueError("REM: window must be a width, a sequence of points, or None for all.")
    if points.min() < 0 or points.max() >= group.n_points:
        raise ValueError(
            f"REM: window has points outside 0..{group.n_points - 1}: "
            f"{points.min()} to {points.max()}."
        )
    return points


def _output_sets(group: AbstractGroup, stride: int, pool: Any) -> Ints:
    """Return the elements that each output averages, one row per output."""
    if stride != 1 and not isinstance(group, Group):
        raise ValueError("REM: a stride needs a group that acts exactly on the points.")
    kept = group.multiples(stride) if isinstance(group, Group) and stride != 1 else None
    kept = np.arange(group.order) if kept is None else kept
    if pool is None:
        return kept[:, None]
    if isinstance(pool, str) and pool != "group":
        raise ValueError(f'REM: pool must be None, "group" or elements, got {pool!r}.')
    if isinstance(pool, str):
        return kept[None, :]
    chosen = np.unique(np.asarray(pool))
    if not np.issubdtype(chosen.dtype, np.integer) or not chosen.size:
        raise ValueError("REM: pool must hold the numbers of elements.")
    if chosen[0] < 0 or chosen[-1] >= group.order:
        raise ValueError(f"REM: pool has elements outside 0..{group.order - 1}.")
    sets = np.sort(np.stack([group.product(int(g), chosen) for g in kept]), axis=1)
    _, first = np.unique(sets, axis=0, return_index=True)  # cosets come once per element
    sets = sets[np.sort(first)]
    if isinstance(group, Group):
        # By the place to which the first element brings point 0: functions on the points.
        sets = sets[np.argsort(group.table[sets[:, 0], 0], kind="stable")]
    return sets


def equivariance_error(kernel: REM, group: AbstractGroup, X: Points, elements: Any = None) -> float:
    r"""Return how far :math:`f(gx) = gf(x)` fails, relative to the size of f.

    f is the function of the kernel whose weights are 1 at every output of the rows ``X``; it is
    tried on these rows. Groups of permutations give rounding; interpolated turns, their error, at
    pixels that stay in the frame (images that vanish near its border leave nothing else out).

    Parameters
    ----------
    kernel : REM
    group : AbstractGroup
        The one that made the kernel.
    X : Array, shape (n, n_inputs)
    elements : sequence of int, optional
        The g to try; by default all (of `Rotations`, the turns).

    Examples
    --------
    >>> from ideareg.kernels import Gaussian
    >>> from ideareg.kernels.groups import dihedral
    >>> D5, X = dihedral(5), jnp.array([[1.0, 2.0, 0.0, 0.5, 0.0]])
    >>> equivariance_error(REM(D5, 3, Gaussian()), D5, X) < 1e-6
    True
    """
    if elements is None:
        elements = range(group.actions)
    sets = np.asarray(kernel.elements)
    # Weights that differ from output to output: a symmetric choice would hide errors.
    ramp = np.linspace(0.5, 1.5, len(X) * kernel.n_outputs).reshape(len(X), -1)
    anchors = jnp.asarray(X)
    f = eqx.filter_jit(lambda kernel, rows: kernel.apply(rows, anchors, jnp.asarray(ramp)))
    value = np.asarray(f(kernel, anchors)).reshape(len(X), len(sets), -1)
    worst = 0.0
    for g in elements:
        moved = np.asarray(
            f(kernel, jnp.asarray(group.act(np.asarray(X), int(g), kernel.channels)))
        )
        wanted = group.act_on_outputs(value, int(g), sets)
        worst = max(worst, float(np.nanmax(np.abs(moved.reshape(value.shape) - wanted))))
    return worst / float(np.abs(value).max())
