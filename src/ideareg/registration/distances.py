"""Distances between all pairs of many landmark shapes, each by a geodesic of its own."""

from __future__ import annotations

from itertools import combinations
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array
from joblib import Parallel, delayed
from numpy.typing import NDArray

from ideareg._numerics import numerics
from ideareg._types import Result
from ideareg.hamiltonian import Hamiltonian, State
from ideareg.integrators import AbstractIntegrator, get_integrator
from ideareg.kernels import Kernel, as_kernel
from ideareg.registration.affine import align
from ideareg.registration.landmarks import match
from ideareg.registration.shapes import Shape
from ideareg.shooting import shoot

Floats = NDArray[np.float64]

PROCRUSTES_ROUNDS = 100
PROCRUSTES_TOLERANCE = 1e-12


class Pairs(NamedTuple):
    """All geodesics among m shapes of n landmarks.

    Attributes
    ----------
    distance : ndarray, shape (m, m)
        Lengths of the geodesics; symmetric.
    momentum : ndarray, shape (m, m, n, d)
        ``momentum[i, j]`` pushes shape i forward to shape j.
    residual : ndarray, shape (m, m)
        Root mean square distance from j of i pushed forward, in the units of the points.
    converged : ndarray of bool, shape (m, m)
    """

    distance: Floats
    momentum: Floats
    residual: Floats
    converged: NDArray[np.bool_]


def _checked(shapes: Any) -> Floats:
    stack = np.asarray(shapes, dtype=np.float64)
    if stack.ndim != 3:
        raise ValueError(
            f"shapes need one array of shape (m, n, d): m shapes of n landmarks, got {stack.shape}."
        )
    for i, points in enumerate(stack):
        Shape.of(points, name=f"shapes[{i}]")
    return stack


def procrustes(shapes: Any) -> Floats:
    """Turn and move shapes onto their mean, which is found on the way; none is scaled.

    Parameters
    ----------
    shapes : array, shape (m, n, d)

    Returns
    -------
    ndarray, shape (m, n, d)

    Examples
    --------
    >>> one = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    >>> both = procrustes([one, one @ [[0.0, 1.0], [-1.0, 0.0]] + 5])
    >>> bool(np.allclose(both[0], both[1]))
    True
    """
    stack = _checked(shapes)
    mean = stack[0] - stack[0].mean(axis=0)
    for _ in range(PROCRUSTES_ROUNDS):
        stack = np.stack([align(points, mean, "rigid")(points) for points in stack])
        before, mean = mean, stack.mean(axis=0)
        if np.abs(mean - before).max() <= PROCRUSTES_TOLERANCE * np.abs(mean).max():
            break
    return stack


@eqx.filter_jit
def _flow(
    ham: Hamiltonian, X: Any, p: Any, depth: int, integrator: AbstractIntegrator
) -> tuple[Array, Array, Array]:
    """Return the energy of a flow, and its positions and momenta at the end."""
    path = shoot(ham, State(X, p), depth, integrator)
    return path.energies[0], path.q[-1], path.p[-1]


def pairwise(
    shapes: Any,
    kernel: Kernel,
    *,
    depth: int = 10,
    integrator: str = "rk4",
    tol: float = 1e-8,
    n_jobs: int | None = None,
) -> Pairs:
    """Return the geodesics among all pairs of shapes, matched exactly.

    Each is found once: run backwards it is that of the pair the other way round, up to the error
    of the time steps, which a step or two of Newton's method take away. So a distance is one number
    for both ways.

    Parameters
    ----------
    shapes : array, shape (m, n, d)
        As they are: see `procrustes` to turn them to each other first.
    kernel : kernel
        Γ. A length of half the shapes' radius makes most pairs easy; longer ones tie the points
        to each other, and shapes that differ much are then hard to match exactly.
    depth, integrator, tol
        As in `Registration`.
    n_jobs : int, optional
        Threads, as in joblib.

    Returns
    -------
    Pairs

    Raises
    ------
    ValueError
        If the shapes are not m arrays of one shape (n, d), without NaN.

    Examples
    --------
    >>> from ideareg.kernels import Laplacian
    >>> found = pairwise([[[-1.0], [1.0]], [[-0.4], [0.4]]], Laplacian(), depth=40)
    >>> round(float(found.distance[0, 1]) ** 2 / 2, 6)
    0.493337
    """
    stack, scheme = _checked(shapes), get_integrator(integrator)
    ham, m = Hamiltonian(as_kernel(kernel)), len(stack)
    momentum = np.zeros((m, *stack.shape))
    distance, residual = np.zeros((m, m)), np.zeros((m, m))
    converged = np.ones((m, m), dtype=bool)

    def way(i: int, j: int, guess: Floats | None) -> tuple[float, Floats]:
        X, Y = stack[i], stack[j]
        found = match(ham.kernel, X, Y, 0.0, depth, scheme, momentum=guess, tol=tol)
        energy, *end = _flow(ham, X, found.momentum, depth, scheme)
        q, p = map(np.asarray, end)
        momentum[i, j], converged[i, j] = found.momentum, found.result is Result.converged
        residual[i, j] = np.sqrt(((q - Y) ** 2).sum(axis=1).mean())
        return np.sqrt(2 * float(energy)), -p

    def one(i: int, j: int) -> None:
        with numerics():  # a thread has settings of its own
            length, back = way(i, j, None)
            way(j, i, back)
        distance[i, j] = distance[j, i] = length

    pairs = combinations(range(m), 2)
    Parallel(n_jobs=n_jobs, prefer="threads")(delayed(one)(*pair) for pair in pairs)
    return Pairs(distance, momentum, residual, converged)
