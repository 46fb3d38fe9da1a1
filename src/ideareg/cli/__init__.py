"""The command line."""

from ideareg.cli.commands import app, main

__all__ = ["app", "main"]
