"""The calls that quantize a float network, and the one that loads what they saved."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qexplore._random import isolated
from qexplore.errors import DataError, WorkflowError
from qexplore.model import Loader, Unpack
from qexplore.predicates import PredicateLike
from qexplore.stacks import Engine, Settings, Stack, read_state
from qexplore.training import EpochRecord, Loss, MakeOptimizer, train
from qexplore.workflows.results import QuantizationResult
from qexplore.workflows.running import Reporting, first_inputs, float_copy, run_workflow, stack_module

_LEARNING_RATE = 1e-4
"""A tenth of what training from the start takes: the network is trained already."""


def quantize_dynamic(
    network: nn.Module,
    example_input: Any,
    *,
    stack: Stack = "fx",
    modules: PredicateLike | None = None,
    weight_granularity: Any = "channel",
    activations: Any = "affine",
    engine: Engine | None = None,
    activation_observer: Any = None,
    weight_observer: Any = None,
    linear_num_bits: int = 8,
    report_loader: Loader | None = None,
    metric: Any = None,
    unpack: Unpack | None = None,
    progress: bool | None = None,
) -> QuantizationResult:
    """Quantize weights now, and activations at run time from the range of each batch; needs no data.

    Args:
        network: a float network, on any device; left as it is.
        example_input: a tensor, a tuple of positional or a dict of keyword arguments of one call.
        stack: who does it: ``"eager"``, ``"fx"``, ``"pt2e"`` or ``"onnxruntime"``.
        modules: which modules are quantized; None for all that the stack can.
        weight_granularity: ``"channel"`` for one scale per output channel, ``"tensor"`` for one per weight.
        activations: ``"affine"`` (a zero point) or ``"symmetric"``.
        engine: whose integer kernels: ``"x86"``, ``"fbgemm"``, ``"onednn"``, ``"qnnpack"``; None for this machine's
            default.
        activation_observer: ``"minmax"``, ``"moving_average"``, ``"histogram"``, a class or factory of the stack's own
            observers; None for the stack's default.
        weight_observer: the same for weights.
        linear_num_bits: width of the weights of Linear layers, 2 to 8; below 8 they are stored packed.
        report_loader: batches on which accuracy before and after is measured; comes with ``metric``.
        metric: a `qexplore.Metric`, or ``function(output, target) -> scores [B]``.
        unpack: ``unpack(batch) -> (inputs, target)`` for batches of another form.
        progress: show bars on stderr; None shows them on a terminal.

    Returns:
        The quantized network and its report.

    Raises:
        WorkflowError: what this network, engine, machine or torch does not allow; the sentence says what does.
        TraceError: the network cannot be taken apart into a graph.
        ModelError: the network is wrapped (call ``detach()``), carries hooks, or cannot be copied.
        SelectionError: ``modules`` selects nothing.
        DataError: an empty loader, or inputs that the network does not take.
        MetricError: ``report_loader`` without ``metric``, or the other way round.
        MissingPackageError: the stack's package is not installed.
    """
    settings = Settings(
        "dynamic",
        stack,
        modules,
        weight_granularity,
        activations,
        engine,
        activation_observer,
        weight_observer,
        linear_num_bits,
    )
    if example_input is None:
        raise DataError("quantize_dynamic needs example_input, the inputs of one call, got None")
    return run_workflow(network, settings, Reporting(report_loader, metric, unpack, progress), example=example_input)


def quantize_static(
    network: nn.Module,
    calibration_loader: Loader,
    *,
    stack: Stack = "fx",
    modules: PredicateLike | None = None,
    weight_granularity: Any = "channel",
    activations: Any = "affine",
    engine: Engine | None = None,
    activation_observer: Any = None,
    weight_observer: Any = None,
    linear_num_bits: int = 8,
    report_loader: Loader | None = None,
    metric: Any = None,
    unpack: Unpack | None = None,
    progress: bool | None = None,
) -> QuantizationResult:
    """Quantize weights and activations, whose ranges are taken from ``calibration_loader``.

    Args:
        network: a float network, on any device; left as it is.
        calibration_loader: batches that show typical inputs; a few hundred samples do.
        stack: who does it: ``"eager"``, ``"fx"``, ``"pt2e"`` or ``"onnxruntime"``.
        modules: which modules are quantized; None for all that the stack can.
        weight_granularity: ``"channel"`` for one scale per output channel, ``"tensor"`` for one per weight.
        activations: ``"affine"`` (a zero point) or ``"symmetric"``.
        engine: whose integer kernels; None for this machine's default.
        activation_observer: as for `quantize_dynamic`.
        weight_observer: the same for weights.
        linear_num_bits: width of the weights of Linear layers, 2 to 8; below 8 they are stored packed.
        report_loader: batches on which accuracy before and after is measured; comes with ``metric``.
        metric: a `qexplore.Metric`, or ``function(output, target) -> scores [B]``.
        unpack: ``unpack(batch) -> (inputs, target)`` for batches of another form.
        progress: show bars on stderr; None shows them on a terminal.

    Returns:
        The quantized network and its report.

    Raises:
        QExploreError: as `quantize_dynamic` says.
    """
    settings = Settings(
        "static",
        stack,
        modules,
        weight_granularity,
        activations,
        engine,
        activation_observer,
        weight_observer,
        linear_num_bits,
    )
    example = first_inputs(calibration_loader, "calibration_loader", unpack)
    reporting = Reporting(report_loader, metric, unpack, progress)
    return run_workflow(network, settings, reporting, example=example, calibration_loader=calibration_loader)


def quantize_qat(
    network: nn.Module,
    train_loader: Loader,
    loss: Loss,
    *,
    epochs: int = 1,
    learning_rate: float | None = None,
    optimizer: MakeOptimizer | None = None,
    device: torch.device | str | None = None,
    freeze_after: float = 0.5,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    seed: int = 0,
    stack: Stack = "fx",
    modules: PredicateLike | None = None,
    weight_granularity: Any = "channel",
    activations: Any = "affine",
    engine: Engine | None = None,
    activation_observer: Any = None,
    weight_observer: Any = None,
    linear_num_bits: int = 8,
    report_loader: Loader | None = None,
    metric: Any = None,
    unpack: Unpack | None = None,
    progress: bool | None = None,
) -> QuantizationResult:
    """Train a copy of ``network`` with fake quantizers inside, then quantize it.

    Training runs on a GPU where there is one; the network is converted and measured on CPU.

    Args:
        network: a float network, on any device; left as it is.
        train_loader: batches of inputs and target.
        loss: ``loss(output, target)``, a tensor of one number.
        epochs: passes over ``train_loader``.
        learning_rate: of the default optimizer, AdamW with a rate that falls to zero; None is 0.0001, which suits a
            network that is trained already.
        optimizer: ``optimizer(parameters)`` for another one; the parameters are those of the prepared network.
        device: where to train; None takes a CUDA device where there is one.
        freeze_after: share of the steps after which ranges and BatchNorm statistics stay as they are.
        on_epoch: called after each epoch with its `EpochRecord`.
        seed: of what is drawn in training.
        stack: who does it: ``"eager"``, ``"fx"``, ``"pt2e"`` or ``"onnxruntime"``.
        modules: which modules are quantized; None for all that the stack can.
        weight_granularity: ``"channel"`` for one scale per output channel, ``"tensor"`` for one per weight.
        activations: ``"affine"`` (a zero point) or ``"symmetric"``.
        engine: whose integer kernels; None for this machine's default.
        activation_observer: as for `quantize_dynamic`.
        weight_observer: the same for weights.
        linear_num_bits: width of the weights of Linear layers, 2 to 8; below 8 they are stored packed.
        report_loader: batches on which accuracy before and after is measured; comes with ``metric``.
        metric: a `qexplore.Metric`, or ``function(output, target) -> scores [B]``.
        unpack: ``unpack(batch) -> (inputs, target)`` for batches of another form.
        progress: show bars on stderr; None shows them on a terminal.

    Returns:
        The quantized network and its report.

    Raises:
        QExploreError: as `quantize_dynamic` says; also where training fails, such as by a loss that is not finite.
    """
    settings = Settings(
        "qat",
        stack,
        modules,
        weight_granularity,
        activations,
        engine,
        activation_observer,
        weight_observer,
        linear_num_bits,
    )
    example = first_inputs(train_loader, "train_loader", unpack)

    training = training_with(
        train_loader,
        loss,
        epochs=epochs,
        learning_rate=learning_rate,
        optimizer=optimizer,
        unpack=unpack,
        device=device,
        freeze_after=freeze_after,
        on_epoch=on_epoch,
        progress=progress,
        seed=seed,
    )
    reporting = Reporting(report_loader, metric, unpack, progress)
    return run_workflow(network, settings, reporting, example=example, training=training)


def training_with(train_loader: Loader, loss: Loss, **options: Any) -> Callable[..., tuple[EpochRecord, ...]]:
    """How a prepared network is trained: ``options`` are those of `qexplore.training.loop.train`."""
    if options.get("optimizer") is None and options.get("learning_rate") is None:
        options = {**options, "learning_rate": _LEARNING_RATE}

    def training(prepared: nn.Module, freeze: Callable[[], None], set_mode: Any) -> tuple[EpochRecord, ...]:
        return train(prepared, train_loader, loss, freeze=freeze, set_mode=set_mode, **options)

    return training


def load_quantized(path: str | Path, network: nn.Module | None = None) -> nn.Module:
    """The quantized network that ``result.save(path)`` wrote; its outputs equal the saved one's bit for bit.

    Args:
        path: the file.
        network: the float network that was quantized, of which the structure is taken; its weights do not matter. Files
            of the stacks ``"pt2e"`` and ``"onnxruntime"`` hold the structure themselves.

    Raises:
        WorkflowError: no such file, not a file of a quantized network, or ``network`` missing or of another structure.
        ModelError: ``network`` cannot be copied, or is wrapped.
    """
    path = Path(path)
    if not path.is_file():
        raise WorkflowError(f"there is no file '{path}'")
    stack = _stack_of_file(path)
    settings = read_state(path).settings if stack == "fx" else Settings(method="static", stack=stack)
    if stack == "fx" and network is None:
        raise WorkflowError(
            f"'{path}' was written by the stack \"{settings.stack}\" and holds integers and scales alone: give the "
            "float network that they belong to, load_quantized(path, network)"
        )
    with isolated(torch.device("cpu")):
        copied = None if network is None else float_copy(network)
        loaded: nn.Module = stack_module(settings.stack).load(path, copied, settings)
    return loaded


def _stack_of_file(path: Path) -> Stack:
    """The stack whose kind of file it is; ``"fx"`` for all whose files `read_state` reads."""
    if not zipfile.is_zipfile(path):
        return "onnxruntime"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    # torch.save puts a pickle next to its tensors; torch.export has a folder of models.
    return "fx" if any(name.count("/") == 1 and name.endswith("/data.pkl") for name in names) else "pt2e"
