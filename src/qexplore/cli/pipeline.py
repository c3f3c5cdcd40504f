"""``qexplore pipeline``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from qexplore.cli.terminal import Terminal

_QUESTIONS = {
    "trace": "Trace the network into a graph and show it.",
    "analyze": "Look for what can be optimized.",
    "fold": "Fold BatchNorm and drop what is idle.",
    "quantize": "Quantize.",
    "qat": "Train the quantized network where its error is above the threshold.",
    "explore": "Search the widths of all layers afterwards.",
    "download": "Download data or weights that are not there.",
}


def _answers(command: Callable[..., Any]) -> Callable[..., Any]:
    """A pair of flags for each question."""
    for name, text in reversed(_QUESTIONS.items()):
        command = click.option(f"--{name}/--no-{name}", default=None, help=text)(command)
    return command


@click.command()
@click.argument("network")
@click.option(
    "--yes", "everything", is_flag=True, default=None, help="Yes to every question without a flag of its own."
)
@_answers
@click.option(
    "--order", type=click.Choice(["before", "after"]), default="after", show_default=True,
    help="Quantize before or after folding.",
)  # fmt: skip
@click.option(
    "--threshold", type=float, default=1e-7, show_default=True,
    help="Quantization error above which training is offered.",
)  # fmt: skip
@click.option("--epochs", type=int, default=5, show_default=True, help="Epochs of quantization-aware training.")
@click.option(
    "--qat-loss", type=click.Choice(["float", "task"]), default="float", show_default=True,
    help="Train towards the float network's outputs, or on the data's own targets.",
)  # fmt: skip
@click.option(
    "--linear-bits", "linear_num_bits", type=int, default=4, show_default=True, help="Width of linear layers' weights."
)
@click.option("--evaluations", type=int, default=40, show_default=True, help="Budget of the search over widths.")
@click.option("--train-epochs", type=int, help="Epochs of the float network where there are no weights.")
@click.option(
    "--data", type=click.Path(path_type=Path), metavar="DIR",
    help="Folder with CIFAR-10, Fashion-MNIST, or a folder of images for each class.",
)  # fmt: skip
@click.option(
    "--text", type=click.Path(path_type=Path), metavar="FILE", help="Text for gpt2; without it, Python's own reference."
)
@click.option("--weights", type=click.Path(path_type=Path), metavar="FILE", help="State dict of the float network.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything that is drawn.")
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="Folder for the quantized network, the tables and the front.",
)  # fmt: skip
@click.option("--progress/--no-progress", default=None, help="Progress bars on stderr.  [default: on a terminal]")
def pipeline(network: str, **given: Any) -> None:
    """Lead NETWORK from float to quantized, step by step.

    NETWORK is simplecnn, resnet18, gpt2, or a function of yours, package.module:factory, that returns a network,
    (network, example_input) or (network, train_loader, held_out_loader).

    Every step is a question; Enter takes the answer in brackets. Without a terminal, answers are read from the input,
    one a line, and after its end the defaults are taken.
    """
    # On use: torch takes seconds to load, and --help should not.
    from qexplore.pipeline import Options, load_subject, run_pipeline

    options, dialogue = Options(**given), Terminal()
    run_pipeline(load_subject(network, dialogue, options), dialogue, options)
