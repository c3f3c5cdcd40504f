"""``qexplore pipeline``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from qexplore.cli.options import PATH, debugging, example
from qexplore.cli.terminal import Terminal
from qexplore.pipeline import LOSSES, ORDERS, Options

_FOLDER = click.Path(path_type=Path, file_okay=False)
_QUESTIONS = {
    "trace": "Trace the network into a graph and show it.",
    "analyze": "Look for what can be optimized.",
    "fold": "Fold BatchNorm and drop what is idle.",
    "quantize": "Quantize.",
    "qat": "Train the quantized network where its error is above the threshold.",
    "explore": "Search the widths of all layers afterwards.",
    "download": "Download data or weights that are not there.",
}


def _option(*names: str, **settings: Any) -> Callable[..., Any]:
    """An option whose default is that of the field of `Options` that it fills."""
    field = names[-1].partition("/")[0].lstrip("-").replace("-", "_")
    default = getattr(Options, field)
    return click.option(*names, default=default, show_default=default is not None, **settings)


def _answers(command: Callable[..., Any]) -> Callable[..., Any]:
    """A pair of flags for each question."""
    for name, text in reversed(_QUESTIONS.items()):
        command = click.option(f"--{name}/--no-{name}", default=None, help=text)(command)
    return command


@click.command(
    short_help="Questions from a float network to a quantized one.",
    epilog=example("qexplore pipeline resnet18 --yes --output quantized"),
)
@click.argument("network")
@click.option(
    "--yes", "everything", is_flag=True, default=None, help="Yes to every question without a flag of its own."
)
@_answers
@_option("--order", type=click.Choice(ORDERS), help="Quantize before or after folding.")
@_option("--threshold", type=float, help="Quantization error above which training is offered.")
@_option("--epochs", type=int, help="Epochs of quantization-aware training.")
@_option(
    "--qat-loss",
    type=click.Choice(LOSSES),
    help="Train towards the float network's outputs, or on the data's own targets.",
)
@_option("--linear-bits", "linear_num_bits", type=int, help="Width of linear layers' weights.")
@_option("--evaluations", type=int, help="Budget of the search over widths.")
@_option("--train-epochs", type=int, help="Epochs of the float network where there are no weights.")
@_option("--data", type=PATH, metavar="DIR", help="Folder with CIFAR-10, Fashion-MNIST, or images by class.")
@_option("--text", type=PATH, metavar="FILE", help="Text for gpt2; without it, Python's own reference.")
@_option("--weights", type=PATH, metavar="FILE", help="State dict of the float network.")
@_option("--seed", type=int, help="Of everything that is drawn.")
@_option("--output", type=_FOLDER, metavar="DIR", help="Folder for networks, tables and the front.")
@_option("--progress/--no-progress", help="Progress bars on stderr.  [default: on a terminal]")
@debugging
def pipeline(network: str, **given: Any) -> None:
    """Lead NETWORK from float to quantized, step by step.

    NETWORK is simplecnn, resnet18, gpt2, or a function of yours, package.module:factory, that returns a network,
    (network, example_input) or (network, train_loader, held_out_loader).

    Every step is a question; Enter takes the answer in brackets. Without a terminal, answers are read from the input,
    one a line, and after its end the defaults are taken.
    """
    # On use: torch takes seconds to load, and --help should not.
    from qexplore.pipeline import load_subject, run_pipeline

    options, dialogue = Options(**given), Terminal()
    run_pipeline(load_subject(network, dialogue, options), dialogue, options)
