"""The page of a benchmark: pictures of every score, the table, and mean ranks."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ideareg import page
from ideareg.bench.published import Published, mean_ranks
from ideareg.bench.suite import Column, Row, Suite
from ideareg.plotting.style import SERIES, dress

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SECONDS = Column("seconds", "seconds", 1)
# Inches of a picture: a line for each set.
WIDTH, LINE, MARGIN = 4.6, 0.3, 1.1
MARKS = "os^"  # another one when all colours are taken


def write(
    path: str | os.PathLike[str],
    suite: Suite,
    title: str,
    rows: Sequence[Row],
    ranked: Sequence[Published] = (),
) -> None:
    """Write the results as one self-contained page, with ranks among ``ranked`` if there are any.

    What of these is not in ``rows`` was published, and stands in a table of its own.
    Every picture has a line for each set and a mark for each method. A score that is positive
    everywhere and no share is relative to that of the first method; others are shown as they are.
    """
    lines = suite.summary(rows)
    figures = [
        page.figure(
            partial(_marks, lines=lines, column=column),
            f"{column.heading} of each method on each set",
            (WIDTH, _height(lines)),
        )
        for column in (*suite.columns, SECONDS)
    ]
    head = ("set", "method", suite.unit, *(column.heading for column in suite.columns), "seconds")
    cells = [
        (
            *(line["set"], line["method"], line["splits"]),
            *suite.cells(line),
            f"{line['seconds'][0]:.1f}",
        )
        for line in lines
    ]
    sections = [
        page.section("Pictures", '<div class="row">', *figures, "</div>"),
        page.section("Table", page.table(head, cells)),
    ]
    names = list(dict.fromkeys(line["set"] for line in lines))
    if ranked:
        ranks = page.table(("method", "RMSE", "log-likelihood"), mean_ranks(ranked, names))
        note = page.note(f"Over {', '.join(names)}; 1 is best, a dash where a set is lacking.")
        sections.append(page.section("Mean ranks", note, ranks))
        own = {line["method"] for line in lines}
        others = [row for row in ranked if row.method not in own]
        published = [(row.set, row.method, *suite.cells(row.scores)) for row in others]
        sections.append(page.section("Published", page.table((*head[:2], *head[3:-1]), published)))
    page.write_page(path, title, f"Mean ± standard error over {suite.unit}.", sections)


def _height(lines: Sequence[dict[str, Any]]) -> float:
    """Return the inches of a picture: methods beyond four need room below each other."""
    sets, methods = ({line[name] for line in lines} for name in ("set", "method"))
    return MARGIN + LINE * len(sets) * max(1.0, len(methods) / 4)


def _marks(ax: Axes, lines: Sequence[dict[str, Any]], column: Column) -> None:
    """Draw one score: a line for each set, a mark for each method."""
    from matplotlib.ticker import LogLocator

    sets = list(dict.fromkeys(line["set"] for line in lines))
    methods = list(dict.fromkeys(line["method"] for line in lines))
    by = {(line["set"], line["method"]): line[column.score] for line in lines}
    # Such a score has a scale of its own on every set.
    relative = column.digits > 0 and all(mean > 0 for mean, _ in by.values())
    gap = min(0.12, 0.8 / len(methods))
    for place, method in enumerate(methods):
        found = [(i, *by[name, method]) for i, name in enumerate(sets) if (name, method) in by]
        scale = [
            by.get((sets[i], methods[0]), (math.nan, 0))[0] if relative else 1.0
            for i, _, _ in found
        ]
        at, mean, error = np.array(found, dtype=float).T
        ax.errorbar(
            mean / scale, at + gap * place, xerr=np.nan_to_num(error) / np.abs(scale),
            fmt=MARKS[place // len(SERIES) % len(MARKS)], ms=4, lw=1,
            color=SERIES[place % len(SERIES)], label=method,
        )  # fmt: skip
    ax.set_yticks(range(len(sets)), sets)
    ax.invert_yaxis()
    if relative:
        ax.set_xscale("log", subs=[])
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter("{x:g}")
    what = f"relative to {methods[0]}" if relative else column.heading
    dress(ax, column.heading, what, "", grid="x")
