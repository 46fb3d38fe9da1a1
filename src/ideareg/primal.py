r"""Heads in feature space: the regressor of least pointwise loss, for many rows and many ridges.

With T = K(q, U)L⁻ᵀ and LLᵀ = K(U, U), the regressor f = o + TA, with o as good as free, minimises

.. math:: \lambda|A|^2 + \sum_i w_i\,\ell(f_i, y_i),

which is the problem of `convex` through the centres U, and the same if these are the rows. The
squared hinge goes to `margin`, the hinge to liblinear, and likelihoods descend by L-BFGS in
coordinates where the Hessian is at most the identity.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize
from sklearn.svm import LinearSVC

from ideareg._rows import bucket, pad
from ideareg.margin import Spanned, machine_path
from ideareg.pointwise import AbstractPointwise, Hinge, SquaredHinge

Floats = NDArray[np.float64]

# On the diagonal of the Gram matrix of the centres; relative to k(x, x) = 1.
CENTRE_JITTER = 1e-7
# The feature that carries o; so large that its coefficient is hardly penalised.
CONSTANT = 10.0
PATH_ITERATIONS = 200
PATH_TOLERANCE = 1e-8
LIBLINEAR_ITERATIONS = 20_000


class Features(NamedTuple):
    """Whitened features of rows by centres.

    Attributes
    ----------
    T : ndarray, shape (n, m)
    root : ndarray, shape (m, m)
        L⁻ᵀ: a regressor TA is k(·, U) L⁻ᵀA.
    """

    T: Floats
    root: Floats


def features(K: Floats, gram: Floats) -> Features:
    """Return the features from k(q, U), shape (n, m), and k(U, U)."""
    L = cholesky(gram + CENTRE_JITTER * np.eye(len(gram)), lower=True, check_finite=False)
    root = solve_triangular(L, np.eye(len(L)), lower=True, check_finite=False).T
    return Features(K @ root, root)


class Fit(NamedTuple):
    """One head: coefficients A (m, k), and the constant o (k,) that far rows get."""

    A: Floats
    offset: Floats

    def __call__(self, T: Floats) -> Floats:
        """Return the predictions for features T (n, m)."""
        return self.offset + T @ self.A


def ridge_path(
    loss: AbstractPointwise,
    T: Floats,
    Y: Floats,
    weight: Floats,
    offset: Floats,
    ridges: Sequence[float],
) -> Iterator[Fit]:
    """Yield the head of each ridge; each starts from that of the ridge before.

    Parameters
    ----------
    loss : AbstractPointwise
    T : ndarray, shape (n, m)
    Y : ndarray, shape (n, k)
    weight : ndarray, shape (n,)
    offset : ndarray, shape (k,)
        Where o starts.
    ridges : sequence of float
        Quickest if it falls.
    """
    kept = weight > 0
    Y, weight = Y[kept], weight[kept]
    T = np.hstack([T[kept], np.full((len(Y), 1), CONSTANT)])
    shape = (T.shape[1], Y.shape[1])
    A = np.zeros(shape)
    if isinstance(loss, Hinge):
        yield from (_fit(_hinge(T, Y, weight, ridge), offset) for ridge in ridges)
        return
    if isinstance(loss, SquaredHinge):
        paths = [machine_path(Spanned(T), y, weight, ridges) for y in Y.T]
        for columns in zip(*paths, strict=True):
            yield _fit(T.T @ np.stack([m.dual for m in columns], axis=1), offset)
        return
    curved = loss.curvature * (T.T @ (weight[:, None] * T))
    n, size = len(Y), bucket(len(Y))
    padded = pad(Y, size), pad(weight, size)
    for ridge in ridges:
        L = cholesky(curved + 2 * ridge * np.eye(len(A)), lower=True, check_finite=False)
        P = solve_triangular(L, np.eye(len(A)), lower=True, check_finite=False).T

        def evaluate(b: Floats, P: Floats = P, ridge: float = ridge) -> tuple[float, Floats]:
            A = P @ b.reshape(shape)
            charge, slope = _charge(pad(offset + T @ A, size), *padded, loss=loss)
            gradient = T.T @ np.asarray(slope)[:n] + 2 * ridge * A
            return float(charge) + ridge * float(np.vdot(A, A)), (P.T @ gradient).ravel()

        options = {"maxiter": PATH_ITERATIONS, "ftol": PATH_TOLERANCE, "gtol": 1e-6}
        outcome = minimize(
            evaluate, (L.T @ A).ravel(), jac=True, method="L-BFGS-B", options=options
        )
        A = P @ outcome.x.reshape(shape)
        yield _fit(A, offset)


def _fit(A: Floats, offset: Floats) -> Fit:
    return Fit(A[:-1], offset + CONSTANT * A[-1])


def easy_root(
    loss: AbstractPointwise, T: Floats, weight: Floats, ridge: float
) -> tuple[Floats, Floats]:
    """Return P and its inverse, such that the penalised loss curves by at most 1 in P⁻¹A."""
    curved = loss.curvature * (T.T @ (weight[:, None] * T)) + 2 * ridge * np.eye(T.shape[1])
    L = cholesky(curved, lower=True, check_finite=False)
    return solve_triangular(L, np.eye(len(L)), lower=True, check_finite=False).T, L.T


@functools.partial(jax.jit, static_argnames="loss")
def _charge(f: Any, Y: Any, weight: Any, loss: AbstractPointwise) -> Any:
    """Return the weighted loss and its slope; rows come padded, for each shape is compiled."""
    return jax.value_and_grad(lambda f: weight @ loss.value(f, Y))(f)


def _hinge(T: Floats, Y: Floats, weight: Floats, ridge: float) -> Floats:
    columns = []
    for y in Y.T:
        machine = LinearSVC(
            loss="hinge", C=1 / (2 * ridge), fit_intercept=False, tol=1e-5,
            max_iter=LIBLINEAR_ITERATIONS, random_state=0,
        )  # fmt: skip
        if (y == y[0]).all():  # what liblinear refuses: the constant alone meets the margin
            columns.append(np.append(np.zeros(T.shape[1] - 1), y[0] / CONSTANT))
        else:
            columns.append(machine.fit(T, y, weight).coef_.ravel())
    return np.stack(columns, axis=1)
