"""What all figures share: colours, axes, and the way into a page.

matplotlib is imported where it is used. Colours are from the set of Okabe and Ito, told apart by
colour-blind readers.
"""

from __future__ import annotations

import importlib
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#4a4f57"
FAINT = "#b8bdc6"
BLUE = "#0072b2"
ORANGE = "#d55e00"
SERIES = (BLUE, ORANGE, "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MISSING = "figures need matplotlib: pip install 'ideareg[plot]'"
FAMILY = "var(--sans, sans-serif)"
MAX_POINTS = 1500  # more hide each other, and make a vector figure heavy


def axes(ax: Axes | None, size: tuple[float, float] = (4.8, 3.4)) -> Axes:
    if ax is not None:
        return ax
    try:
        pyplot = importlib.import_module("matplotlib.pyplot")
    except ImportError as error:
        raise ImportError(MISSING) from error
    return pyplot.subplots(figsize=size, layout="constrained")[1]


def dress(
    ax: Axes, title: str, x: str, y: str, grid: Literal["both", "x", "y"] | None = "both"
) -> Axes:
    """Give a drawing the one style. It sets no global state."""
    for text in (
        ax.set_title(title, loc="left", fontsize=10.5, color=INK),
        ax.set_xlabel(x, fontsize=9, color=INK),
        ax.set_ylabel(y, fontsize=9, color=INK),
    ):
        text.set_parse_math(False)  # names of columns may hold dollar signs
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(FAINT)
    ax.tick_params(which="both", labelsize=8, color=FAINT, labelcolor=INK)
    if grid:
        ax.grid(axis=grid, color=FAINT, linewidth=0.5, alpha=0.5)
    ax.set_axisbelow(True)
    ax.set_facecolor("none")
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        legend: dict[str, Any] = {"frameon": False, "fontsize": 8, "labelcolor": INK}
        if not grid:  # the drawing fills its Axes, so the legend goes above
            legend |= {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 2}
        ax.legend(handles, labels, **legend)
    return ax


def some(n: int) -> np.ndarray:
    """Return at most ``MAX_POINTS`` of ``n`` indices, the same ones each time."""
    if n <= MAX_POINTS:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, MAX_POINTS, replace=False))


def as_svg(draw: Callable[[Axes], Any], size: tuple[float, float], salt: str) -> str:
    """Return what ``draw`` does to an Axes as SVG to put into a page.

    Parameters
    ----------
    draw : callable
        Takes an Axes.
    size : pair of float
        Width and height in inches.
    salt : str
        Different for each figure of a page: it keeps their identifiers apart.

    Returns
    -------
    str
        An ``<svg>`` element with real text in the page's own font. pyplot is not involved, and
        the same drawing gives the same text.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(MISSING) from error

    canvas, stream = Figure(figsize=size, layout="constrained"), io.StringIO()
    draw(canvas.subplots())
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        canvas.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    svg = re.sub(r"<metadata>.*?</metadata>", "", stream.getvalue(), flags=re.DOTALL)
    # Only sizes are kept; matplotlib writes the family alone, or after the size in one property.
    svg = re.sub(r"font-family: [^;\"]+", f"font-family: {FAMILY}", svg)
    svg = re.sub(r"font: ([^;\"]*?[\d.]+px) [^;\"]+", rf"font: \1 {FAMILY}", svg)
    return svg[svg.index("<svg") :]
