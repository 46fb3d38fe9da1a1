"""A claim: what the theory says, what was measured, and whether they agree."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ideareg.hamiltonian import State


class Claim(NamedTuple):
    """One row of the table.

    Attributes
    ----------
    claim : str
    section : str
        The part of the theory that it belongs to.
    measured, expected, tolerance : float
    passed : bool
        Whether measured is within tolerance of expected.
    """

    claim: str
    section: str
    measured: float
    expected: float
    tolerance: float
    passed: bool


def row(section: str, claim: str, measured: Any, expected: float, tolerance: float) -> Claim:
    """Return the row, and whether it holds."""
    value = float(measured)
    return Claim(claim, section, value, expected, tolerance, abs(value - expected) <= tolerance)


def largest(*differences: Any) -> float:
    """Return the largest entry of any of the arrays, in size."""
    return max(float(np.abs(np.asarray(d)).max(initial=0.0)) for d in differences)


def some_state(n: int = 5, d: int = 2, size: float = 0.5, seed: int = 0) -> State:
    """Return random points with random momenta."""
    rng = np.random.default_rng(seed)
    return State(rng.normal(size=(n, d)), size * rng.normal(size=(n, d)))
