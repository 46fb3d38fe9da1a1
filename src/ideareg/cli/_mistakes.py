"""A user's mistake is one line on stderr and exit status 2."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import typer


@contextlib.contextmanager
def mistakes_in_one_line() -> Iterator[None]:
    """Turn what a user can mend into a line and an exit status."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        message = " ".join(str(error).split())
        if isinstance(error, OSError) and error.strerror:
            message = f"{error.filename}: {error.strerror}"
        typer.echo(f"ideareg: {message}", err=True)
        raise typer.Exit(2) from error
