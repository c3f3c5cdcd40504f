"""``qexplore``: the commands."""

from __future__ import annotations

import click

from qexplore._version import __version__
from qexplore.cli.commands import Commands
from qexplore.cli.doctor import doctor
from qexplore.cli.drafting import init
from qexplore.cli.looking import diff, pick, report, show
from qexplore.cli.measuring import analyze, export, sensitivity
from qexplore.cli.pipeline import pipeline
from qexplore.cli.running import explore, fit, resume


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="qexplore")
def main() -> None:
    """How few bits can a trained PyTorch network run on?

    \b
    qexplore init package.module:network     write a configuration
    qexplore explore network.yaml            search, into runs/network.db
    qexplore show runs/network.db            look, also while it runs
    qexplore pick runs/network.db --knee     take a point

    Exit codes: 0 done, 1 a mistake that is named, 2 a wrong command line, 130 Ctrl-C, 143 SIGTERM.
    """


for command in (explore, resume, fit, sensitivity, analyze, show, pick, diff, report, export, pipeline, init, doctor):
    main.add_command(command)
