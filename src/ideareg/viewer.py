"""A self-contained HTML page on which a registration of shapes moves, with a slider for the time.

One file, without a request to anywhere, which its security policy forbids too: the numbers are
embedded as JSON, the script and the style sheet are inline.
"""

from __future__ import annotations

import json
import math
import os
import string
from html import escape
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ideareg import page, persistence
from ideareg.registration.shapes import Shape, as_shape

Floats = NDArray[np.float64]

# At most so many coordinates are embedded; frames are left out first, then the grid.
MOST_NUMBERS = 400_000
# Coordinates are rounded to this share of the extent.
RESOLUTION = 1e-4
MARGIN, LINES, FINE = 0.15, 17, 49


def write_viewer(
    path: str | os.PathLike[str],
    fit: Any,
    target: Any = None,
    *,
    title: str = "Registration",
    units: str = "",
) -> None:
    """Write an HTML page that shows a fitted registration of shapes over time.

    The source and the target stand still, the source pushed forward moves, in the plane with a grid
    around it. A slider and a button move the time; the mouse, or the arrow keys, + and -, turn
    solid shapes, shift plane ones, and zoom.

    Parameters
    ----------
    path : path-like
        Replaced, whole or not at all.
    fit : Registration
        Fitted, of landmarks, curves or surfaces in 2 or 3 dimensions. Time 0 is after the affine
        map.
    target : array (n, d), pair (points, cells) or Shape, optional
        As given to ``fit``; not drawn if it is left out.
    title, units : str
        Shown as text. Units are those of the coordinates, for the bar of scale.

    Raises
    ------
    ValueError
        If the fit is one of images or in other dimensions, the target goes elsewhere, or there are
        more than some 100 000 points.

    Notes
    -----
    There is a frame for each time step of the flow, and straight lines between them. Coordinates
    are rounded to a ten-thousandth of the extent, and no more than 400 000 of them are embedded: of
    large shapes every other frame, or more, is left out, and the page says so.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from ideareg import Registration
    >>> triangle = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> fit = Registration(nu=0.0).fit(triangle, 1.2 * triangle)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = pathlib.Path(folder) / "triangle.html"
    ...     write_viewer(page, fit, 1.2 * triangle, title="Growth", units="mm")
    ...     page.read_text().count("<h1>Growth</h1>")
    1
    """
    source = getattr(fit, "source_", None)
    if not isinstance(source, Shape):
        raise ValueError("write_viewer needs a fitted registration of shapes, not of images.")
    if source.dimension not in (2, 3):
        raise ValueError(f"write_viewer shows 2 or 3 dimensions, the fit has {source.dimension}.")
    goal = None if target is None else as_shape(target, "target")
    if goal is not None and goal.dimension != source.dimension:
        raise ValueError(
            f"target has {goal.dimension} coordinates, the fit {source.dimension}: give the shape "
            "that the fit was given."
        )
    data, notes = _data(fit, source, goal)
    keys = "turn" if source.dimension == 3 else "shift"
    filled = string.Template(PAGE).substitute(
        title=escape(title), style=page.STYLE + STYLE, layers=_layers(data),
        script=resources.files("ideareg").joinpath("viewer.js").read_text(encoding="utf-8"),
        data=_embedded({**data, "units": units}),
        label=escape(f"{title}: the {source.kind} at the time of the slider. Arrow keys {keys} it, "
                     "plus and minus zoom, Home goes back, space plays."),
        notes=escape(" ".join(notes)),
        help=f"Drag or arrow keys {keys}; wheel, + and − zoom; Home goes back; space plays.",
    )  # fmt: skip
    with persistence.replacing(path) as stream:
        stream.write(filled.encode())


def _data(fit: Any, source: Shape, goal: Shape | None) -> tuple[dict[str, Any], list[str]]:
    """Return what the script draws, and what a reader should know of it."""
    start = fit.affine_.inverse()(source.points)
    frames = fit.trajectories(start)
    fixed = [] if goal is None else [goal.points]
    everything = np.concatenate([*frames, *fixed])
    low, high = everything.min(axis=0), everything.max(axis=0)
    centre, size = (low + high) / 2, float((high - low).max()) or 1.0
    each, rest = source.points.size, sum(points.size for points in fixed)
    room = MOST_NUMBERS - rest
    if 2 * each > room:
        raise ValueError(
            f"the shapes have {len(source.points)} points, too many for a page of at most "
            f"{MOST_NUMBERS:,} coordinates; take fewer."
        )
    grid, lines = _grid(low, high, size) if source.dimension == 2 else (np.zeros((0, 2)), [])
    stride = _stride(len(frames), (each + grid.size), room)
    if stride is None:  # the grid goes first
        grid, lines = grid[:0], []
        stride = _stride(len(frames), each, room)
    kept = np.arange(0, len(frames), stride or len(frames) - 1)
    notes = [f"Time 0 is the source{' after its affine map' if _moves(fit.affine_) else ''}.",
             f"Coordinates are rounded to {_scale(size):g}."]  # fmt: skip
    if len(kept) < len(frames):
        notes.append(f"{len(kept)} of the {len(frames)} time steps are kept, for the page's size.")
    digits = -round(math.log10(_scale(size)))

    def flat(points: Floats) -> list[float]:
        return [float(x) for x in np.round(points, digits).ravel()]

    drawn = None
    if lines:
        # The grid lies around the source after its affine map, as time 0 does.
        moved = fit.trajectories(fit.affine_.inverse()(grid))
        drawn = {"frames": [flat(moved[k]) for k in kept], "lines": lines}
    return {
        "dimension": source.dimension,
        "centre": flat(centre),
        "extent": _extent(everything, centre, size),
        "cells": None if source.cells is None else source.cells.tolist(),
        "frames": [flat(frames[k]) for k in kept],
        "target": None if goal is None else {
            "points": flat(goal.points),
            "cells": None if goal.cells is None else goal.cells.tolist(),
        },
        "grid": drawn,
    }, notes  # fmt: skip


def _layers(data: dict[str, Any]) -> str:
    """Return a check box for each thing that is drawn."""
    boxes = {"moving": "source, pushed forward", "source": "source", "target": "target",
             "grid": "grid"}  # fmt: skip
    return "".join(
        f'<label class="{name}"><input type="checkbox" id="{name}" checked> {label}</label>'
        for name, label in boxes.items()
        if data.get(name, ()) is not None
    )


def _scale(size: float) -> float:
    """Return the power of ten to which coordinates are rounded."""
    return float(10.0 ** math.floor(math.log10(RESOLUTION * size)))


def _moves(affine: Any) -> bool:
    return not (
        np.array_equal(affine.matrix, np.eye(len(affine.matrix))) and not affine.shift.any()
    )


def _extent(points: Floats, centre: Floats, size: float) -> list[float]:
    """Return the width and height to be seen: of the plane and its grid, or of any turned solid."""
    if len(centre) == 3:
        sides = np.full(2, 2 * np.linalg.norm(points - centre, axis=1).max())
    else:
        sides = np.ptp(points, axis=0) + 2 * MARGIN * size
    return [float(f"{side:.4g}") for side in np.maximum(sides, 1e-12)]


def _grid(low: Floats, high: Floats, size: float) -> tuple[Floats, list[list[int]]]:
    """Return points of a square grid, shape (m, 2), and the lines that join them."""
    low, high = low - MARGIN * size, high + MARGIN * size
    points: list[Floats] = []
    lines: list[list[int]] = []
    for axis in (0, 1):
        for level in np.linspace(low[axis], high[axis], LINES):
            along = np.linspace(low[1 - axis], high[1 - axis], FINE)
            line = np.stack([np.full(FINE, level), along], axis=1)
            lines.append(list(range(len(points) * FINE, (len(points) + 1) * FINE)))
            points.append(line[:, ::-1] if axis else line)
    return np.concatenate(points), lines


def _stride(count: int, each: int, room: int) -> int | None:
    """Return the smallest divisor of the steps that leaves room for the frames, if one does."""
    steps = count - 1
    fits = [k for k in range(1, steps + 1) if steps % k == 0 and (steps // k + 1) * each <= room]
    return fits[0] if fits else None


def _embedded(data: dict[str, Any]) -> str:
    """Return JSON that can stand in a script element: nothing in it can end that, or start one."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))  # ASCII alone
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>$title</title>
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><style>$style</style></head>
<body><header><p class="brand">ideareg</p><h1>$title</h1></header>
<main><canvas id="view" tabindex="0" role="img" aria-label="$label"></canvas>
<div class="bar"><button id="play" type="button">Play</button>
<input id="time" type="range" min="0" max="1" value="0" step="0.01" aria-label="time">
<output id="shown" for="time">t = 0.00</output></div>
<div class="bar">$layers</div><p class="hint">$help $notes</p></main>
<script id="data" type="application/json">$data</script>
<script>$script</script></body></html>
"""

STYLE = """
canvas { display: block; width: 100%; height: min(64vh, 40rem); margin-top: 1rem;
  background: var(--panel); border: 1px solid var(--line); border-radius: .6rem;
  touch-action: none; cursor: grab; }
:focus-visible { outline: 2px solid var(--blue); outline-offset: 2px; }
.bar { display: flex; flex-wrap: wrap; align-items: center; gap: .6rem 1.2rem; margin: .9rem 0; }
.bar input[type=range] { flex: 1; min-width: 10rem; accent-color: var(--blue); }
button { font: inherit; color: var(--paper); background: var(--blue); border: 0;
  border-radius: .4rem; padding: .3rem 0; min-width: 5rem; cursor: pointer; }
output { font-variant-numeric: tabular-nums; min-width: 4.5rem; }
label.moving { color: var(--blue); } label.target { color: var(--orange); }
label.source, label.grid, .hint { color: var(--soft); } .hint { font-size: .86rem; }
"""
