"""What all commands have in common: one sentence for a mistake, exit codes, and errors as JSON where that is asked for.

=====  ==========================================================
code   meaning
=====  ==========================================================
0      done
1      a mistake that qexplore names, or an end at a question
2      the command line is wrong
130    Ctrl-C
143    SIGTERM
=====  ==========================================================
"""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import click

from qexplore.cli.output import shown
from qexplore.errors import ConfigError, QExploreError, StudyMismatchError

FAILED, WRONG_USAGE, INTERRUPTED, TERMINATED = 1, 2, 130, 143


class Commands(click.Group):
    """A group whose commands end with the exit codes of this module, and without a traceback for what users do."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are used."""
        return list(self.commands)

    def main(  # type: ignore[override]  # always leaves the process
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **settings: Any
    ) -> Any:
        """Run the command line ``args``, and leave the process."""
        given = list(sys.argv[1:] if args is None else args)
        with _plain_warnings():
            sys.exit(_code(lambda: super(Commands, self).main(given, prog_name, standalone_mode=False), given))


def _code(run: Any, given: Sequence[str]) -> int:
    """The exit code of ``run``, whose errors are told."""
    try:
        return int(run() or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return WRONG_USAGE
    except click.ClickException as error:
        return _tell(error, error.format_message(), given, WRONG_USAGE)
    except QExploreError as error:
        return _tell(error, f"{error}{_way_out(error)}", given, FAILED)
    except click.Abort as error:
        return _tell(error, "stopped by Ctrl-C: what a study was told is kept", given, INTERRUPTED)


def _way_out(error: QExploreError) -> str:
    """What the sentence for Python users is on the command line."""
    return " On the command line: --study FILE." if isinstance(error, StudyMismatchError) else ""


def _tell(error: BaseException, text: str, given: Sequence[str], code: int) -> int:
    if "--debug" in given:
        click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    if "--json" in given:
        mistakes = list(error.mistakes) if isinstance(error, ConfigError) else []
        told = {"kind": type(error).__name__, "message": text, **({"mistakes": mistakes} if mistakes else {})}
        click.echo(json.dumps({"error": told, "exit_code": code}, indent=1))
    elif isinstance(error, click.UsageError):
        error.show()
    else:
        click.echo(f"Error: {shown(text)}", err=True)
    return code


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings as sentences, without the line of code that they come from."""

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int,
        file: TextIO | None = None, line: str | None = None,
    ) -> None:  # fmt: skip
        click.echo(f"Warning: {shown(str(message))}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
