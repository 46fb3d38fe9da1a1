"""The UCI benchmark: accuracy, honesty and time of one default configuration against peers.

One run of all methods on the same splits. Seconds are what a user waits, the first compilation
of a shape in the process included. Results are saved after each fit, and a run that is started
again goes on where it stopped.
"""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ideareg import persistence
from ideareg.estimators.warping import WarpingRegressor
from ideareg.report import held_out

# Name on the command line -> name in the file, in the order of size.
SETS = {
    "yacht": "yacht",
    "boston": "boston",
    "energy": "energy",
    "concrete": "concrete",
    "wine": "wine_red",
    "kin8nm": "kin8nm",
    "power": "power",
    "naval": "naval",
    "protein": "protein",
}
LARGEST_GP = 2000  # rows; scikit-learn's exact Gaussian process takes hours beyond

Row = dict[str, Any]


def _gaussian_process(d: int) -> Any:
    kernel = ConstantKernel() * RBF(np.ones(d), (1e-2, 1e3)) + WhiteKernel(0.1, (1e-8, 1e1))
    return make_pipeline(
        StandardScaler(), GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
    )


METHODS: dict[str, Callable[[int], Any]] = {
    "ideareg": lambda d: WarpingRegressor(random_state=0),
    "head": lambda d: WarpingRegressor(random_state=0, nu=math.inf),
    "sklearn-gp": _gaussian_process,
}


class Task(NamedTuple):
    """One fit of the benchmark."""

    set: str
    split: int
    method: str


class DataSet(NamedTuple):
    """Inputs (n, d), targets (n,) and the test rows of each split (splits, n)."""

    X: np.ndarray
    y: np.ndarray
    test_mask: np.ndarray


# ---------------------------------------------------------------- what to run


def parse_splits(text: str) -> list[int]:
    """Read "0-4" or "0,3" or "0-2,7" as split numbers.

    Raises
    ------
    ValueError
        If ``text`` is neither.
    """
    numbers: set[int] = set()
    try:
        for part in text.split(","):
            first, dash, last = part.partition("-")
            numbers |= set(range(int(first), int(last if dash else first) + 1))
    except ValueError:
        numbers = set()
    if not numbers:
        raise ValueError(f"splits {text!r} not understood: expected for instance 0-4 or 0,3")
    return sorted(numbers)


def load_set(folder: str | os.PathLike[str], name: str) -> DataSet:
    """Read one data set, ``uci_<name>.npz`` in ``folder``.

    Raises
    ------
    ValueError
        For an unknown name, or a file that does not hold X, y and test_mask.
    FileNotFoundError
        If the file is not there.
    """
    if name not in SETS:
        raise ValueError(f"unknown set {name!r}: the sets are {', '.join(SETS)}")
    path = Path(folder) / f"uci_{SETS[name]}.npz"
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: --data names the folder that holds it")
    try:
        with np.load(path, allow_pickle=False) as file:
            X, y, mask = (file[key] for key in ("X", "y", "test_mask"))
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{path} is not a benchmark file with X, y, test_mask: {error}") from error
    if X.ndim != 2 or y.shape != X.shape[:1] or mask.ndim != 2 or mask.shape[1:] != y.shape:
        raise ValueError(f"{path}: X {X.shape}, y {y.shape}, test_mask {mask.shape} do not match")
    return DataSet(X.astype(float), y.astype(float), mask.astype(bool))


def plan(
    folder: str | os.PathLike[str],
    sets: Sequence[str],
    splits: Sequence[int],
    methods: Sequence[str],
) -> list[Task]:
    """List the fits to run, after checking that each can be.

    Parameters
    ----------
    folder : path-like
        Where the data are.
    sets, splits, methods : sequences
        What to combine. Methods that are not made for a set's size are left out.

    Returns
    -------
    list of Task

    Raises
    ------
    ValueError, FileNotFoundError
        For an unknown set, split or method, and for a missing or wrong file.
    """
    unknown = [method for method in methods if method not in METHODS]
    if unknown:
        raise ValueError(f"unknown method {unknown[0]!r}: the methods are {', '.join(METHODS)}")
    tasks = []
    for name in sets:
        data = load_set(folder, name)
        if splits[-1] >= len(data.test_mask):
            last = len(data.test_mask) - 1
            raise ValueError(f"set {name!r} has splits 0-{last}, so there is no {splits[-1]}")
        for split in splits:
            small = (~data.test_mask[split]).sum() <= LARGEST_GP
            tasks += [Task(name, split, m) for m in methods if small or m != "sklearn-gp"]
    return tasks


# ---------------------------------------------------------------- run


def run_task(data: DataSet, task: Task) -> Row:
    """Fit one method on the training rows of one split and score it on the test rows.

    Returns
    -------
    dict
        ``set, split, method``; ``rmse``, ``ll`` (mean log-likelihood, units of the target),
        ``coverage`` of the 90 % interval; ``seconds`` of fit and prediction.
    """
    test = data.test_mask[task.split]
    model = METHODS[task.method](data.X.shape[1])
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a peer's remarks on its own convergence
        scores = held_out(model.fit(data.X[~test], data.y[~test]), data.X[test], data.y[test])
    seconds = time.perf_counter() - start
    return {
        **task._asdict(),
        "rmse": scores.rmse,
        "ll": scores.ll,
        "coverage": scores.coverage(),
        "seconds": seconds,
    }


def versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    names = ("jax", "numpy", "scipy", "scikit-learn")
    return {"ideareg": persistence.library_version()} | {name: version(name) for name in names}


def read_results(path: str | os.PathLike[str]) -> list[Row]:
    """Return the rows of an earlier run; none if there is no such file.

    Raises
    ------
    ValueError
        If the file holds something else, or comes from other versions.
    """
    path = Path(path)
    if not path.exists():
        return []
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        rows, made_by = saved["results"], saved["versions"]
        complete = all({*Task._fields, "rmse", "ll", "seconds"} <= row.keys() for row in rows)
    except (ValueError, TypeError, LookupError, AttributeError):
        complete = False
    if not complete:
        raise ValueError(f"{path} is not a file of benchmark results: name another --json")
    if made_by != versions():
        raise ValueError(
            f"{path} has results of other versions ({made_by}): name another --json, so that one "
            "table compares one set of versions"
        )
    return rows


def run(
    folder: str | os.PathLike[str],
    tasks: Sequence[Task],
    kept: Sequence[Row] = (),
    json_path: str | os.PathLike[str] | None = None,
) -> Iterator[Row]:
    """Run the tasks that ``kept`` does not hold, and save after each.

    Parameters
    ----------
    folder : path-like
        Where the data are.
    tasks : sequence of Task
        See `plan`.
    kept : sequence of dict
        Rows of an earlier run, see `read_results`; they are saved along.
    json_path : path-like, optional
        Where to save.

    Yields
    ------
    dict
        One row per new result, see `run_task`.
    """
    rows = list(kept)
    data: tuple[str, DataSet] | None = None
    for task in unfinished(tasks, kept):
        if data is None or data[0] != task.set:
            data = (task.set, load_set(folder, task.set))
        rows.append(run_task(data[1], task))
        if json_path is not None:
            text = json.dumps({"results": rows, "versions": versions()}, indent=1)
            with persistence.replacing(json_path) as stream:
                stream.write(text.encode())
        yield rows[-1]


def key(row: Row) -> Task:
    """Return the task that a row is the result of."""
    return Task(*(row[field] for field in Task._fields))


def unfinished(tasks: Sequence[Task], rows: Sequence[Row]) -> list[Task]:
    """Return the tasks that have no row."""
    done = {key(row) for row in rows}
    return [task for task in tasks if task not in done]


def summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Average over splits.

    Returns
    -------
    list of dict
        Per set and method: ``set, method, splits``, and for each score its mean and its standard
        error (NaN for one split), a pair.
    """
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["set"], row["method"]].append(row)
    order = {name: i for i, name in enumerate([*SETS, *METHODS])}
    out = []
    for name, method in sorted(groups, key=lambda pair: [order.get(part, 99) for part in pair]):
        group = groups[name, method]
        line: dict[str, Any] = {"set": name, "method": method, "splits": len(group)}
        for score in ("rmse", "ll", "coverage", "seconds"):
            values = np.array([row.get(score, math.nan) for row in group], dtype=float)
            n = len(values)
            line[score] = (values.mean(), values.std(ddof=1) / n**0.5 if n > 1 else math.nan)
        out.append(line)
    return out


def table(rows: Sequence[Row]) -> Any:
    """Return the summary as a rich table."""
    from rich.table import Table

    view = Table(title="mean ± standard error over splits", title_justify="left", box=None)
    for heading in ("set", "method"):
        view.add_column(heading, no_wrap=True)
    for heading in ("splits", "RMSE", "log-likelihood", "90 % coverage", "seconds"):
        view.add_column(heading, justify="right", no_wrap=True)
    before = None
    for line in summary(rows):
        first = line["set"] if line["set"] != before else ""
        before = line["set"]
        view.add_row(
            first,
            line["method"],
            str(line["splits"]),
            _with_error(line["rmse"], digits=4),
            _with_error(line["ll"], digits=3),
            f"{100 * line['coverage'][0]:.0f} %",
            f"{line['seconds'][0]:.1f}",
        )
    return view


def _with_error(score: tuple[float, float], digits: int) -> str:
    mean, error = score
    places = max(0, digits - 1 - math.floor(math.log10(max(abs(mean), 1e-12))))
    return f"{mean:.{places}f}" + ("" if math.isnan(error) else f" ± {error:.{places}f}")
