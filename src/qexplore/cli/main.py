"""The commands, and what they have in common: an error is one sentence, and the exit code 2."""

from __future__ import annotations

from typing import Any

import click

from qexplore._version import __version__
from qexplore.cli.pipeline import pipeline
from qexplore.errors import QExploreError


class _Failed(click.ClickException):
    exit_code = 2


class _Commands(click.Group):
    """Says what went wrong in one sentence, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except QExploreError as error:
            raise _Failed(str(error)) from error


@click.group(cls=_Commands)
@click.version_option(__version__, prog_name="qexplore")
def main() -> None:
    """How few bits can a trained PyTorch network run on?"""


main.add_command(pipeline)
