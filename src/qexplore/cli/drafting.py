"""``qexplore init``."""

from __future__ import annotations

from pathlib import Path

import click

from qexplore._references import REFERENCE, referred
from qexplore.cli.options import PATH, example, printing
from qexplore.cli.output import say
from qexplore.errors import ConfigError


@click.command(
    short_help="Write a commented configuration for a network.",
    epilog=example("qexplore init my_project.network:trained"),
)
@click.argument("network")
@click.option(
    "-o", "--output", type=PATH, metavar="FILE", help="The file.  [default: the module's name, ending in .yaml]"
)
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@printing
def init(network: str, output: Path | None, force: bool, as_json: bool) -> None:
    """Write a commented configuration for NETWORK, package.module:factory.

    The factory is called; what is seen of the network, and functions beside it whose names say that they give data, are
    filled in.
    """
    from qexplore.config import template
    from qexplore.front import write_text

    path = output or Path(f"{network.partition(':')[0].rpartition('.')[2]}.yaml")
    if path.exists() and not force:
        if REFERENCE.fullmatch(network):
            referred(network, ConfigError)  # a misspelt name is the mistake to be told of
        raise ConfigError(f"'{path}' is there already, and is left as it is: give another --output, or --force")
    draft = template(network)
    write_text(path, draft.text)
    lacking = [f"Not there yet, write it: {one}" for one in draft.lacking]
    told = [draft.seen, f"written: {path}", *lacking, f"Go on with: qexplore explore {path}"]
    facts = {"config": path, "seen": draft.seen, "lacking": draft.lacking}
    say("\n".join(told), facts, as_json=as_json)
