"""What can be decided before the pipeline starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qexplore._arguments import checked_int, checked_name, checked_number
from qexplore.errors import WorkflowError

ORDERS = ("before", "after")
LOSSES = ("float", "task")
_LARGEST_SEED = 2**32 - 1
"""Of numpy's global generator, which a factory may draw from."""


@dataclass(frozen=True)
class Options:
    """Answers that are known, and numbers. An answer of None is asked for.

    Attributes:
        trace: whether to show the graph.
        analyze: whether to look for what can be optimized.
        fold: whether to fold BatchNorm and drop what is idle.
        quantize: whether to quantize.
        qat: whether to train the quantized network where the error asks for it.
        explore: whether to search the widths of all layers afterwards.
        download: whether to download data or weights that are not there.
        everything: the answer to every question not answered above; None asks.
        order: quantize ``"before"`` or ``"after"`` folding.
        threshold: quantization error above which training is offered.
        epochs: of quantization-aware training.
        qat_loss: train towards the ``"float"`` network's outputs, or on the ``"task"``: the data's own targets.
        linear_num_bits: width of the weights of linear layers, 2 to 8.
        evaluations: budget of the search.
        train_epochs: of the float network where there are no weights; None for a number that suits it.
        data: folder with images; None looks in the usual places.
        text: file with text; None takes what ships with Python.
        weights: file with the float network's state dict; None trains it a little.
        seed: of everything that is drawn.
        output: folder for the quantized network, the tables, the front with its picture, and the searched model at the
            front's cheapest point; None writes nothing.
        progress: show bars on stderr; None shows them on a terminal.
    """

    trace: bool | None = None
    analyze: bool | None = None
    fold: bool | None = None
    quantize: bool | None = None
    qat: bool | None = None
    explore: bool | None = None
    download: bool | None = None
    everything: bool | None = None
    order: Literal["before", "after"] = "after"
    threshold: float = 1e-7
    epochs: int = 5
    qat_loss: Literal["float", "task"] = "float"
    linear_num_bits: int = 4
    evaluations: int = 40
    train_epochs: int | None = None
    data: Path | None = None
    text: Path | None = None
    weights: Path | None = None
    seed: int = 0
    output: Path | None = None
    progress: bool | None = None

    def __post_init__(self) -> None:
        checked_name("order", self.order, ORDERS, WorkflowError)
        checked_name("qat_loss", self.qat_loss, LOSSES, WorkflowError)
        checked_number("threshold", self.threshold, WorkflowError, low=0)
        for name in ("epochs", "evaluations", "train_epochs"):
            if name != "train_epochs" or self.train_epochs is not None:
                checked_int(name, getattr(self, name), WorkflowError, low=1)
        checked_int("seed", self.seed, WorkflowError, low=0, high=_LARGEST_SEED)
        from qexplore.quant import PACKED_WIDTHS  # on use: the command line reads the defaults and should not wait

        low, high = PACKED_WIDTHS[0], PACKED_WIDTHS[-1]
        checked_int("linear_num_bits", self.linear_num_bits, WorkflowError, low=low, high=high)
