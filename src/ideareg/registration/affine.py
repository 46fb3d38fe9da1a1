r"""Affine maps that bring corresponding points together, in closed form.

.. math:: \min_{A,b}\sum_i|Ax_i + b - y_i|^2

over rotations ("rigid"), rotations times a positive number ("similarity"), or all matrices.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

KINDS = ("rigid", "similarity", "affine")


class Affine(NamedTuple):
    """The push-forward x ↦ Ax + b of points.

    Attributes
    ----------
    matrix : ndarray, shape (d, d)
    shift : ndarray, shape (d,)

    Examples
    --------
    >>> turn = Affine(np.array([[0.0, -1.0], [1.0, 0.0]]), np.array([1.0, 0.0]))
    >>> turn(np.array([[1.0, 0.0]])).tolist(), turn.inverse()(np.array([[1.0, 1.0]])).tolist()
    ([[1.0, 1.0]], [[1.0, 0.0]])
    """

    matrix: Floats
    shift: Floats

    @classmethod
    def identity(cls, dimension: int) -> Affine:
        """Return the map that moves nothing."""
        return cls(np.eye(dimension), np.zeros(dimension))

    def __call__(self, x: Any) -> Floats:
        """Push points x, shape (n, d), forward."""
        return np.asarray(x) @ self.matrix.T + self.shift

    def inverse(self) -> Affine:
        """Return the map that undoes this one."""
        back = np.linalg.inv(self.matrix)
        return Affine(back, -back @ self.shift)


def align(source: Floats, target: Floats, kind: str) -> Affine:
    """Return the best affine map of a kind from source points onto the targets of the same row.

    Parameters
    ----------
    source, target : ndarray, shape (n, d)
    kind : {"rigid", "similarity", "affine"}
        Rigid maps and similarities do not reflect.

    Returns
    -------
    Affine
        Push-forward: source points go near target points.

    Raises
    ------
    ValueError
        If ``kind`` is none of these, or the points do not fix an affine map.

    References
    ----------
    .. [1] Umeyama, "Least-squares estimation of transformation parameters between two point
       patterns", IEEE Transactions on Pattern Analysis and Machine Intelligence 13, 1991.

    Examples
    --------
    >>> square = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    >>> align(square, 3 * square[[1, 2, 3, 0]], "similarity").matrix.round(6).tolist()
    [[0.0, -3.0], [3.0, 0.0]]
    """
    if kind not in KINDS:
        raise ValueError(f"align must be one of {', '.join(KINDS)} or None, got {kind!r}.")
    from_, to = source.mean(axis=0), target.mean(axis=0)
    A, B = source - from_, target - to
    if kind == "affine":
        if np.linalg.matrix_rank(A) < A.shape[1]:
            raise ValueError(
                f"align='affine' needs {A.shape[1] + 1} points that do not lie in a plane of lower "
                "dimension; use 'similarity' or 'rigid'."
            )
        matrix = np.linalg.lstsq(A, B, rcond=None)[0].T
    else:
        U, singular, Vt = np.linalg.svd(B.T @ A)
        sign = np.ones(len(singular))
        sign[-1] = np.sign(np.linalg.det(U @ Vt))
        spread = (A**2).sum()
        scale = (singular * sign).sum() / spread if kind == "similarity" and spread else 1.0
        matrix = scale * (U * sign) @ Vt
    return Affine(matrix, to - matrix @ from_)
