"""Each process reads its own part of a table: one file, or a folder of Parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ideareg.pieces import opened
from ideareg.tables import TableError, require

if TYPE_CHECKING:
    import pandas as pd


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
    with opened(path) as table:
        total = table.count_rows()
        if total < processes:
            raise TableError(f"{path} has {total} rows, fewer than the {processes} processes")
        first, last = (total * k // processes for k in (process, process + 1))
        kept, seen = [], 0
        for batch in table.to_batches():
            a, b = max(first - seen, 0), min(last - seen, len(batch))
            if a < b:
                kept.append(_copied(batch.slice(a, b - a)))
            seen += len(batch)
            if seen >= last:
                break
        return require("pyarrow", "data").Table.from_batches(kept, schema=table.schema).to_pandas()


def _copied(batch: Any) -> Any:
    # A slice would keep the whole batch of its file in memory.
    return batch.take(require("pyarrow", "data").array(range(len(batch))))
