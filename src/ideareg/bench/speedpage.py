"""The page of ``bench speed``: the table, and how seconds grow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from ideareg import page
from ideareg.bench.clock import Job, Timing
from ideareg.bench.speed import exponents, growing, own_seconds
from ideareg.plotting.style import BLUE, dress

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEAD = ("task", "N", "d", "depth", "type", "method", "median s", "first call s", "peak MiB",
        "× ideareg", "note")  # fmt: skip


def write(path: str | os.PathLike[str], rows: Sequence[tuple[Job, Timing]]) -> None:
    """Write the measurements as one self-contained page."""
    own = own_seconds(rows)
    lines = []
    for job, t in rows:
        ours = own.get(job._replace(method=""))
        ratio = t.seconds / ours if ours else None
        size = (job.task, job.n, job.d, job.depth, job.dtype, job.method)
        lines.append((*size, t.seconds, t.first, t.peak or None, ratio, t.note))
    figures = [
        page.figure(
            partial(_growth, sizes=sizes, seconds=seconds, varied=varied, task=task),
            f"seconds of {task} against {varied}",
        )
        for task, varied, sizes, seconds in growing(rows)
    ]
    sections = [page.section("Seconds", page.table(HEAD, lines))]
    if figures:
        found = "; ".join(exponents(rows))
        sections.append(
            page.section("Growth", page.note(found + "."), '<div class="row">', *figures, "</div>")
        )
    page.write_page(
        path, "Speed", "Medians of several calls, each job in a process of its own.", sections
    )


def _growth(
    ax: Axes, sizes: Sequence[int], seconds: Sequence[float], varied: str, task: str
) -> None:
    ax.loglog(sizes, seconds, "o-", color=BLUE)
    dress(ax, task, varied, "seconds")
