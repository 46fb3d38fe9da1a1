"""Join the processes of a job, and fit one model over the rows of all of them."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace

import jax
import numpy as np
from numpy.typing import ArrayLike

from ideareg._numerics import numerics
from ideareg._rows import Rows, canonical
from ideareg.assembly import Assembler, Settings
from ideareg.distributed.journal import Journal
from ideareg.distributed.sharing import gather, one_stream, share, share_parts
from ideareg.estimators._base import random_stream
from ideareg.estimators._settings import read_settings
from ideareg.estimators.warping import WarpingRegressor
from ideareg.persistence import library_version
from ideareg.readout import Batch, SparseHead
from ideareg.recipe import Sums
from ideareg.training import Evaluate, Problem, evaluator

# Seconds without a sign of life after which a process counts as dead.
HEARTBEAT = 30


def connect(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Join the processes of a job, before anything is computed.

    A process that later dies ends the others within about half a minute.

    Parameters
    ----------
    coordinator : str, optional
        ``host:port`` of the first process. Without it SLURM, Open MPI and Kubernetes are asked, as
        `jax.distributed.initialize` does.
    processes, process : int, optional
        How many there are, and which is this.

    Raises
    ------
    RuntimeError
        If JAX has begun to compute, or the others are not reached.
    """
    jax.distributed.initialize(coordinator, processes, process, heartbeat_timeout_seconds=HEARTBEAT)


def fit(
    model: WarpingRegressor,
    X: ArrayLike,
    y: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
) -> WarpingRegressor:
    """Fit ``model`` on the rows of all processes; each calls this with its own, and gets it all.

    The descents see a sample of ``training_rows`` of them, every device its part, and the columns
    are measured on that sample; all rows condition the heads. Steps are those of one process, up to
    the rounding of sums.

    Parameters
    ----------
    model : WarpingRegressor
        With the same parameters on every process; of the first counts a ``random_state`` of None.
    X : array-like of shape (n_samples, n_features)
        The rows of this process.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
    sample_weight : array-like of shape (n_samples,), optional
    checkpoint : path-like, optional
        Where the first process keeps every evaluation. A fit that was cut off goes on from there,
        with any number of processes, and ends as if it had not been.

    Returns
    -------
    WarpingRegressor
        ``model``, fitted, the same on every process.

    Raises
    ------
    ValueError
        If rows cannot be used, columns differ between processes, every row is to be a control
        point, a centre of the head or near another, or the checkpoint is that of another fit.

    Examples
    --------
    >>> from ideareg import WarpingRegressor
    >>> X = np.linspace(-1, 1, 60)[:, None]
    >>> model = fit(WarpingRegressor(nu=1.0, max_iter=5), X, np.tanh(20 * X[:, 0]))
    >>> model.predict(X).shape
    (60,)
    """
    with numerics():
        settings = _settings(model)
        own = model._rows(X, y, sample_weight)
        random = one_stream(random_stream(model.random_state))
        sample, total = gather(own, settings.training_rows, random)
        merged = canonical(*sample)
        model._measure(merged)
        rows = model._scaled(merged)
        journal = Journal(checkpoint, _fingerprint(settings, rows, total, random))

        def shared(problem: Problem) -> Evaluate:
            if isinstance(problem.model.head, SparseHead):
                problem = problem._replace(rows=share(problem.rows))
            return journal.around(evaluator(problem))

        # So few rows that the head is exact are all in the sample, and on every process.
        sparse = not Assembler(rows, settings, seed=0, capacity=1).exact

        def everything(bend: float) -> Batch:
            part = model._scaled(own)
            part = model._bent(own)[bend].on(part) if bend else part
            return share_parts(part, settings.pad_columns)

        sums = Sums(shared, share, everything) if sparse else Sums(shared)
        model._select_and_fit(settings, rows, (X, y), random, model._bent(merged), sums)
    return model


def _settings(model: WarpingRegressor) -> Settings:
    settings = read_settings(model)
    if settings.control_rows or settings.exact:
        raise ValueError(
            'n_control_points="rows" and head="exact" need all rows in one place: give a number of '
            'points, and head="auto".'
        )
    if settings.local_gain == 0:
        raise ValueError("local=True needs all rows in one place: set it to 'auto' or False.")
    if settings.tails is True:
        raise ValueError("tails=True needs all rows in one place: set it to 'auto' or False.")
    # Processes meet in every sum over rows: their descents keep one order. Rows that are near may
    # be anywhere.
    return replace(settings, workers=1, local_gain=None, tails=False)


def _fingerprint(
    settings: Settings, rows: Rows, total: int, random: np.random.RandomState
) -> bytes:
    """Return a digest of all that decides the steps of a fit."""
    digest = hashlib.sha256(repr((library_version(), settings, total)).encode())
    _, words, *_ = random.get_state(legacy=True)
    for array in (*rows, np.asarray(words)):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()
