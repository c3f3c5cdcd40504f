"""What training made of a network's weights, as a float network again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qexplore.preparation import copied_network
from qexplore.stacks import PackedLinear, float_rows


@torch.no_grad()
def with_weights_of(network: nn.Module, quantized: nn.Module) -> nn.Module | None:
    """A copy of the float ``network``, on CPU, with the weights that ``quantized`` computes with.

    Returns:
        The copy; None where a layer of ``network`` is no layer of ``quantized`` any more, such as a BatchNorm that was
        folded on the way, or where modules that share a tensor came out with different ones.
    """
    copied = copied_network(network).cpu().eval()
    taken: dict[int, Tensor] = {}
    for name, module in copied.named_modules(remove_duplicate=False):
        own = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
        if not own:
            continue
        try:
            other: Any = quantized.get_submodule(name)
        except AttributeError:
            return None
        for key, tensor in own.items():
            value = _float_tensor(other, key)
            place = float_rows(module) if key == "weight" and isinstance(other, PackedLinear) else tensor
            if (
                value is None
                or value.shape != place.shape
                or not torch.equal(taken.setdefault(id(tensor), value), value)
            ):
                return None
            place.copy_(value)
    return copied


def _float_tensor(module: Any, key: str) -> Tensor | None:
    found = getattr(module, key, None)
    value = found() if callable(found) else found  # the quantized modules of torch have weight() and bias()
    if not isinstance(value, Tensor):
        return None
    return value.dequantize() if value.is_quantized else value.detach()
