"""The benchmark: what it reads, what it refuses before any work, and going on from a file."""

import json
import math

import numpy as np
import pytest

from ideareg import WarpingRegressor, bench
from ideareg.bench import Task


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    defaults = {"max_iter": 3, "n_control_points": 4, "nu": 1.0}
    for name, value in defaults.items():
        monkeypatch.setitem(WarpingRegressor.__init__.__kwdefaults__, name, value)


def save_set(folder, name, n=80, splits=3, **arrays):
    random = np.random.default_rng(0)
    X = random.normal(size=(n, 6))
    # as many rows and columns in training as in the other tests: one shape, one compilation
    mask = np.array([random.permutation(n) < n // 4 for _ in range(splits)])
    parts = {"X": X, "y": np.tanh(X[:, 0]) * 10, "test_mask": mask}
    np.savez(folder / f"uci_{name}.npz", **(parts | arrays))


@pytest.fixture
def folder(tmp_path):
    save_set(tmp_path, "yacht")
    save_set(tmp_path, "wine_red", n=2800)
    return tmp_path


def row(**changes):
    return {
        "set": "yacht", "split": 0, "method": "head", "rmse": 1.0, "ll": -1.0, "coverage": 0.9,
        "seconds": 2.0,
    } | changes  # fmt: skip


# ---------------------------------------------------------------- planning


@pytest.mark.parametrize(
    ("text", "splits"), [("0-4", [0, 1, 2, 3, 4]), ("0,3", [0, 3]), ("7,0-2,1", [0, 1, 2, 7])]
)
def test_parse_splits(text, splits):
    assert bench.parse_splits(text) == splits


@pytest.mark.parametrize("text", ["", "a", "3-1", "1-", "0,,1"])
def test_parse_splits_refuses(text):
    with pytest.raises(ValueError, match="not understood: expected for instance 0-4 or 0,3"):
        bench.parse_splits(text)


def test_plan_leaves_out_a_process_that_is_too_large(folder):
    tasks = bench.plan(folder, ["yacht", "wine"], [0, 2], list(bench.METHODS))
    assert len(tasks) == 2 * 3 + 2 * 2
    assert Task("wine", 2, "sklearn-gp") not in tasks


@pytest.mark.parametrize(
    ("sets", "splits", "methods", "match"),
    [
        (["mars"], [0], ["head"], "unknown set 'mars': the sets are yacht, boston"),
        (["yacht", "boston"], [0], ["head"], "no file .*uci_boston.npz: --data names the folder"),
        (["yacht"], [0, 3], ["head"], "set 'yacht' has splits 0-2, so there is no 3"),
        (["yacht"], [0], ["magic"], "unknown method 'magic': the methods are ideareg, head"),
    ],
)
def test_plan_refuses(folder, sets, splits, methods, match):
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        bench.plan(folder, sets, splits, methods)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"y": np.zeros(3)}, r"y \(3,\), test_mask \(3, 80\) do not match"),
        ({"X": np.array([object()])}, "is not a benchmark file with X, y, test_mask"),
    ],
)
def test_file_that_does_not_fit(folder, arrays, match):
    save_set(folder, "boston", **arrays)
    with pytest.raises(ValueError, match=match):
        bench.load_set(folder, "boston")


def test_file_that_is_no_archive(folder):
    (folder / "uci_boston.npz").write_text("text")
    with pytest.raises(ValueError, match="is not a benchmark file"):
        bench.load_set(folder, "boston")


# ---------------------------------------------------------------- running


def test_run_saves_each_result_and_goes_on(folder):
    path = folder / "results.json"
    tasks = bench.plan(folder, ["yacht"], [0], list(bench.METHODS))
    run = bench.run(folder, tasks, json_path=path)
    first = next(run)
    assert bench.read_results(path) == [first]
    run.close()  # as when the user interrupts

    kept = bench.read_results(path)
    assert [task.method for task in bench.unfinished(tasks, kept)] == ["head", "sklearn-gp"]
    new = list(bench.run(folder, tasks, kept, path))
    saved = json.loads(path.read_text())
    assert saved["results"] == [first, *new]
    assert saved["versions"] == bench.versions()
    assert [bench.key(result) for result in saved["results"]] == tasks
    for result in saved["results"]:
        assert 0 < result["rmse"] < 10
        assert math.isfinite(result["ll"])
        assert 0 <= result["coverage"] <= 1
        assert result["seconds"] > 0


def test_results_of_something_else(tmp_path):
    path = tmp_path / "r.json"
    for text in ("{", "[]", '{"results": [{}], "versions": {}}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="is not a file of benchmark results"):
            bench.read_results(path)
    path.write_text(json.dumps({"results": [row()], "versions": {"ideareg": "0.0"}}))
    with pytest.raises(ValueError, match="has results of other versions"):
        bench.read_results(path)


def test_summary():
    rows = [row(rmse=value, split=i) for i, value in enumerate((1.0, 2.0, 3.0))]
    head, single = bench.summary([row(set="boston"), *rows])
    assert (head["set"], head["splits"]) == ("yacht", 3)
    assert head["rmse"] == pytest.approx((2, 1 / 3**0.5))
    assert math.isnan(single["rmse"][1])


def test_table_has_a_line_for_each_method():
    table = bench.table([row(), row(method="ideareg"), row(set="boston")])
    assert table.row_count == 3
    assert list(table.columns[1].cells) == ["ideareg", "head", "head"]
    assert list(table.columns[0].cells) == ["yacht", "", "boston"]
