"""The command line."""

from qexplore.cli.main import main

__all__ = ["main"]
