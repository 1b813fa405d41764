"""The command line: parse, one pipeline call, print. `main` turns errors into one line and an exit code."""

from evopress.cli import results as results
from evopress.cli import several as several
from evopress.cli.app import main

__all__ = ["main"]
