"""Figures of honesty: intervals, probability integral transforms, classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import binom

from ideareg.calibration import Reliability, class_reliability
from ideareg.calibration import interval_reliability as measure
from ideareg.plotting.style import BLUE, FAINT, INK, axes, dress

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHANCE = 0.9  # probability of the bands that an honest model stays in


def _diagonal(ax: Axes, found: Reliability) -> None:
    """Draw the diagonal, and what chance alone allows about it."""
    ends = [
        np.where(
            found.rows > 0, binom.ppf(q, found.rows, found.promised) / np.maximum(found.rows, 1), 0
        )
        for q in ((1 - CHANCE) / 2, (1 + CHANCE) / 2)
    ]
    seen = found.rows > 0
    ax.vlines(
        found.promised[seen], ends[0][seen], ends[1][seen],
        color=FAINT, lw=5, alpha=0.45, label=f"chance ({CHANCE:.0%})",
    )  # fmt: skip
    ax.plot([0, 1], [0, 1], color=INK, lw=0.8, ls=(0, (4, 3)))
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")


def interval_reliability(pit: Any, ax: Axes | None = None) -> Axes:
    """Plot the share of targets that central intervals hold; the diagonal is honest.

    Parameters
    ----------
    pit : array-like
        Predicted probabilities below targets that were not fitted, see `WarpingRegressor.pit`.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
        Below the diagonal the model is too sure, above it too timid.
    """
    ax, found = axes(ax, (3.6, 3.4)), measure(pit)
    _diagonal(ax, found)
    ax.plot(found.promised, found.observed, "o-", color=BLUE, ms=3, lw=1.5, label="observed")
    return dress(ax, "Intervals", "probability of the interval", "share of targets inside")


def pit_histogram(pit: Any, bins: int = 10, ax: Axes | None = None) -> Axes:
    """Plot how the predicted probabilities below the targets are spread; flat is honest.

    Parameters
    ----------
    pit : array-like
        Of targets that were not fitted, see `WarpingRegressor.pit`.
    bins : int, default=10
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
        A valley in the middle: too sure; a hill: too timid; a slope: biased.
    """
    ax, pit = axes(ax), np.ravel(np.asarray(pit, dtype=float))
    count, edges = np.histogram(pit, bins=bins, range=(0, 1))
    low, high = binom.ppf([(1 - CHANCE) / 2, (1 + CHANCE) / 2], len(pit), 1 / bins)
    scale = bins / max(len(pit), 1)
    ax.axhspan(low * scale, high * scale, color=FAINT, alpha=0.45, lw=0, label="chance (90%)")
    ax.bar(edges[:-1], count * scale, 0.94 / bins, align="edge", color=BLUE)
    ax.axhline(1, color=INK, lw=0.8, ls=(0, (4, 3)))
    ax.set_xlim(0, 1)
    return dress(ax, "Where targets fall", "predicted probability below", "density", grid="y")


def reliability_of_classes(
    labels: Any, probability: Any, bins: int = 10, ax: Axes | None = None
) -> Axes:
    """Plot how often the most probable class is right, against its probability.

    Parameters
    ----------
    labels : array-like of int, shape (n,)
        The column of each row's class: ``np.searchsorted(model.classes_, y)``.
    probability : array-like, shape (n, k)
        Of rows that were not fitted.
    bins : int, default=10
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
    """
    ax, found = axes(ax, (3.6, 3.4)), class_reliability(labels, probability, bins)
    _diagonal(ax, found)
    seen = found.rows > 0
    label = f"observed, error {found.error:.3f}"
    ax.plot(found.promised[seen], found.observed[seen], "o-", color=BLUE, ms=3, lw=1.5, label=label)
    return dress(ax, "Classes", "probability of the most probable", "share that is right")
