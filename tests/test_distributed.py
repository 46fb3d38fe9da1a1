"""One fit over several processes: shares, parts, checkpoints, and processes that die."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from joblib import parallel_config
from sklearn.model_selection import GridSearchCV

import ideareg
from ideareg import WarpingRegressor, distributed
from ideareg.distributed import fitting
from ideareg.distributed.reading import read_part

COMMAND = [sys.executable, "-m", "ideareg.distributed"]
N = 180


def table(n=N, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    return X, np.tanh(4 * X[:, 0]) + 0.1 * X[:, 1] + 0.05 * rng.normal(size=n)


X, Y = table()
AT = table(7, seed=1)[0]


def regressor(**changes):
    small = {"nu": (np.inf, 5.0), "n_control_points": 4, "n_inducing": 16, "depth": 2, "verbose": 0}
    return WarpingRegressor(
        **{**small, "max_iter": 5, "local": False, "random_state": 0, **changes}
    )


@pytest.fixture
def evaluations(monkeypatch):
    """The number of values and gradients that were computed."""
    count, evaluator = [0], fitting.evaluator

    def counting(problem):
        of = evaluator(problem)

        def evaluate(theta):
            count[0] += 1
            return of(theta)

        return evaluate

    monkeypatch.setattr(fitting, "evaluator", counting)
    return count


def test_one_process_fits_as_the_estimator_does():
    shared = distributed.fit(regressor(), X, Y, np.ones(N))
    plain = regressor().fit(X, Y)
    np.testing.assert_allclose(shared.predict(AT), plain.predict(AT), rtol=1e-7)
    np.testing.assert_allclose(shared.warp_weights_, plain.warp_weights_, rtol=1e-7)
    few = distributed.fit(regressor(training_rows=40), X, Y)
    assert not np.allclose(few.predict(AT), plain.predict(AT), rtol=1e-7)


def test_a_fit_goes_on_from_its_checkpoint(tmp_path, evaluations):
    whole = distributed.fit(regressor(), X, Y)
    needed, journal = evaluations[0], tmp_path / "journal"
    distributed.fit(regressor(), X, Y, checkpoint=journal)
    assert evaluations[0] == 2 * needed
    again = distributed.fit(regressor(), X, Y, checkpoint=journal)
    assert evaluations[0] == 2 * needed
    np.testing.assert_array_equal(again.predict(AT), whole.predict(AT))

    # Cut off in the middle of a record, as by a kill: that one is computed again, and the rest.
    content = journal.read_bytes()
    record = (len(content) - 50) // needed
    journal.write_bytes(content[: 50 + 3 * record + record // 2])
    cut = distributed.fit(regressor(), X, Y, checkpoint=journal)
    assert evaluations[0] == 3 * needed - 3
    np.testing.assert_array_equal(cut.predict(AT), whole.predict(AT))
    assert journal.read_bytes() == content


def test_a_checkpoint_of_another_fit_is_refused(tmp_path):
    journal = tmp_path / "journal"
    distributed.fit(regressor(nu=5.0), X, Y, checkpoint=journal)
    for other in (
        lambda: (regressor(nu=4.0), X, Y),
        lambda: (regressor(nu=5.0), X, 2 * Y + X[:, 0]),
    ):
        with pytest.raises(ValueError, match="journal is not a checkpoint of this fit"):
            distributed.fit(*other(), checkpoint=journal)
    journal.write_bytes(b"something else")
    with pytest.raises(ValueError, match="not a checkpoint"):
        distributed.fit(regressor(nu=5.0), X, Y, checkpoint=journal)


@pytest.mark.parametrize("changes", [{"n_control_points": "rows"}, {"head": "exact"}])
def test_what_needs_all_rows_in_one_place_is_refused(changes):
    with pytest.raises(ValueError, match="need all rows in one place"):
        distributed.fit(regressor(**changes), X, Y)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ""])
def test_parts_of_a_table_make_up_the_whole(tmp_path, suffix):
    frame = pd.DataFrame(X, columns=["a", "b"])
    path = tmp_path / f"rows{suffix}"
    if suffix == ".csv":
        frame.to_csv(path, index=False)
    elif suffix:
        frame.to_parquet(path, row_group_size=20)
    else:
        path.mkdir()
        frame[:60].to_parquet(path / "1.parquet")
        frame[60:].to_parquet(path / "2.parquet")
    parts = [read_part(path, k, 4) for k in range(4)]
    assert [len(part) for part in parts] == [45, 45, 45, 45]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), frame)


def test_tables_that_cannot_be_read_say_why(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        read_part(tmp_path / "none.csv", 0, 1)
    (tmp_path / "rows.xls").write_text("?")
    with pytest.raises(ValueError, match=r"expected \.parquet, .csv or a folder"):
        read_part(tmp_path / "rows.xls", 0, 1)
    (tmp_path / "rows.parquet").write_text("?")
    with pytest.raises(ValueError, match="cannot be read"):
        read_part(tmp_path / "rows.parquet", 0, 1)
    (tmp_path / "rows.csv").write_text("a\n1\n")
    with pytest.raises(ValueError, match="1 rows, fewer than the 2 processes"):
        read_part(tmp_path / "rows.csv", 0, 2)


@pytest.fixture
def parquet(tmp_path):
    frame = pd.DataFrame(X, columns=["a", "b"]).assign(y=Y)
    frame.to_parquet(tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def arguments(parquet, out, **options):
    named = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    return ["fit", str(parquet), "--target=y", f"--out={out}", *named]


def test_two_processes_take_the_steps_of_one(parquet, tmp_path):
    models = []
    for processes in ("1", "2"):
        out = tmp_path / f"{processes}.ideareg"
        command = [*COMMAND, "--processes", processes, *arguments(parquet, out, max_iter=4)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert f"{processes} processes" in done.stdout
        models.append(ideareg.load(out))
    one, two = models
    np.testing.assert_allclose(one.history_["loss"], two.history_["loss"], rtol=1e-8)
    at = pd.DataFrame(AT, columns=["a", "b"])
    np.testing.assert_allclose(one.predict(at), two.predict(at), atol=1e-6)


@pytest.mark.slow
def test_a_killed_process_ends_the_run_and_the_next_run_goes_on(parquet, tmp_path):
    options = {"max_iter": 8, "checkpoint": tmp_path / "journal"}
    command = [*COMMAND, "--processes", "2", *arguments(parquet, tmp_path / "cut", **options)]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while running.poll() is None and records(tmp_path / "journal") < 20_000:
        time.sleep(0.05)
    os.kill(max(children(running.pid)), signal.SIGKILL)
    killed = time.monotonic()
    _, said = running.communicate(timeout=60)
    assert time.monotonic() - killed < 60
    assert running.returncode == 1
    assert "process 1 was ended by SIGKILL" in said and "the same command goes on" in said
    assert not (tmp_path / "cut").exists()

    subprocess.run(command, check=True, timeout=300)
    whole = [*COMMAND, "--processes", "2", *arguments(parquet, tmp_path / "whole", max_iter=8)]
    subprocess.run(whole, check=True, timeout=300)
    at = pd.DataFrame(AT, columns=["a", "b"])
    predictions = [ideareg.load(tmp_path / name).predict(at) for name in ("cut", "whole")]
    np.testing.assert_array_equal(*predictions)


@pytest.mark.slow
def test_no_process_outlives_its_launcher(parquet, tmp_path):
    options = {"max_iter": 8, "checkpoint": tmp_path / "journal"}
    command = [*COMMAND, "--processes", "2", *arguments(parquet, tmp_path / "out", **options)]
    running = subprocess.Popen(command)
    while running.poll() is None and not records(tmp_path / "journal"):
        time.sleep(0.05)
    started = children(running.pid)
    assert len(started) == 2
    running.terminate()
    assert running.wait(timeout=30) == 1
    for process in started:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def records(path):
    return path.stat().st_size if path.exists() else 0


def children(pid):
    path = f"/proc/{pid}/task/{pid}/children"
    with open(path, encoding="ascii") as file:
        return [int(child) for child in file.read().split()]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threads", "1"], "--threads goes with --processes"),
        (["--processes", "2", "--join"], "give one"),
        (["--processes", "2", "--threads", "4000"], "2 x 4000 threads, but this machine has"),
    ],
)
def test_mistakes_are_one_line(options, message, parquet, tmp_path):
    command = [*COMMAND, *options, *arguments(parquet, tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_a_column_of_text_ends_the_run(tmp_path):
    pd.DataFrame({"a": ["x", "y"] * 10, "y": range(20)}).to_parquet(tmp_path / "rows.parquet")
    command = [*COMMAND, *arguments(tmp_path / "rows.parquet", tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("ideareg: ") and "'a'" in done.stderr


@pytest.mark.slow
def test_dask_workers_search_as_one_process_does():
    """Searches go through joblib: any backend of it serves them."""
    cluster = pytest.importorskip("dask.distributed")
    search = GridSearchCV(regressor(), {"depth": [1, 2]}, cv=2, error_score="raise")
    here = search.fit(X, Y).cv_results_["mean_test_score"]
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with (
        cluster.LocalCluster(**options) as workers,
        cluster.Client(workers),
        parallel_config("dask"),
    ):
        there = search.fit(X, Y).cv_results_["mean_test_score"]
    np.testing.assert_allclose(there, here, rtol=1e-9)
