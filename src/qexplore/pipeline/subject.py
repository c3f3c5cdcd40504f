"""What is led through the pipeline: a trained float network, its data, and how it is scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from qexplore._random import isolated
from qexplore.metrics import Metric
from qexplore.model import Loader, Pass, Placement, call, first_batch, in_eval_mode, unpack_batch

_SETS = ("calibration", "held_out", "train")


@dataclass(frozen=True)
class Subject:
    """A float network on its way.

    Attributes:
        name: how it is called.
        network: trained, float.
        calibration: batches that show typical inputs.
        held_out: batches that neither training nor calibration has seen, on which everything is measured.
        train: batches to train on; the calibration batches where there are no others.
        metric: scores outputs against the batches' targets; None where there are none.
        task_loss: ``loss(output, target)`` of the task; None where there are no targets.
    """

    name: str
    network: nn.Module
    calibration: Loader
    held_out: Loader
    train: Loader
    metric: Metric | None = None
    task_loss: Callable[[Any, Any], Tensor] | None = None
    example: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        with isolated(torch.device("cpu")):  # a shuffling loader draws from torch's global generator
            firsts = [first_batch(f"the {name} data of '{self.name}'", getattr(self, name)) for name in _SETS]
        object.__setattr__(self, "example", unpack_batch(firsts[0])[0])


class FloatOutputs:
    """A loader of the same inputs, with what ``network`` makes of them as targets."""

    def __init__(self, network: nn.Module, loader: Loader) -> None:
        self._network, self._loader = network, loader

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        placement = Placement.of(self._network)
        for inputs, _ in Pass("the data", self._loader):
            with in_eval_mode(self._network), torch.no_grad():
                outputs = call(self._network, placement.copy_inputs(inputs))
            yield inputs, outputs  # outside of the block: it would hold where the batch is used
