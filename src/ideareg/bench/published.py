"""Published results beside ours, and who is ahead on average."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import rankdata

from ideareg.bench.suite import Folder

# Score -> whether less of it is better.
SCORES = {"rmse": True, "ll": False}
COLUMNS = ("dataset", "method", "rmse_mean", "rmse_stderr", "ll_mean", "ll_stderr")

Pair = tuple[float, float]


class Published(NamedTuple):
    """What was published of one method on one set: score -> mean and standard error."""

    set: str
    method: str
    scores: dict[str, Pair]


def read_published(path: Folder) -> list[Published]:
    """Read a table of published results.

    Parameters
    ----------
    path : path-like
        A .csv file with the columns ``dataset, method, rmse_mean, rmse_stderr, ll_mean,
        ll_stderr``; a cell may be empty. Rows whose column ``from_memory`` is true are left out:
        nobody has looked them up again.

    Returns
    -------
    list of Published
        One per set and method; of several rows the first that has a score gives it.

    Raises
    ------
    FileNotFoundError
        If the file is not there.
    ValueError
        If it lacks a column, or a cell is no number.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: --published names a .csv file")
    found: dict[tuple[str, str], dict[str, Pair]] = {}
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} has no column {missing[0]}: expected {', '.join(COLUMNS)}")
        for row in reader:
            if (row.get("from_memory") or "").strip().lower() == "true":
                continue
            scores = found.setdefault((row["dataset"], row["method"]), {})
            for name in SCORES:
                try:
                    mean, error = (_number(row[f"{name}_{part}"]) for part in ("mean", "stderr"))
                except ValueError as problem:
                    raise ValueError(f"{path}, line {reader.line_num}: {problem}") from problem
                if not math.isnan(mean):
                    scores.setdefault(name, (mean, error))
    return [Published(*key, scores) for key, scores in found.items()]


def _number(text: str | None) -> float:
    return float(text) if text and text.strip() else math.nan


def complete(published: Sequence[Published], sets: Sequence[str]) -> list[Published]:
    """Return the results on ``sets`` of the methods that have one score or more on each of them."""
    everywhere = {
        method
        for score in SCORES
        for method, means in _means(published, score).items()
        if set(sets) <= means.keys()
    }
    return [row for row in published if row.set in sets and row.method in everywhere]


def _means(rows: Sequence[Published], score: str) -> dict[str, dict[str, float]]:
    """Return method -> set -> mean."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if score in row.scores:
            found.setdefault(row.method, {})[row.set] = row.scores[score][0]
    return found


def ours(summary: Sequence[Mapping[str, Any]]) -> list[Published]:
    """Return the lines of `Suite.summary` in the form of published ones."""
    return [
        Published(line["set"], line["method"], {name: line[name] for name in SCORES})
        for line in summary
    ]


def mean_ranks(rows: Sequence[Published], sets: Sequence[str]) -> list[tuple[str, float, float]]:
    """Return method, mean rank in RMSE and in log-likelihood, best first.

    1 is best; equal scores share their ranks. Methods without a score on each of the sets take no
    part in it: their rank is NaN, and who has neither is left out.

    Examples
    --------
    >>> rows = [
    ...     Published("yacht", "a", {"rmse": (1.0, 0.1), "ll": (-2.0, 0.1)}),
    ...     Published("yacht", "b", {"rmse": (2.0, 0.1), "ll": (-1.0, 0.1)}),
    ... ]
    >>> mean_ranks(rows, ["yacht"])
    [('a', 1.0, 2.0), ('b', 2.0, 1.0)]
    """
    ranks: dict[str, dict[str, float]] = {}
    for score, less in SCORES.items():
        means = {m: by for m, by in _means(rows, score).items() if set(sets) <= by.keys()}
        if not means:
            continue
        table = np.array([[by[name] for name in sets] for by in means.values()])
        mean = rankdata(table if less else -table, axis=0).mean(1)
        for method, value in zip(means, mean, strict=True):
            ranks.setdefault(method, {})[score] = float(value)
    lines = [(m, by.get("rmse", math.nan), by.get("ll", math.nan)) for m, by in ranks.items()]
    return sorted(lines, key=lambda line: np.nan_to_num(np.array(line[1:]), nan=1e3).sum())


def rank_table(rows: Sequence[Published], sets: Sequence[str]) -> Any:
    """Return the mean ranks as a rich table."""
    from rich.table import Table

    lines = mean_ranks(rows, sets)
    numbers = np.array([line[1:] for line in lines], dtype=float).reshape(-1, 2)
    count = np.isfinite(numbers).sum(0)
    many = "1 set" if len(sets) == 1 else f"{len(sets)} sets"
    view = Table(title=f"mean rank over {many}", title_justify="left", box=None)
    view.add_column("method", overflow="fold")
    for heading, among in zip(("RMSE", "log-likelihood"), count, strict=True):
        view.add_column(f"{heading} (of {among})", justify="right", no_wrap=True)
    for method, *values in lines:
        view.add_row(method, *("–" if math.isnan(v) else f"{v:.2f}" for v in values))
    return view
