"""One training loop for everything that is trained here: it leaves a model in the state of its best epoch."""

from __future__ import annotations

import math
import numbers
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qexplore._progress import Progress
from qexplore._random import isolated
from qexplore.errors import DataError, WorkflowError
from qexplore.model import Loader, Placement, Unpack, call, in_eval_mode, num_samples, unpack_batch

Loss = Callable[[Any, Any], Tensor]
"""``loss(output, target)``, a tensor of one number."""

MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
"""Given the parameters that are trained; what it returns must hold these very ones, and all of them."""

SetMode = Callable[[nn.Module, bool], None]
"""Switches a model to training (True) or eval mode, where its own ``train()`` cannot."""

DEFAULT_LEARNING_RATE = 1e-3


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


def train(
    model: nn.Module,
    loader: Loader,
    loss: Loss,
    *,
    epochs: int,
    learning_rate: float | None = None,
    optimizer: MakeOptimizer | None = None,
    decay: bool | None = None,
    unpack: Unpack | None = None,
    device: torch.device | str | None = None,
    on_step: Callable[[], None] | None = None,
    freeze: Callable[[], None] | None = None,
    freeze_after: float = 0.5,
    evaluate: Callable[[], float] | None = None,
    baseline: float | None = None,
    set_mode: SetMode | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    progress: bool | None = None,
    seed: int = 0,
) -> tuple[EpochRecord, ...]:
    """Train ``model`` in place and leave it in the state of its best epoch.

    After an error, and after an interrupt, it has the best state so far, which is that before training as long as no
    epoch has ended. Device, train/eval flags and the user's random state come back in every case.

    Args:
        model: trained itself, not a copy.
        loader: batches, gone through once an epoch.
        loss: ``loss(output, target)``, one number.
        epochs: passes over the loader.
        learning_rate: of the default optimizer, AdamW; None is 0.001.
        optimizer: ``optimizer(parameters)`` for another one.
        decay: whether learning rates fall to zero as half a cosine; None lets those of the default optimizer do so.
        unpack: ``unpack(batch) -> (inputs, target)`` for batches of another form.
        device: where to train; None takes a CUDA device where there is one.
        on_step: called after each step of the optimizer.
        freeze: called once, when ``freeze_after`` of all steps are done, such as to freeze BatchNorm's statistics.
        freeze_after: a share from 0 (before the first step) to 1 (never).
        evaluate: called in eval mode after each epoch; the epoch of the greatest value is the best. None takes the
            least loss instead.
        baseline: what ``evaluate`` gave before training; the state before training stays where no epoch is better.
        set_mode: for models that have no ``train()`` of their own, such as exported ones; they are left in eval mode.
        on_epoch: called with each record.
        progress: show a bar on stderr; None shows it on a terminal.
        seed: of what is drawn in training, such as a loader's order.

    Returns:
        A record for each epoch.

    Raises:
        WorkflowError: nothing to train, an optimizer of other parameters, an argument out of range, or a loss that is
            not one finite number.
        DataError: an empty loader, or one that can be gone through only once.
    """
    check_training(epochs, learning_rate, optimizer, freeze_after)
    place = training_device(device)
    switch = _switch_mode if set_mode is None else set_mode
    with isolated(place, seed), on_device(model, place), _training(model, set_mode), torch.enable_grad():
        num_steps = epochs * _length(loader)
        made = _made_optimizer(model, optimizer, learning_rate)
        stepper = _Stepper(model, loss, made, num_steps if (optimizer is None if decay is None else decay) else None)
        best = _Best(model, baseline)
        records: list[EpochRecord] = []
        freeze_at = math.ceil(freeze_after * num_steps) if freeze is not None and freeze_after < 1 else -1
        try:
            for epoch in range(1, epochs + 1):
                start = time.perf_counter()
                with Progress(num_steps // epochs, description=f"epoch {epoch}", unit="batch", shown=progress) as bar:
                    for batch in loader:
                        if freeze is not None and stepper.num_done == freeze_at:
                            freeze()
                        stepper.step(*unpack_batch(batch, unpack))
                        if on_step is not None:
                            on_step()
                        bar.advance(loss=f"{stepper.mean_loss:.4f}")
                score = None if evaluate is None else _evaluated(model, evaluate, set_mode, switch)
                records.append(EpochRecord(epoch, stepper.end_epoch(), score, time.perf_counter() - start))
                best.consider(records[-1])
                if on_epoch is not None:
                    on_epoch(records[-1])
        finally:
            stepper.forget_gradients()
            best.restore()
    return tuple(records)


def best_epoch(records: Sequence[EpochRecord], baseline: float | None = None) -> int:
    """The epoch whose state `train` keeps; 0 where none is better than before training."""
    best, found = _start(baseline), 0
    for record in records:
        if _merit(record) > best:
            best, found = _merit(record), record.epoch
    return found


def _start(baseline: float | None) -> float:
    return -math.inf if baseline is None else baseline


def _merit(record: EpochRecord) -> float:
    return -record.loss if record.score is None else record.score


class _Best:
    """The best state so far."""

    def __init__(self, model: nn.Module, baseline: float | None) -> None:
        self._model = model
        self._merit = _start(baseline)
        self._state = _copied_state(model)

    def consider(self, record: EpochRecord) -> None:
        """Keep the present state where its epoch is the best."""
        if _merit(record) > self._merit:
            self._merit, self._state = _merit(record), _copied_state(self._model)

    def restore(self) -> None:
        """Give it to the model."""
        self._model.load_state_dict(self._state)


def _copied_state(model: nn.Module) -> dict[str, Any]:
    state = model.state_dict()
    return {name: value.detach().clone() if isinstance(value, Tensor) else value for name, value in state.items()}


class _Stepper:
    """Takes optimizer steps and keeps the mean loss of the epoch."""

    def __init__(self, model: nn.Module, loss: Loss, optimizer: torch.optim.Optimizer, decay_over: int | None) -> None:
        self._model, self._loss, self._optimizer = model, loss, optimizer
        self._placement = Placement.of(model)
        self._schedule = (
            None if decay_over is None else torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, decay_over)
        )
        self.num_done = 0
        self._sum, self._count = 0.0, 0

    @property
    def mean_loss(self) -> float:
        """Of the epoch so far."""
        return self._sum / max(self._count, 1)

    def step(self, inputs: Any, target: Any) -> None:
        """One batch."""
        output = call(self._model, self._placement.move_inputs(inputs))
        loss = self._loss(output, self._placement.move(target))
        value = self._checked(loss)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        if self._schedule is not None:
            self._schedule.step()
        self.num_done += 1
        count = num_samples(inputs)
        self._sum, self._count = self._sum + value * count, self._count + count

    def _checked(self, loss: Any) -> float:
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise WorkflowError(f"`loss` must return a tensor of one number, got {_described(loss)}")
        value = float(loss.detach())
        if not math.isfinite(value):
            raise WorkflowError(
                f"the loss became {value} at step {self.num_done + 1}: the model is back in its best state; take a "
                "smaller learning_rate, or look at the data"
            )
        return value

    def end_epoch(self) -> float:
        """The epoch's mean loss.

        Raises:
            DataError: there was no batch.
        """
        if not self._count:
            raise DataError("the training loader is empty, or can be gone through only once: give a DataLoader or list")
        mean = self.mean_loss
        self._sum, self._count = 0.0, 0
        return mean

    def forget_gradients(self) -> None:
        """Leave none behind."""
        self._optimizer.zero_grad()


def _made_optimizer(model: nn.Module, make: MakeOptimizer | None, learning_rate: float | None) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise WorkflowError("there is nothing to train: no parameter of the model requires a gradient")
    made = default_optimizer(parameters, learning_rate) if make is None else make(parameters)
    require_own(made, parameters)
    return made


def default_optimizer(parameters: list[nn.Parameter], learning_rate: float | None) -> torch.optim.Optimizer:
    """AdamW."""
    return torch.optim.AdamW(parameters, lr=DEFAULT_LEARNING_RATE if learning_rate is None else float(learning_rate))


def require_own(optimizer: Any, parameters: list[nn.Parameter]) -> None:
    """Raise unless an optimizer holds exactly ``parameters``, these very objects."""
    groups = optimizer.param_groups if isinstance(optimizer, torch.optim.Optimizer) else []
    held = {id(parameter) for group in groups for parameter in group["params"]}
    if held != {id(parameter) for parameter in parameters}:
        raise WorkflowError(
            "`optimizer` must be a function of the parameters that returns a torch.optim.Optimizer of exactly these, "
            f"the model's own ({len(parameters)} tensors), got {_described(optimizer)} with {len(held)} tensors: build "
            "it from what the function is given, as in optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1)"
        )


def _described(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _evaluated(model: nn.Module, evaluate: Callable[[], float], set_mode: SetMode | None, switch: SetMode) -> float:
    if set_mode is None:
        # Modules that were frozen in eval mode must find their own flags again.
        with in_eval_mode(model), torch.no_grad():
            return float(evaluate())
    switch(model, False)
    try:
        with torch.no_grad():
            return float(evaluate())
    finally:
        switch(model, True)


def _switch_mode(model: nn.Module, training: bool) -> None:
    model.train(training)


@contextmanager
def _training(model: nn.Module, set_mode: SetMode | None) -> Iterator[None]:
    flags = [(module, module.training) for module in model.modules()]
    (_switch_mode if set_mode is None else set_mode)(model, True)
    try:
        yield
    finally:
        if set_mode is not None:
            set_mode(model, False)
        else:
            for module, training in flags:
                module.training = training


@contextmanager
def on_device(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Move ``model`` for a block; its parameters stay the same objects."""
    before = Placement.of(model).device
    try:
        model.to(device)
        yield
    finally:
        model.to(before)


def training_device(device: torch.device | str | None) -> torch.device:
    """``device``, or a CUDA device where there is one."""
    if device is not None:
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _length(loader: Any) -> int:
    """Batches of one epoch; a loader that does not tell is gone through to count them."""
    if isinstance(loader, Iterator):
        raise DataError("the training loader must be gone through once an epoch, got an iterator: give a list of it")
    length = len(loader) if hasattr(loader, "__len__") else sum(1 for _ in loader)
    if length == 0:
        raise DataError("the training loader must hold at least one batch, got none")
    return length


def check_training(epochs: Any, learning_rate: Any, optimizer: Any, freeze_after: Any) -> None:
    """Raise `WorkflowError` for what `train` cannot be run with."""
    if isinstance(epochs, bool) or not isinstance(epochs, numbers.Integral) or epochs < 1:
        raise WorkflowError(f"`epochs` must be an int of at least 1, got {epochs!r}")
    if learning_rate is not None and not is_number(learning_rate, 0.0, math.inf, open_below=True):
        raise WorkflowError(f"`learning_rate` must be a positive number, got {learning_rate!r}")
    if learning_rate is not None and optimizer is not None:
        raise WorkflowError("`learning_rate` is of the default optimizer: set the rate in your own `optimizer`")
    if optimizer is not None and not callable(optimizer):
        raise WorkflowError(
            f"`optimizer` must be a function of the model's parameters, got {_described(optimizer)}: as in "
            "optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1)"
        )
    if not is_number(freeze_after, 0.0, 1.0):
        raise WorkflowError(f"the share of steps to freeze after must be from 0 to 1, got {freeze_after!r}")


def is_number(value: Any, low: float, high: float, *, open_below: bool = False) -> bool:
    """Whether ``value`` is a finite number from ``low`` to ``high``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        return False
    return (low < float(value) if open_below else low <= float(value)) and float(value) <= high
