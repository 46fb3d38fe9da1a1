"""One fit over many devices, processes and machines, by JAX's own distributed runtime.

Each process holds its own part of the rows. What the descents see is a sample of all rows that
every process knows; each device does its part of every sum over rows, and all get the total, so
that all take the same steps. Then every row, wherever it is, conditions the heads.

``python -m ideareg.distributed --processes 2 fit data.parquet --target y --out model.ideareg``
does this for a file; `fit` is the same for arrays.
"""

from ideareg.distributed.fitting import connect, fit

__all__ = ["connect", "fit"]
