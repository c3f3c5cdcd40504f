"""BatchNorm statistics of the quantized network: what its layers see once weights and activations are quantized."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from qexplore._table import Tabular, text_table
from qexplore.errors import WorkflowError
from qexplore.model import (
    Loader,
    Pass,
    Placement,
    QuantizedModel,
    Unpack,
    alone,
    call,
    in_eval_mode,
    measuring,
    num_samples,
    require_wrapped,
    unpacking,
)

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class RecalibratedLayer:
    """How far the statistics of one layer have moved, mean over its channels.

    Attributes:
        name: qualified name of the layer.
        mean_shift: of the mean, in standard deviations that the layer had before.
        variance_ratio: of the variance, after to before.
    """

    name: str
    mean_shift: float
    variance_ratio: float


@dataclass(frozen=True)
class BatchNormReport(Tabular):
    """What `recalibrate_batchnorm` did; ``print`` shows it.

    Attributes:
        layers: in the order of the network's modules; none where there is no BatchNorm.
        num_samples: that the statistics come from.
    """

    layers: tuple[RecalibratedLayer, ...]
    num_samples: int

    def __str__(self) -> str:
        if not self.layers:
            return "The network has no BatchNorm layer with statistics: nothing was recalibrated"
        rows = [(one.name, f"{one.mean_shift:.3f}", f"{one.variance_ratio:.3f}") for one in self.layers]
        table = text_table(("layer", "mean moved by (std)", "variance ratio"), rows, numeric=(1, 2))
        return f"BatchNorm statistics of {len(rows)} layers recalibrated on {self.num_samples} samples\n{table}"


@alone
def recalibrate_batchnorm(
    model: QuantizedModel,
    loader: Loader,
    *,
    num_batches: int | None = None,
    unpack: Unpack | None = None,
    progress: bool | None = None,
) -> BatchNormReport:
    """Measure the statistics of BatchNorm layers anew, in the quantized network at its present widths.

    Quantization shifts means and variances of what BatchNorm layers normalize. The statistics become the plain average
    over batches; no weight is trained. They belong to the widths they were measured at. When it fails, and after an
    interrupt, they stay as they were.

    Args:
        model: calibrated. A plain network is refused: `torch.optim.swa_utils.update_bn` does that one.
        loader: batches as for calibration, of two samples or more; targets are not used. A few hundred samples do.
        num_batches: stop after so many; None takes all.
        unpack: ``unpack(batch) -> (inputs, target)`` for batches of another form.
        progress: show a bar on stderr; None shows it on a terminal.

    Raises:
        WorkflowError: ``model`` is no `QuantizedModel`.
        DataError: the loader is empty, a batch cannot be unpacked, ``num_batches`` is no positive int.
        ModelError: the model is detached from its network.
        CalibrationError: the model has points without a range.
    """
    require_wrapped("recalibrate_batchnorm", model, WorkflowError)
    placement = Placement.of(model)
    batches = Pass(
        "the loader",
        loader,
        num_batches=num_batches,
        unpack=unpacking(model, unpack),
        placement=placement,
        bar="BatchNorm statistics",
        progress=progress,
    )
    layers = {name: module for name, module in model.model.named_modules() if _has_statistics(module)}
    if not layers:
        return BatchNormReport((), 0)
    before = {name: _copied(layer) for name, layer in layers.items()}
    count = 0
    with measuring(placement.device), in_eval_mode(model), torch.no_grad(), _measuring(layers, before):
        for inputs, _ in batches:
            call(model, inputs)
            count += num_samples(inputs)
    rows = [_row(name, before[name], _copied(layer)) for name, layer in layers.items()]
    return BatchNormReport(tuple(rows), count)


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.running_mean is not None


def _copied(layer: nn.Module) -> dict[str, torch.Tensor]:
    return {name: getattr(layer, name).detach().clone() for name in _STATISTICS}


@contextmanager
def _measuring(layers: dict[str, nn.Module], before: dict[str, dict[str, torch.Tensor]]) -> Iterator[None]:
    """Average plainly for a block; after an error or interrupt with the statistics of ``before``."""
    momenta = {name: layer.momentum for name, layer in layers.items()}
    try:
        for layer in layers.values():
            layer.reset_running_stats()  # type: ignore[operator]
            layer.momentum = None  # type: ignore[assignment]
            layer.train()
        yield
    except BaseException:
        for name, layer in layers.items():
            for key, value in before[name].items():
                getattr(layer, key).copy_(value)
        raise
    finally:
        for name, layer in layers.items():
            layer.momentum = momenta[name]


def _row(name: str, before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> RecalibratedLayer:
    variance = before["running_var"].clamp(min=1e-12)
    shift = (after["running_mean"] - before["running_mean"]).abs() / variance.sqrt()
    ratio = after["running_var"] / variance
    return RecalibratedLayer(name, float(shift.mean()), float(ratio.mean()))
