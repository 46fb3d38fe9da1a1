"""Rows over processes and devices: draw a sample of all, share it out, put parts together."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from numpy.typing import NDArray

from ideareg._rows import Rows, bucket, column_bucket, draw, pad
from ideareg.readout import ROWS, Batch, SharedBatch, mesh

Bytes = NDArray[np.uint8]


def gather(part: Rows, count: int, random: np.random.RandomState) -> tuple[Rows, int]:
    """Return at most ``count`` of the rows of all processes, the same on each, and how many are.

    The draw is over the rows in the order of the processes: it does not depend on where one part
    ends and the next begins.

    Raises
    ------
    ValueError
        If processes differ in their columns.
    """
    sizes, *widths = every(np.array([len(part), part.X.shape[1], part.Y.shape[1]])).T
    if any((width != width[0]).any() for width in widths):
        raise ValueError(
            f"columns of X and y differ between processes: {np.transpose(widths).tolist()}."
        )
    index = np.arange(sizes.sum())[draw(int(sizes.sum()), count, random)]
    starts = np.cumsum(sizes) - sizes
    own = jax.process_index()
    mine = index[(index >= starts[own]) & (index < starts[own] + sizes[own])] - starts[own]
    drawn = [
        int(np.sum((index >= a) & (index < a + n))) for a, n in zip(starts, sizes, strict=True)
    ]
    table = np.column_stack([*part.take(mine)])
    parts = every(pad(table, max(drawn)))
    whole = np.concatenate([p[:n] for p, n in zip(parts, drawn, strict=True)])
    d = part.X.shape[1]
    return Rows(whole[:, :d], whole[:, d:-1], whole[:, -1]), int(sizes.sum())


def every(array: NDArray[Any]) -> NDArray[Any]:
    """Return the arrays of all processes, of one shape, stacked."""
    stacked = multihost_utils.process_allgather(array, tiled=False)
    return np.asarray(stacked).reshape(jax.process_count(), *array.shape)


def from_first(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array of the first process, on every process; all have the same shape."""
    return np.asarray(multihost_utils.broadcast_one_to_all(array))


def one_stream(random: np.random.RandomState) -> np.random.RandomState:
    """Return the stream that the first process has, on every process."""
    name, keys, place, *rest = random.get_state(legacy=True)
    *words, place = from_first(np.array([*keys, place])).tolist()
    random.set_state((name, np.array(words, np.uint32), place, *rest))
    return random


def share(rows: Batch) -> SharedBatch:
    """Spread rows that every process knows over all devices."""
    size = jax.device_count() * bucket(-(-len(rows.X) // jax.device_count()))
    sharding = NamedSharding(mesh(), PartitionSpec(ROWS))

    def spread(leaf: Any) -> jax.Array:
        padded = pad(np.asarray(leaf), size)
        return jax.make_array_from_callback(padded.shape, sharding, lambda part: padded[part])

    return SharedBatch(*(spread(leaf) for leaf in rows))


def share_parts(part: Rows, pad_columns: bool) -> SharedBatch:
    """Put together the rows of all processes, on the devices of each its own."""
    devices = jax.local_device_count()
    size = int(every(np.array(devices * bucket(-(-len(part) // devices)))).max())
    width = column_bucket(part.X.shape[1]) if pad_columns else part.X.shape[1]
    leaves = (pad(part.X, width, axis=1), part.Y, part.weight)
    sharding = NamedSharding(mesh(), PartitionSpec(ROWS))
    return SharedBatch(
        *(jax.make_array_from_process_local_data(sharding, pad(leaf, size)) for leaf in leaves)
    )
