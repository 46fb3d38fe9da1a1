"""A checkpoint that needs no state of the solver: the values and gradients that it was told.

A fit is a deterministic function of the answers to its questions "value and gradient at θ?". Told
the recorded answers again, it asks the same questions, in no time, up to where it was cut off; so a
fit that goes on ends where an undisturbed one does. A record is a question's digest and its answer,
appended when it is known: a process that is killed leaves at most half a record, which is ignored.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import jax
import numpy as np

from ideareg.distributed.sharing import every, from_first
from ideareg.training import Evaluate, Parts, Vector

MAGIC = b"ideareg journal 1\n"
DIGEST = 32


class Journal:
    """Answers on disk, written by the first process and read by all.

    Parameters
    ----------
    path : path-like or None
        The file; None keeps nothing.
    fingerprint : bytes, 32
        Of the fit: settings and data.

    Raises
    ------
    ValueError
        If the file is no journal, or that of another fit.
    """

    def __init__(self, path: str | os.PathLike[str] | None, fingerprint: bytes) -> None:
        self.path = None if path is None else Path(path)
        self.head = MAGIC + fingerprint
        self.answers = b""
        if self.path is not None:
            self.answers = self._everywhere(self._open())
        self.place = self.replayed = 0

    def _open(self) -> bytes:
        """Return the records on disk; only the first process looks."""
        assert self.path is not None
        if jax.process_index() > 0:
            return b""
        if not self.path.exists() or self.path.stat().st_size == 0:
            self.path.write_bytes(self.head)
        content = self.path.read_bytes()
        # What is wrong is told to all processes, which then all refuse.
        return content[len(self.head) :] if content.startswith(self.head) else b"?"

    def _everywhere(self, records: bytes) -> bytes:
        size = int(every(np.array(len(records))).max())
        mine = np.frombuffer(records.ljust(size, b"\0"), dtype=np.uint8)
        records = from_first(mine).tobytes() if size else b""
        if records == b"?":
            raise ValueError(
                f"{self.path} is not a checkpoint of this fit (other data, settings or version): "
                "remove it, or name another file."
            )
        return records

    def around(self, evaluate: Evaluate) -> Evaluate:
        """Return ``evaluate``, answered from the journal as far as that goes."""

        def answered(theta: Vector) -> tuple[float, Vector, Parts]:
            question = hashlib.sha256(theta.tobytes()).digest()
            size = DIGEST + 8 * (4 + theta.size)
            record = self.answers[self.place : self.place + size]
            if len(record) == size:
                if record[:DIGEST] != question:
                    raise ValueError(
                        f"{self.path} was written by a fit that took other steps: remove it."
                    )
                self.place, self.replayed = self.place + size, self.replayed + 1
                value, *rest = np.frombuffer(record, dtype=np.float64, offset=DIGEST)
                return float(value), np.array(rest[3:]), Parts(*rest[:3])
            value, gradient, parts = evaluate(theta)
            answer = np.concatenate([[value], np.array(parts), np.asarray(gradient)])
            self._append(question + answer.astype(np.float64).tobytes())
            return float(value), np.asarray(gradient), parts

        return answered

    def _append(self, record: bytes) -> None:
        if self.path is not None and jax.process_index() == 0:
            with self.path.open("r+b") as file:
                file.truncate(len(self.head) + self.place)  # half a record, if there is one
                file.seek(0, os.SEEK_END)
                file.write(record)
                file.flush()
                os.fsync(file.fileno())
        self.place += len(record)
