"""Tables larger than memory, read piece by piece: one file, or a folder of Parquet files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.pipeline import Pipeline

from ideareg.tables import TableError, require

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".parquet", ".csv", "")
# Rows of a piece: some megabytes of a usual table, and enough to keep the cores busy.
PIECE = 2**16


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a table as a dataset of pyarrow, and turn what goes wrong with it into a `TableError`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    TableError
        For an unknown suffix, and for a table that cannot be read.
    """
    require("pandas", "data")
    dataset, arrow = require("pyarrow.dataset", "data"), require("pyarrow", "data")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise TableError(f"{path}: expected .parquet, .csv or a folder of Parquet files")
    if suffix == ".csv":
        gaps = require("pyarrow.csv", "data").ConvertOptions(strings_can_be_null=True)
        kind = dataset.CsvFileFormat(convert_options=gaps)
    else:  # what is read ahead of the batches would add up to the file
        scan = dataset.ParquetFragmentScanOptions(pre_buffer=False)
        kind = dataset.ParquetFileFormat(default_fragment_scan_options=scan)
    try:
        yield dataset.dataset(path, format=kind)
    except (arrow.ArrowException, OSError) as error:
        raise TableError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def in_pieces(
    path: Path, first: int, *, seed: int = 0, size: int = PIECE
) -> Iterator[pd.DataFrame]:
    """Yield a random sample of the rows of a table, then all others in their order.

    The table is read twice, and once more to count the rows of a .csv file.

    Parameters
    ----------
    path : Path
        A .parquet or .csv file, or a folder of Parquet files.
    first : int
        Rows of the sample, at most.
    seed : int
        Decides the sample.
    size : int
        Rows of the other pieces, at most.

    Yields
    ------
    pandas.DataFrame

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    TableError
        For an unknown suffix, no rows, and a table that cannot be read.
    """
    with opened(path) as table:
        total = table.count_rows()
        if not total:
            raise TableError(f"{path} has no rows")
        sampled = np.zeros(total, dtype=bool)
        random = np.random.default_rng(seed)
        sampled[random.choice(total, first, replace=False) if first < total else slice(None)] = True
        yield _together(table.schema, list(_parts(table, sampled, size)))
        for part in _parts(table, ~sampled, size):
            yield _together(table.schema, [part])


def _parts(table: Any, wanted: np.ndarray, size: int) -> Iterator[Any]:
    """Yield the wanted rows of each batch of a dataset."""
    seen = 0
    for batch in table.to_batches(batch_size=size, batch_readahead=1, fragment_readahead=1):
        rows = np.flatnonzero(wanted[seen : seen + len(batch)])
        seen += len(batch)
        if len(rows):
            yield batch.take(require("pyarrow", "data").array(rows))


def _together(schema: Any, batches: list[Any]) -> pd.DataFrame:
    frame: pd.DataFrame = (
        require("pyarrow", "data").Table.from_batches(batches, schema=schema).to_pandas()
    )
    return frame


def fit_in_pieces(pipe: Pipeline, pieces: Iterable[tuple[Any, Any]]) -> int:
    """Fit a `ideareg.tables.table_pipeline` by the ``partial_fit`` of its last step.

    Parameters
    ----------
    pipe : Pipeline
    pieces : iterable of (features, target)
        The first decides what gaps are filled with, and the warp; see
        `ideareg.WarpingRegressor.partial_fit`.

    Returns
    -------
    int
        The number of rows.
    """
    encode, regressor, rows = pipe[:-1], pipe[-1], 0
    for features, y in pieces:
        X = encode.transform(features) if rows else encode.fit_transform(features)
        regressor.partial_fit(X, y)
        rows += len(y)
    return rows
