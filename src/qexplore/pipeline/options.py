"""What can be decided before the pipeline starts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qexplore.errors import WorkflowError

ORDERS = ("before", "after")
LOSSES = ("float", "task")


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
        output: folder for the quantized network, the tables and the front; None writes nothing.
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
        if self.order not in ORDERS:
            raise WorkflowError(f"order must be one of {', '.join(map(repr, ORDERS))}, got {self.order!r}")
        if self.qat_loss not in LOSSES:
            raise WorkflowError(f"qat_loss must be one of {', '.join(map(repr, LOSSES))}, got {self.qat_loss!r}")
        if not (math.isfinite(self.threshold) and self.threshold >= 0):
            raise WorkflowError(f"threshold must be a number of at least 0, got {self.threshold!r}")
        for name in ("epochs", "evaluations", "train_epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise WorkflowError(f"{name} must be at least 1, got {value}")
        if not 2 <= self.linear_num_bits <= 8:
            raise WorkflowError(f"linear_num_bits must be an int in [2, 8], got {self.linear_num_bits}")
