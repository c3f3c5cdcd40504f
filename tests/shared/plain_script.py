"""The recipe written down with pytorch-quantization alone: what `QuantizedActivationsModel` has to agree with.

Closures as forward hooks, the maximum as range, a loop that counts correct samples. Nothing of qexplore is in here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pytorch_quantization.nn import TensorQuantizer
from pytorch_quantization.tensor_quant import QuantDescriptor
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Loader = Sequence[tuple[Tensor, Tensor]]
Ranges = dict[str, tuple[float, float]]
"""Least value and greatest magnitude by point."""

INPUT = "input"


def apply(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """``function`` on every floating tensor in nested tuples."""
    if isinstance(value, tuple):
        return tuple(apply(function, item) for item in value)
    return function(value) if value.is_floating_point() else value


def on_output(function: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    return lambda module, args, output: apply(function, output)


def on_input(function: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    return lambda module, args: apply(function, args)


def hook(network: nn.Module, functions: dict[str, Callable[[Tensor], Tensor]]) -> list[RemovableHandle]:
    """Put a function on the network's input and on the outputs of modules by name."""
    handles = []
    for name, function in functions.items():
        if name == INPUT:
            handles.append(network.register_forward_pre_hook(on_input(function)))
        else:
            handles.append(network.get_submodule(name).register_forward_hook(on_output(function)))
    return handles


@torch.no_grad()
def calibrate(network: nn.Module, names: Sequence[str], loader: Loader) -> Ranges:
    """Least value and largest magnitude of the float network at every point."""
    ranges = {name: (float("inf"), 0.0) for name in names}

    def watch(name: str) -> Callable[[Tensor], Tensor]:
        def note(tensor: Tensor) -> Tensor:
            lowest, amax = ranges[name]
            ranges[name] = min(lowest, float(tensor.min())), max(amax, float(tensor.abs().max()))
            return tensor

        return note

    handles = hook(network, {name: watch(name) for name in names})
    for x, _ in loader:
        network(x)
    for handle in handles:
        handle.remove()
    return ranges


@torch.no_grad()
def count_correct(
    network: nn.Module, ranges: Ranges, num_bits: Sequence[int], loader: Loader, *, unsigned: bool = False
) -> int:
    """Samples classified correctly; ``unsigned`` drops the sign where calibration saw no negative value."""
    quantizers = {}
    for (name, (lowest, amax)), width in zip(ranges.items(), num_bits, strict=True):
        descriptor = QuantDescriptor(num_bits=int(width), amax=amax, unsigned=unsigned and lowest >= 0)
        quantizers[name] = TensorQuantizer(descriptor)
    handles = hook(network, quantizers)
    correct = sum(int((network(x).argmax(dim=1) == y).sum()) for x, y in loader)
    for handle in handles:
        handle.remove()
    return correct
