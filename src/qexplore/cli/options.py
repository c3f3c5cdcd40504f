"""Flags that several commands have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from qexplore.config import described

Command = Callable[..., Any]
PATH = click.Path(path_type=Path)
BUDGET = ("max_evaluations", "max_seconds", "patience", "report_loader", "page", "workers")


def printing(command: Command) -> Command:
    """``--json``, as ``as_json``, and ``--debug``."""
    told = "One JSON document on stdout, errors too."
    return click.option("--json", "as_json", is_flag=True, help=told)(debugging(command))


def debugging(command: Command) -> Command:
    """``--debug``, which whoever catches errors looks at."""
    return click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")(command)


def config_flags(*names: str) -> Callable[[Command], Command]:
    """A flag for each field of a configuration, or for those of these names; a text of YAML each."""

    def decorated(command: Command) -> Command:
        for one in reversed(described()):
            if not names or one.name in names:
                default = "" if one.default in (None, "") else one.default
                told = f"  [default: {_told(default)}]" if default != "" else ""
                command = click.option(one.flag, one.name, metavar=one.form.metavar, help=f"{one.text}{told}")(command)
        return command

    return decorated


def _told(default: Any) -> str:
    return ", ".join(default) if isinstance(default, tuple) else str(default).lower()


def given(flags: Mapping[str, Any]) -> dict[str, str]:
    """The flags that were given."""
    return {name: text for name, text in flags.items() if text is not None}


def picking(command: Command) -> Command:
    """Flags that pick a point; `qexplore.cli.sources.picked` takes them."""
    options = (
        click.option("--accuracy", type=float, metavar="SCORE", help="The cheapest point that is so accurate."),
        click.option(
            "--cost", "limits", multiple=True, metavar="[NAME=]MOST",
            help="The most accurate point within it; the first cost where no name is given. May be repeated.",
        ),
        click.option("--knee", is_flag=True, help="The point from which more accuracy begins to cost much."),
        click.option("--index", type=int, metavar="N", help="The point of that number."),
        click.option("--point", metavar="KEY", help="The point of that key, which it keeps when the search goes on."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return of_run(command)


def of_run(command: Command) -> Command:
    """``--run``, of a study with several."""
    return click.option(
        "--run",
        type=int,
        metavar="N",
        help="A run of the study; without it all that asked for the same, else the last.",
    )(command)


def example(*lines: str) -> str:
    """The end of a command's help."""
    return "\n".join(["\b", "Example:", *(f"  {line}" for line in lines)])
