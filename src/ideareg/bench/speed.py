"""Speed and memory, as ratios that are taken in one run: against the machine, and against peers.

Each measurement is a process of its own, so that its peak memory is its own and nothing is warm:
the first call, which compiles, is counted apart, and the median of the others is reported with the
range of their middle half.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from ideareg import persistence
from ideareg.bench.clock import Call, Job, Timing, clock
from ideareg.bench.workloads import limit, prediction, product, scaling, shooting, whole_fit


class Size(NamedTuple):
    """Rows, or points that carry momentum; columns; layers."""

    n: int
    d: int = 10
    depth: int = 10


class Task(NamedTuple):
    """A task: what makes its call or its timing, its methods, sizes and types."""

    make: Callable[[Job], Call | Timing]
    methods: tuple[str, ...]
    sizes: tuple[Size, ...]
    dtypes: tuple[str, ...] = ("float32",)
    brief: bool = True  # a minute or less, and so among those by default


ALONE = ("ideareg",)
TASKS = {
    "product": Task(
        product, ("ideareg", "limit", "formed", "torch", "keops"), (Size(10_000),),
        ("float32", "float64"),
    ),
    "shooting": Task(shooting, ("ideareg", "formed", "torch"), (Size(3_000),)),
    "small shooting": Task(shooting, ("ideareg", "formed", "torch"), (Size(200),), ("float64",)),
    "prediction": Task(prediction, ALONE, (Size(100_000, depth=4),), ("float32", "float64")),
    "fit": Task(whole_fit, ("ideareg", "one warp", "sklearn GP"), (Size(2_000),), ("float64",)),
    "product by n": Task(product, ALONE, (Size(5_000), Size(20_000), Size(100_000))),
    "shooting by n": Task(shooting, ALONE, (Size(500), Size(1_000), Size(2_000), Size(4_000))),
    "shooting by d": Task(shooting, ALONE, (Size(1_000, 5), Size(1_000, 10), Size(1_000, 20))),
    "shooting by depth": Task(
        shooting, ALONE, (Size(1_000, depth=5), Size(1_000, depth=10), Size(1_000, depth=20))
    ),
    "memory": Task(shooting, ALONE, (Size(20_000),), brief=False),
    "rows": Task(
        scaling, ALONE, (Size(10_000), Size(100_000), Size(1_000_000)), ("float64",), brief=False
    ),
}  # fmt: skip
PEERS = {"torch": "torch", "keops": "pykeops"}


def jobs(tasks: Sequence[str]) -> list[Job]:
    """Return what there is to measure; peers that are not installed are left out.

    Raises
    ------
    ValueError
        For an unknown task.
    """
    found = []
    for name in tasks:
        if name not in TASKS:
            raise ValueError(f"unknown task {name!r}: the tasks are {', '.join(TASKS)}")
        task = TASKS[name]
        found += [
            Job(name, method, dtype, *size)
            for dtype in task.dtypes
            for size in task.sizes
            for method in task.methods
            if method not in PEERS or importlib.util.find_spec(PEERS[method])
        ]
    return found


def missing() -> list[str]:
    """Return the peers that are not installed."""
    return [name for name, module in PEERS.items() if not importlib.util.find_spec(module)]


def measure(job: Job) -> Timing:
    """Measure one job in this process."""
    with jax.enable_x64(job.dtype == "float64"):
        found = (limit if job.method == "limit" else TASKS[job.task].make)(job)
        return found if isinstance(found, Timing) else clock(found)


def run(todo: Sequence[Job]) -> Iterator[tuple[Job, Timing]]:
    """Measure each job in a fresh process, one after the other."""
    context = multiprocessing.get_context("spawn")
    for job in todo:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            yield job, pool.submit(measure, job).result()


def table(rows: Sequence[tuple[Job, Timing]]) -> Any:
    """Return the measurements as a rich table, each beside ideareg's of the same job."""
    from rich.table import Table

    view = Table(box=None)
    for heading in ("task", "N", "d", "depth", "", "method"):
        view.add_column(heading)
    for heading in ("median s", "quartiles", "first call s", "peak MiB", "x ideareg"):
        view.add_column(heading, justify="right")
    view.add_column("")
    own = own_seconds(rows)
    for job, t in rows:
        ours = own.get(job._replace(method=""))
        view.add_row(
            job.task, f"{job.n:,}", str(job.d), str(job.depth), job.dtype, job.method,
            f"{t.seconds:.4g}",
            f"{t.low:.3g}-{t.high:.3g}", f"{t.first:.3g}", f"{t.peak:.0f}" if t.peak else "",
            f"{t.seconds / ours:.2f}" if ours else "", t.note,
        )  # fmt: skip
    return view


def own_seconds(rows: Sequence[tuple[Job, Timing]]) -> dict[Job, float]:
    """Return the seconds of ideareg for each job, as one without a method."""
    return {job._replace(method=""): t.seconds for job, t in rows if job.method == "ideareg"}


def growing(rows: Sequence[tuple[Job, Timing]]) -> Iterator[tuple[str, str, list[int], Any]]:
    """Yield each task that ideareg did at several sizes: name, what varies, sizes, seconds."""
    for name in dict.fromkeys(job.task for job, _ in rows):
        ours = [(job, t) for job, t in rows if job.task == name and job.method == "ideareg"]
        for varied in Size._fields:
            sizes = [getattr(job, varied) for job, _ in ours]
            if len(set(sizes)) > 1:
                yield name, varied, sizes, [t.seconds for _, t in ours]


def exponents(rows: Sequence[tuple[Job, Timing]]) -> list[str]:
    """Return, for each growing task, the power of the size with which seconds grow.

    By least squares on logarithms.
    """
    return [
        f"{name}: seconds grow with {varied} to the power "
        f"{np.polyfit(np.log(sizes), np.log(seconds), 1)[0]:.2f}"
        for name, varied, sizes, seconds in growing(rows)
    ]


def save(path: str | os.PathLike[str], rows: Sequence[tuple[Job, Timing]]) -> None:
    """Write the measurements as JSON: a list ``timings``."""
    found = [{**job._asdict(), **timing._asdict()} for job, timing in rows]
    with persistence.replacing(path) as stream:
        stream.write(json.dumps({"timings": found}, indent=1).encode())
