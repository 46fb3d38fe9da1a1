"""The benchmark: what it reads, what it refuses before any work, and going on from a file."""

import itertools
import json
import math
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from sklearn.dummy import DummyClassifier

from ideareg import REMClassifier, WarpingClassifier, WarpingRegressor
from ideareg.bench import (
    convnet,
    dropout,
    images,
    published,
    registration,
    resultpage,
    speed,
    speedpage,
)
from ideareg.bench.classify import CLASSIFY
from ideareg.bench.clock import Job, Timing, clock
from ideareg.bench.dropout import DROPOUT
from ideareg.bench.images import IMAGES
from ideareg.bench.registration import REGISTRATION
from ideareg.bench.suite import Task, key, parse_splits, unfinished, versions
from ideareg.bench.uci import UCI, UCI_GAP


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    defaults = {"max_iter": 3, "n_control_points": 4, "nu": 1.0}
    for name, value in defaults.items():
        monkeypatch.setitem(WarpingRegressor.__init__.__kwdefaults__, name, value)
        monkeypatch.setitem(WarpingClassifier.__init__.__kwdefaults__, name, value)
    monkeypatch.setattr(dropout, "SECONDS", 0.01)


def save_set(folder, name, n=80, splits=3, **arrays):
    random = np.random.default_rng(0)
    X = random.normal(size=(n, 6))
    # as many rows and columns in training as in the other tests: one shape, one compilation
    mask = np.array([random.permutation(n) < n // 4 for _ in range(splits)])
    parts = {"X": X, "y": np.tanh(X[:, 0]) * 10, "test_mask": mask}
    np.savez(folder / f"{name}.npz", **(parts | arrays))


@pytest.fixture
def folder(tmp_path):
    save_set(tmp_path, "uci_yacht")
    save_set(tmp_path, "uci_wine_red", n=2800)
    return tmp_path


def row(**changes):
    return {
        "set": "yacht", "split": 0, "method": "head", "rmse": 1.0, "ll": -1.0, "crps": 0.5,
        "coverage": 0.9, "seconds": 2.0,
    } | changes  # fmt: skip


# ---------------------------------------------------------------- planning


@pytest.mark.parametrize(
    ("text", "splits"), [("0-4", [0, 1, 2, 3, 4]), ("0,3", [0, 3]), ("7,0-2,1", [0, 1, 2, 7])]
)
def test_parse_splits(text, splits):
    assert parse_splits(text) == splits


@pytest.mark.parametrize("text", ["", "a", "3-1", "1-", "0,,1"])
def test_parse_splits_refuses(text):
    with pytest.raises(
        ValueError, match="not understood: expected for instance 0-4 or 0,3, or all"
    ):
        parse_splits(text)


def test_plan_leaves_out_a_process_that_is_too_large(folder):
    tasks = UCI.plan(folder, ["yacht", "wine"], [0, 2], UCI.chosen(""))
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
        UCI.plan(folder, sets, splits, methods)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"y": np.zeros(3)}, r"y \(3,\), test_mask \(3, 80\) do not match"),
        ({"X": np.array([object()])}, "is not a benchmark file with X, y, test_mask"),
    ],
)
def test_file_that_does_not_fit(folder, arrays, match):
    save_set(folder, "uci_boston", **arrays)
    with pytest.raises(ValueError, match=match):
        UCI.load(folder, "boston")


def test_file_that_is_no_archive(folder):
    (folder / "uci_boston.npz").write_text("text")
    with pytest.raises(ValueError, match="is not a benchmark file"):
        UCI.load(folder, "boston")


# ---------------------------------------------------------------- running


def test_run_saves_each_result_and_goes_on(folder):
    path = folder / "results.json"
    tasks = UCI.plan(folder, ["yacht"], [0], UCI.chosen(""))
    run = UCI.run(folder, tasks, json_path=path)
    first = next(run)
    assert UCI.read(path) == [first]
    run.close()  # as when the user interrupts

    kept = UCI.read(path)
    assert [task.method for task in unfinished(tasks, kept)] == ["head", "sklearn-gp"]
    new = list(UCI.run(folder, tasks, kept, path))
    saved = json.loads(path.read_text())
    assert saved["results"] == [first, *new]
    assert saved["versions"] == versions()
    assert [key(result) for result in saved["results"]] == tasks
    for result in saved["results"]:
        assert 0 < result["rmse"] < 10
        assert math.isfinite(result["ll"])
        assert 0 < result["crps"] < result["rmse"]
        assert 0 <= result["coverage"] <= 1
        assert result["seconds"] > 0


def test_results_of_something_else(tmp_path):
    path = tmp_path / "r.json"
    for text in ("{", "[]", '{"results": [{}], "versions": {}}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="is not a file of this benchmark's results"):
            UCI.read(path)
    path.write_text(json.dumps({"results": [row()], "versions": {"ideareg": "0.0"}}))
    with pytest.raises(ValueError, match="has results of other versions"):
        UCI.read(path)


def test_results_of_an_earlier_benchmark_and_of_other_splits(tmp_path):
    path = tmp_path / "r.json"
    old = {name: value for name, value in row().items() if name != "crps"}
    path.write_text(json.dumps({"results": [old], "versions": versions()}))
    with pytest.raises(ValueError, match="earlier benchmark, without crps: name another --json"):
        UCI.read(path)
    path.write_text(json.dumps({"results": [row()], "versions": versions()}))  # before gap splits
    assert UCI.read(path) == [row()]
    with pytest.raises(ValueError, match="on the splits of test_mask, not gap_test_mask"):
        UCI_GAP.read(path)


def test_gap_splits_are_all_taken(tmp_path):
    mask = np.zeros((2, 80), bool)
    mask[0, :20] = mask[1, 20:40] = True
    save_set(tmp_path, "uci_yacht", gap_test_mask=mask)
    tasks = UCI_GAP.plan(tmp_path, ["yacht"], parse_splits("all"), ["head"])
    assert tasks == [Task("yacht", 0, "head"), Task("yacht", 1, "head")]
    np.testing.assert_array_equal(UCI_GAP.load(tmp_path, "yacht").test_mask, mask)
    assert "boston" not in UCI_GAP.sets
    save_set(tmp_path, "uci_wine_red")
    with pytest.raises(ValueError, match="benchmark file with X, y, gap_test_mask"):
        UCI_GAP.load(tmp_path, "wine")


# ---------------------------------------------------------------- published results

CSV = """dataset,method,rmse_mean,rmse_stderr,ll_mean,ll_stderr,source,from_memory
yacht,deep,2.0,0.1,-0.5,,a paper,false
boston,deep,0.5,0.1,-2.0,0.1,a paper,false
yacht,half,9.0,0.1,-9.0,0.1,a paper,false
yacht,recalled,0.1,0.1,9.0,0.1,memory,true
boston,recalled,0.1,0.1,9.0,0.1,memory,true
yacht,only ll,,,-3.0,0.1,a paper,false
boston,only ll,,,-0.1,0.1,a paper,false
"""


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "published.csv"
    path.write_text(CSV)
    return path


def test_published_methods_are_ranked_where_they_have_all_sets(csv):
    sets = ["yacht", "boston"]
    others = published.complete(published.read_published(csv), sets)
    assert {row.method for row in others} == {"deep", "only ll"}
    own = published.ours(UCI.summary([row(), row(set="boston")]))  # RMSE 1, LL -1 on both
    ranks = {m: (rmse, ll) for m, rmse, ll in published.mean_ranks([*own, *others], sets)}
    assert ranks["head"] == (1.5, 2.0)
    assert ranks["deep"] == (1.5, 2.0)
    assert math.isnan(ranks["only ll"][0]) and ranks["only ll"][1] == 2.0
    table = published.rank_table([*own, *others], sets)
    assert [column.header for column in table.columns][1:] == [
        "RMSE (of 2)",
        "log-likelihood (of 3)",
    ]


def test_published_rows_stand_below_ours(csv):
    others = published.read_published(csv)
    table = UCI.table([row(), row(set="boston")], others)
    assert list(table.columns[0].cells) == ["yacht", "", "", "", "boston", "", ""]
    assert list(table.columns[1].cells)[:4] == ["head", "deep", "half", "only ll"]
    assert list(table.columns[3].cells)[1:4] == ["2.00 ± 0.10", "9.00 ± 0.10", "–"]


def test_page_has_what_was_published(tmp_path, csv):
    sets = ["yacht", "boston"]
    rows = [row(set=name) for name in sets]
    others = published.complete(published.read_published(csv), sets)
    ranked = [*published.ours(UCI.summary(rows)), *others]
    resultpage.write(tmp_path / "page.html", UCI, "Beside others", rows, ranked)
    text = (tmp_path / "page.html").read_text()
    assert text.count("<td>deep</td>") == 3  # once among the ranks, once on each set
    assert "<td>2.00 ± 0.10</td>" in text


def test_published_files_that_do_not_fit(tmp_path, csv):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*: --published names"):
        published.read_published(tmp_path / "none.csv")
    csv.write_text("dataset,method\n")
    with pytest.raises(ValueError, match="has no column rmse_mean"):
        published.read_published(csv)
    csv.write_text(CSV + "yacht,deep,many,,,,,\n")
    with pytest.raises(ValueError, match="line 9: could not convert"):
        published.read_published(csv)


def test_results_on_the_gap_splits_are_here_to_compare_with():
    path = Path(__file__).parents[1] / "docs" / "uci_gap_published.csv"
    rows = published.read_published(path)
    assert {row.set for row in rows} == set(UCI.sets)
    assert len(published.complete(rows, list(UCI.sets))) == len(rows) == 9 * 6


def test_published_results_are_here_to_compare_with():
    path = Path(__file__).parents[1] / "docs" / "uci_published.csv"
    rows = published.read_published(path)
    assert {row.set for row in rows} == set(UCI.sets)
    assert len(published.complete(rows, list(UCI.sets))) == len(rows) == 9 * 24


def test_summary():
    rows = [row(rmse=value, split=i) for i, value in enumerate((1.0, 2.0, 3.0))]
    head, single = UCI.summary([row(set="boston"), *rows])
    assert (head["set"], head["splits"]) == ("yacht", 3)
    assert head["rmse"] == pytest.approx((2, 1 / 3**0.5))
    assert math.isnan(single["rmse"][1])


def test_table_has_a_line_for_each_method():
    table = UCI.table([row(), row(method="ideareg"), row(set="boston")])
    assert table.row_count == 3
    assert list(table.columns[1].cells) == ["ideareg", "head", "head"]
    assert list(table.columns[0].cells) == ["yacht", "", "boston"]


# ---------------------------------------------------------------- the other suites


def save_classes(folder, name, classes=2):
    X = np.random.default_rng(1).normal(size=(80, 6))
    edges = np.quantile(X[:, 0] + X[:, 1] ** 2, np.linspace(0, 1, classes + 1)[1:-1])
    save_set(folder, name, X=X, y=np.searchsorted(edges, X[:, 0] + X[:, 1] ** 2).astype(np.uint8))


def test_classifiers_and_their_peer(tmp_path):
    save_classes(tmp_path, "cls_segment", classes=3)
    tasks = CLASSIFY.plan(tmp_path, ["segment"], [0], list(CLASSIFY.methods))
    rows = {row["method"]: row for row in CLASSIFY.run(tmp_path, tasks)}
    assert list(rows) == ["ideareg", "no warp", "svc"]
    for row in rows.values():
        assert 0.4 < row["accuracy"] <= 1
        assert 0 < row["log_loss"] < np.log(3)  # better than guessing
    table = CLASSIFY.table(list(rows.values()))
    assert [column.header for column in table.columns][3:5] == ["accuracy", "log-loss"]
    assert next(iter(table.columns[3].cells)) == f"{100 * rows['ideareg']['accuracy']:.1f} %"


@pytest.mark.parametrize("name", ["pima", pytest.param("concrete", marks=pytest.mark.slow)])
def test_three_ways_to_regularise_one_network(tmp_path, name):
    if name == "pima":
        save_classes(tmp_path, "cls_pima")
    else:
        save_set(tmp_path, "uci_concrete")
    tasks = DROPOUT.plan(tmp_path, [name], [0], list(DROPOUT.methods))
    rows = list(DROPOUT.run(tmp_path, tasks))
    assert [row["method"] for row in rows] == ["decay", "dropout", "nugget"]
    for row in rows:
        assert np.isfinite([row["clean"], row["noisy"]]).all()
        assert row["strength"] in (0.0, *dropout.STRENGTHS[row["method"]])


def test_what_the_regularisers_do_to_the_network():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    Y = np.sin(2 * X[:, :1]) + 0.5 * rng.normal(size=(60, 1))
    data = dropout.Training(X, Y, np.ones(60))
    nets = {
        method: dropout.fit(
            data, method, dropout.Setting(0.1, strength), classes=False, seed=0, seconds=1.0
        )
        for method, strength in {"decay": 0.0, "dropout": 0.3, "nugget": 10.0}.items()
    }
    error = {k: float(np.mean((dropout.outputs(net, X) - Y) ** 2)) for k, net in nets.items()}
    # Slack takes up noise, and what leaves tanh out cannot learn it by heart.
    assert error["decay"] < min(error["dropout"], error["nugget"]) < Y.var()
    slack = nets["nugget"].z
    relaxed = dropout.outputs(nets["nugget"], X, np.sqrt(10.0) * slack)
    assert float(np.mean((relaxed - Y) ** 2)) < 0.5 * error["nugget"]


# ---------------------------------------------------------------- images


@pytest.fixture
def pictures(tmp_path):
    random = np.random.default_rng(0)
    y = np.arange(400) % 2
    X = (40 * random.random((400, 9, 9)) + 150 * (y[:, None, None] * np.eye(9))).astype(np.uint8)
    np.savez(tmp_path / "img_digits8x8.npz", X=X, y=y)
    parts = {"X_train": X[:350], "y_train": y[:350], "X_test": X[350:], "y_test": y[350:]}
    np.savez(tmp_path / "img_mnist.npz", **parts)
    return tmp_path


def test_sets_of_images(pictures):
    assert IMAGES.load(pictures, "digits").test_mask.sum(0).tolist() == [1] * 400
    few = IMAGES.load(pictures, "mnist-300")
    assert [few.training(split).sum() for split in range(5)] == [300] * 5
    assert not (few.training(0) & few.test_mask[0]).any()
    assert (few.training(0) != few.training(1)).any()
    rotated = IMAGES.load(pictures, "rotated")
    assert rotated.X.shape == (400, 81)
    assert (rotated.X != IMAGES.load(pictures, "mnist").X).any()


def test_images_run(pictures, monkeypatch):
    monkeypatch.setitem(REMClassifier.__init__.__kwdefaults__, "n_patches", (6, 6))
    methods = ["ideareg", "turns", "svc"]
    tasks = IMAGES.plan(pictures, ["mnist-300", "rotated"], [0], methods)
    assert [task.method for task in tasks] == ["ideareg", "svc", *methods]
    rows = list(IMAGES.run(pictures, [task for task in tasks if task.method != "svc"]))
    assert all(0 <= row["error"] <= 0.5 and math.isfinite(row["log_loss"]) for row in rows)
    assert rows[0]["error"] < 0.1


def test_convolutional_network_gets_the_seconds_of_the_first_method(pictures, monkeypatch):
    pytest.importorskip("torch", reason="PyTorch is a peer, not a dependency")
    steps = itertools.count()  # a clock of steps, so that the machine's pace decides nothing
    monkeypatch.setattr(convnet, "time", SimpleNamespace(perf_counter=steps.__next__))
    quick = replace(IMAGES, score=lambda case, task: images.score(case, task) | {"seconds": 60})
    monkeypatch.setitem(images.METHODS, "ideareg", lambda case: DummyClassifier())
    tasks = quick.plan(pictures, ["mnist-300"], [0], ["cnn", "ideareg"])
    assert [task.method for task in tasks] == ["ideareg", "cnn"]
    _, network = quick.run(pictures, tasks)
    assert network["error"] < 0.1
    assert next(steps) == 61
    with pytest.raises(ValueError, match="the seconds of ideareg, which has no result"):
        next(quick.run(pictures, tasks[1:]))


def test_images_refuse_other_files(tmp_path):
    np.savez(tmp_path / "img_mnist.npz", X=np.zeros((4, 4)), y=np.zeros(4))
    with pytest.raises(ValueError, match=r"X \(4, 4\) and y \(4,\) are not images"):
        IMAGES.load(tmp_path, "mnist")
    with pytest.raises(ValueError, match="unknown set 'svhn'"):
        IMAGES.load(tmp_path, "svhn")


def test_distinct_sets_keep_one_of_equal_rows(tmp_path):
    X = np.array([[1.0, 2], [3, 4], [1, 2], [1, 2]])
    mask = np.array([[True, False, False, True]])
    np.savez(tmp_path / "uci_wine_red.npz", X=X, y=np.array([5.0, 6, 5, 7]), test_mask=mask)
    assert len(UCI.load(tmp_path, "wine").y) == 4
    kept = UCI.load(tmp_path, "wine-distinct")
    np.testing.assert_array_equal(kept.y, [5, 6, 7])
    np.testing.assert_array_equal(kept.test_mask, [[True, False, True]])
    assert "wine-distinct" not in UCI.sets


# ---------------------------------------------------------------- speed


@pytest.mark.parametrize("task", ["product", "shooting"])
def test_all_methods_of_a_speed_task_compute_the_same(task):
    """A ratio of times is one of equal work."""
    found = []
    for job in speed.jobs([task]):
        if job.method != "limit" and job.dtype == speed.TASKS[task].dtypes[-1]:
            with jax.enable_x64(True):
                small = job._replace(n=40, dtype="float64")
                found.append(
                    [np.asarray(part) for part in as_tuple(speed.TASKS[task].make(small)())]
                )
    assert len(found) >= 2
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            np.testing.assert_allclose(same, one, rtol=1e-9, atol=1e-12)


def as_tuple(answer):
    return answer if isinstance(answer, tuple) else (answer,)


def test_timings_are_medians_with_their_range():
    count = [0]

    def call():
        count[0] += 1
        time.sleep(0.2 if count[0] == 1 else 0.01)

    timing = clock(call)
    assert timing.first >= 0.2 > timing.seconds >= 0.01
    assert timing.low <= timing.seconds <= timing.high and timing.peak > 10


def test_speed_measures_in_a_process_of_its_own_and_saves(tmp_path):
    job = Job("product", "ideareg", "float32", 64)
    rows = list(speed.run([job]))
    assert rows[0][1].seconds > 0
    speed.save(tmp_path / "speed.json", rows)
    (kept,) = json.loads((tmp_path / "speed.json").read_text())["timings"]
    assert kept["task"] == "product" and kept["seconds"] == rows[0][1].seconds
    with pytest.raises(ValueError, match="unknown task 'flying'"):
        speed.jobs(["flying"])


def test_the_exponent_is_that_of_the_size_that_varies(tmp_path):
    rows = [
        (Job("flight", "ideareg", "float32", 10, d), Timing(3.0 * d**1.5, 0, 0, 0, 0))
        for d in (2, 4, 8)
    ]
    assert speed.exponents(rows) == ["flight: seconds grow with d to the power 1.50"]
    rows.append((Job("<b>", "torch", "float32", 10), Timing(1.0, 1, 1, 1, 10.0, "<i>note</i>")))
    speedpage.write(tmp_path / "speed.html", rows)
    text = (tmp_path / "speed.html").read_text(encoding="utf-8")
    assert text.count("<svg") == 1 and "&lt;i&gt;note" in text and "<b>" not in text


@pytest.mark.slow
def test_prediction_is_timed_on_a_model_that_predicts():
    job = Job("prediction", "ideareg", "float32", 300, depth=4)
    (means,) = speed.TASKS["prediction"].make(job)()
    assert means.shape == (300, 1) and means.dtype == np.float32 and np.std(means) > 0.1


# ---------------------------------------------------------------- registration


@pytest.fixture
def slices(tmp_path):
    x, y = np.mgrid[:32, :32] - 15.5
    images = [200 / (1 + np.exp(x**2 / a + a * y**2 - 64)) for a in (0.8, 1.0, 1.25)]
    np.savez(tmp_path / "pair_brain_ants.npz", images=np.array(images).astype(np.uint8))
    return tmp_path


def run_pairs(folder, pairs, methods):
    tasks = REGISTRATION.plan(folder, ["brains"], pairs, methods)
    return list(REGISTRATION.run(folder, tasks))


def test_ordered_pairs(slices):
    data = REGISTRATION.load(slices, "brains")
    sources = [np.flatnonzero(data.training(split)).tolist() for split in range(6)]
    targets = [np.flatnonzero(mask).tolist() for mask in data.test_mask]
    assert sources == [[0], [0], [1], [1], [2], [2]]
    assert targets == [[1], [2], [0], [2], [0], [1]]
    with pytest.raises(ValueError, match="set 'brains' has pairs 0-5, so there is no 6"):
        REGISTRATION.plan(slices, ["brains"], [6], ["ideareg"])


def test_registration_of_a_pair(slices):
    (row,) = run_pairs(slices, [1], ["ideareg"])
    assert row["after"] < 0.05 * row["before"]
    assert 0 < row["determinant"] < 1.1
    assert row["inverse"] < 1e-3
    again = REGISTRATION.load(slices, "brains").X
    assert row["before"] == pytest.approx(np.mean((again[0] - again[2]) ** 2))


@pytest.mark.parametrize("method", ["demons", "syn", "syn-squares", "syn-fine"])
def test_peers_move_the_same_way(slices, method):
    pytest.importorskip(REGISTRATION.needs[method])
    (row,) = run_pairs(slices, [1], [method])
    assert row["after"] < 0.2 * row["before"]
    assert row["determinant"] > 0
    assert row["inverse"] < 1


def test_scores_of_known_maps(slices, monkeypatch):
    """A shift by one row that is not quite undone."""
    shift = np.array([1.0, 0.0])

    def shifted(source, target):
        pixels = target.points()
        return registration.Found(3.0, pixels + shift, pixels + 0.25 * shift)

    monkeypatch.setitem(registration.METHODS, "demons", shifted)
    (row,) = run_pairs(slices, [0], ["demons"])
    X = REGISTRATION.load(slices, "brains").X
    moved = np.concatenate([X[0, 1:], X[0, -1:]])
    assert row["after"] == pytest.approx(np.mean((moved - X[1]) ** 2))
    assert (row["determinant"], row["inverse"], row["seconds"]) == pytest.approx((1.0, 0.25, 3.0))


def test_table_shows_the_worst_pair():
    rows = [
        {"set": "brains", "split": i, "method": "ideareg", "before": 9.0, "after": 1.0 + i,
         "determinant": 0.5 - i, "inverse": 0.1 + i, "seconds": 1.0}
        for i in range(2)
    ]  # fmt: skip
    (line,) = REGISTRATION.summary(rows)
    assert line["after"] == pytest.approx((1.5, 0.5))
    assert (line["determinant"][0], line["inverse"][0]) == (-0.5, 1.1)
    table = REGISTRATION.table(rows)
    assert table.title == "mean ± standard error over pairs"
    assert [next(iter(table.columns[k].cells)) for k in (2, 5, 6)] == ["2", "-0.50", "1.1"]
    table = REGISTRATION.table([rows[0] | {"inverse": math.inf}])
    assert next(iter(table.columns[6].cells)) == "inf"


def test_absent_peers_are_left_out(monkeypatch):
    monkeypatch.setattr("ideareg.bench.suite.find_spec", lambda name: None)
    absent = REGISTRATION.absent(["ideareg", "demons", "syn"])
    assert list(absent) == ["demons", "syn"]
    assert absent["syn"] == "it needs ants: pip install 'ideareg[bench]'"


def test_files_that_hold_no_pairs(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ants\.npz: --data names the folder"):
        REGISTRATION.load(tmp_path, "brains")
    np.savez(tmp_path / "pair_brain_ants.npz", images=np.zeros((1, 9, 9)))
    with pytest.raises(ValueError, match=r"images \(1, 9, 9\) are not two or more"):
        REGISTRATION.load(tmp_path, "brains")
    np.savez(tmp_path / "pair_brain_ants.npz", X=np.zeros((2, 9, 9)))
    with pytest.raises(ValueError, match="is not a file of images"):
        REGISTRATION.load(tmp_path, "brains")
