"""Quantizers follow their network: each lies where the tensor lies that it quantizes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from qexplore.errors import ModelError
from qexplore.model.inputs import Placement
from qexplore.model.weight_points import WeightPoint
from qexplore.quant import TensorQuantizer


def follow(
    network: nn.Module,
    quantizers: Mapping[str, TensorQuantizer],
    weights: Mapping[str, WeightPoint],
    seen: Mapping[str, torch.device],
) -> None:
    """Move ``quantizers`` to where the tensors lie now: ``network.to(...)`` does not reach them.

    Args:
        network: the wrapped one.
        quantizers: by point.
        weights: the points that are weights.
        seen: where the tensors of the others lay in a forward; of use for a network that lies on several devices.

    Raises:
        ModelError: the network is on the meta device.
    """
    require_numbers(network)
    placement = Placement.of(network)
    for name, quantizer in quantizers.items():
        weight, device = weights.get(name), placement.device
        if weight is not None:
            device = weight.parameters[0].device
        elif placement.is_spread and seen.get(name) in placement.devices:
            device = seen[name]
        quantizer.lie_on(device)


def home_of(network: nn.Module) -> torch.device | None:
    """Where the first parameter lies, which tells a move of the whole at next to no cost."""
    first = next(network.parameters(), None)
    return None if first is None else first.device


def require_numbers(network: nn.Module) -> None:
    """Raise where parameters or buffers have no numbers.

    Raises:
        ModelError: names the first on the meta device.
    """
    named = (*network.named_parameters(), *network.named_buffers())
    name = next((name for name, tensor in named if tensor.is_meta), None)
    if name is not None:
        raise ModelError(
            f"the network must have its numbers, but '{name}' is on the meta device: load it whole before it is "
            'wrapped, by network.to_empty(device="cpu") and load_state_dict, or without what offloads it; where it is '
            "wrapped already, take the quantizers off first, by model.detach()"
        )
