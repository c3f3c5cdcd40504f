"""Where training leaves a network's parameters and buffers, after a stack has given its modules other forms."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Trained:
    """Finds the tensors of a float network in what a stack made of it for training, which are the same objects.

    Args:
        network: in float.
    """

    def __init__(self, network: nn.Module) -> None:
        self._names = {id(tensor): name for name, tensor in _tensors(network)}
        self._held = [tensor for _, tensor in _tensors(network)]  # so that no other tensor gets the same id
        self._prepared: nn.Module | None = None
        self._places: dict[str, str] = {}

    def find(self, prepared: nn.Module) -> None:
        """Remember under which names ``prepared`` has them: moved to a device, buffers are other objects."""
        self._prepared = prepared
        self._places = {
            self._names[id(tensor)]: name for name, tensor in _tensors(prepared) if id(tensor) in self._names
        }

    def state(self) -> dict[str, Tensor]:
        """What they hold now, by their names in the float network."""
        assert self._prepared is not None
        now = dict(_tensors(self._prepared))
        return {name: now[place].detach().cpu().clone() for name, place in self._places.items()}


def with_state(network: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """``network`` in eval mode, or a copy that holds ``state``."""
    if not state:
        return network
    copied = copy.deepcopy(network)
    with torch.no_grad():
        for name, tensor in _tensors(copied):
            if name in state:
                tensor.copy_(state[name])
    if any(one.training for one in copied.modules()):
        copied.eval()  # what torch.export made refuses to be asked
    return copied


def _tensors(network: nn.Module) -> list[tuple[str, Tensor]]:
    return [*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False)]
