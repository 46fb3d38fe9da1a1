"""``python -m ideareg.distributed``: start processes on this machine, or join those of a job."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import jax
import typer

from ideareg.cli._mistakes import mistakes_in_one_line

COORDINATOR, PROCESSES, PROCESS, CORES = (
    f"IDEAREG_{name}" for name in ("COORDINATOR", "PROCESSES", "PROCESS", "CORES")
)
# Seconds that the other processes get to end by themselves when one has died.
GRACE = 5.0

app = typer.Typer(
    help="One fit over the rows of many processes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def options(
    context: typer.Context,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Start that many on this machine.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Cores of each of them.")] = None,
    join: Annotated[
        bool, typer.Option("--join", help="Join the processes of SLURM, Open MPI or Kubernetes.")
    ] = False,
) -> None:
    """Start or join processes, then do the command in each."""
    if PROCESS in os.environ:
        _be_started()
    elif processes is not None:
        with mistakes_in_one_line():
            if join:
                raise ValueError("--processes starts processes and --join joins them: give one")
            cores = _cores(processes, threads)
        command = sys.argv.index(str(context.invoked_subcommand))
        raise typer.Exit(launch(sys.argv[command:], cores))
    elif threads is not None:
        with mistakes_in_one_line():
            raise ValueError("--threads goes with --processes")
    elif join:
        from ideareg.distributed import connect

        connect()


def _cores(processes: int, threads: int | None) -> list[str]:
    """Return the cores of each process, as text; all of them where none are asked for."""
    if threads is None:
        return [""] * processes
    if not hasattr(os, "sched_getaffinity"):
        raise ValueError("--threads needs Linux")
    cores = sorted(os.sched_getaffinity(0))
    if processes * threads > len(cores):
        raise ValueError(
            f"{processes} x {threads} threads, but this machine has {len(cores)} cores"
        )
    parts = [cores[k * threads : (k + 1) * threads] for k in range(processes)]
    return [",".join(map(str, part)) for part in parts]


def _be_started() -> None:
    """Do as the process that started this one says."""
    from ideareg.distributed import connect

    if os.environ[CORES]:
        os.sched_setaffinity(0, {int(core) for core in os.environ[CORES].split(",")})
    if int(os.environ[PROCESSES]) > 1:
        connect(os.environ[COORDINATOR], int(os.environ[PROCESSES]), int(os.environ[PROCESS]))


def launch(arguments: Sequence[str], cores: Sequence[str]) -> int:
    """Run ``python -m ideareg.distributed *arguments`` in processes that know of each other.

    Parameters
    ----------
    arguments : sequence of str
    cores : sequence of str
        For each process, its cores as ``0,1``, or nothing for all.

    Returns
    -------
    int
        0 if all ended well; 1 if one did not, and then the others are ended.
    """
    # To be ended from outside is to be interrupted: no process is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    common = {COORDINATOR: coordinator, PROCESSES: str(len(cores))}
    command = [sys.executable, "-m", "ideareg.distributed", *arguments]
    running = [
        subprocess.Popen(command, env={**os.environ, **common, PROCESS: str(k), CORES: own})
        for k, own in enumerate(cores)
    ]
    # Ctrl-C reaches the processes as well; they stop at the end of an evaluation.
    with contextlib.suppress(KeyboardInterrupt):
        while any(child.poll() is None for child in running):
            if any(child.returncode for child in running):
                break
            time.sleep(0.1)
    ended = [f"process {k} {_how(c.returncode)}" for k, c in enumerate(running) if c.returncode]
    _end(running)
    if ended:
        typer.echo(
            f"ideareg: of {len(running)} processes, {', '.join(ended)}; the run is over. With "
            "--checkpoint the same command goes on from there.",
            err=True,
        )
    return int(any(child.returncode for child in running))


def _how(status: int) -> str:
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"gave {status}"


def _end(running: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait a little for all to end, then end them."""
    deadline = time.monotonic() + GRACE
    for child in running:
        try:
            child.wait(max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@app.command()
def fit(
    data: Annotated[Path, typer.Argument(metavar="DATA", help=".parquet, .csv, or a folder.")],
    target: Annotated[str, typer.Option(help="The column to predict.")],
    out: Annotated[Path, typer.Option(help="Write the model here.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="Keep every evaluation here, and go on from it.")
    ] = None,
    training_rows: Annotated[int, typer.Option(help="Rows that the descents see.")] = 50_000,
    max_iter: Annotated[int, typer.Option(help="Iterations of each descent.")] = 160,
    seed: Annotated[int, typer.Option(help="Decides samples and starts.")] = 0,
) -> None:
    """Fit the warping regressor; each process reads its own part of the table."""
    with mistakes_in_one_line():
        from ideareg import WarpingRegressor, distributed, persistence, tables
        from ideareg.distributed.reading import read_part

        first = jax.process_index() == 0
        if first:
            persistence.check_writable(out)
        began = time.perf_counter()
        frame = read_part(data, jax.process_index(), jax.process_count())
        features, y = tables.split_target(frame, target)
        features = tables.plain_columns(features, features.columns, ())
        model = WarpingRegressor(
            training_rows=training_rows, max_iter=max_iter, random_state=seed, verbose=int(first)
        )
        distributed.fit(model, features, y, checkpoint=checkpoint)
        if first:
            model.save(out)
            seconds = time.perf_counter() - began
            typer.echo(
                f"{jax.process_count()} processes, {model.n_iter_} iterations, {seconds:.0f} s\n"
                f"model: {out}"
            )


if __name__ == "__main__":
    app(prog_name="python -m ideareg.distributed")
