"""Tables larger than memory: a sample first, then the rest in pieces."""

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import ideareg
from ideareg import WarpingRegressor
from ideareg.cli.commands import app
from ideareg.pieces import fit_in_pieces, in_pieces
from ideareg.tables import TableError, split_target, table_pipeline


def table(n, seed=0):
    random = np.random.default_rng(seed)
    a = random.uniform(-1, 1, size=n)
    kind = random.choice(["red", "green"], size=n)
    y = np.tanh(6 * a) + (kind == "red") + 0.1 * random.normal(size=n)
    return pd.DataFrame({"number": np.arange(n), "a": a, "kind": kind, "y": y})


def written(frame, path):
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix:
        frame.to_parquet(path)
    else:
        path.mkdir()
        half = len(frame) // 2
        frame[:half].to_parquet(path / "part-0.parquet")
        frame[half:].to_parquet(path / "part-1.parquet")
    return path


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet", "rows"])
def test_every_row_comes_once(tmp_path, name):
    frame = table(1000)
    path = written(frame, tmp_path / name)
    sample, *rest = in_pieces(path, 100, seed=3, size=128)
    assert len(sample) == 100
    assert max(map(len, rest)) <= 128
    assert sample["number"].is_monotonic_increasing
    assert not np.array_equal(sample["number"], np.arange(100))
    pd.testing.assert_frame_equal(
        pd.concat([sample, *rest]).sort_values("number").reset_index(drop=True), frame
    )
    pd.testing.assert_frame_equal(next(in_pieces(path, 100, seed=3)), sample)
    assert not next(in_pieces(path, 100, seed=4)).equals(sample)


def test_a_small_table_is_all_sample(tmp_path):
    frame = table(50)
    (sample,) = in_pieces(written(frame, tmp_path / "rows.parquet"), 50)
    pd.testing.assert_frame_equal(sample, frame)


def test_gaps_of_a_csv_are_gaps(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("a,kind,y\n1,,2\n,red,3\n", encoding="utf-8")
    (sample,) = in_pieces(path, 10)
    assert sample["a"].isna().tolist() == [False, True]
    assert sample["kind"].isna().tolist() == [True, False]


def test_mistakes(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        next(in_pieces(tmp_path / "none.csv", 5))
    (tmp_path / "rows.xls").write_text("x")
    with pytest.raises(TableError, match=r"expected \.parquet"):
        next(in_pieces(tmp_path / "rows.xls", 5))
    (tmp_path / "bad.parquet").write_text("no parquet at all")
    with pytest.raises(TableError, match="cannot be read"):
        next(in_pieces(tmp_path / "bad.parquet", 5))
    (tmp_path / "empty.csv").write_text("a,y\n")
    with pytest.raises(TableError, match="has no rows"):
        next(in_pieces(tmp_path / "empty.csv", 5))


def test_a_pipeline_learns_piece_by_piece(tmp_path):
    path = written(table(700), tmp_path / "rows.parquet")

    def pipe(features):
        regressor = WarpingRegressor(nu=5.0, max_iter=10, random_state=0, verbose=0)
        return table_pipeline(features, regressor)

    pieces = [split_target(part, "y", ["number"]) for part in in_pieces(path, 200, size=256)]
    model = pipe(pieces[0][0])
    assert fit_in_pieces(model, pieces) == 700
    first = pipe(pieces[0][0])
    fit_in_pieces(first, pieces[:1])
    new, y = split_target(table(300, seed=1), "y", ["number"])
    assert model.score(new, y) > 0.9
    assert not np.allclose(model.predict(new), first.predict(new), atol=1e-4)


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_command_line(tmp_path):
    path, out = written(table(600), tmp_path / "rows.parquet"), tmp_path / "model.ideareg"
    said = run("fit", path, "--target", "y", "--sample", 150, "--no-warp", "--out", out, "--refit")
    assert said.exit_code == 0, said.output
    assert "600 rows, 3 columns" in said.output
    assert "Fitted 580 rows" in said.output
    assert "held out 20" in said.output
    assert "fitted on all rows" in said.output
    model = ideareg.load(out)
    frame = table(200, seed=1)
    assert model.score(frame, frame["y"]) > 0.8


def test_command_line_mistakes(tmp_path):
    path = written(table(60), tmp_path / "rows.csv")
    said = run("fit", path, "--target", "y", "--sample", 50, "--encoding", "latin-1")
    assert said.exit_code == 2
    assert "--sample reads utf-8" in said.output
    said = run("fit", path, "--target", "z", "--sample", 50)
    assert said.exit_code == 2
    assert "no target column 'z'" in said.output
    assert run("fit", path, "--target", "y", "--sample", 1).exit_code == 2
    said = run("fit", tmp_path / "rows.tsv", "--target", "y", "--sample", 50)
    assert said.exit_code == 2
    assert "there is no file" in said.output
