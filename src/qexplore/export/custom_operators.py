"""Operators that stand for quantization points while a network is taken apart, and the network that calls them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from qexplore.errors import ExportError
from qexplore.model import aside, bias_corrections, point_hooks, restore_biases, weight_quantizations


@torch.library.custom_op("qexplore::fake_quantize", mutates_args=())
def fake_quantize(x: Tensor, point: str) -> Tensor:
    """An activation or input, quantized as the point of this name is; has no values, only a shape."""
    raise NotImplementedError("stands for a quantization point in an exported graph")


@torch.library.custom_op("qexplore::stored_weight", mutates_args=())
def stored_weight(weight: Tensor, point: str) -> Tensor:
    """A weight as the file gives it back; has no values, only a shape."""
    raise NotImplementedError("stands for a quantized weight in an exported graph")


@fake_quantize.register_fake
@stored_weight.register_fake
def _like(tensor: Tensor, point: str) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


class _ExportedPoint:
    """What a point's hook calls in place of its quantizer."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._made: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, tensor: Tensor) -> Tensor:
        """One operator for all modules that read ``tensor``."""
        given, quantized = self._made.get(id(tensor), (None, tensor))
        if given is not tensor:
            quantized = self._operator(tensor)
            self._made[id(tensor)] = tensor, quantized
        return quantized

    def _operator(self, tensor: Tensor) -> Tensor:
        if tensor.dtype != torch.float32:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ExportError(
                f"what is quantized must be float32 to be exported, but the tensor at point '{self.name}' is {kind}: "
                "export model.float(), and leave torch.autocast out of its forward"
            )
        quantized: Tensor = torch.ops.qexplore.fake_quantize(tensor, self.name)
        return quantized


class _ExportedWeight(nn.Module):
    """What a module reads its weight through in place of the quantization."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, weight: Tensor) -> Tensor:
        with aside():
            stored: Tensor = torch.ops.qexplore.stored_weight(weight, self.name)
            return stored


def call_operators(network: nn.Module, written: Collection[str]) -> None:
    """Let ``network``, a copy, call an operator at each point that is ``written``.

    Other activations stay float. Other weights keep, as float numbers, what their quantizers make of them, and
    corrected biases what the present choices make of those.
    """
    _settle_biases(network)
    for _, hook in point_hooks(network):
        hook.quantizer = _ExportedPoint(hook.name) if hook.name in written else _unchanged  # type: ignore[assignment]
    settled: set[int] = set()
    for module, attribute, quantization in list(weight_quantizations(network)):
        chain: Any = module.parametrizations[attribute]  # type: ignore[index]
        place = next(index for index, one in enumerate(chain) if one is quantization)
        if quantization.name in written:
            chain[place] = _ExportedWeight(quantization.name)
            continue
        if id(chain.original) not in settled:
            settled.add(id(chain.original))
            with torch.no_grad():
                chain.original.copy_(quantization(chain.original))
        chain[place] = nn.Identity()


def _settle_biases(network: nn.Module) -> None:
    with torch.no_grad():
        corrected = [(module, module.bias.detach().clone()) for module, _ in bias_corrections(network)]  # type: ignore[operator]
        restore_biases(network)
        for module, bias in corrected:
            module.bias.copy_(bias)  # type: ignore[operator]


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor
