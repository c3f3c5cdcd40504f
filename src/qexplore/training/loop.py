"""One training loop for everything that is trained here: it leaves a model in the state of its best epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from qexplore._arguments import is_number
from qexplore._random import isolated
from qexplore.errors import DataError, QExploreError, WorkflowError, first_line
from qexplore.metrics import floating_outputs, outputs_text
from qexplore.model import (
    Loader,
    Pass,
    Placement,
    QuantizedModel,
    Unpack,
    call,
    in_eval_mode,
    no_batches,
    num_samples,
    trained_deterministically,
    unpacking,
)
from qexplore.training.options import DEFAULT_LEARNING_RATE, EpochRecord, Loss, TrainingOptions, check_loss, described

_OWNER = "the training loader"
_ONCE = ": one that can be gone through only once will not do, give a DataLoader or a list"
_SQUARES = 0.999
"""Of AdamW: the share of its mean square that a step leaves."""
_CHOICE = "choose it in your loss, such as lambda output, target: mse_loss(output[0], target)"


def train(
    model: nn.Module,
    loader: Loader,
    loss: Loss,
    options: TrainingOptions,
    *,
    decay: bool | None = None,
    unpack: Unpack | None = None,
    on_step: Callable[[], None] | None = None,
    freeze: Callable[[], None] | None = None,
    freeze_after: float = 0.5,
    evaluate: Callable[[], float] | None = None,
    baseline: float | None = None,
    choice: str | None = _CHOICE,
) -> tuple[EpochRecord, ...]:
    """Train ``model`` in place and leave it in the state of its best epoch.

    After an error, and after an interrupt, it has the best state so far, which is that before training as long as no
    epoch has ended. Device, train/eval flags and the user's random state come back in every case.

    Args:
        model: trained itself, not a copy.
        loader: batches, gone through once an epoch.
        loss: ``loss(output, target)``, one number.
        options: how.
        decay: whether learning rates fall to zero as half a cosine; None lets those of the default optimizer do so.
        unpack: ``unpack(batch) -> (inputs, target)`` for batches of another form.
        on_step: called after each step of the optimizer.
        freeze: called once, when ``freeze_after`` of all steps are done, such as to freeze BatchNorm's statistics.
        freeze_after: a share from 0 (before the first step) to 1 (never).
        evaluate: called in eval mode after each epoch; the epoch of the greatest value is the best. None takes the
            least loss instead.
        baseline: what ``evaluate`` gave before training; the state before training stays where no epoch is better.
        choice: how the caller's user says which of several outputs the loss gets, for an error; None where it is
            said already.

    Returns:
        A record for each epoch.

    Raises:
        WorkflowError: nothing to train, an optimizer of other parameters, a share out of range, or a loss that is not
            one finite number.
        DataError: an empty loader, or one that can be gone through only once.
    """
    check_share(freeze_after)
    check_loss(loss)
    epochs, place = options.epochs, options.place_for(model)
    unpack = unpacking(model, unpack)
    algorithms = trained_deterministically(place) if options.deterministic else nullcontext()
    on_place = on_device(model, options.device)
    with algorithms, isolated(place, options.seed), on_place, in_eval_mode(model), torch.enable_grad():
        model.train()  # behind the block every module has its own flag again
        num_steps = epochs * _length(loader)
        falls = options.optimizer is None if decay is None else decay
        optimizer = made_optimizer([one for one in model.parameters() if one.requires_grad], options)
        stepper = _Stepper(model, loss, optimizer, num_steps if falls else None, choice)
        best = _Best(model, baseline)
        records: list[EpochRecord] = []
        freeze_at = math.ceil(freeze_after * num_steps) if freeze is not None and freeze_after < 1 else -1
        try:
            for epoch in range(1, epochs + 1):
                start, title = time.perf_counter(), f"epoch {epoch}"
                batches = Pass(_OWNER, loader, unpack=unpack, bar=title, progress=options.progress, hint=_ONCE)
                for inputs, target in batches:
                    if freeze is not None and stepper.num_done == freeze_at:
                        freeze()
                    stepper.step(inputs, target)
                    if on_step is not None:
                        on_step()
                    batches.show(loss=f"{stepper.mean_loss:.4f}")
                score = None if evaluate is None else _evaluated(model, evaluate)
                records.append(EpochRecord(epoch, stepper.end_epoch(), score, time.perf_counter() - start))
                best.consider(records[-1])
                if options.on_epoch is not None:
                    options.on_epoch(records[-1])
        finally:
            optimizer.zero_grad()
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
        self._state = copied_state(model)

    def consider(self, record: EpochRecord) -> None:
        """Keep the present state where its epoch is the best."""
        if _merit(record) > self._merit:
            self._merit, self._state = _merit(record), copied_state(self._model)

    def restore(self) -> None:
        """Give it to the model."""
        self._model.load_state_dict(self._state)


def copied_state(model: nn.Module, device: str | None = None) -> dict[str, Any]:
    """A state dict of its own, on ``device``; None leaves each tensor where it is."""
    state = model.state_dict()
    return {
        name: value.detach().to(device=device, copy=True) if isinstance(value, Tensor) else value
        for name, value in state.items()
    }


class _Stepper:
    """Takes optimizer steps and keeps the mean loss of the epoch."""

    def __init__(
        self, model: nn.Module, loss: Loss, optimizer: torch.optim.Optimizer, decay_over: int | None, choice: str | None
    ) -> None:
        self._model, self._loss, self._optimizer, self._choice = model, loss, optimizer, choice
        # Of the network alone: what is learned beside it is float32, whatever the network is.
        self._placement = Placement.of(model.model if isinstance(model, QuantizedModel) else model)
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
        loss = self._loss_of(output, self._placement.move(target))
        value = self._checked(loss)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        if self._schedule is not None:
            self._schedule.step()
        self.num_done += 1
        count = num_samples(inputs)
        self._sum, self._count = self._sum + value * count, self._count + count

    def _loss_of(self, output: Any, target: Any) -> Any:
        try:
            return self._loss(output, target)
        except Exception as error:
            is_told = self._choice is None or isinstance(error, QExploreError)
            if target is not None and (is_told or len(floating_outputs(output)) < 2):
                raise
            if target is not None:
                raise WorkflowError(
                    "the network must give one output, or the loss must know which it takes, got "
                    f"{outputs_text(floating_outputs(output))}, at which it stops ({type(error).__name__}: "
                    f"{first_line(error)}): {self._choice}"
                ) from error
            raise WorkflowError(
                "the training batches hold no target, and the loss cannot do without "
                f"({type(error).__name__}: {first_line(error)}): give batches (inputs, target), or unpack=, a function "
                "of a batch that returns them"
            ) from error

    def _checked(self, loss: Any) -> float:
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise WorkflowError(f"`loss` must return a tensor of one number, got {described(loss)}")
        value = float(loss.detach())
        if not math.isfinite(value):
            raise WorkflowError(
                f"the loss became {value} at step {self.num_done + 1}: the model is back in its best state; take a "
                "smaller learning_rate, or look at the data"
            )
        return value

    def end_epoch(self) -> float:
        """The epoch's mean loss."""
        mean = self.mean_loss
        self._sum, self._count = 0.0, 0
        return mean


def made_optimizer(
    parameters: list[nn.Parameter], options: TrainingOptions, owner: str = "the model"
) -> torch.optim.Optimizer:
    """The optimizer that ``options`` ask for, of ``parameters`` of what messages call ``owner``.

    Raises:
        WorkflowError: there are none, or it does not hold exactly these very objects.
    """
    if not parameters:
        raise WorkflowError(f"there is nothing to train: no parameter of {owner} requires a gradient")
    rate = DEFAULT_LEARNING_RATE if options.learning_rate is None else float(options.learning_rate)
    make = options.optimizer
    default: dict[str, Any] = {"lr": rate, "betas": (0.9, _SQUARES), "eps": _divisor(parameters)}
    made = torch.optim.AdamW(parameters, **default) if make is None else make(parameters)
    groups = made.param_groups if isinstance(made, torch.optim.Optimizer) else []
    held = {id(parameter) for group in groups for parameter in group["params"]}
    if held != {id(parameter) for parameter in parameters}:
        raise WorkflowError(
            "`optimizer` must be a function of the parameters that returns a torch.optim.Optimizer of exactly these, "
            f"the model's own ({len(parameters)} tensors), got {described(made)} with {len(held)} tensors: build it "
            "from what the function is given, as in optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1)"
        )
    return made


def _divisor(parameters: list[nn.Parameter]) -> float:
    """What AdamW adds to its divisors: its own 1e-8, or more where it loses small gradients in half precision.

    It keeps the mean square of a gradient as a thousandth of it at first, in the parameter's own precision. Where that
    is rounded to zero the step would have no limit but this one: with the gradient that is just lost it is at most the
    learning rate.
    """
    kinds = {torch.finfo(one.dtype) for one in parameters if one.is_floating_point()}
    return max(1e-8, *(math.sqrt(kind.tiny * kind.eps / (1 - _SQUARES)) for kind in kinds))


def _evaluated(model: nn.Module, evaluate: Callable[[], float]) -> float:
    # Modules that were frozen in eval mode must find their own flags again.
    with in_eval_mode(model), torch.no_grad():
        return float(evaluate())


@contextmanager
def on_device(model: nn.Module, device: torch.device | str | None) -> Iterator[None]:
    """Move ``model`` for a block; its parameters stay the same objects. None leaves it where it lies.

    Raises:
        WorkflowError: it lies on several devices, so that it could not be brought back.
    """
    before = sorted({str(tensor.device) for tensor in (*model.parameters(), *model.buffers())})
    if device is not None and len(before) > 1:
        raise WorkflowError(
            f"`device` must be None for a network on several devices, got {str(device)!r} and {', '.join(before)}: "
            "train it where it lies, or move it yourself"
        )
    try:
        if device is not None:
            model.to(device)
        yield
    finally:
        if device is not None and before:
            model.to(before[0])


def _length(loader: Any) -> int:
    """Batches of one epoch; a loader that does not tell is gone through to count them."""
    if isinstance(loader, Iterator):
        raise DataError(f"{_OWNER} must be gone through once an epoch, got an iterator: give a list of it")
    length = len(loader) if hasattr(loader, "__len__") else sum(1 for _ in loader)
    if length == 0:
        raise no_batches(_OWNER)
    return length


def check_share(freeze_after: Any) -> None:
    """Raise `WorkflowError` for what is no share of the steps."""
    if not is_number(freeze_after) or not 0 <= freeze_after <= 1:
        raise WorkflowError(f"the share of steps to freeze after must be from 0 to 1, got {freeze_after!r}")
