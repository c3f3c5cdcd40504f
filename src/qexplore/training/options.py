"""What every training is asked for, in one object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from qexplore._arguments import checked_int, checked_number, checked_switch
from qexplore.errors import WorkflowError
from qexplore.model import Placement

Loss = Callable[[Any, Any], Tensor]
"""``loss(output, target)``, a tensor of one number."""

MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
"""Given the parameters that are trained; what it returns must hold these very ones, and all of them."""

DEFAULT_LEARNING_RATE = 1e-3
_GENTLE_LEARNING_RATE = 1e-4


def check_loss(loss: object) -> None:
    """Raise `WorkflowError` unless ``loss`` can be called."""
    if not callable(loss):
        raise WorkflowError(
            "`loss` must be a function loss(output, target) of one number, such as torch.nn.functional.cross_entropy, "
            f"got {loss!r}"
        )


@dataclass(frozen=True)
class EpochRecord:
    """One epoch.

    Attributes:
        epoch: counted from 1.
        loss: mean over the samples, measured while the weights moved.
        score: what ``evaluate`` gave after it; None without one.
        seconds: of the epoch and its evaluation.
    """

    epoch: int
    loss: float
    score: float | None
    seconds: float

    def __str__(self) -> str:
        score = "" if self.score is None else f", score {self.score:.4f}"
        return f"epoch {self.epoch}: loss {self.loss:.4f}{score}, {self.seconds:.1f} s"


class TrainingKeywords(TypedDict, total=False):
    """The keywords of every call that trains; `TrainingOptions` says what they mean."""

    epochs: int
    learning_rate: float | None
    optimizer: MakeOptimizer | None
    device: torch.device | str | None
    seed: int
    on_epoch: Callable[[EpochRecord], None] | None
    deterministic: bool


@dataclass(frozen=True)
class TrainingOptions:
    """How something is trained.

    Attributes:
        epochs: passes over the training data.
        learning_rate: of the default optimizer, AdamW, falling to zero as half a cosine; None is 0.001, or 0.0001 where
            a call says that its network needs little.
        optimizer: ``optimizer(parameters)`` for another one; it must hold exactly these parameters.
        device: where to train; None trains where the network lies. It comes back to where it was afterwards.
        seed: of what is drawn in training, such as a loader's order.
        on_epoch: called after each epoch with its `EpochRecord`.
        progress: show a bar on stderr; None shows it on a terminal.
        deterministic: the same seed gives the same weights, wherever torch has deterministic algorithms. On a GPU
            False may be faster: cuDNN and attention then take kernels that add up in any order. On a CPU it costs
            nothing worth mention.

    Raises:
        WorkflowError: an argument out of range, or a learning rate beside an optimizer.
    """

    epochs: int = 1
    learning_rate: float | None = None
    optimizer: MakeOptimizer | None = None
    device: torch.device | str | None = None
    seed: int = 0
    on_epoch: Callable[[EpochRecord], None] | None = None
    progress: bool | None = None
    deterministic: bool = True

    def __post_init__(self) -> None:
        checked_switch("`deterministic`", self.deterministic, WorkflowError)
        checked_int("`epochs`", self.epochs, WorkflowError, low=1)
        checked_int("`seed`", self.seed, WorkflowError, low=0)
        if self.learning_rate is not None:
            checked_number("`learning_rate`", self.learning_rate, WorkflowError, above=0)
            if self.optimizer is not None:
                raise WorkflowError("`learning_rate` is of the default optimizer: set the rate in your own `optimizer`")
        if self.optimizer is not None and not callable(self.optimizer):
            raise WorkflowError(
                f"`optimizer` must be a function of the model's parameters, got {described(self.optimizer)}: as in "
                "optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1)"
            )
        if self.on_epoch is not None and not callable(self.on_epoch):
            raise WorkflowError(f"`on_epoch` must be a function of an EpochRecord, got {described(self.on_epoch)}")

    def gentle(self) -> TrainingOptions:
        """With a tenth of the usual rate where none is told: for a network that is trained already."""
        is_told = self.learning_rate is not None or self.optimizer is not None
        return self if is_told else replace(self, learning_rate=_GENTLE_LEARNING_RATE)

    def place_for(self, network: nn.Module) -> torch.device:
        """The device to train ``network`` on: the one that was asked for, else where it lies."""
        return Placement.of(network).device if self.device is None else torch.device(self.device)


def described(value: Any) -> str:
    """What ``value`` is, for a message."""
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
