"""Tables: what a column is, what is refused and how, and pipelines that come back from a file."""

import math

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression

from ideareg import WarpingRegressor, load, tables
from ideareg.tables import TableError


def make_table(n=60):
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": random.normal(50, 10, n),
            "count": random.integers(0, 9, n),
            "colour": random.choice(["red", "green", "blue"], n),
            "open": random.random(n) > 0.5,
        }
    )


@pytest.fixture
def table():
    return make_table()


@pytest.fixture
def gappy(table):
    table["age"] = table["age"].where(table.index % 7 > 0)
    table["colour"] = table["colour"].where(table.index % 9 > 0)
    table["open"] = table["open"].astype(object).where(table.index % 5 > 0)
    return table


@pytest.fixture(scope="module")
def fitted():
    table = make_table()
    table["age"] = table["age"].where(table.index % 7 > 0)
    table["colour"] = table["colour"].where(table.index % 9 > 0)
    table = table.drop(columns="open").replace("blue", "red")
    y = table["count"] + (table["colour"] == "red")
    # six columns in the end, as in the other tests: one shape, one compilation
    regressor = WarpingRegressor(nu=1.0, max_iter=3, n_control_points=4, random_state=0)
    return tables.table_pipeline(table, regressor).fit(table, y), table


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_read(tmp_path, gappy, suffix):
    path = tmp_path / f"t{suffix}"
    if suffix == ".parquet":
        gappy.to_parquet(path)
    else:
        gappy.to_csv(path, index=False, sep="," if suffix == ".csv" else "\t")
    pipe = tables.table_pipeline(gappy, None)[:-1]
    pd.testing.assert_frame_equal(
        pd.DataFrame(pipe.fit_transform(tables.read_table(path))),
        pd.DataFrame(pipe.fit_transform(gappy)),
    )


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n", encoding="utf-8-sig")
    assert list(tables.read_table(tmp_path / "t.csv").columns) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("t.csv", b"", "t.csv is empty: expected a line of column names"),
        ("t.csv", b"\n\n", "t.csv is empty: expected a line of column names"),
        ("t.csv", b"a,b\n", "t.csv has column names but no rows"),
        ("t.csv", "näme,b\n1,2\n".encode("latin-1"), "not utf-8 text .* --encoding latin-1"),
        ("t.csv", "a,b\n1,2\n".encode("utf-16"), "not utf-8 text .* --encoding utf-16"),
        ("t.csv", b"a,b\n1,2,3,4\n1,2\n1,2,3,4,5\n", "not a well-formed table: .*line 4"),
        ("t.csv", b"a;b\n1;2\n", "one column, 'a;b', split by ';': write it with commas"),
        ("t.tsv", b"a,b\n1,2\n", "one column, 'a,b', split by ',': name it .csv"),
        ("t.parquet", b"PAR1 but not really", "is not a Parquet file"),
        ("t.xlsx", b"PK", "unknown suffix '.xlsx'; expected .csv, .tsv, .parquet"),
    ],
)
def test_read_refuses(tmp_path, name, data, match):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(TableError, match=match):
        tables.read_table(tmp_path / name)


def test_read_with_the_right_encoding(tmp_path):
    (tmp_path / "t.csv").write_text("näme\n1\n", encoding="latin-1")
    assert list(tables.read_table(tmp_path / "t.csv", "latin-1").columns) == ["näme"]
    with pytest.raises(TableError, match="unknown encoding 'klingon'"):
        tables.read_table(tmp_path / "t.csv", "klingon")


def test_read_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        tables.read_table(tmp_path / "t.csv")


# ---------------------------------------------------------------- target


def test_split_target(table):
    features, y = tables.split_target(table, "count", drop=["open"])
    assert list(features.columns) == ["age", "colour"]
    assert y.dtype == np.float64


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (np.nan, r"target 'count' is missing in 1 of 60 rows \(first: row 4\)"),
        (np.inf, "'count' is infinite in row 4"),
        ("many", "'count' is numeric, but row 4 holds 'many'"),
    ],
)
def test_target_with_a_bad_cell(table, value, match):
    table["count"] = table["count"].astype(object)
    table.loc[3, "count"] = value
    with pytest.raises(TableError, match=match):
        tables.split_target(table, "count")


def test_target_or_dropped_column_that_is_not_there(table):
    with pytest.raises(TableError, match="no target column 'price'; the columns are 'age', 'cou"):
        tables.split_target(table, "price")
    with pytest.raises(TableError, match="no dropped column 'price'"):
        tables.split_target(table, "age", ["price"])
    with pytest.raises(TableError, match="no column is left to predict 'age' from"):
        tables.split_target(table[["age"]], "age")


# ---------------------------------------------------------------- columns


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.5, 2.5, None], "numeric"),
        ([True, False, True], "numeric"),
        ([True, None, False], "numeric"),
        (["1", "2", "3"], "numeric"),
        (["1", "2", "x"], "numeric"),  # and `numeric` says where the x is
        (["a", "b", "a"], "categorical"),
        (["a", "b", "1"], "categorical"),
        (pd.Categorical(["a", "b", "a"]), "categorical"),
        (pd.to_datetime(["2024-01-01", "2024-01-02", None]), "dates: turn them into numbers"),
        (["2024-01-01", "2024-01-02", "2024-02-02"], "dates: turn them into numbers"),
        (["31/12/2024", "01.02.24", None], "dates: turn them into numbers"),
        ([None, None, None], "no values"),
        ([1j, 2j, 3j], "complex numbers"),
        ([[1], [2], [3]], "values of type list"),
        ([f"name {i}" for i in range(30)], "text with 30 different values in 30 rows"),
        ([f"{i % 60} items" for i in range(600)], "text with 60 different values in 600 rows"),
        ([f"{i % 40} items" for i in range(600)], "categorical"),
    ],
)
def test_column_kind(values, kind):
    assert tables.column_kind(pd.Series(values)).startswith(kind)


def test_every_useless_column_is_named_with_the_options_that_help(table):
    table["first name"] = [f"name {i}" for i in range(len(table))]
    table["born"] = pd.Timestamp("2000-01-01")
    message = r"'first name' \(text with 60 .*'born' \(dates.*--drop \"first name\" --drop born$"
    with pytest.raises(TableError, match=message):
        tables.table_pipeline(table, None)


def test_a_text_cell_in_a_numeric_column_is_named(table):
    table["age"] = table["age"].astype(object)
    table.loc[[8, 11], "age"] = "n/k"
    message = r"'age' is numeric, but row 9 holds 'n/k' \(and 1 more rows .* --drop age"
    with pytest.raises(TableError, match=message):
        tables.table_pipeline(table, None)


def test_an_infinite_cell_is_named(table):
    table.loc[5, "age"] = -np.inf
    with pytest.raises(TableError, match="'age' is infinite in row 6"):
        tables.table_pipeline(table, None)


def test_columns_of_one_name(table):
    table.columns = ["age", "age", "colour", "open"]
    with pytest.raises(TableError, match="several columns have the same name: 'age'"):
        tables.table_pipeline(table, None)


def test_not_a_table():
    with pytest.raises(TypeError, match="expected a pandas or polars table, got ndarray"):
        tables.table_pipeline(np.zeros((3, 2)), None)


# ---------------------------------------------------------------- encoding


def test_encoding(gappy):
    pipe = tables.table_pipeline(gappy, LinearRegression()).fit(gappy, gappy["count"])
    assert tables.encoded_names(pipe) == [
        "age", "count", "open", "missingindicator_age", "missingindicator_open",
        "colour_(missing)", "colour_blue", "colour_green", "colour_red",
    ]  # fmt: skip
    matrix = tables.encoded(pipe, gappy)
    assert matrix.shape == (60, 9)
    assert matrix[0, 0] == gappy["age"].median()
    np.testing.assert_array_equal(matrix[:, 5:].sum(axis=1), 1)
    unseen = gappy.assign(colour="mauve", extra="ignored")[["extra", *gappy.columns[::-1]]]
    np.testing.assert_array_equal(tables.encoded(pipe, unseen)[:, 5:], 0)
    np.testing.assert_array_equal(tables.encoded(pipe, unseen)[:, :5], matrix[:, :5])


def test_names_that_would_collide():
    table = pd.DataFrame({"a": ["b", "c"] * 5, "a_b": np.arange(10.0)})
    pipe = tables.table_pipeline(table, LinearRegression()).fit(table, table["a_b"])
    assert tables.encoded_names(pipe) == ["numeric__a_b", "categorical__a_b", "categorical__a_c"]


def test_pandas_and_polars_agree(gappy):
    other = pl.from_pandas(gappy.assign(open=gappy["open"].astype("boolean")))
    pipes = [
        tables.table_pipeline(t, LinearRegression()).fit(t, gappy["count"]) for t in (gappy, other)
    ]
    expected = pipes[0].predict(gappy)
    for pipe in pipes:
        for t in (gappy, other):
            np.testing.assert_array_equal(pipe.predict(t), expected)


def test_a_lacking_column_is_named(table):
    pipe = tables.table_pipeline(table, LinearRegression()).fit(table, table["count"])
    with pytest.raises(TableError, match=r"lacks 2 of the 4 columns .*'count', 'colour'"):
        pipe.predict(table[["age", "open"]])


def test_clones(table):
    pipe = tables.table_pipeline(table, LinearRegression())
    expected = pipe.fit(table, table["age"]).predict(table)
    np.testing.assert_array_equal(clone(pipe).fit(table, table["age"]).predict(table), expected)


# ---------------------------------------------------------------- saving


def test_saved_pipeline_predicts_the_same_bits(fitted, tmp_path):
    pipe, table = fitted
    tables.save_pipeline(pipe, tmp_path / "m")
    again = load(tmp_path / "m")
    table = pd.concat([table, table.assign(colour="mauve", age=np.nan)])
    for one, other in zip(
        pipe.predict(table, return_std=True), again.predict(table, return_std=True), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert tables.encoded_names(again) == tables.encoded_names(pipe)
    tables.save_pipeline(again, tmp_path / "n")
    assert (tmp_path / "n").read_bytes() == (tmp_path / "m").read_bytes()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"numeric": ["age"]}, "fill values do not match"),
        ({"numeric": ["age", "age", "open"]}, "not distinct"),
        ({"numeric": "age"}, "lists of text"),
        ({"levels": [["b", "a"]]}, "not sorted and distinct"),
        ({"levels": []}, "do not match their levels"),
        ({"levels": [[]]}, "not sorted and distinct"),
    ],
)
def test_state_that_does_not_belong_together(fitted, change, match):
    header, arrays = tables.pipeline_state(fitted[0])
    with pytest.raises(ValueError, match=match):
        tables.pipeline_from_state(header | change, arrays)


def test_state_with_fill_values_that_are_not_finite(fitted):
    header, arrays = tables.pipeline_state(fitted[0])
    arrays["fill"] = arrays["fill"] * math.nan
    with pytest.raises(ValueError, match="not finite"):
        tables.pipeline_from_state(header, arrays)


def test_unfitted_pipeline_is_not_saved(table, tmp_path):
    with pytest.raises(NotFittedError):
        tables.save_pipeline(tables.table_pipeline(table, WarpingRegressor()), tmp_path / "m")
    assert not list(tmp_path.iterdir())
