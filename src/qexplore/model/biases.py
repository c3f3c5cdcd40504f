"""Biases that make up for the shift that a quantized weight gives to its layer's mean output."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from qexplore.model.frames import aside
from qexplore.model.layers import TRANSPOSED, taken_apart
from qexplore.model.weights import WeightQuantization, own_class, weight_before


class BiasCorrection(nn.Module):
    """The parametrization of the bias beside a quantized weight: ``bias - E[x] (W_q - W)`` at the present choice.

    The float bias where the weight is not quantized. Computed from the weight and its range as they are, so that a new
    calibration, or a fine-tuned weight, is followed.

    Args:
        layer: whose weight is read through a `WeightQuantization`.
        mean_input: mean of what a kernel meets, over samples and positions, ``[groups, inputs of a group, kernel]``.
    """

    mean_input: Tensor

    def __init__(self, layer: nn.Module, mean_input: Tensor) -> None:
        super().__init__()
        chain: Any = layer.parametrizations["weight"]  # type: ignore[index]
        # In a tuple, so that the weight is no part of the bias too; a deep copy still takes it along.
        self._held = (chain,)
        self._is_transposed = isinstance(layer, TRANSPOSED)
        self.register_buffer("mean_input", mean_input)

    @property
    def _quantization(self) -> WeightQuantization:
        return next(one for one in self._held[0] if isinstance(one, WeightQuantization))

    @property
    def _weight(self) -> Tensor:
        return weight_before(self._held[0])

    @property
    def name(self) -> str:
        """Of the weight's point."""
        return self._quantization.name

    def forward(self, bias: Tensor) -> Tensor:
        """``bias``, corrected where the weight is quantized."""
        with aside():
            return self._read(bias)

    def _read(self, bias: Tensor) -> Tensor:
        weight = self._weight
        with torch.no_grad():
            quantized = self._quantization(weight)
        return bias if quantized is weight else bias + self._correction(weight, quantized).to(bias.dtype)

    def quantize(self, bias: Tensor, quantizer: Any) -> Tensor:
        """``bias``, corrected for the weight put through ``quantizer``."""
        weight = self._weight
        with torch.no_grad():
            quantized = self._quantization.quantize(weight, quantizer)
        return bias + self._correction(weight, quantized).to(bias.dtype)

    @torch.no_grad()
    def _correction(self, weight: Tensor, quantized: Tensor) -> Tensor:
        # Contiguous, so that sums have one order whatever the weight's layout in memory is.
        change = (quantized.float() - weight.float()).contiguous()
        apart = taken_apart(change, len(self.mean_input), self._is_transposed).contiguous()
        return -(apart * self.mean_input.float()[:, None]).flatten(2).sum(dim=2).flatten()


def bias_corrections(network: nn.Module) -> Iterator[tuple[nn.Module, BiasCorrection]]:
    """Layers of ``network`` whose bias is corrected."""
    for module in network.modules():
        chain: Any = getattr(module, "parametrizations", {})
        if "bias" in chain and isinstance(chain["bias"][0], BiasCorrection):
            yield module, chain["bias"][0]


def correct_bias(layer: nn.Module, mean_input: Tensor) -> None:
    """Correct the bias of ``layer``, anew where it is corrected already."""
    restore_biases(layer)
    own_class(layer)
    parametrize.register_parametrization(layer, "bias", BiasCorrection(layer, mean_input), unsafe=True)


def restore_biases(network: nn.Module) -> None:
    """Give every layer of ``network`` its float bias back, the very parameter it had."""
    for module, _ in list(bias_corrections(network)):
        own_class(module)
        parametrize.remove_parametrizations(module, "bias", leave_parametrized=False)
