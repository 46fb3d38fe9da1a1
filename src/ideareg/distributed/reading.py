"""Each process reads its own part of a table: one file, or a folder of Parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ideareg.tables import TableError, require

if TYPE_CHECKING:
    import pandas as pd

FORMATS = {".parquet": "parquet", ".csv": "csv", "": "parquet"}


def read_part(path: Path, process: int, processes: int) -> pd.DataFrame:
    """Return an equal, contiguous part of the rows; no process holds more than its own.

    Parameters
    ----------
    path : Path
        A .parquet or .csv file, or a folder of Parquet files, in the order of their names.
    process, processes : int
        Which part, of how many.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    TableError
        For an unknown suffix, a table that cannot be read, or fewer rows than processes.
    """
    require("pandas", "data")
    dataset = require("pyarrow.dataset", "data")
    arrow = require("pyarrow", "data")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix.lower() not in FORMATS:
        raise TableError(f"{path}: expected .parquet, .csv or a folder of Parquet files")
    try:
        table = dataset.dataset(path, format=FORMATS[path.suffix.lower()])
        total = table.count_rows()
        if total < processes:
            raise TableError(f"{path} has {total} rows, fewer than the {processes} processes")
        first, last = (total * k // processes for k in (process, process + 1))
        kept, seen = [], 0
        for batch in table.to_batches():
            a, b = max(first - seen, 0), min(last - seen, len(batch))
            if a < b:
                kept.append(_copied(arrow, batch.slice(a, b - a)))
            seen += len(batch)
            if seen >= last:
                break
    except (arrow.ArrowException, OSError) as error:
        raise TableError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    return arrow.Table.from_batches(kept, schema=table.schema).to_pandas()


def _copied(arrow: Any, batch: Any) -> Any:
    # A slice would keep the whole batch of its file in memory.
    return batch.take(arrow.array(range(len(batch))))
