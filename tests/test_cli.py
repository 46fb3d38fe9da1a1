"""The command line: what it does, and that a mistake is one line on stderr with nothing written."""

import json
import re
import struct
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from ideareg import WarpingRegressor, load, persistence
from ideareg.bench import reach, registration
from ideareg.cli import commands as cli

FAILED = 2
# A fit is mostly compilation, once per shape: most of those here have 60 rows and 6 columns.
QUICK = {"max_iter": 3, "n_control_points": 4, "n_folds": 2, "nu": (np.inf, 1.0)}


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUICK.items():
            patch.setitem(WarpingRegressor.__init__.__kwdefaults__, name, value)
        yield


def ideareg(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], prog_name="ideareg")


def make_table(n=80):
    random = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "age": random.normal(50, 10, n).round(2),
            "colour": random.choice(["red", "green"], n),
            "open": random.random(n) > 0.5,
            "note": random.integers(0, 5, n),
        }
    )
    table.loc[::9, "age"] = np.nan
    table["price"] = (np.tanh(table["age"].fillna(50) - 50) + table["open"]).round(4)
    return table


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A saved model and what `fit` said; made once."""
    folder = tmp_path_factory.mktemp("model")
    make_table().to_csv(folder / "t.csv", index=False)
    result = ideareg(
        "fit", folder / "t.csv", "--target", "price", "--out", folder / "m.ideareg",
        "--report", folder / "r.html",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return folder, result


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in, with a table; nothing but the table may be left by a mistake."""
    make_table().to_csv(tmp_path / "t.csv", index=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_refused(result, match, folder, left=("t.csv",)):
    assert result.exit_code == FAILED, result.output
    assert re.search(match, result.stderr), result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("ideareg: ")
    assert not result.stdout
    assert sorted(p.name for p in folder.iterdir()) == sorted(left)


# ---------------------------------------------------------------- fit


def test_fit_says_what_the_warp_gained(model):
    folder, result = model
    assert sorted(p.name for p in folder.iterdir()) == ["m.ideareg", "r.html", "t.csv"]
    lines = result.stdout.splitlines()
    assert lines[0].startswith("t.csv: 80 rows, 4 columns, target price. Fitted 60 rows in ")
    assert lines[0].endswith("held out 20:")
    assert lines[1].split() == ["RMSE", "log-likelihood", "90", "%", "intervals", "hold"]
    assert [line[:18].strip() for line in lines[2:4]] == ["with the warp", "without"]
    assert lines[-1].endswith("(fitted on the rows that were not held out)")
    assert not result.stderr


def test_scores_are_those_of_the_saved_model(model):
    folder, result = model
    table = make_table()
    _, test = cli._split(80, 0.1, 0)
    rest = table.iloc[test]
    error = load(folder / "m.ideareg").predict(rest) - rest["price"]
    shown = float(result.stdout.splitlines()[2][18:30])
    assert shown == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-3)


def test_report_is_written(model):
    text = (model[0] / "r.html").read_text(encoding="utf-8")
    assert "price from t.csv" in text
    assert "60 rows fitted, 20 held out." in text


def test_no_warp_without_scores_on_all_rows(folder):
    result = ideareg(
        "fit", "t.csv", "--target", "price", "--no-warp", "--test-size", "0", "--drop", "note",
        "--out", "m",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "held out none: no scores." in result.stdout
    assert "(fitted on all rows)" in result.stdout
    fitted = load("m")
    assert [w.nu for w in fitted[-1].warps_] == [np.inf]
    assert fitted.predict(make_table().drop(columns=["note", "price"])).shape == (80,)


@pytest.mark.parametrize(
    ("n", "share", "held"), [(1000, 0.1, 100), (80, 0.1, 20), (39, 0.1, 0), (80, 0, 0)]
)
def test_how_many_rows_are_held_out(n, share, held):
    train, test = cli._split(n, share, seed=0)
    assert len(test) == held
    np.testing.assert_array_equal(np.sort(np.r_[train, test]), np.arange(n))
    assert not held or not np.array_equal(test, cli._split(n, share, seed=1)[1])


def test_refit_takes_all_rows(folder):
    result = ideareg("fit", "t.csv", "--target", "price", "--no-warp", "--refit", "--out", "m")
    assert result.exit_code == 0, result.output
    assert "held out 20:" in result.stdout
    assert "(fitted on all rows)" in result.stdout


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.drop(columns="price"), "no target column 'price'; the columns are 'age'"),
        (lambda t: t.assign(price=np.where(t.index == 4, np.nan, 1)), "missing in 1 .*row 5"),
        (
            lambda t: t.assign(price=np.where(t.index == 4, np.inf, 1)),
            "'price' is infinite in row 5",
        ),
        (lambda t: t.assign(age=np.where(t.index == 4, -np.inf, 1)), "'age' is infinite in row 5"),
        (lambda t: t.assign(age=np.where(t.index == 4, "old", "1")), "'age' .* row 5 holds 'old'"),
        (lambda t: t.iloc[:0], "t.csv has column names but no rows"),
        (lambda t: t.iloc[:1], "the table has 1 row: a fit needs at least 2"),
        (lambda t: t.assign(name=[f"n{i}" for i in t.index]), "'name' .text .* --drop name"),
        (lambda t: t.assign(age=None), "column 'age' .no values.*--drop age"),
        (lambda t: t[["price"]], "no column is left to predict 'price' from"),
    ],
)
def test_bad_tables(folder, change, match):
    change(make_table()).to_csv("t.csv", index=False)
    result = ideareg("fit", "t.csv", "--target", "price", "--out", "m", "--report", "r.html")
    assert_refused(result, match, folder)


def test_wrong_encoding(folder):
    table = make_table().rename(columns={"age": "âge"})
    table.to_csv("t.csv", index=False, encoding="latin-1")
    arguments = ("fit", "t.csv", "--target", "price", "--out", "m")
    assert_refused(ideareg(*arguments), "t.csv is not utf-8 text .* --encoding latin-1", folder)
    assert_refused(ideareg(*arguments, "--encoding", "x"), "unknown encoding 'x'", folder)


def test_bad_files_and_options(folder):
    target = ("--target", "price")
    assert_refused(ideareg("fit", "no.csv", *target), "there is no file no.csv", folder)
    assert_refused(ideareg("fit", "t.xlsx", *target), "unknown suffix '.xlsx'", folder)
    assert_refused(ideareg("fit", "t.csv", *target, "--drop", "no"), "dropped column 'no'", folder)
    assert_refused(ideareg("fit", "t.csv", *target, "--test-size", 1), "below 1", folder)


@pytest.mark.parametrize("option", ["--out", "--report"])
def test_unwritable_output_is_said_before_the_fit(folder, option, monkeypatch):
    monkeypatch.setattr(cli, "_fit", lambda *a, **k: pytest.fail("it went on"))
    arguments = ("fit", "t.csv", "--target", "price", option)
    assert_refused(ideareg(*arguments, "no/m"), "cannot write no/m: there is no folder", folder)
    assert_refused(ideareg(*arguments, "."), "it is a folder; name a file in it", folder)


@pytest.mark.parametrize(
    "table",
    [
        make_table().assign(price=1.0),
        make_table().assign(note=3, twin=make_table()["open"]).drop(columns="colour"),
        pd.concat([make_table(40), make_table(40).assign(price=0.0)]),
    ],
    ids=["constant target", "constant and duplicate columns", "duplicate rows, different targets"],
)
def test_odd_tables_that_work(folder, table):
    table.to_csv("t.csv", index=False)
    result = ideareg("fit", "t.csv", "--target", "price", "--out", "m")
    assert result.exit_code == 0, result.output
    assert np.isfinite(load("m").predict(table)).all()


# ---------------------------------------------------------------- predict


def test_predict(model, folder):
    saved = model[0] / "m.ideareg"
    table = make_table().drop(columns="price").iloc[:, ::-1]
    table.to_parquet("t.parquet")
    result = ideareg("predict", saved, "t.parquet", "--std", "--out", "p.csv")
    assert result.exit_code == 0, result.output
    assert not result.output
    mean, std = load(saved).predict(table, return_std=True)
    written = pd.read_csv("p.csv")
    assert list(written.columns) == ["prediction", "std"]
    np.testing.assert_array_equal(written["prediction"], mean)
    np.testing.assert_array_equal(written["std"], std)
    shown = ideareg("predict", saved, "t.csv").stdout.splitlines()
    assert shown == ["prediction", *map(repr, mean.tolist())]


def test_predict_with_a_model_of_plain_columns(folder):
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 6)), columns=list("abcdef"))
    table.to_csv("six.csv", index=False)
    left = ["t.csv", "six.csv", "named", "nameless"]
    for name, X in (("named", table), ("nameless", table.to_numpy())):
        WarpingRegressor(nu=1.0, random_state=0).fit(X, table["a"] ** 2).save(name)
    answers = [ideareg("predict", name, "six.csv").stdout for name in left[2:]]
    assert answers[0] == answers[1] != ""
    assert_refused(ideareg("predict", "named", "t.csv"), "lacks 6 of the 6 columns", folder, left)
    assert_refused(ideareg("predict", "nameless", "t.csv"), "'colour' is numeric", folder, left)
    table[["a", "b"]].to_csv("six.csv", index=False)
    assert_refused(ideareg("predict", "nameless", "six.csv"), "2 features", folder, left)


def test_predict_refuses_tables_that_do_not_fit(model, folder):
    saved = model[0] / "m.ideareg"
    make_table().drop(columns=["age", "open"]).to_csv("t.csv", index=False)
    result = ideareg("predict", saved, "t.csv", "--out", "p.csv")
    assert_refused(result, "lacks 2 of the 4 columns .* fitted on: 'age', 'open'", folder)
    make_table().assign(age="old").to_csv("t.csv", index=False)
    result = ideareg("predict", saved, "t.csv", "--out", "p.csv")
    assert_refused(result, "'age' is numeric, but row 1 holds 'old'", folder)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda data: data[:-40], "is truncated"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "was changed after it was written"),
        (lambda data: b"a,b\n1,2\n" * 9, "is not a model file"),
        (lambda data: b"", "is empty"),
    ],
)
def test_predict_refuses_damaged_models(model, folder, change, match):
    (folder / "m").write_bytes(change((model[0] / "m.ideareg").read_bytes()))
    result = ideareg("predict", "m", "t.csv", "--out", "p.csv")
    assert_refused(result, match, folder, left=["t.csv", "m"])


def test_predict_refuses_a_newer_model(model, folder):
    data = (model[0] / "m.ideareg").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    head = json.loads(data[8 : 8 + length])
    document = json.loads(head["__metadata__"]["ideareg"])
    newer = document | {"format_version": persistence.FORMAT_VERSION + 2}
    head["__metadata__"]["ideareg"] = json.dumps(newer)
    text = json.dumps(head).encode()
    (folder / "m").write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    match = r"written by a newer ideareg \(format 3; this one reads up to 1\): upgrade ideareg"
    assert_refused(ideareg("predict", "m", "t.csv"), match, folder, left=["t.csv", "m"])


def test_predict_refuses_files_that_are_not_there(model, folder):
    saved = model[0] / "m.ideareg"
    assert_refused(ideareg("predict", "no", "t.csv"), "no: No such file", folder)
    assert_refused(ideareg("predict", saved, "no.csv"), "there is no file no.csv", folder)
    result = ideareg("predict", saved, "t.csv", "--out", "no/p.csv")
    assert_refused(result, "cannot write no/p.csv", folder)


# ---------------------------------------------------------------- demo, bench, the rest


def assert_demo_works(folder):
    result = ideareg("demo", "--out", "here")
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in (folder / "here").iterdir()) == [
        "demo-model.ideareg",
        "demo-report.html",
    ]
    last = result.stdout.splitlines()[-1]
    assert re.match(r"On \d+ held-out rows the warp changed the RMSE by [+-][\d.]+ % and", last)


def test_demo(folder, monkeypatch):
    table = make_table()
    data = "Prices", table.drop(columns="price"), table["price"].to_numpy(), "price"
    monkeypatch.setattr(cli, "_demo_data", lambda: data)
    assert_demo_works(folder)


@pytest.mark.slow
def test_demo_with_its_own_data(folder):
    assert_demo_works(folder)


def test_data_of_the_demo():
    _, features, y, _ = cli._demo_data()
    assert len(features) == len(y) > 300
    assert features["year"].is_monotonic_increasing
    assert np.isfinite(y).all()


def test_demo_into_a_file(folder):
    assert_refused(ideareg("demo", "--out", "t.csv"), "t.csv: File exists", folder)


def test_bench(folder):
    X, mask = np.random.default_rng(0).normal(size=(80, 6)), np.arange(80) < [[20], [22]]
    np.savez("uci_yacht.npz", X=X, y=X[:, 0], test_mask=mask)
    arguments = ("bench", "uci", "--data", ".", "--sets", "yacht", "--json", "r.json")
    more = ("--methods", "head,sklearn-gp", "--splits")
    result = ideareg(*arguments, *more, "0")
    assert result.exit_code == 0, result.output
    assert re.search(r"yacht +head +1 +", result.stdout)
    before = json.loads((folder / "r.json").read_text())["results"]
    result = ideareg(*arguments, *more, "0,1", "--page", "r.html")
    assert "r.json: 2 results of an earlier run are kept, not run again" in result.stdout
    assert re.search(r"yacht +head +2 +[\d.]+ ± [\d.]+ +", result.stdout)
    after = json.loads((folder / "r.json").read_text())["results"]
    assert (after[:2], len(after)) == (before, 4)
    page = (folder / "r.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 5 and "Benchmark: uci" in page and "log-likelihood" in page


def test_bench_refuses_before_any_work(folder):
    arguments = ("bench", "uci", "--data", ".", "--json", "r.json", "--sets")
    assert_refused(ideareg(*arguments, "mars"), "unknown set 'mars'", folder)
    assert_refused(ideareg(*arguments, "boston"), "there is no file uci_boston.npz", folder)
    assert_refused(ideareg(*arguments, "boston", "--splits", "x"), "splits 'x' not", folder)


def test_bench_leaves_out_peers_that_are_not_installed(folder, monkeypatch):
    monkeypatch.setattr("ideareg.bench.suite.find_spec", lambda name: None)
    arguments = ("bench", "registration", "--data", ".", "--pairs", "0", "--methods")
    text = r"demons is left out: it needs SimpleITK: pip install 'ideareg\[bench\]'\n"
    assert_refused(ideareg(*arguments, "demons"), text, folder)
    images = np.random.default_rng(0).normal(size=(2, 12, 12))
    np.savez("pair_brain_ants.npz", images=images)

    def rest(source, target):
        return registration.Found(0.1, target.points(), target.points())

    monkeypatch.setitem(registration.METHODS, "ideareg", rest)
    result = ideareg(*arguments, "demons,ideareg")
    assert result.exit_code == 0, result.output
    assert re.fullmatch(text, result.stderr)
    assert re.search(r"brains +ideareg +1 +", result.stdout) and "demons" not in result.stdout


def test_bench_reach(folder, monkeypatch):
    arguments = ("bench", "reach", "--data", ".", "--minutes", "0.5")
    with monkeypatch.context() as bare:
        bare.setattr("ideareg.bench.suite.find_spec", lambda name: None)
        text = r"deep-gp: it needs gpytorch: pip install 'ideareg\[bench\]'"
        assert_refused(ideareg(*arguments), text, folder)
    monkeypatch.setattr("ideareg.bench.suite.find_spec", lambda name: True)
    assert_refused(ideareg(*arguments), "there is no file uci_kin8nm.npz", folder)
    X, mask = np.zeros((9, 2)), np.arange(9) < [[2]]
    np.savez("uci_kin8nm.npz", X=X, y=X[:, 0], test_mask=mask)
    monkeypatch.setattr(reach, "fitted", lambda case: reach.Point("ideareg", 10.0, len(case.y)))
    limits = []

    def trained(case, rmse, seconds):
        limits.extend([rmse, seconds])
        yield reach.Point("deep-gp", 25.0, 0.06)

    monkeypatch.setattr(reach, "trained", trained)
    result = ideareg(*arguments)
    assert result.exit_code == 0, result.output
    assert limits == [0.065, 30.0]
    assert "not at 0.065: 7 after 10 s; deep-gp: RMSE 0.06 after 25 s, 2.5 times" in result.stdout


def test_version():
    assert ideareg("--version").stdout == f"ideareg {persistence.library_version()}\n"


def test_help_is_quick_to_import():
    """Nothing beyond what `import ideareg` loads anyway."""
    code = (
        "import sys, ideareg; before = set(sys.modules); import ideareg.cli;"
        "print([m for m in set(sys.modules) - before if m in ('pandas', 'matplotlib', 'polars')])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_interrupt_leaves_nothing(folder, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_fit", interrupt)
    result = ideareg("fit", "t.csv", "--target", "price", "--out", "m")
    assert result.exit_code != 0
    assert [p.name for p in folder.iterdir()] == ["t.csv"]
