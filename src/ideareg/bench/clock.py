"""A job, what it took, and the clock: repeated calls, their median, and the first one apart."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Call = Callable[[], Any]
# Repeated until both are reached, or the second is passed tenfold.
FEWEST, SECONDS = 5, 2.0
MEBIBYTE = 2**20


class Job(NamedTuple):
    """One thing to measure: a task at a size, by a method."""

    task: str
    method: str
    dtype: str
    n: int
    d: int = 10
    depth: int = 10


class Timing(NamedTuple):
    """What a job took.

    Attributes
    ----------
    seconds : float
        Median of one call.
    low, high : float
        Quartiles.
    first : float
        The first call, which compiles.
    peak : float
        Peak memory of the process, in MiB.
    note : str
        What it reached, where that is not the same for all methods.
    """

    seconds: float
    low: float
    high: float
    first: float
    peak: float
    note: str = ""


def clock(call: Call) -> Timing:
    """Time a call over and over."""
    start = time.perf_counter()
    call()
    first = time.perf_counter() - start
    times: list[float] = []
    while (len(times) < FEWEST or sum(times) < SECONDS) and sum(times) < 10 * SECONDS:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    low, median, high = np.quantile(times, [0.25, 0.5, 0.75]).tolist()
    return Timing(median, low, high, first, peak_memory())


def peak_memory() -> float:
    """Return the most memory that this process has held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MEBIBYTE if sys.platform == "darwin" else 1024)
