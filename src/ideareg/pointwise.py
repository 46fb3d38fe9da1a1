r"""Convex losses of one prediction, as data: what each row charges, and what its dual may be.

A regressor f = K(·, q)Z after the warp minimises
:math:`\lambda\|f\|^2 + \sum_i w_i\,\ell(f_i, y_i)`, where
:math:`2\lambda Z_i = -w_i\,\partial\ell/\partial f_i`. A loss that is flat somewhere (hinge,
squared hinge, ε-insensitive) makes the dual a box-constrained quadratic program,

.. math:: \max_Z\ 2\lambda\Big(b^TZ - \tfrac12 Z^T(K + D)Z - \varepsilon|Z|_1\Big),
          \qquad l \le Z \le u,

and Z exactly 0 where it is flat. Logistic and softmax losses are nowhere flat: no dual is 0.

=====================  ==========================  ======  =========  ==================  =========
loss                   ℓ(f, y)                     b       D          bounds              zeros
=====================  ==========================  ======  =========  ==================  =========
squared                (f − y)²                    y       λ/w        none                none
hinge                  max(0, 1 − yf)              y       0          0 ≤ yZ ≤ w/2λ       exact
squared_hinge          max(0, 1 − yf)²             y       λ/w        0 ≤ yZ              exact
epsilon_insensitive    max(0, \|f − y\| − ε)       y       0          \|Z\| ≤ w/2λ        exact
logistic               log(1 + exp(−yf))           smooth                                 none
softmax                log Σ exp f − f[y]          smooth                                 none
=====================  ==========================  ======  =========  ==================  =========

Labels are ±1, one column per class where there are more than two; for softmax they are one-hot.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ideareg._types import Scalar

Outputs = Float[Array, "n k"]


class Box(NamedTuple):
    """The dual program of the module's docstring: b, D, l, u, each (n, k), and ε."""

    linear: Outputs
    diagonal: Outputs
    lower: Outputs
    upper: Outputs
    band: float


@dataclass(frozen=True)
class AbstractPointwise(abc.ABC):
    """A convex loss; hashable, so that compiled code can be specialised to it.

    Its second derivative by a prediction is at most ``curvature``, which is infinite at a kink.
    """

    curvature: ClassVar[float] = float("inf")

    @abc.abstractmethod
    def value(self, f: Outputs, Y: Outputs) -> Float[Array, " n"]:
        """Return what each row charges for the predictions f, shape (n,)."""


@dataclass(frozen=True)
class AbstractBoxed(AbstractPointwise):
    """A loss with a quadratic dual; its rows without charge have the dual 0, exactly."""

    @abc.abstractmethod
    def dual(self, Y: Outputs, weight: Float[Array, " n"], ridge: Scalar) -> Box:
        """Return the dual program; rows of weight 0 are bound to 0."""


@dataclass(frozen=True)
class AbstractSmooth(AbstractPointwise):
    """A loss with a positive definite or semi-definite Hessian everywhere."""


def _margin(f: Outputs, Y: Outputs) -> Outputs:
    return jnp.maximum(0.0, 1 - Y * f)


def _slack(Y: Outputs, weight: Float[Array, " n"], ridge: Scalar) -> Outputs:
    """Return λ/w, and something harmless where w is 0."""
    w = weight[:, None]
    return jnp.where(w > 0, ridge / jnp.where(w > 0, w, 1.0), 1.0) * jnp.ones_like(Y)


@dataclass(frozen=True)
class Hinge(AbstractBoxed):
    """The loss of support vector machines."""

    def value(self, f: Outputs, Y: Outputs) -> Float[Array, " n"]:
        """Return max(0, 1 − yf), summed over outputs."""
        return _margin(f, Y).sum(1)

    def dual(self, Y: Outputs, weight: Float[Array, " n"], ridge: Scalar) -> Box:
        """Return the dual program."""
        cap = (weight / (2 * ridge))[:, None]
        zero = jnp.zeros_like(Y)
        return Box(Y, zero, jnp.where(Y < 0, -cap, zero), jnp.where(Y > 0, cap, zero), 0.0)


@dataclass(frozen=True)
class SquaredHinge(AbstractBoxed):
    """The hinge, squared: differentiable, and flat from the margin on."""

    curvature: ClassVar[float] = 2.0

    def value(self, f: Outputs, Y: Outputs) -> Float[Array, " n"]:
        """Return max(0, 1 − yf)², summed over outputs."""
        return (_margin(f, Y) ** 2).sum(1)

    def dual(self, Y: Outputs, weight: Float[Array, " n"], ridge: Scalar) -> Box:
        """Return the dual program."""
        far = jnp.where(weight > 0, jnp.inf, 0.0)[:, None]
        zero = jnp.zeros_like(Y)
        bounds = jnp.where(Y < 0, -far, zero), jnp.where(Y > 0, far, zero)
        return Box(Y, _slack(Y, weight, ridge), *bounds, 0.0)


@dataclass(frozen=True)
class EpsilonInsensitive(AbstractBoxed):
    """The loss of support vector regression: nothing within ε of the target."""

    epsilon: float = 0.1

    def value(self, f: Outputs, Y: Outputs) -> Float[Array, " n"]:
        """Return max(0, |f − y| − ε), summed over outputs."""
        return jnp.maximum(0.0, jnp.abs(f - Y) - self.epsilon).sum(1)

    def dual(self, Y: Outputs, weight: Float[Array, " n"], ridge: Scalar) -> Box:
        """Return the dual program."""
        cap = (weight / (2 * ridge))[:, None] * jnp.ones_like(Y)
        return Box(Y, jnp.zeros_like(Y), -cap, cap, self.epsilon)


@dataclass(frozen=True)
class Logistic(AbstractSmooth):
    """Negative log-likelihood of labels ±1; columns are judged one by one."""

    curvature: ClassVar[float] = 0.25

    def value(self, f: Outputs, Y: Outputs) -> Float[Array, " n"]:
        """Return log(1 + exp(−yf)), summed over outputs."""
        return jax.nn.softplus(-Y * f).sum(1)


@dataclass(frozen=True)
class Softmax(AbstractSmooth):
    """Negative log-likelihood of one-hot labels."""

    curvature: ClassVar[float] = 0.5

    def value(self, f: Outputs, Y: Outputs) -> Float[Array, " n"]:
        """Return log Σ exp f − f[y]."""
        return jax.nn.logsumexp(f, axis=1) - (Y * f).sum(1)


POINTWISE: dict[str, type[AbstractPointwise]] = {
    "hinge": Hinge,
    "squared_hinge": SquaredHinge,
    "epsilon_insensitive": EpsilonInsensitive,
    "logistic": Logistic,
    "softmax": Softmax,
}
