"""From a table of numbers, categories and gaps to the matrix that a regressor takes, and back.

The steps are scikit-learn's own transformers with every parameter explicit, so that a fitted
pipeline is a handful of lists (`pipeline_state`) and comes back exactly (`pipeline_from_state`).
pandas is imported where it is used.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder
from sklearn.utils.validation import check_is_fitted

from ideareg import persistence

if TYPE_CHECKING:
    import pandas as pd

MAX_LEVELS = 50
FEW_LEVELS = 10  # a text column this small is never taken for names or keys
MISSING = "(missing)"
DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}.*|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}.*")
SUFFIXES = (".csv", ".tsv", ".parquet")


class TableError(ValueError):
    """A table that cannot be used as it is: the message names the place and the remedy."""


def require(name: str, extra: str) -> Any:
    """Import an optional dependency, or say which extra brings it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"this needs {name}: pip install 'ideareg[{extra}]'") from error


# ---------------------------------------------------------------- tables


def read_table(path: str | os.PathLike[str], encoding: str = "utf-8") -> pd.DataFrame:
    """Read a .csv, .tsv or .parquet file.

    Parameters
    ----------
    path : path-like
        The file; a first line of column names is expected.
    encoding : str, default "utf-8"
        How the text of a .csv or .tsv file is encoded.

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    TableError
        For an unknown suffix, a wrong encoding, a malformed or an empty file, no rows.
    FileNotFoundError
        If there is no such file.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise TableError(f"{path}: unknown suffix {suffix!r}; expected {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.stat().st_size == 0:
        raise TableError(f"{path} is empty: expected a line of column names, then rows")
    pandas = require("pandas", "data")
    if suffix == ".parquet":
        require("pyarrow", "data")
        try:
            frame = pandas.read_parquet(path)
        except (ValueError, OSError) as error:  # pyarrow's errors are of these kinds
            raise TableError(f"{path} is not a Parquet file: {_line(error)}") from error
    else:
        frame = _read_text(pandas, path, "," if suffix == ".csv" else "\t", encoding)
    if not len(frame):
        raise TableError(f"{path} has column names but no rows")
    return frame


def _read_text(pandas: Any, path: Path, separator: str, encoding: str) -> pd.DataFrame:
    # Spreadsheets put a byte-order mark first; without -sig it would be part of a column name.
    codec = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
    try:
        frame = pandas.read_csv(path, sep=separator, encoding=codec)
    except LookupError as error:
        raise TableError(f"unknown encoding {encoding!r}: try utf-8, latin-1 or utf-16") from error
    except UnicodeError as error:
        guess = "utf-16" if path.read_bytes()[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1"
        raise TableError(
            f"{path} is not {encoding} text ({_line(error)}): name its encoding, "
            f"for instance --encoding {guess}"
        ) from error
    except pandas.errors.EmptyDataError as error:
        raise TableError(f"{path} is empty: expected a line of column names, then rows") from error
    except pandas.errors.ParserError as error:
        raise TableError(f"{path} is not a well-formed table: {_line(error)}") from error
    names = str(frame.columns[0])
    other = next((s for s in ";\t," if s != separator and s in names), None)
    if frame.shape[1] == 1 and other:
        advice = {";": "write it with commas", "\t": "name it .tsv", ",": "name it .csv"}[other]
        raise TableError(f"{path} has one column, {names!r}, split by {other!r}: {advice}")
    return frame


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def as_pandas(table: Any) -> pd.DataFrame:
    """Return a pandas frame; a polars frame is converted.

    Anything else is a TypeError.
    """
    pandas = require("pandas", "data")
    if not isinstance(table, pandas.DataFrame):
        if not hasattr(table, "to_pandas"):
            raise TypeError(f"expected a pandas or polars table, got {type(table).__name__}")
        table = table.to_pandas()
    return table.rename(columns=str).reset_index(drop=True)


def split_target(
    table: Any, target: str, drop: Sequence[str] = ()
) -> tuple[pd.DataFrame, np.ndarray]:
    """Split a table into features and the numeric target.

    Parameters
    ----------
    table : pandas or polars frame
    target : str
        The column to predict.
    drop : sequence of str
        Columns to leave out.

    Returns
    -------
    features : pandas.DataFrame
    y : ndarray of float64, shape (n,)

    Raises
    ------
    TableError
        For a column that does not exist, a target with gaps, infinities or text, no features.
    """
    frame = as_pandas(table)
    for name in (target, *drop):
        if name not in frame.columns:
            role = "target" if name == target else "dropped"
            raise TableError(
                f"there is no {role} column {name!r}; the columns are {_names(frame.columns)}"
            )
    if (frame.columns == target).sum() > 1:
        raise TableError(f"there are several columns named {target!r}: rename them")
    y = numeric(frame[target])
    gaps = np.flatnonzero(np.isnan(y))
    if len(gaps):
        raise TableError(
            f"target {target!r} is missing in {len(gaps)} of {len(y)} rows (first: row "
            f"{gaps[0] + 1}): remove these rows"
        )
    features = frame.drop(columns=[target, *drop])
    if not features.shape[1]:
        raise TableError(f"no column is left to predict {target!r} from")
    return features, y


def _names(names: Any, limit: int = 12) -> str:
    shown = ", ".join(repr(str(name)) for name in list(names)[:limit])
    return shown + (", ..." if len(names) > limit else "")


# ---------------------------------------------------------------- columns


def numeric(column: pd.Series) -> np.ndarray:
    """Return a column as float64, booleans as 0 and 1, gaps as NaN.

    Raises
    ------
    TableError
        For a cell that is text or infinite; the message names column, row and cell. Rows are
        counted from 1, without the line of names.
    """
    pandas = require("pandas", "data")
    if isinstance(column.dtype, pandas.CategoricalDtype):
        column = column.astype(object)
    values = pandas.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    bad = np.flatnonzero(np.isnan(values) & column.notna().to_numpy())
    if len(bad):
        raise TableError(
            f"column {column.name!r} is numeric, but row {bad[0] + 1} holds "
            f"{str(column.iloc[bad[0]])!r}"
            + (f" (and {len(bad) - 1} more rows are not numbers)" if len(bad) > 1 else "")
            + f": correct the cell, leave it empty, or --drop {_quoted(column.name)}"
        )
    infinite = np.flatnonzero(np.isinf(values))
    if len(infinite):
        raise TableError(
            f"column {column.name!r} is infinite in row {infinite[0] + 1}: correct the cell or "
            "leave it empty"
        )
    return values


def _quoted(name: Any) -> str:
    return f'"{name}"' if re.search(r"\W", str(name)) else str(name)


def column_kind(column: pd.Series) -> str:
    """Say what a column is: "numeric", "categorical", or the reason why it cannot be used.

    A text column counts as numeric when at least half of its cells are numbers.
    """
    pandas = require("pandas", "data")
    types = pandas.api.types
    if types.is_datetime64_any_dtype(column) or types.is_timedelta64_dtype(column):
        return "dates: turn them into numbers, such as days since a start"
    present = column.dropna()
    if not len(present):
        return "no values"
    if types.is_complex_dtype(column):
        return "complex numbers"
    if types.is_numeric_dtype(column):  # booleans too
        return "numeric"
    if not all(isinstance(value, str | bool | int | float | np.generic) for value in present):
        return f"values of type {type(present.iloc[0]).__name__}"
    if pandas.to_numeric(present.astype(object), errors="coerce").notna().mean() >= 0.5:
        return "numeric"
    text = present.astype(str)
    if text.str.fullmatch(DATE).all():
        return "dates: turn them into numbers, such as days since a start"
    levels = text.nunique()
    if levels > MAX_LEVELS or (levels > FEW_LEVELS and levels > len(text) / 2):
        return f"text with {levels} different values in {len(text)} rows"
    return "categorical"


def plain_columns(
    table: Any, numeric_columns: Sequence[str], categorical_columns: Sequence[str]
) -> pd.DataFrame:
    """Return the named columns of a table as float64 and text, checked; others are ignored.

    Raises
    ------
    TableError
        If a column is missing, or holds text or an infinity where numbers are expected.
    """
    frame = as_pandas(table)
    wanted = [*numeric_columns, *categorical_columns]
    absent = [name for name in wanted if name not in frame.columns]
    if absent:
        raise TableError(
            f"the table lacks {len(absent)} of the {len(wanted)} columns that the model was "
            f"fitted on: {_names(absent)}"
        )
    plain = {name: numeric(frame[name]) for name in numeric_columns}
    for name in categorical_columns:
        column = frame[name].astype(object)
        plain[name] = column.where(column.notna(), MISSING).astype(str).to_numpy(dtype=object)
    return type(frame)(plain, columns=wanted)


# ---------------------------------------------------------------- pipelines


def table_pipeline(table: Any, regressor: Any) -> Pipeline:
    """Make the pipeline that turns such tables into numbers and hands them to ``regressor``.

    Numeric columns: gaps take the median, and a column with gaps gets an indicator. Categories:
    one column per level, a gap being a level; a level that was not seen in the fit is all zeros.

    Parameters
    ----------
    table : pandas or polars frame
        Features, without the target. It fixes the columns and the levels.
    regressor : estimator
        The last step.

    Returns
    -------
    sklearn.pipeline.Pipeline
        Not fitted.

    Raises
    ------
    TableError
        If columns cannot be used: dates, free text or keys, no values. The message lists all.
    """
    frame = as_pandas(table)
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()]
        raise TableError(f"several columns have the same name: {_names(twice)}")
    kinds = {str(name): column_kind(frame[name]) for name in frame.columns}
    useless = {name: kind for name, kind in kinds.items() if kind not in ("numeric", "categorical")}
    if useless:
        raise TableError(
            "cannot learn from "
            + "; ".join(f"column {name!r} ({why})" for name, why in useless.items())
            + ". Leave out with "
            + " ".join(f"--drop {_quoted(name)}" for name in useless)
        )
    numbers = [name for name, kind in kinds.items() if kind == "numeric"]
    categories = [name for name, kind in kinds.items() if kind == "categorical"]
    plain = plain_columns(frame, numbers, categories)
    levels = [sorted(set(plain[name])) for name in categories]
    return _pipeline(numbers, categories, levels, regressor)


def _pipeline(
    numbers: Sequence[str],
    categories: Sequence[str],
    levels: Sequence[Sequence[str]],
    regressor: Any,
) -> Pipeline:
    read = FunctionTransformer(
        plain_columns,
        kw_args={"numeric_columns": list(numbers), "categorical_columns": list(categories)},
    )
    fill = SimpleImputer(strategy="median", add_indicator=True)
    spread = OneHotEncoder(
        categories=[np.array(level, dtype=object) for level in levels],
        handle_unknown="ignore",
        sparse_output=False,
    )
    parts = [("numeric", fill, list(numbers)), ("categorical", spread, list(categories))]
    encode = ColumnTransformer([part for part in parts if part[2]], sparse_threshold=0)
    return Pipeline([("read", read), ("encode", encode), ("regress", regressor)])


def encoded(pipe: Pipeline, table: Any) -> np.ndarray:
    """Return the matrix (n, d) that the last step of a fitted pipeline gets for a table."""
    return np.asarray(pipe[:-1].transform(table), dtype=np.float64)


def encoded_names(pipe: Pipeline) -> list[str]:
    """Return the names of the columns of `encoded`."""
    full = [str(name) for name in pipe.named_steps["encode"].get_feature_names_out()]
    short = [name.partition("__")[2] for name in full]
    # A category "a" with a level "b" would share its name with a column "a_b".
    return short if len(set(short)) == len(short) else full


def save_pipeline(pipe: Pipeline, path: str | os.PathLike[str]) -> None:
    """Save a fitted `table_pipeline`; ``ideareg.load`` brings it back."""
    persistence.write(path, "TablePipeline", *pipeline_state(pipe))


def pipeline_state(pipe: Pipeline) -> tuple[dict[str, Any], persistence.Arrays]:
    """Return all that a fitted `table_pipeline` knows, as plain values and arrays.

    Returns
    -------
    header : dict
        Names of the columns, levels, and the header of the regressor.
    arrays : dict of str to ndarray
        What gaps are filled with, which columns had gaps, and the arrays of the regressor.
    """
    check_is_fitted(pipe[-1])
    columns = pipe.named_steps["read"].kw_args
    spread = dict((name, step) for name, step, _ in pipe.named_steps["encode"].transformers)
    levels = spread["categorical"].categories if "categorical" in spread else []
    header, arrays = pipe[-1].get_state()
    state = {
        "numeric": list(columns["numeric_columns"]),
        "categorical": list(columns["categorical_columns"]),
        "levels": [[str(level) for level in column] for column in levels],
        "regressor": header,
    }
    held = {f"regressor.{name}": np.asarray(array) for name, array in arrays.items()}
    if columns["numeric_columns"]:
        fill = pipe.named_steps["encode"].named_transformers_["numeric"]
        gappy = np.zeros(len(fill.statistics_), dtype=bool)
        gappy[fill.indicator_.features_] = True
        held |= {"fill": fill.statistics_.astype(np.float64), "had_gaps": gappy}
    return state, held


def pipeline_from_state(header: Mapping[str, Any], arrays: persistence.Arrays) -> Pipeline:
    """Rebuild the fitted pipeline of which `pipeline_state` gave ``header`` and ``arrays``.

    Raises
    ------
    ValueError
        If they do not belong together.
    """
    numbers, categories, levels = (header[key] for key in ("numeric", "categorical", "levels"))
    for texts in (numbers, categories, *levels):
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError("expected lists of text for the columns and their levels")
    names = [*numbers, *categories]
    if not names or len(set(names)) != len(names) or len(levels) != len(categories):
        raise ValueError("the columns are not distinct, or do not match their levels")
    if any(not column or sorted(set(column)) != column for column in levels):
        raise ValueError("the levels of a column are not sorted and distinct")
    kind = persistence.LOADERS["WarpingRegressor"]
    regressor = importlib.import_module(kind[0]).WarpingRegressor.from_state(
        header["regressor"],
        {
            name.removeprefix("regressor."): array
            for name, array in arrays.items()
            if name.startswith("regressor.")
        },
    )
    pipe = _pipeline(numbers, categories, levels, regressor)
    pipe[:-1].fit(_smallest_table(numbers, categories, levels, arrays))
    return pipe


def _smallest_table(
    numbers: list[str], categories: list[str], levels: list[list[str]], arrays: persistence.Arrays
) -> pd.DataFrame:
    """Return two rows from which the transformers learn exactly what they knew.

    The median of one value, or of two equal ones, is that value; a gap below it makes the
    indicator. The levels are parameters, so any will do.
    """
    pandas = require("pandas", "data")
    columns: dict[str, Any] = {}
    if numbers:
        fill, gappy = arrays["fill"], arrays["had_gaps"]
        if fill.shape != (len(numbers),) or gappy.shape != fill.shape or gappy.dtype != bool:
            raise ValueError("the fill values do not match the numeric columns")
        if not np.isfinite(fill).all():
            raise ValueError("the fill values are not finite")
        for name, value, gap in zip(numbers, fill, gappy, strict=True):
            columns[name] = [value, np.nan if gap else value]
    for name, column in zip(categories, levels, strict=True):
        columns[name] = [column[0]] * 2
    return pandas.DataFrame(columns, columns=[*numbers, *categories])
