"""``qexplore``: the commands."""

from __future__ import annotations

import click

from qexplore._version import __version__
from qexplore.cli.commands import Commands
from qexplore.cli.doctor import doctor
from qexplore.cli.drafting import init
from qexplore.cli.looking import diff, pick, report, show
from qexplore.cli.measuring import analyze, describe, export, sensitivity
from qexplore.cli.options import example
from qexplore.cli.pipeline import pipeline
from qexplore.cli.running import explore, fit, resume

_STEPS = example(
    "qexplore init package.module:network     # writes module.yaml",
    "qexplore explore module.yaml             # searches, into runs/module.db",
    "qexplore show runs/module.db             # also while it runs",
    "qexplore pick runs/module.db --knee --output widths.json",
)
_CODES = "Exit codes: 0 done, 1 a mistake that is named, 2 a wrong command line, 130 Ctrl-C, 143 SIGTERM."


@click.group(
    cls=Commands,
    epilog=f"{_STEPS}\n\n{_CODES}",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="qexplore")
def main() -> None:
    """How few bits can a trained PyTorch network run on?"""


_ALL = (
    *(init, describe, explore, resume, fit, show, pick, diff, report, export, sensitivity, analyze),
    *(pipeline, doctor),
)
for command in _ALL:
    main.add_command(command)
