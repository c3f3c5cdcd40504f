"""The quantizing steps: post-training, the error it makes, and training that may make it smaller."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qexplore._quiet import quiet
from qexplore._trees import tensors_of
from qexplore.errors import DataError, TraceError, WorkflowError
from qexplore.model import Loader, Pass, Placement, call, floating_tensors, in_eval_mode, is_layer, measuring
from qexplore.pipeline.options import Options
from qexplore.pipeline.subject import FloatOutputs, Subject
from qexplore.preparation import graph_table, trace_network
from qexplore.stacks import LayerStrategy, is_packable, layer_table, packed_strategy
from qexplore.workflows import (
    QuantizationResult,
    measure_accuracy,
    pack_linear_weights,
    quantize_qat,
    quantize_static,
    train_packed,
)


@dataclass(frozen=True)
class Quantized:
    """A quantized network on the way.

    Attributes:
        model: on CPU.
        backend: who quantized it.
        strategy: how every layer is quantized, read back from ``model``.
        notes: what was changed, or could not be done.
        accuracy: on the held-out data; None without a metric.
        error: mean squared difference of its outputs and the float network's on the held-out data.
        save: writes it to a path.
    """

    model: nn.Module
    backend: str
    strategy: tuple[LayerStrategy, ...]
    notes: tuple[str, ...]
    accuracy: float | None
    error: float
    save: Callable[[Path], None]

    @property
    def table(self) -> str:
        """The strategy as text, and the layers that stay float."""
        floating = [f"{row.name} ({row.type})" for row in self.strategy if row.state == "float"]
        lines = [layer_table(self.strategy), f"Left float: {', '.join(floating) or 'nothing'}"]
        return "\n".join([*lines, *(f"- {note}" for note in self.notes)])


def quantizer_for(subject: Subject, network: nn.Module, options: Options) -> _WithFX | _WithPacking:
    """The FX stack of torch.ao where torch.fx sees most of the network's layers, else packed linear layers.

    Args:
        subject: its data, and the float network that errors are counted from.
        network: what is quantized: the subject's network, or its optimized form.
        options: numbers and the seed.

    Raises:
        TraceError: the network cannot be taken apart at all.
    """
    if _sees_layers(network, subject.example):
        return _WithFX(subject, network, options)
    graph_table(network, subject.example)  # what torch.export cannot take apart either is refused
    return _WithPacking(subject, network, options)


def _sees_layers(network: nn.Module, example: Any) -> bool:
    """Whether torch.fx sees at least as many layers as it leaves inside of what it cannot look into."""
    try:
        connections = trace_network(network, example)
    except TraceError:
        return False
    seen = sum(is_layer(connections.module(node)) for node in connections.graph.nodes)
    opaque = [network.get_submodule(name) for name in connections.opaque]
    hidden = sum(is_layer(one) or is_packable(one) for module in opaque for one in module.modules())
    return seen >= max(hidden, 1)


def measure_error(network: nn.Module, quantized: nn.Module, loader: Loader, progress: bool | None = None) -> float:
    """Mean squared difference of the outputs of two networks, over all numbers of all batches.

    Raises:
        DataError: the loader is empty, or the networks give nothing to compare.
    """
    total, count = 0.0, 0
    first, second = Placement.of(network), Placement(torch.device("cpu"), torch.float32)
    batches = Pass("the held-out data", loader, bar="quantization error", progress=progress)
    with in_eval_mode(network), torch.no_grad(), measuring(first.device), quiet():
        for inputs, _ in batches:
            expected = floating_tensors(call(network, first.copy_inputs(inputs)))
            got = floating_tensors(call(quantized, second.copy_inputs(inputs)))
            for one, other in zip(expected, got, strict=True):
                total += float((one.cpu().double() - other.double()).square().sum())
                count += one.numel()
    if not count:
        raise DataError("the quantization error needs a network that gives floating numbers, got none")
    return total / count


class _WithFX:
    def __init__(self, subject: Subject, network: nn.Module, options: Options) -> None:
        self._subject, self._network, self._options = subject, network, options
        self._settings: dict[str, Any] = {
            "stack": "fx",
            "linear_num_bits": options.linear_num_bits,
            "report_loader": None if subject.metric is None else subject.held_out,
            "metric": subject.metric,
            "progress": options.progress,
        }

    def quantize(self) -> Quantized:
        """Post-training."""
        return self._read(quantize_static(self._network, self._subject.calibration, **self._settings))

    def train(self, on_epoch: Callable[[Any], None]) -> Quantized:
        """With training; ``on_epoch`` is given a record for each."""
        loader, loss = _training(self._subject, self._options)
        result = quantize_qat(
            self._network, loader, loss, epochs=self._options.epochs,
            on_epoch=on_epoch, seed=self._options.seed, **self._settings,
        )  # fmt: skip
        return self._read(result)

    def _read(self, result: QuantizationResult) -> Quantized:
        report, subject = result.report, self._subject
        error = measure_error(subject.network, result.model, subject.held_out, self._options.progress)
        backend = f"torch.ao, FX graph mode, engine {report.settings.engine} (the default here)"
        return Quantized(
            result.model, backend, report.strategy, report.notes, report.accuracy_after, error, result.save
        )


class _WithPacking:
    def __init__(self, subject: Subject, network: nn.Module, options: Options) -> None:
        self._subject, self._network, self._options = subject, network, options
        self._packing = pack_linear_weights(
            network, num_bits=options.linear_num_bits, calibration_loader=subject.calibration,
            progress=options.progress,
        )  # fmt: skip

    def quantize(self) -> Quantized:
        """Post-training."""
        done = self._packing
        size = f"packed weights take {done.num_bytes:,} bytes instead of {done.num_bytes_before:,}"
        return self._measured(done.network, (size,))

    def train(self, on_epoch: Callable[[Any], None]) -> Quantized:
        """With training; ``on_epoch`` is given a record for each."""
        loader, loss = _training(self._subject, self._options)
        trained = train_packed(
            self._network, self._packing.network, loader, loss, epochs=self._options.epochs,
            on_epoch=on_epoch, progress=self._options.progress, seed=self._options.seed,
        )  # fmt: skip
        return self._measured(trained, ())

    def _measured(self, model: nn.Module, notes: Sequence[str]) -> Quantized:
        subject, progress = self._subject, self._options.progress
        model.eval()
        accuracy = None
        if subject.metric is not None:
            accuracy = measure_accuracy(model, subject.held_out, subject.metric, progress=progress)
        why = "torch.fx does not see most layers of this network, so no stack of PyTorch quantizes it in graph mode"
        return Quantized(
            model=model,
            backend="packed linear layers of qexplore",
            strategy=packed_strategy(model, self._packing.skipped),
            notes=(why, *notes),
            accuracy=accuracy,
            error=measure_error(subject.network, model, subject.held_out, progress),
            save=lambda path: torch.save(model.state_dict(), path),
        )


def _training(subject: Subject, options: Options) -> tuple[Loader, Callable[[Any, Any], Tensor]]:
    """What the network is trained on: the float network's outputs, or the task's own targets."""
    if options.qat_loss == "float":
        return FloatOutputs(subject.network, subject.train), _squared_error
    if subject.task_loss is None:
        raise WorkflowError(
            f"'{subject.name}' has no targets that it could be trained on: use qat_loss \"float\", the float network's "
            "outputs"
        )
    return subject.train, subject.task_loss


def _squared_error(output: Any, target: Any) -> Tensor:
    """Mean squared difference over all numbers of all floating tensors: what `measure_error` measures."""
    return F.mse_loss(_numbers(output), _numbers(target))


def _numbers(tree: Any) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors_of(tree) if tensor.is_floating_point()])
