"""Benchmarks as data: sets, methods and scores; planning, running, going on, and the table.

All methods of a suite run on the same splits. Seconds are what a user waits, the first compilation
of a shape in the process included. Results are saved after each fit, and a run that is started
again goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ideareg import persistence

Row = dict[str, Any]
Folder = str | os.PathLike[str]
# Scores below it are written with a power of ten.
SMALL = 1e-3


class Task(NamedTuple):
    """One fit of a benchmark."""

    set: str
    split: int
    method: str


class DataSet(NamedTuple):
    """Inputs (n, d), targets (n,) and the test rows of each split (splits, n).

    Training rows are the others, unless ``train_mask`` (splits, n) says which.
    """

    X: np.ndarray
    y: np.ndarray
    test_mask: np.ndarray
    train_mask: np.ndarray | None = None

    def training(self, split: int) -> np.ndarray:
        """Return the training rows of a split as a mask (n,)."""
        return ~self.test_mask[split] if self.train_mask is None else self.train_mask[split]

    def case(self, split: int, seconds: float | None = None) -> Case:
        """Return the rows of a split, see `Case`."""
        train, test = self.training(split), self.test_mask[split]
        return Case(self.X[train], self.y[train], self.X[test], self.y[test], seconds)


class Case(NamedTuple):
    """Training and test rows of one split, and the seconds of the first method if known."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    seconds: float | None = None


class Column(NamedTuple):
    """A score in the table; with ``digits`` 0 a share, shown in per cent.

    ``worst`` picks one number of all splits, instead of their mean.
    """

    score: str
    heading: str
    digits: int
    worst: Callable[[np.ndarray], Any] | None = None


@dataclass(frozen=True)
class Suite:
    """What a benchmark runs, and how.

    Attributes
    ----------
    sets : mapping
        Name of a set -> name of its file without ``.npz``, in the order of the table.
    methods : tuple of str
        Likewise in order.
    columns : tuple of Column
        The scores.
    score : callable
        Takes a `Case` and its `Task`; fits, and returns a number for each column, and ``seconds``
        if those of the whole call are not what a user waits.
    distinct : mapping
        Likewise sets that are run where they are named: of equal rows one, so that no row of a test
        stands in the training set.
    largest : mapping
        Method -> most training rows that it is made for; no limit where it is not named.
    mask : str
        The array of a file that holds the test rows of each split.
    needs : mapping
        Method -> the module of the optional package that it is of.
    on_request : tuple of str
        Methods that are run where they are named, or all are asked for.
    paced : tuple of str
        Methods that are given the seconds of the first one on the same split.
    unit : str
        What the table calls splits.
    """

    sets: Mapping[str, str]
    methods: tuple[str, ...]
    columns: tuple[Column, ...]
    score: Callable[[Case, Task], dict[str, float]]
    distinct: Mapping[str, str] = field(default_factory=dict)
    largest: Mapping[str, int] = field(default_factory=dict)
    mask: str = "test_mask"
    needs: Mapping[str, str] = field(default_factory=dict)
    on_request: tuple[str, ...] = ()
    paced: tuple[str, ...] = ()
    unit: str = "splits"

    def chosen(self, text: str) -> list[str]:
        """Return the methods that ``text`` names, split by commas; "all", or "" for the usual."""
        if not text:
            return [method for method in self.methods if method not in self.on_request]
        names = [part.strip() for part in text.split(",")]
        return list(self.methods) if names == ["all"] else names

    @contextlib.contextmanager
    def opened(self, folder: Folder, name: str, kind: str) -> Iterator[Any]:
        """Open the file of a set; what is wrong with it is said with its name and its ``kind``."""
        files = {**self.sets, **self.distinct}
        if name not in files:
            raise ValueError(f"unknown set {name!r}: the sets are {', '.join(files)}")
        path = Path(folder) / f"{files[name]}.npz"
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no file {path}: --data names the folder that holds it"
            )
        try:
            with np.load(path, allow_pickle=False) as file:
                yield file
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"{path} is not {kind}: {error}") from error

    def load(self, folder: Folder, name: str) -> DataSet:
        """Read one data set.

        Raises
        ------
        ValueError
            For an unknown name, or a file that does not hold X, y and the mask.
        FileNotFoundError
            If the file is not there.
        """
        with self.opened(folder, name, f"a benchmark file with X, y, {self.mask}") as file:
            X, y, mask = (file[key] for key in ("X", "y", self.mask))
            if X.ndim != 2 or y.shape != X.shape[:1] or mask.ndim != 2 or mask.shape[1:] != y.shape:
                shapes = f"X {X.shape}, y {y.shape}, {self.mask} {mask.shape}"
                raise ValueError(f"{shapes} do not match")
        X, y, mask = X.astype(float), y.astype(float), mask.astype(bool)
        if name in self.distinct:
            first = np.sort(np.unique(np.column_stack([X, y]), axis=0, return_index=True)[1])
            X, y, mask = X[first], y[first], mask[:, first]
        return DataSet(X, y, mask)

    def plan(
        self,
        folder: Folder,
        sets: Sequence[str],
        splits: Sequence[int] | None,
        methods: Sequence[str],
    ) -> list[Task]:
        """List the fits to run, after checking that each can be.

        Parameters
        ----------
        folder : path-like
            Where the data are.
        sets, splits, methods : sequences
            What to combine; None for all splits of each set. Methods come in the suite's order;
            those that are not made for a set's size are left out.

        Returns
        -------
        list of Task

        Raises
        ------
        ValueError, FileNotFoundError
            For an unknown set, split or method, and for a missing or wrong file.
        """
        unknown = [method for method in methods if method not in self.methods]
        if unknown:
            known = ", ".join(self.methods)
            raise ValueError(f"unknown method {unknown[0]!r}: the methods are {known}")
        tasks = []
        for name in sets:
            data = self.load(folder, name)
            chosen = range(len(data.test_mask)) if splits is None else splits
            if chosen[-1] >= len(data.test_mask):
                last = len(data.test_mask) - 1
                raise ValueError(
                    f"set {name!r} has {self.unit} 0-{last}, so there is no {chosen[-1]}"
                )
            for split in chosen:
                rows = data.training(split).sum()
                tasks += [
                    Task(name, split, method)
                    for method in self.methods
                    if method in methods and rows <= self.largest.get(method, math.inf)
                ]
        return tasks

    def absent(self, methods: Sequence[str]) -> dict[str, str]:
        """Return the methods whose package is not installed, each with what to do about it."""
        lacking = {m: self.needs[m] for m in methods if m in self.needs}
        return {
            method: f"it needs {module}: pip install 'ideareg[bench]'"
            for method, module in lacking.items()
            if find_spec(module) is None
        }

    def run(
        self,
        folder: Folder,
        tasks: Sequence[Task],
        kept: Sequence[Row] = (),
        json_path: Folder | None = None,
    ) -> Iterator[Row]:
        """Run the tasks that ``kept`` does not hold, and save after each.

        Parameters
        ----------
        folder : path-like
            Where the data are.
        tasks : sequence of Task
            See `plan`.
        kept : sequence of dict
            Rows of an earlier run, see `read`; they are saved along.
        json_path : path-like, optional
            Where to save.

        Yields
        ------
        dict
            One row per new result: ``set, split, method``, the scores, and ``seconds``.

        Raises
        ------
        ValueError
            Before a paced method, if the first one has no result on the split.
        """
        rows = list(kept)
        data: tuple[str, DataSet] | None = None
        for task in unfinished(tasks, kept):
            if data is None or data[0] != task.set:
                data = (task.set, self.load(folder, task.set))
            case = data[1].case(task.split, self._pace(task, rows))
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a peer's remarks on its own convergence
                scores = self.score(case, task)
            rows.append(task._asdict() | {"seconds": time.perf_counter() - start} | scores)
            if json_path is not None:
                saved = {"results": rows, "versions": versions(), "mask": self.mask}
                text = json.dumps(saved, indent=1)
                with persistence.replacing(json_path) as stream:
                    stream.write(text.encode())
            yield rows[-1]

    def _pace(self, task: Task, rows: Sequence[Row]) -> float | None:
        first = task._replace(method=self.methods[0])
        seconds = next((row["seconds"] for row in rows if key(row) == first), None)
        if seconds is None and task.method in self.paced:
            raise ValueError(
                f"{task.method} is given the seconds of {first.method}, which has no result on "
                f"{task.set} {task.split}: run {first.method} too"
            )
        return seconds

    def read(self, path: Folder) -> list[Row]:
        """Return the rows of an earlier run; none if there is no such file.

        Raises
        ------
        ValueError
            If the file holds something else, or comes from other versions.
        """
        path = Path(path)
        if not path.exists():
            return []
        scores = [column.score for column in self.columns]
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            rows, made_by = saved["results"], saved["versions"]
            fits = all({*Task._fields, "seconds"} <= row.keys() for row in rows)
            lacking = [name for name in scores if any(name not in row for row in rows)]
            mask = saved.get("mask", "test_mask")
        except (ValueError, TypeError, LookupError, AttributeError):
            fits = False
        if not fits or len(lacking) == len(scores):
            raise ValueError(f"{path} is not a file of this benchmark's results: name another one")
        if lacking:
            raise ValueError(
                f"{path} has results of an earlier benchmark, without {', '.join(lacking)}: name "
                "another --json, and they are run again"
            )
        if mask != self.mask:
            raise ValueError(
                f"{path} has results on the splits of {mask}, not {self.mask}: name another --json"
            )
        if made_by != versions():
            raise ValueError(
                f"{path} has results of other versions ({made_by}): name another --json, so that "
                "one table compares one set of versions"
            )
        return rows

    def summary(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Average over splits.

        Returns
        -------
        list of dict
            Per set and method: ``set, method, splits``, and for each score its mean and its
            standard error (NaN for one split), a pair; or the worst, and NaN.
        """
        groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in rows:
            groups[row["set"], row["method"]].append(row)
        order = {name: i for i, name in enumerate([*self.sets, *self.distinct, *self.methods])}
        out = []
        for name, method in sorted(groups, key=lambda pair: [order.get(part, 99) for part in pair]):
            group = groups[name, method]
            line: dict[str, Any] = {"set": name, "method": method, "splits": len(group)}
            for score, _, _, worst in (*self.columns, Column("seconds", "seconds", 1)):
                values = np.array([row[score] for row in group], dtype=float)
                n = len(values)
                error = values.std(ddof=1) / n**0.5 if n > 1 and worst is None else math.nan
                line[score] = ((worst or np.mean)(values), error)
            out.append(line)
        return out

    def cells(self, scores: Mapping[str, Any]) -> list[str]:
        """Return the mean and standard error of each column as text; a dash where it is lacking."""
        return [
            shown(scores[column.score], column.digits) if column.score in scores else "–"
            for column in self.columns
        ]

    def table(self, rows: Sequence[Row], published: Sequence[Any] = ()) -> Any:
        """Return the summary as a rich table, with published results below ours on each set."""
        from rich.table import Table

        title = f"mean ± standard error over {self.unit}"
        view = Table(title=title, title_justify="left", box=None)
        view.add_column("set", no_wrap=True)
        view.add_column("method", overflow="fold", min_width=24)
        for heading in (self.unit, *(column.heading for column in self.columns), "seconds"):
            view.add_column(heading, justify="right", no_wrap=True)
        lines = self.summary(rows)
        for name in dict.fromkeys(line["set"] for line in lines):
            first = name
            for line in (line for line in lines if line["set"] == name):
                seconds = f"{line['seconds'][0]:.1f}"
                view.add_row(first, line["method"], str(line["splits"]), *self.cells(line), seconds)
                first = ""
            for other in (row for row in published if row.set == name):
                view.add_row("", other.method, "", *self.cells(other.scores), "", style="dim")
        return view


def parse_splits(text: str) -> list[int] | None:
    """Read "0-4" or "0,3" or "0-2,7" as split numbers; "all" gives None.

    Raises
    ------
    ValueError
        If ``text`` is neither.
    """
    if text.strip() == "all":
        return None
    numbers: set[int] = set()
    try:
        for part in text.split(","):
            first, dash, last = part.partition("-")
            numbers |= set(range(int(first), int(last if dash else first) + 1))
    except ValueError:
        numbers = set()
    if not numbers:
        raise ValueError(
            f"splits {text!r} not understood: expected for instance 0-4 or 0,3, or all"
        )
    return sorted(numbers)


def versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    names = ("jax", "numpy", "scipy", "scikit-learn")
    return {"ideareg": persistence.library_version()} | {name: version(name) for name in names}


def key(row: Row) -> Task:
    """Return the task that a row is the result of."""
    return Task(*(row[field] for field in Task._fields))


def unfinished(tasks: Sequence[Task], rows: Sequence[Row]) -> list[Task]:
    """Return the tasks that have no row."""
    done = {key(row) for row in rows}
    return [task for task in tasks if task not in done]


def shown(score: tuple[float, float], digits: int) -> str:
    """Format a mean and its standard error; with ``digits`` 0 in per cent.

    Examples
    --------
    >>> shown((10.584, 0.0099), 3), shown((-0.0023, 0.022), 3), shown((1.312e-05, 1.3e-07), 4)
    ('10.584 ± 0.010', '-0.002 ± 0.022', '1.312e-05 ± 1.3e-07')
    """
    mean, error = score
    if not math.isfinite(mean):
        return str(mean)
    if digits == 0:
        places = 1 if mean >= 0.1 else 2
        deviation = "" if math.isnan(error) else f" ± {100 * error:.{places}f}"
        return f"{100 * mean:.{places}f}{deviation} %"
    known = math.isfinite(error) and error > 0
    if 0 < abs(mean) < SMALL and not (known and error >= SMALL):
        return f"{mean:.{digits - 1}e}" + (f" ± {error:.1e}" if known else "")
    places = digits - 1 - (math.floor(math.log10(abs(mean))) if mean else 0)
    if known:  # one digit of the error at least, two at most
        first = -math.floor(math.log10(error))
        places = min(max(places, first), first + 1)
    places = max(places, 0)
    return f"{mean:.{places}f}" + ("" if math.isnan(error) else f" ± {error:.{places}f}")
