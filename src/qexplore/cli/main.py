"""The commands."""

from __future__ import annotations

import click

from qexplore._version import __version__


@click.group()
@click.version_option(__version__, prog_name="qexplore")
def main() -> None:
    """How few bits can a trained PyTorch network run on?"""
