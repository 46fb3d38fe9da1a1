r"""Kernels given by features, :math:`k(x, y) = \psi(x)^T\psi(y)`: each flow is a residual network.

A momentum p on points q is the layer :math:`v(x) = w\,\psi(x)` with weights
:math:`w = \sum_j p_j\psi(q_j)^T`.
"""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ideareg._types import LengthScale, Point
from ideareg.kernels.base import AbstractFeatureKernel, check_positive, real_array
from ideareg.kernels.scalar import rescale

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "softplus": jax.nn.softplus,
    "sigmoid": jax.nn.sigmoid,
}


class Activation(AbstractFeatureKernel):
    r"""Kernel of a residual layer with bias, :math:`\psi(x) = (a(x), 1)`.

    ``relu`` is neither bounded nor smooth: the convergence theory of the flow does not cover it.

    Raises
    ------
    ValueError
        If ``name`` is not one of ``tanh``, ``relu``, ``softplus``, ``sigmoid``.

    Examples
    --------
    >>> Activation("relu").features(jnp.array([-1.0, 2.0])).tolist()
    [0.0, 2.0, 1.0]
    """

    name: str = eqx.field(static=True, default="tanh")

    def __check_init__(self) -> None:
        if self.name not in ACTIVATIONS:
            raise ValueError(
                f"Activation: name must be one of {', '.join(ACTIVATIONS)}, got {self.name!r}."
            )

    def features(self, x: Point) -> Float[Array, " F"]:
        """Return (a(x), 1), shape (d + 1,)."""
        return jnp.append(ACTIVATIONS[self.name](x), 1.0)


class RandomFourier(AbstractFeatureKernel):
    r"""Random Fourier approximation of the Gaussian kernel.

    :math:`\psi(x) = \sqrt{2/F}\,(\cos\omega_k^Tx/\ell, \sin\omega_k^Tx/\ell)_k` with
    :math:`\omega_k\sim N(0, I)`; the error falls like :math:`F^{-1/2}` [1]_.

    Parameters
    ----------
    n_features : int
        F, even.
    dim : int
        Number d of coordinates.
    key : int or JAX key
        Source of the frequencies, which are then fixed.
    length_scale : scalar or Array, shape (d,)

    Raises
    ------
    ValueError
        If ``n_features`` is not a positive even number.

    References
    ----------
    .. [1] Rahimi, Recht, "Random features for large-scale kernel machines", NIPS 2007.

    Examples
    --------
    >>> RandomFourier(4, 2, key=0).feature_matrix(jnp.zeros((3, 2))).shape
    (3, 4)
    """

    length_scale: LengthScale
    frequencies: Float[Array, "pairs d"]

    def __init__(
        self,
        n_features: int,
        dim: int,
        *,
        key: int | Array,
        length_scale: LengthScale | float = 1.0,
    ) -> None:
        if n_features < 2 or n_features % 2:
            raise ValueError(
                f"RandomFourier: n_features must be a positive even number, got {n_features}."
            )
        key = jax.random.key(key) if isinstance(key, int) else key
        self.length_scale = real_array(length_scale)
        self.frequencies = jax.random.normal(key, (n_features // 2, dim))

    def __check_init__(self) -> None:
        check_positive(self, length_scale=self.length_scale)

    def features(self, x: Point) -> Float[Array, " F"]:
        """Return psi(x), shape (F,)."""
        # Training moves the length scale; moving the sample as well would void the approximation.
        frequencies = jax.lax.stop_gradient(self.frequencies)
        phase = frequencies @ rescale(self, x, self.length_scale)
        waves = jnp.concatenate([jnp.cos(phase), jnp.sin(phase)])
        return waves / jnp.sqrt(jnp.asarray(len(frequencies), waves.dtype))
