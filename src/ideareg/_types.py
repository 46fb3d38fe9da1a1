"""Names shared by every module: array types, outcome codes and solver results.

Shapes are written with one letter per axis: ``n`` momentum-carrying points, ``m`` other points,
``d`` coordinates, ``L`` layers, ``F`` features.
"""

from __future__ import annotations

import enum
from typing import Any, Generic, TypeVar

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int

T = TypeVar("T")

Scalar = Float[Array, ""]
Flag = Bool[Array, ""]
Code = Int[Array, ""]
Point = Float[Array, " d"]
Points = Float[Array, "n d"]
Rows = Float[Array, "m d"]
Momenta = Float[Array, "n d"]
Matrix = Float[Array, "n m"]
Diagonals = Float[Array, "n *block"]
LengthScale = Float[Array, "*d"]


class Result(enum.IntEnum):
    """How a numerical procedure ended; ``message`` says what happened and what to do about it.

    Members compare equal to the integer codes that compiled code returns.

    Examples
    --------
    >>> Result(1)
    <Result.max_steps: 1>
    >>> Result.converged.message
    'Converged.'
    """

    message: str

    converged = 0, "Converged."
    max_steps = (
        1,
        "The step limit was reached before the tolerance. Raise the limit, loosen the tolerance, "
        "or take more layers (a smaller time step).",
    )
    not_finite = (
        2,
        "A value became NaN or infinite. Standardise the inputs, take more layers, or strengthen "
        "the regularisation nu.",
    )
    interrupted = (
        3,
        "Interrupted by the user; the best iterate so far was kept. Fit again to go on.",
    )
    ill_conditioned = (
        4,
        "A kernel matrix stayed indefinite after the largest jitter. Raise the nugget, merge "
        "duplicated rows, or shorten the length scale.",
    )
    folded = (
        5,
        "The map folds between neighbouring pixels: it is bent more than they can show. Raise nu, "
        "lengthen the kernel, or give finer images.",
    )

    def __new__(cls, code: int, message: str = "") -> Result:
        """Make an integer that carries its message."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.message = message
        return member


class Solution(eqx.Module, Generic[T]):
    """What a solver hands back.

    Attributes
    ----------
    value
        The answer, always present; trust it only as far as ``result`` allows.
    result : Array, shape ()
        Integer code, see `outcome`.
    stats
        Named scalars such as residuals and step counts.
    """

    value: T
    result: Code
    stats: dict[str, Any]

    @property
    def outcome(self) -> Result:
        """The code as a `Result`; needs a concrete value, so use it outside compiled code."""
        return Result(int(self.result))
