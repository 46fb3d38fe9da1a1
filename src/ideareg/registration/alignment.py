"""Affine maps between images, by the same similarity as the flow after them."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import expm
from jaxtyping import Array
from numpy.typing import NDArray
from scipy.optimize import minimize

from ideareg._types import Scalar
from ideareg.registration.affine import KINDS, Affine
from ideareg.registration.images import Image, factors
from ideareg.registration.pictures import Picture

Floats = NDArray[np.float64]

# The finest resolution that an affine map needs, as pixels along the shortest axis.
ENOUGH = 64


class _Problem(eqx.Module):
    """The mismatch as a function of a generator and a shift, both without units."""

    basis: Any  # (k, d, d)
    points: Any  # (n, d), of the target, from its middle, in units of its radius
    start: Any  # (d,), of the source, as the shift
    radius: Any
    picture: Picture

    def inverse(self, parameters: Any) -> tuple[Array, Array]:
        """Return matrix and shift of the pull-back, from the target's middle."""
        k = len(self.basis)
        generator = jnp.tensordot(parameters[:k], self.basis, 1)
        return expm(generator), self.start + self.radius * parameters[k:]

    def value(self, parameters: Any) -> Scalar:
        matrix, shift = self.inverse(parameters)
        return self.picture(self.radius * matrix @ self.points.T + shift[:, None])


@eqx.filter_jit
def _value_and_gradient(problem: _Problem, parameters: Any) -> tuple[Scalar, Array]:
    return jax.value_and_grad(problem.value)(parameters)


def align_images(source: Image, target: Image, kind: str, similarity: str = "ssd") -> Affine:
    """Return an affine map of a kind that brings one image to another.

    The search starts from equal middles and from equal centres of brightness, whichever fits
    better, and finds the nearest minimum: turns of more than about 30 degrees need a first map.

    Parameters
    ----------
    source, target : Image
    kind : {"rigid", "similarity", "affine"}
    similarity : {"ssd", "ncc", "mi"}
        Of values; labels are compared by their overlap.

    Returns
    -------
    Affine
        Push-forward: places in the source go to places in the target.

    Raises
    ------
    ValueError
        If ``kind`` is none of these.
    """
    if kind not in KINDS:
        raise ValueError(f"align must be one of {', '.join(KINDS)} or None, got {kind!r}.")
    basis = _generators(kind, source.dimension)
    middle = target.points().mean(axis=0)
    levels = [k for k in factors(target.shape) if min(target.shape) // k <= ENOUGH] or [
        factors(target.shape)[0]
    ]
    starts = [source.points().mean(axis=0), middle + _centre(source) - _centre(target)]
    parameters = np.zeros(len(basis) + source.dimension)
    problems = [_problem(source, target, levels[0], basis, s, similarity) for s in starts]
    values = [float(_value_and_gradient(problem, parameters)[0]) for problem in problems]
    start = starts[int(np.argmin(values))]
    problem = problems[0]
    for level in levels:
        problem = _problem(source, target, level, basis, start, similarity)

        def evaluate(x: Floats, problem: _Problem = problem) -> tuple[float, Floats]:
            value, slope = _value_and_gradient(problem, x)
            return float(value), np.asarray(slope, dtype=np.float64)

        parameters = minimize(evaluate, parameters, jac=True, method="BFGS").x
    matrix, shift = (np.asarray(part) for part in problem.inverse(parameters))
    return Affine(matrix, shift - matrix @ middle).inverse()


def _problem(
    source: Image, target: Image, factor: int, basis: Floats, start: Floats, similarity: str
) -> _Problem:
    points = (target.coarser(factor).points() - target.points().mean(axis=0)) / target.radius
    picture = Picture.of(similarity, source, target, Affine.identity(source.dimension), factor)
    return _Problem(basis, points, start, np.asarray(target.radius), picture)


def _generators(kind: str, d: int) -> Floats:
    """Return a basis of the Lie algebra of the maps of a kind, shape (k, d, d)."""
    units = [np.outer(a, b) for a in np.eye(d) for b in np.eye(d)]
    if kind == "affine":
        return np.stack(units)
    turns = [(u - u.T) for u in units if np.triu(u, 1).any()]
    return np.stack([*turns, np.eye(d)] if kind == "similarity" else turns)


def _centre(image: Image) -> Floats:
    """Return the centre of brightness above the darkest pixel, or of all labels."""
    weight = 1.0 * (image.values != 0) if image.labels else image.values - image.values.min()
    if image.mask is not None:
        weight = weight * image.mask
    return (weight.ravel()[:, None] * image.points()).sum(axis=0) / weight.sum()
