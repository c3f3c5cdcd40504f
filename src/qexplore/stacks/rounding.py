"""What rounding alone does to a layer: the noise that a right kernel of the widths in its row makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qexplore._choices import FloatFormat
from qexplore._trees import map_tensors
from qexplore.model import TRANSPOSED
from qexplore.quant import quantize_float
from qexplore.stacks.base import Settings
from qexplore.stacks.layer import LayerStrategy, Stored
from qexplore.stacks.torch_ao import activation_range


@dataclass(frozen=True)
class Rounding:
    """Rounds as the row of a layer says, over the ranges that the numbers at hand have.

    Attributes:
        weights: how they are stored; None in float.
        activations: how the output is stored; None in float.
        levels: steps of an activation.
        takes_range: whether the input is rounded with a range taken at run time.
    """

    weights: Stored | None
    activations: Stored | None
    levels: int
    takes_range: bool

    @classmethod
    def of(cls, row: LayerStrategy, settings: Settings) -> Rounding:
        """As the row of a layer says."""
        is_torch_ao = settings.stack in ("eager", "fx")
        levels = activation_range(settings.engine)[1] if is_torch_ao else 255
        packed = row.weights is not None and row.weights.packed
        takes_range = row.is_quantized and settings.method == "dynamic" and not packed
        return cls(row.weights, row.activations, levels, takes_range)

    def output(self, tree: Any) -> Any:
        """``tree`` of tensors rounded like an output."""
        return map_tensors(self._activation, tree)

    def parameters(self, module: nn.Module, gain: Tensor | None = None) -> dict[str, Tensor]:
        """The parameters of ``module`` by name, those with several axes rounded.

        Args:
            module: in float.
            gain: of a BatchNorm behind it, by output channel: what is stored is the product.
        """
        axis = 1 if isinstance(module, TRANSPOSED) else 0
        return {name: self.weight(one.detach(), axis, gain) for name, one in module.named_parameters()}

    def weight(self, weight: Tensor, axis: int = 0, gain: Tensor | None = None) -> Tensor:
        """``weight`` rounded; as it is where it has one axis or is stored in float."""
        if self.weights is None or weight.dim() < 2 or not weight.is_floating_point():
            return weight
        if gain is None or len(gain) != weight.shape[axis]:
            return self._weight(weight, axis)
        factor = gain.reshape([-1 if place == axis else 1 for place in range(weight.dim())])
        return torch.where(factor == 0, weight, self._weight(weight * factor, axis) / factor)

    def _weight(self, weight: Tensor, axis: int) -> Tensor:
        assert self.weights is not None
        others = [place for place in range(weight.dim()) if place != axis]
        is_per_channel = self.weights.granularity != "tensor"
        amax = weight.abs().amax(others, keepdim=True) if is_per_channel else weight.abs().amax()
        return _rounded(weight, amax, self.weights.num_bits)

    def _activation(self, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or not tensor.numel():
            return tensor
        bits = 8 if self.activations is None else self.activations.num_bits
        if isinstance(bits, FloatFormat):
            return quantize_float(tensor, bits, tensor.abs().amax())
        low, high = tensor.amin().clamp(max=0), tensor.amax().clamp(min=0)
        if self.activations is not None and self.activations.symmetric:
            high = torch.maximum(-low, high)
            low = -high
        step = (high - low) / self.levels
        return torch.where(step > 0, torch.round(tensor / step) * step, tensor)


def _rounded(weight: Tensor, amax: Tensor, bits: Any) -> Tensor:
    if isinstance(bits, FloatFormat):
        return quantize_float(weight, bits, amax)
    step = amax / (2 ** (bits - 1) - 1)
    return torch.where(step > 0, torch.round(weight / step) * step, weight)
