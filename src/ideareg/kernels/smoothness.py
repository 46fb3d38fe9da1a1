r"""How fast the functions of a kernel's space can vary: what every robustness certificate rests on.

A function of norm 1 is :math:`f(x) = \langle f, \psi(x)\rangle` with the feature map
:math:`\psi(x) = k(x, \cdot)`, so what bounds the change of :math:`\psi` bounds that of every f.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from ideareg.kernels.base import AbstractKernel, Product, Scaled, Sum
from ideareg.kernels.features import Activation, RandomFourier
from ideareg.kernels.matrix import Diagonal, Isotropic, OperatorSum, Separable
from ideareg.kernels.scalar import (
    AbstractStationary,
    Constant,
    Gaussian,
    Linear,
    Matern32,
    Matern52,
    RationalQuadratic,
)
from ideareg.kernels.stretched import Stretched

Floats = NDArray[np.float64]

# Largest |a'| and |a''| of the activations.
ACTIVATION_SLOPES = {
    "tanh": (1.0, 4 / 27**0.5),
    "relu": (1.0, np.inf),
    "softplus": (1.0, 0.25),
    "sigmoid": (0.25, 108**-0.5),
}


class Smoothness(NamedTuple):
    r"""Bounds on the feature map of a kernel, by the norms :math:`|u|_m^2 = \sum_km_ku_k^2`.

    Attributes
    ----------
    variance : float
        k(x, x) where it is the same for all x, infinite elsewhere.
    slope : ndarray, shape (d,)
        m with :math:`\|\psi(x+u)-\psi(x)\|\le|u|_m` for all x and u; infinite where there is none.
    bend : ndarray, shape (d,)
        m with :math:`\|D^2\psi(x)[u,u]\|\le|u|_m^2`; infinite where there is none.
    """

    variance: float
    slope: Floats
    bend: Floats

    def __add__(self, other: Any) -> Smoothness:
        """Return the bounds for the sum of two kernels, whose feature maps stand side by side."""
        return Smoothness(*(a + b for a, b in zip(self, other, strict=True)))

    def scaled(self, c: float) -> Smoothness:
        """Return the bounds for c k."""
        return Smoothness(c * self.variance, c * self.slope, c**0.5 * self.bend)


@functools.singledispatch
def smoothness(kernel: Any, d: int) -> Smoothness:
    r"""Return bounds on the feature map of ``kernel`` on points of ``d`` coordinates.

    For a stationary kernel :math:`\varphi(r^2)` that is a mixture of Gaussians
    :math:`\|\psi(x)-\psi(y)\|^2 = 2(\varphi(0)-\varphi(r^2)) \le -2\varphi'(0)\,r^2`, for the
    profile is convex, and
    :math:`\|D^2\psi[u,u]\|^2 = 12\varphi''(0)\,r^4`. An operator-valued kernel maps to the space of
    vector fields; there the bounds hold for :math:`\|\Psi(x+u)-\Psi(x)\|`, an operator norm.

    Parameters
    ----------
    kernel : kernel
    d : int

    Returns
    -------
    Smoothness
        Infinite for a kernel whose functions have no Lipschitz constant (Laplacian, Matern12,
        polynomials), or none that is known (a user's own function).

    Examples
    --------
    >>> smoothness(Gaussian(length_scale=2.0), 1).slope.tolist()
    [0.25]
    """
    return _unknown(d)


def _unknown(d: int) -> Smoothness:
    return Smoothness(np.inf, np.full(d, np.inf), np.full(d, np.inf))


def _in_units(variance: float, slope: float, bend: float, length_scale: Any, d: int) -> Smoothness:
    with np.errstate(over="ignore"):
        metric = np.broadcast_to(np.asarray(length_scale, np.float64) ** -2.0, (d,))
    return Smoothness(variance, slope * metric, bend * metric)


# -2φ'(0) and √(12φ''(0)) of the profiles.
@smoothness.register
def _(kernel: Gaussian, d: int) -> Smoothness:
    return _in_units(1.0, 1.0, 3**0.5, kernel.length_scale, d)


@smoothness.register
def _(kernel: Matern32, d: int) -> Smoothness:
    return _in_units(1.0, 3.0, np.inf, kernel.length_scale, d)


@smoothness.register
def _(kernel: Matern52, d: int) -> Smoothness:
    return _in_units(1.0, 5 / 3, 5.0, kernel.length_scale, d)


@smoothness.register
def _(kernel: RationalQuadratic, d: int) -> Smoothness:
    bend = (3 + 3 / float(kernel.alpha)) ** 0.5
    return _in_units(1.0, 1.0, bend, kernel.length_scale, d)


@smoothness.register
def _(kernel: AbstractStationary, d: int) -> Smoothness:
    return _unknown(d)._replace(variance=float(kernel.profile(jnp.zeros(()))))


@smoothness.register
def _(kernel: Linear, d: int) -> Smoothness:
    return _in_units(np.inf, 1.0, 0.0, kernel.length_scale, d)


@smoothness.register
def _(kernel: Constant, d: int) -> Smoothness:
    return Smoothness(float(kernel.value), np.zeros(d), np.zeros(d))


@smoothness.register
def _(kernel: Activation, d: int) -> Smoothness:
    first, second = ACTIVATION_SLOPES[kernel.name]
    return _in_units(np.inf, first**2, second, 1.0, d)


@smoothness.register
def _(kernel: RandomFourier, d: int) -> Smoothness:
    omega = np.asarray(kernel.frequencies, np.float64)
    largest = float(np.linalg.norm(omega, 2) ** 2 / len(omega))
    longest = float((omega**2).sum(1).max())
    return _in_units(1.0, largest, (longest * largest) ** 0.5, kernel.length_scale, d)


@smoothness.register
def _(kernel: Stretched, d: int) -> Smoothness:
    inner = smoothness(kernel.kernel, d)
    metric = np.asarray(kernel.length_scale, np.float64) ** -2.0
    return inner._replace(slope=inner.slope * metric, bend=inner.bend * metric)


@smoothness.register
def _(kernel: Scaled, d: int) -> Smoothness:
    return smoothness(kernel.kernel, d).scaled(float(kernel.scale))


@smoothness.register
def _(kernel: Sum, d: int) -> Smoothness:
    return smoothness(kernel.left, d) + smoothness(kernel.right, d)


@smoothness.register
def _(kernel: Product, d: int) -> Smoothness:
    a, b = smoothness(kernel.left, d), smoothness(kernel.right, d)
    if not np.isfinite(a.variance * b.variance):
        return _unknown(d)
    # Where k(x, x) is constant ψ is orthogonal to its derivatives, and the squares add.
    slope = a.variance * b.slope + b.variance * a.slope
    # D²(ψ₁⊗ψ₂) = D²ψ₁⊗ψ₂ + 2 Dψ₁⊗Dψ₂ + ψ₁⊗D²ψ₂, and 2|u||u'| ≤ |u|² + |u'|².
    outer = a.variance**0.5 * b.bend + b.variance**0.5 * a.bend
    return Smoothness(a.variance * b.variance, slope, outer + a.slope + b.slope)


@smoothness.register
def _(kernel: Isotropic, d: int) -> Smoothness:
    return smoothness(kernel.kernel, d)


@smoothness.register
def _(kernel: Separable, d: int) -> Smoothness:
    strongest = float(np.linalg.norm(np.asarray(kernel.A, np.float64), 2))
    return smoothness(kernel.kernel, d).scaled(strongest)


@smoothness.register
def _(kernel: Diagonal, d: int) -> Smoothness:
    parts = [smoothness(each, d) for each in kernel.kernels]
    return Smoothness(*(np.max(np.stack(bound), axis=0) for bound in zip(*parts, strict=True)))


@smoothness.register
def _(kernel: OperatorSum, d: int) -> Smoothness:
    return smoothness(kernel.left, d) + smoothness(kernel.right, d)


def is_scalar(kernel: Any) -> bool:
    """Return whether ``kernel`` acts on each coordinate of a vector field alike and alone."""
    return isinstance(kernel, AbstractKernel | Isotropic)
