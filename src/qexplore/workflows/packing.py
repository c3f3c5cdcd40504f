"""Every linear layer of a float network, packed in one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrize

from qexplore._table import Tabular, counted, text_table
from qexplore.errors import SelectionError
from qexplore.model import Loader, Pass, Placement, Unpack, call, foreign_hooks, in_eval_mode, measuring, unpacking
from qexplore.predicates import PredicateLike, everything, select_modules
from qexplore.preparation import copied_network, replace_everywhere
from qexplore.quant import check_group_size, check_packed_width
from qexplore.stacks import LayerStrategy, PackedLinear, float_rows, is_packable, packed_strategy
from qexplore.workflows.finite import finite


@dataclass(frozen=True)
class PackedLayer:
    """What packing did to one layer.

    Attributes:
        name: qualified name.
        num_weights: how many weights.
        num_bytes_before: stored bytes of the float weight.
        num_bytes: stored bytes of the packed integers and the scales.
        error: mean squared error of the weight, as a share of its mean square.
    """

    name: str
    num_weights: int
    num_bytes_before: int
    num_bytes: int
    error: float


@dataclass(frozen=True)
class PackingReport(Tabular):
    """What `pack_linear_weights` did; ``print`` shows it.

    Attributes:
        network: the copy with packed layers.
        num_bits: width of the packed weights.
        group_size: inputs that share a scale; None for one scale per output channel.
        layers: the packed layers, in the network's order.
        skipped: linear layers that stay float, each with the reason.
    """

    network: nn.Module
    num_bits: int
    group_size: int | None
    layers: tuple[PackedLayer, ...]
    skipped: Mapping[str, str]

    @property
    def num_bytes_before(self) -> int:
        """Bytes of the packed layers' weights in float."""
        return sum(layer.num_bytes_before for layer in self.layers)

    @property
    def num_bytes(self) -> int:
        """Bytes of the packed layers' weights, scales included."""
        return sum(layer.num_bytes for layer in self.layers)

    @property
    def strategy(self) -> tuple[LayerStrategy, ...]:
        """One row for every layer with parameters of its own, read back from the packed network."""
        return packed_strategy(self.network, self.skipped)

    def __str__(self) -> str:
        granularity = "per channel" if self.group_size is None else f"in groups of {self.group_size}"
        lines = [
            f"Packed {counted(len(self.layers), 'linear layer')}: int{self.num_bits} {granularity}, "
            f"{self.num_bytes:,} bytes of weights and scales instead of {self.num_bytes_before:,}"
        ]
        rows = [(one.name, f"{one.num_weights:,}", f"{one.num_bytes:,}", f"{one.error:.1e}") for one in self.layers]
        lines.append(text_table(("layer", "weights", "bytes", "error"), rows, numeric=(1, 2, 3)))
        lines += [f"'{name}' stays float: {reason}" for name, reason in self.skipped.items()]
        return "\n".join(lines)


def pack_linear_weights(
    network: nn.Module,
    predicate: PredicateLike | None = None,
    num_bits: int = 4,
    group_size: int | None = None,
    *,
    method: str = "mse",
    calibration_loader: Loader | None = None,
    unpack: Unpack | None = None,
    progress: bool | None = None,
) -> PackingReport:
    """Pack the weights of every linear layer of a copy of ``network`` (``nn.Linear``, and transformers' ``Conv1D``).

    A layer that shares its weight with another module, has hooks or parametrizations, or is of a class of its own stays
    as it is, and the report says so.

    Args:
        network: a float network, left as it is.
        predicate: which modules are considered; None for all.
        num_bits: width of the weights, 2 to 8.
        group_size: neighbouring inputs that share a scale; None for one scale per output channel.
        method: ``"mse"`` for ranges of the least squared error, ``"max"`` for the largest magnitude.
        calibration_loader: where given, inputs and outputs of the packed layers are quantized to 8 bits as well, per
            tensor, over the ranges seen on this data.
        unpack: of a batch, returns ``(inputs, target)``, where the batches are no tensors, pairs or dicts.
        progress: show a bar on stderr while calibrating; None shows it on a terminal.

    Raises:
        SelectionError: no linear layer can be packed.
        NumBitsError: a width or group size that cannot be packed.
        WorkflowError: a weight that is not finite.
        ModelError: a network that is wrapped, or cannot be copied.
        DataError: ``calibration_loader`` is empty, cannot be unpacked, or holds NaN or an infinity.
    """
    check_packed_width(num_bits)
    check_group_size(group_size)
    copied = copied_network(network)
    chosen = select_modules(copied, predicate or everything)
    linear = {name: module for name, module in chosen.items() if isinstance(module, nn.Linear) or is_packable(module)}
    skipped = {name: reason for name, module in linear.items() if (reason := _refusal(copied, module)) is not None}
    packable = {name: module for name, module in linear.items() if name not in skipped}
    if not packable:
        reasons = "".join(f" '{name}': {reason}." for name, reason in skipped.items())
        raise SelectionError(
            f"the network has no linear layer that can be packed and was selected.{reasons} Packed are nn.Linear and "
            "transformers' Conv1D"
        )
    layers = []
    for name, module in packable.items():
        packed = PackedLinear.from_float(module, num_bits, group_size, method=method)
        layers.append(_described(name, module, packed))
        copied = replace_everywhere(copied, module, packed)
    if calibration_loader is not None:
        _calibrate(copied, calibration_loader, unpack, progress)
    return PackingReport(copied, num_bits, group_size, tuple(layers), skipped)


def _calibrate(network: nn.Module, loader: Loader, unpack: Unpack | None, progress: bool | None) -> None:
    """Give inputs and outputs of every `PackedLinear` in ``network`` the ranges seen on ``loader``."""
    packed = [module for module in network.modules() if isinstance(module, PackedLinear)]
    placement, unpack = Placement.of(network), unpacking(network, unpack)
    batches = Pass(
        "the calibration loader",
        finite("calibration_loader", loader, unpack),
        unpack=unpack,
        placement=placement,
        bar="calibrating",
        progress=progress,
    )
    for module in packed:
        module.start_observing()
    try:
        with in_eval_mode(network), torch.no_grad(), measuring(placement.device):
            for inputs, _ in batches:
                call(network, inputs)
    finally:
        for module in packed:
            module.stop_observing()


def _refusal(network: nn.Module, module: nn.Module) -> str | None:
    """Why ``module`` must stay float; None when it need not."""
    if parametrize.is_parametrized(module):
        return "its parameters are parametrized"
    if not is_packable(module):
        return f"{type(module).__name__} is a class of its own, whose owner may read the weight without calling it"
    if foreign_hooks(module):
        return "it carries hooks"
    for name, other in network.named_modules():
        if other is not module and any(one is module.weight for one in other.parameters(recurse=False)):
            return f"it shares its weight with '{name}', which needs it in float"
    return None


@torch.no_grad()
def _described(name: str, linear: nn.Module, packed: PackedLinear) -> PackedLayer:
    before = float_rows(linear)
    power = float(before.float().square().mean())
    error = float((packed.weight - before).float().square().mean())
    num_bytes = before.numel() * before.element_size()
    return PackedLayer(name, before.numel(), num_bytes, packed.num_bytes, error / power if power else 0.0)
