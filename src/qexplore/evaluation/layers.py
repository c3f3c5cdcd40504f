"""Layers at every choice of their weights: quantized once, BatchNorm folded in behind the quantizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from qexplore.model import CONVOLUTIONS, TRANSPOSED, BiasCorrection, WeightQuantization, bare, weight_quantizations
from qexplore.quant import FixedQuantizer


def quantization_of(module: nn.Module) -> tuple[str, WeightQuantization] | None:
    """The one quantized weight of ``module`` itself and its attribute; None for several, or beside other modules."""
    if set(module._modules) - {"parametrizations"}:
        return None
    found = [(attribute, quantization) for _, attribute, quantization in weight_quantizations(module)]
    is_alone = len(found) == 1 and len(module.parametrizations[found[0][0]]) == 1  # type: ignore[index]
    return found[0] if is_alone else None


class WeightedLayer:
    """A module whose weight is quantized, or such a weight alone.

    Args:
        module: with a parametrized weight, or the list of parametrizations that stands for the weight itself.
        norm: the BatchNorm behind it, which is folded into the quantized weight.
    """

    def __init__(self, module: nn.Module, norm: nn.Module | None = None) -> None:
        self._module = module
        self._norm = norm
        self._made: dict[FixedQuantizer | None, nn.Module] = {}

    def at(self, quantizer: FixedQuantizer | None) -> nn.Module:
        """What the module does with its weight put through ``quantizer``; None leaves it float."""
        if quantizer not in self._made:
            self._made[quantizer] = self._make(quantizer)
        return self._made[quantizer]

    @torch.no_grad()
    def _make(self, quantizer: FixedQuantizer | None) -> nn.Module:
        if isinstance(self._module, parametrize.ParametrizationList):
            return _Held(_quantized(self._module, quantizer))
        chains: Any = self._module.parametrizations
        # A bias beside it may be corrected for the quantized weight, and is read the same way.
        plain = bare(self._module, {name: _quantized(chain, quantizer) for name, chain in chains.items()})
        folded: nn.Module = plain if self._norm is None else merged(plain, self._norm)
        return folded


class _Held(nn.Module):
    """Gives a weight that is read by itself."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self) -> Tensor:
        return self.weight


def _quantized(chain: Any, quantizer: FixedQuantizer | None) -> Tensor:
    if not isinstance(chain[0], (WeightQuantization, BiasCorrection)):
        return chain().detach()  # type: ignore[no-any-return]
    original: Tensor = chain.original.detach()
    return original if quantizer is None else chain[0].quantize(original, quantizer).detach()


def merged(layer: Any, norm: Any) -> Any:
    """``layer`` with ``norm`` in its weights; None where the two cannot be merged."""
    if not can_be_merged(layer, norm):
        return None
    if isinstance(layer, nn.Linear):
        return fuse_linear_bn_eval(layer, norm)
    return fuse_conv_bn_eval(layer, norm, transpose=isinstance(layer, TRANSPOSED))


def can_be_merged(layer: nn.Module, norm: Any) -> bool:
    """Whether BatchNorm ``norm`` behind ``layer`` is only a scale and a shift of its output channels."""
    if norm.running_mean is None or norm.running_var is None or norm.training:
        return False
    kind = parametrize.type_before_parametrizations(layer)
    if kind in TRANSPOSED:
        return bool(layer.groups == 1)
    return kind in CONVOLUTIONS or (kind is nn.Linear and type(norm) is nn.BatchNorm1d)
