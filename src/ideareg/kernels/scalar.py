"""Scalar kernels: stationary ones through a profile of the squared distance, and dot products.

Names shared with scikit-learn's Gaussian processes have the same meaning and defaults. Every
``length_scale`` is one number or one per coordinate (automatic relevance determination).
"""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ideareg._linalg import accumulate_differences, squared_distances
from ideareg._types import Diagonals, LengthScale, Matrix, Point, Points, Rows, Scalar
from ideareg.kernels.base import AbstractFeatureKernel, AbstractKernel, check_positive, real_array


def rescale(owner: object, X: Array, length_scale: Array) -> Array:
    """Return ``X / length_scale`` after checking that the numbers of coordinates agree."""
    if length_scale.ndim > 1 or (length_scale.ndim and length_scale.shape[0] != X.shape[-1]):
        raise ValueError(
            f"{type(owner).__name__}: length_scale has shape {length_scale.shape} but points have "
            f"{X.shape[-1]} coordinates; give one number, or one per coordinate."
        )
    # In the precision of the points, whatever that of the kernel.
    return X / jnp.asarray(length_scale, X.dtype)


@jax.custom_jvp
def root(s2: Array) -> Array:
    """Return the square root, with derivative 0 (not infinity) at 0."""
    # No branch on s2 > 0 here: compiled code may compute s2 twice, once as 0 and once as its
    # rounding error, and would then take the branch of one with the value of the other.
    return jnp.sqrt(s2)


@root.defjvp
def _root_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    s = root(*primals)
    positive = s > 0
    return s, tangents[0] * jnp.where(positive, 0.5 / jnp.where(positive, s, 1.0), 0.0)


def magnitude(x: Array) -> Array:
    """Return the absolute value, with derivative 0 at 0; that of ``jnp.abs`` is 1 there."""
    return x * jax.lax.stop_gradient(jnp.sign(x))


# Matern profiles as functions of s^2. Each has the one before as its derivative, up to a factor, so
# every derivative that exists at coinciding points comes out exactly.


def _matern12(s2: Array) -> Array:
    return jnp.exp(-root(s2))


@jax.custom_jvp
def _matern32(s2: Array) -> Array:
    s = root(s2)
    return (1 + s) * jnp.exp(-s)


@_matern32.defjvp
def _matern32_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _matern32(*primals), -_matern12(*primals) / 2 * tangents[0]


@jax.custom_jvp
def _matern52(s2: Array) -> Array:
    s = root(s2)
    return (1 + s + s2 / 3) * jnp.exp(-s)


@_matern52.defjvp
def _matern52_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _matern52(*primals), -_matern32(*primals) / 6 * tangents[0]


# Arc-cosine profiles of the cosine c; that of a step is the derivative of that of a ramp.


def _angle(c: Array) -> Array:
    """Return the angle with cosine c, with derivative 0 (not infinity) at its ends."""
    inside = jnp.abs(c) < 1
    return jnp.where(inside, jnp.arccos(jnp.where(inside, c, 0.0)), jnp.where(c < 0, jnp.pi, 0.0))


def _step(c: Array) -> Array:
    return 1 - _angle(c) / jnp.pi


@jax.custom_jvp
def _ramp(c: Array) -> Array:
    theta = _angle(c)
    return (jnp.sin(theta) + (jnp.pi - theta) * c) / jnp.pi


@_ramp.defjvp
def _ramp_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _ramp(*primals), _step(*primals) * tangents[0]


class AbstractStationary(AbstractKernel):
    r"""Kernel :math:`k(x, y) = \varphi(r^2)` with :math:`r^2 = \sum_k (x_k - y_k)^2/\ell_k^2`."""

    length_scale: eqx.AbstractVar[LengthScale]

    @abc.abstractmethod
    def profile(self, r2: Array) -> Array:
        """Return phi(r^2), elementwise."""

    def __check_init__(self) -> None:
        check_positive(self, length_scale=self.length_scale)

    def __call__(self, x: Point, y: Point) -> Scalar:
        """Return k(x, y) for two points of shape (d,)."""
        return self.profile(jnp.square(rescale(self, x - y, self.length_scale)).sum())

    def gram(self, X: Points, Y: Rows | None = None) -> Matrix:
        """Return the matrix k(x_i, y_j), shape (n, m)."""
        A = rescale(self, X, self.length_scale)
        B = A if Y is None else rescale(self, Y, self.length_scale)
        return self.profile(squared_distances(A, B))

    def diagonal(self, X: Points) -> Diagonals:
        """Return the diagonal of ``gram(X)``, shape (n,)."""
        return self.profile(jnp.zeros(len(X), X.dtype))


class Gaussian(AbstractStationary):
    r"""Gaussian kernel :math:`e^{-r^2/2}` (scikit-learn's RBF).

    Examples
    --------
    >>> Gaussian(length_scale=2.0).gram(jnp.zeros((1, 3))).item()
    1.0
    """

    length_scale: LengthScale = eqx.field(converter=real_array, default=1.0)

    def profile(self, r2: Array) -> Array:
        """Return exp(-r^2 / 2)."""
        return jnp.exp(-r2 / 2)


class Matern12(AbstractStationary):
    r"""Matern kernel of smoothness 1/2, :math:`e^{-r}`.

    It has a kink at coinciding points; its derivative there is taken to be 0.
    """

    length_scale: LengthScale = eqx.field(converter=real_array, default=1.0)

    def profile(self, r2: Array) -> Array:
        """Return exp(-r)."""
        return _matern12(r2)


class Matern32(AbstractStationary):
    r"""Matern kernel of smoothness 3/2, :math:`(1 + \sqrt3 r)e^{-\sqrt3 r}`."""

    length_scale: LengthScale = eqx.field(converter=real_array, default=1.0)

    def profile(self, r2: Array) -> Array:
        """Return (1 + s) exp(-s) with s^2 = 3 r^2."""
        return _matern32(3 * r2)


class Matern52(AbstractStationary):
    r"""Matern kernel of smoothness 5/2, :math:`(1 + s + s^2/3)e^{-s}` with :math:`s = \sqrt5 r`."""

    length_scale: LengthScale = eqx.field(converter=real_array, default=1.0)

    def profile(self, r2: Array) -> Array:
        """Return (1 + s + s^2 / 3) exp(-s) with s^2 = 5 r^2."""
        return _matern52(5 * r2)


class RationalQuadratic(AbstractStationary):
    r"""Rational quadratic kernel :math:`(1 + r^2/2\alpha)^{-\alpha}`: a mixture of Gaussians."""

    length_scale: LengthScale = eqx.field(converter=real_array, default=1.0)
    alpha: Scalar = eqx.field(converter=real_array, default=1.0)

    def profile(self, r2: Array) -> Array:
        """Return (1 + r^2 / (2 alpha))^-alpha."""
        return jnp.exp(-self.alpha * jnp.log1p(r2 / (2 * self.alpha)))

    def __check_init__(self) -> None:
        check_positive(self, alpha=self.alpha)


class Laplacian(AbstractKernel):
    r"""Laplacian kernel :math:`\exp(-\sum_k |x_k - y_k|/\ell_k)`.

    In one dimension it is the kernel of the peakons of the Camassa-Holm equation. Its derivative
    where coordinates coincide is taken to be 0.
    """

    length_scale: LengthScale = eqx.field(converter=real_array, default=1.0)

    def __check_init__(self) -> None:
        check_positive(self, length_scale=self.length_scale)

    def __call__(self, x: Point, y: Point) -> Scalar:
        """Return k(x, y) for two points of shape (d,)."""
        return jnp.exp(-magnitude(rescale(self, x - y, self.length_scale)).sum())

    def gram(self, X: Points, Y: Rows | None = None) -> Matrix:
        """Return the matrix k(x_i, y_j), shape (n, m)."""
        A = rescale(self, X, self.length_scale)
        B = A if Y is None else rescale(self, Y, self.length_scale)
        return jnp.exp(-accumulate_differences(magnitude, A, B))


class Linear(AbstractFeatureKernel):
    r"""Linear kernel :math:`\sum_k x_k y_k/\ell_k^2`: flows by a matrix, the linear ResNet.

    ``Linear() + Constant(s**2)`` is scikit-learn's DotProduct with ``sigma_0 = s``.
    """

    length_scale: LengthScale = eqx.field(converter=real_array, default=1.0)

    def __check_init__(self) -> None:
        check_positive(self, length_scale=self.length_scale)

    def features(self, x: Point) -> Float[Array, " F"]:
        """Return x / length_scale, shape (d,)."""
        return rescale(self, x, self.length_scale)


class Constant(AbstractFeatureKernel):
    """Constant kernel: as a warp, one translation of all points; as a summand, a bias."""

    value: Scalar = eqx.field(converter=real_array, default=1.0)

    def __check_init__(self) -> None:
        check_positive(self, value=self.value)

    def features(self, x: Point) -> Float[Array, " F"]:
        """Return the square root of the value, shape (1,)."""
        return jnp.sqrt(self.value)[None]


class Polynomial(AbstractKernel):
    r"""Polynomial kernel :math:`(\sum_k x_k y_k/\ell_k^2 + c)^{degree}` with offset :math:`c\ge0`.

    Raises
    ------
    ValueError
        If ``degree`` is not a positive integer.
    """

    degree: int = eqx.field(static=True, default=2)
    offset: Scalar = eqx.field(converter=real_array, default=1.0)
    length_scale: LengthScale = eqx.field(converter=real_array, default=1.0)

    def __check_init__(self) -> None:
        if not isinstance(self.degree, int) or self.degree < 1:
            raise ValueError(f"Polynomial: degree must be a positive integer, got {self.degree!r}.")
        check_positive(self, length_scale=self.length_scale)
        check_positive(self, allow_zero=True, offset=self.offset)

    def __call__(self, x: Point, y: Point) -> Scalar:
        """Return k(x, y) for two points of shape (d,)."""
        a, b = (rescale(self, point, self.length_scale) for point in (x, y))
        return (a @ b + self.offset) ** self.degree

    def gram(self, X: Points, Y: Rows | None = None) -> Matrix:
        """Return the matrix k(x_i, y_j), shape (n, m)."""
        A = rescale(self, X, self.length_scale)
        B = A if Y is None else rescale(self, Y, self.length_scale)
        return (A @ B.T + self.offset) ** self.degree


class ArcCosine(AbstractKernel):
    r"""Kernel of an infinitely wide layer of ramps, or of steps, with random weights [1]_.

    With :math:`s(x, y) = \sum_k x_ky_k/\ell_k^2 + c` and θ the angle of cosine
    :math:`s(x, y)/\sqrt{s(x, x)s(y, y)}`,

    .. math:: k = \tfrac1\pi\sqrt{s(x,x)s(y,y)}\,(\sin\theta + (\pi-\theta)\cos\theta)
              \quad\text{or}\quad k = 1-\theta/\pi .

    Parameters
    ----------
    order : {1, 0}
        1 for ramps (relu), 0 for steps.
    offset : scalar
        c >= 0, a bias; without it the kernel of ramps is homogeneous, and has a kink at the origin.
    length_scale : scalar or Array, shape (d,)

    Raises
    ------
    ValueError
        If ``order`` is neither 0 nor 1.

    References
    ----------
    .. [1] Cho, Saul, "Kernel methods for deep learning", NIPS 2009.

    Examples
    --------
    >>> x, y = jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 3.0]])
    >>> round(ArcCosine(1, offset=0.0).gram(x, y).item() * 3.14159265, 6)
    6.0
    """

    order: int = eqx.field(static=True, default=1)
    offset: Scalar = eqx.field(converter=real_array, default=1.0)
    length_scale: LengthScale = eqx.field(converter=real_array, default=1.0)

    def __check_init__(self) -> None:
        if self.order not in (0, 1):
            raise ValueError(f"ArcCosine: order must be 0 or 1, got {self.order!r}.")
        check_positive(self, length_scale=self.length_scale)
        check_positive(self, allow_zero=True, offset=self.offset)

    def _profile(self, products: Array, sizes: Array) -> Array:
        # Rounding of the cosine near 1 becomes its root in the angle, but not in the ramp.
        cosine = jnp.where(sizes > 0, products / jnp.where(sizes > 0, sizes, 1.0), 0.0)
        cosine = jnp.clip(cosine, -1.0, 1.0)
        return sizes * _ramp(cosine) if self.order else _step(cosine)

    def __call__(self, x: Point, y: Point) -> Scalar:
        """Return k(x, y) for two points of shape (d,)."""
        a, b = (rescale(self, point, self.length_scale) for point in (x, y))
        sizes = root((a @ a + self.offset) * (b @ b + self.offset))
        return self._profile(a @ b + self.offset, sizes)

    def gram(self, X: Points, Y: Rows | None = None) -> Matrix:
        """Return the matrix k(x_i, y_j), shape (n, m)."""
        A = rescale(self, X, self.length_scale)
        B = A if Y is None else rescale(self, Y, self.length_scale)
        a, b = (root((rows**2).sum(1) + self.offset) for rows in (A, B))
        return self._profile(A @ B.T + self.offset, a[:, None] * b[None, :])
