"""Cross-layer equalization: weights of neighbouring layers brought to like ranges, in a copy of a float network.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qexplore._table import Tabular, counted, text_table
from qexplore.model import QuantizedModel, grouped, ungrouped
from qexplore.preparation.connections import Connections, largest_difference, outputs_of
from qexplore.preparation.folding import FoldReport, copied_network, fold, replace_everywhere, require_equal
from qexplore.preparation.neighbours import Neighbours, find_neighbours
from qexplore.preparation.noise import COMPARED_WIDTHS, output_sqnr

_MOST_SWEEPS = 200
_CONVERGED = 1e-3
"""Stop when no channel's scale moves by more than this share in a sweep."""
_DEAD = 1e-5
"""A channel whose weights are smaller than this share of the layer's largest is left alone: its scale would be so far
from 1 that it only moves trouble into the activation."""


@dataclass(frozen=True)
class LayerRanges:
    """How unlike the ranges of a layer's output channels are: the largest over the least, dead channels left out.

    1 means that one scale fits all channels alike.
    """

    name: str
    before: float
    after: float


@dataclass(frozen=True)
class EqualizationReport(Tabular):
    """What `equalize` did; ``print`` shows it.

    Attributes:
        network: the equalized copy.
        folding: what became of BatchNorm first.
        pairs: names of the layers of each pair, ``(first, second)``.
        skipped: each layer whose output channels stay as they are, with the reason.
        ranges: of each layer in a pair.
        replaced: ReLU6 modules that became ReLU.
        replacement_difference: how much that moved outputs on the example, as a share of the largest one; None without
            example or replacement.
        num_sweeps: rounds over all pairs until the scales stood still.
        difference: largest difference of outputs on the example that equalization itself made; None without example.
        sqnr: by width, ``(before, after)``: signal to quantization noise in dB of outputs on the example, weights of
            the layers in pairs quantized with one scale a tensor, up to their largest magnitude; empty without example.
    """

    network: nn.Module
    folding: FoldReport
    pairs: tuple[tuple[str, str], ...]
    skipped: Mapping[str, str]
    ranges: tuple[LayerRanges, ...]
    replaced: tuple[str, ...]
    replacement_difference: float | None
    num_sweeps: int
    difference: float | None
    sqnr: Mapping[int, tuple[float, float]]

    def __str__(self) -> str:
        done = f"Equalized {counted(len(self.pairs), 'pair')} of layers in {counted(self.num_sweeps, 'sweep')}"
        lines = [str(self.folding), "", done]
        if self.replaced:
            moved = self.replacement_difference
            told = "" if moved is None else f"; outputs on the example move by at most {moved:.2g} of the largest"
            lines.append(f"ReLU6 replaced by ReLU: {', '.join(self.replaced)}{told}")
        if self.difference is not None:
            lines.append(f"Outputs on the example differ by at most {self.difference:.1e} of the largest")
        for width, (before, after) in self.sqnr.items():
            lines.append(
                f"Outputs with {width}-bit weights, a scale per tensor: SQNR {before:.1f} dB -> {after:.1f} dB"
            )
        if self.ranges:
            rows = [(one.name, f"{one.before:.3g}", f"{one.after:.3g}") for one in self.ranges]
            header = ("largest over least channel range", "before", "after")
            lines += ["", text_table(header, rows, numeric=(1, 2))]
        if self.skipped:
            lines += ["", text_table(("layer", "output channels stay"), list(self.skipped.items()))]
        return "\n".join(lines)


def equalize(network: nn.Module, example_input: Any = None, *, replace_relu6: bool = False) -> EqualizationReport:
    """Bring the channel ranges of neighbouring layers together in a copy of ``network``, BatchNorm folded first.

    A channel between two layers can be divided by any positive number in the first and multiplied by it in the second
    when what stands between them is positive homogeneous, ``f(s x) = s f(x)``, as ReLU and pooling are. The number
    taken gives the channel the same weight range in both. Repeated until nothing moves, so that chains such as those
    around a depthwise convolution are settled together. It pays where weights share a scale per tensor or group;
    ranges of activations may widen.

    Args:
        network: a float network that `torch.fx` can trace, not wrapped; left as it is.
        example_input: a tensor, a tuple of positional or a dict of keyword arguments, on which outputs before and after
            are compared.
        replace_relu6: replace ReLU6 modules that stand in the way by ReLU. The network is another one then where its
            activations exceed 6: check its accuracy.

    Raises:
        TraceError: `torch.fx` cannot trace the network.
        ModelError: a network that cannot be copied, or whose outputs would change.
        DataError: ``example_input`` has none of these forms, or ``forward`` does not take it.
    """
    copied = copied_network(network)
    folding = fold(copied, example_input)
    given = None if example_input is None else outputs_of(copied, example_input)
    connections = Connections(copied, example_input)
    neighbours, skipped, in_the_way = find_neighbours(connections, replace_relu6)
    for module in in_the_way:
        replace_everywhere(copied, module, nn.ReLU(bool(module.inplace)))
    before = None if example_input is None else outputs_of(copied, example_input)
    layers = list(dict.fromkeys(layer for pair in neighbours for layer in (pair.first, pair.second)))
    spread = [_spread(layer) for layer in layers]
    names = {layer: connections.name_of(layer) for layer in layers}
    noise = _noise(copied, example_input, layers)
    num_sweeps = _equalize(neighbours)
    difference = None if before is None else require_equal(before, copied, example_input, "equalization")
    noise_after = _noise(copied, example_input, layers)
    moved = largest_difference(given, before) if in_the_way and given is not None and before is not None else None
    return EqualizationReport(
        network=copied,
        folding=folding,
        pairs=tuple((names[pair.first], names[pair.second]) for pair in neighbours),
        skipped=skipped,
        ranges=tuple(LayerRanges(names[one], start, _spread(one)) for one, start in zip(layers, spread, strict=True)),
        replaced=tuple(connections.name_of(module) for module in in_the_way),
        replacement_difference=moved,
        num_sweeps=num_sweeps,
        difference=difference,
        sqnr={width: (start, noise_after[width]) for width, start in noise.items()},
    )


@torch.no_grad()
def _equalize(pairs: Sequence[Neighbours]) -> int:
    """Scale the weights of all pairs; says after how many sweeps the scales stood still."""
    layers = dict.fromkeys(layer for pair in pairs for layer in (pair.first, pair.second))
    magnitudes = {layer: grouped(layer, layer.weight).abs().amax(dim=3).float() for layer in layers}
    totals = [torch.ones(pair.num_channels, device=pair.first.weight.device) for pair in pairs]
    num_sweeps, moved = 0, math.inf if pairs else 0.0
    while moved >= _CONVERGED and num_sweeps < _MOST_SWEEPS:
        moved = 0.0
        for pair, total in zip(pairs, totals, strict=True):
            first, second = magnitudes[pair.first], magnitudes[pair.second]
            scale = _scale(first.amax(dim=2).flatten(), _by_channel(second, pair))
            magnitudes[pair.first] = first / _along_outputs(scale, first)
            magnitudes[pair.second] = second * _along_inputs(scale.repeat_interleave(pair.repeat), second)
            total *= scale
            moved = max(moved, float(scale.log().abs().max()))
        num_sweeps += 1
    for pair, total in zip(pairs, totals, strict=True):
        _apply(pair, total.double() if total.device.type != "mps" else total)
    return num_sweeps


def _scale(first: Tensor, second: Tensor) -> Tensor:
    """What divides a channel of the first layer and multiplies it in the second: ``sqrt(r1 r2) / r2``."""
    is_alive = (first > _DEAD * first.max()) & (second > _DEAD * second.max())
    return torch.where(is_alive, (first / second).sqrt(), torch.ones_like(first))


def _by_channel(apart: Tensor, pair: Neighbours) -> Tensor:
    """The largest of ``[groups, outputs, inputs]`` for each channel, which after flattening is many inputs in a row."""
    return apart.amax(dim=1).reshape(-1, pair.repeat).amax(dim=1)


def _along_outputs(scale: Tensor, apart: Tensor) -> Tensor:
    return scale.reshape(*apart.shape[:2], *(1 for _ in apart.shape[2:]))


def _along_inputs(scale: Tensor, apart: Tensor) -> Tensor:
    return scale.reshape(apart.shape[0], 1, apart.shape[2], *(1 for _ in apart.shape[3:]))


def _apply(pair: Neighbours, scale: Tensor) -> None:
    first, second = pair.first, pair.second
    apart = grouped(first, first.weight.to(scale.dtype))
    first.weight.copy_(ungrouped(first, apart / _along_outputs(scale, apart), first.weight))
    if first.bias is not None:
        first.bias.copy_(first.bias.to(scale.dtype) / scale)
    apart = grouped(second, second.weight.to(scale.dtype))
    inputs = _along_inputs(scale.repeat_interleave(pair.repeat), apart)
    second.weight.copy_(ungrouped(second, apart * inputs, second.weight))


def _spread(layer: Any) -> float:
    ranges = grouped(layer, layer.weight.detach()).abs().amax(dim=(2, 3)).flatten()
    alive = ranges[ranges > _DEAD * ranges.max()]
    return float(alive.max() / alive.min()) if len(alive) else math.nan


def _noise(network: nn.Module, example: Any, layers: Sequence[nn.Module]) -> dict[int, float]:
    """SQNR of the output in dB, by width, with these layers' weights quantized per tensor."""
    if example is None or not layers:
        return {}
    expected = outputs_of(network, example)
    model = QuantizedModel(network, weights=lambda module: module in layers, weight_granularity="tensor")
    try:
        return {width: output_sqnr(model, width, example, expected) for width in COMPARED_WIDTHS}
    finally:
        model.detach()
