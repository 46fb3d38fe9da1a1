r"""The prior that a fit is the most probable point of: layers of independent Gaussian processes.

.. math:: Y = \xi\circ(I+\zeta_L)\circ\dots\circ(I+\zeta_1)(X),\qquad
          \zeta_s\sim\mathcal N\big(0, \tfrac1{\nu L}(\Gamma+rI)\big),\quad
          \xi\sim\mathcal N\big(0, \tfrac1{2\lambda}(K+\rho I)\big)

Minus its log density is, formally, the objective of least action: :math:`\frac{\nu L}2\sum\|v_s\|^2
+\lambda\|f\|^2` and the loss. As L grows the layers become a Brownian flow. For a kernel that
depends on differences alone each point moves by :math:`E|\varphi(x)-x|^2 = d\,(k(0)+r)/\nu` in d
columns, whatever L.

All points ride together, so a layer is one draw at where they are: no conditioning is needed, and
the draws at all points are of one function.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from ideareg._linalg import cholesky_with_jitter
from ideareg._types import Points
from ideareg.kernels import AbstractKernel, AbstractOperatorKernel, Kernel


def _draw(key: Array, kernel: Kernel, q: Points, columns: int, nugget: Array) -> Array:
    """Draw a process at q, one per column unless the kernel couples them."""
    gram = kernel.gram(q)
    # Rounding may leave a Gram matrix of many near points indefinite: then, and only then, jitter.
    root, _, _ = cholesky_with_jitter(gram + nugget * jnp.eye(len(gram)), 0.0)
    if isinstance(kernel, AbstractOperatorKernel):
        return (root @ jax.random.normal(key, (len(gram),), q.dtype)).reshape(len(q), columns)
    return root @ jax.random.normal(key, (len(gram), columns), q.dtype)


@partial(jax.jit, static_argnames=("depth", "count"))
def _flows(
    key: Array, kernel: Kernel, X: Points, nu: Array, nugget: Array, depth: int, count: int
) -> Float[Array, "count layers n d"]:
    def layer(q: Array, key: Array) -> tuple[Array, Array]:
        moved = q + _draw(key, kernel, q, X.shape[1], nugget) / jnp.sqrt(nu * depth)
        return moved, moved

    def one(key: Array) -> Array:
        _, path = jax.lax.scan(layer, X, jax.random.split(key, depth))
        return jnp.concatenate([X[None], path])

    return jax.lax.map(one, jax.random.split(key, count))


@partial(jax.jit, static_argnames="outputs")
def _heads(
    key: Array, kernel: AbstractKernel, q: Array, penalty: Array, nugget: Array, outputs: int
) -> Float[Array, "count n k"]:
    def one(parts: tuple[Array, Array]) -> Array:
        key, q = parts
        return _draw(key, kernel, q, outputs, nugget) / jnp.sqrt(2 * penalty)

    return jax.lax.map(one, (jax.random.split(key, len(q)), q))


def _checked(X: ArrayLike, **numbers: float) -> Points:
    points = jnp.asarray(X, dtype=float)
    if points.ndim != 2 or not len(points) or not jnp.isfinite(points).all():
        raise ValueError(f"X: expected finite points of shape (n, d), got {points.shape}.")
    for name, value in numbers.items():
        least = 0 if "nugget" in name else 1 if name in ("depth", "count", "outputs") else None
        if not (value > 0 if least is None else value >= least):
            wanted = "positive" if least is None else f">= {least}"
            raise ValueError(f"{name} must be {wanted}, got {value}.")
    return points


def _finite(draws: Array, kernel: Kernel) -> Array:
    if not jnp.isfinite(draws).all():
        raise ValueError(
            f"{kernel!r} is no covariance at these points: its Gram matrix is not finite and "
            "positive semi-definite. Use a positive definite kernel, or a nugget."
        )
    return draws


def sample_flows(
    key: Array,
    kernel: Kernel,
    X: ArrayLike,
    *,
    nu: float = 1.0,
    depth: int = 10,
    nugget: float = 0.0,
    count: int = 1,
) -> Float[Array, "count layers n d"]:
    r"""Draw flows from the prior, and where they carry the points at each layer.

    Parameters
    ----------
    key : jax.random.key
    kernel : kernel
        Γ, scalar or operator-valued.
    X : array-like, shape (n, d)
    nu : float, default=1.0
        ν: a large one moves points little.
    depth : int, default=10
        Layers L.
    nugget : float, default=0.0
        r: points then also move on their own.
    count : int, default=1
        Flows to draw.

    Returns
    -------
    Array, shape (count, depth + 1, n, d)
        The first of each is X.

    Raises
    ------
    ValueError
        If X is not a finite table, a number is out of range, or a Gram matrix is indefinite.

    Examples
    --------
    >>> from ideareg.kernels import Gaussian
    >>> paths = sample_flows(jax.random.key(0), Gaussian(), [[0.0], [0.1]], depth=5, count=3)
    >>> paths.shape
    (3, 6, 2, 1)
    """
    points = _checked(X, nu=nu, depth=depth, nugget=nugget, count=count)
    numbers = jnp.asarray(nu), jnp.asarray(nugget)
    return _finite(_flows(key, kernel, points, *numbers, depth, count), kernel)


def sample_networks(
    key: Array,
    warp_kernel: Kernel,
    kernel: AbstractKernel,
    X: ArrayLike,
    *,
    nu: float = 1.0,
    penalty: float = 0.5,
    depth: int = 10,
    nugget: float = 0.0,
    head_nugget: float = 0.0,
    outputs: int = 1,
    count: int = 1,
) -> tuple[Float[Array, "count n k"], Float[Array, "count layers n d"]]:
    r"""Draw whole functions :math:`\xi\circ\varphi` from the prior, and the flows under them.

    Parameters
    ----------
    key : jax.random.key
    warp_kernel, kernel : kernel
        Γ of the flow and K of the regressor.
    X : array-like, shape (n, d)
    nu, depth, nugget, count
        See `sample_flows`.
    penalty : float, default=0.5
        λ: the variance of a function is K/(2λ).
    head_nugget : float, default=0.0
        ρ: variance ρ/(2λ) of independent noise.
    outputs : int, default=1
        Independent columns k.

    Returns
    -------
    values : Array, shape (count, n, outputs)
    paths : Array, shape (count, depth + 1, n, d)

    Raises
    ------
    ValueError
        If X is not a finite table, a number is out of range, or a Gram matrix is indefinite.

    Examples
    --------
    >>> from ideareg.kernels import Gaussian
    >>> values, _ = sample_networks(jax.random.key(0), Gaussian(), Gaussian(), [[0.0], [1.0]])
    >>> values.shape
    (1, 2, 1)
    """
    _checked(X, penalty=penalty, head_nugget=head_nugget, outputs=outputs)
    below, above = jax.random.split(key)
    paths = sample_flows(below, warp_kernel, X, nu=nu, depth=depth, nugget=nugget, count=count)
    numbers = jnp.asarray(penalty), jnp.asarray(head_nugget)
    values = _heads(above, kernel, paths[:, -1], *numbers, outputs)
    return _finite(values, kernel), paths
