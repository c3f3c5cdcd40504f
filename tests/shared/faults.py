"""A network that misbehaves, for real, at coarse widths only: whatever measures it, the same candidates are hit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from problems import Tiny, tiny_model, tiny_network
from torch import Tensor, nn


class Fault:
    """Does something, once it is armed; copies of a network share it."""

    def __init__(self, do: Callable[[Tensor], Tensor], *, is_armed: bool = True) -> None:
        self.do, self.is_armed, self.hits = do, is_armed, 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Fault:
        return self

    def __call__(self, x: Tensor) -> Tensor:
        self.hits += self.is_armed
        return self.do(x) if self.is_armed else x


class Coarse(nn.Module):
    """Calls the fault for a tensor of at most ``levels`` different values, and hands all others on."""

    def __init__(self, fault: Fault, levels: int = 8) -> None:
        super().__init__()
        self.fault, self.levels = fault, levels

    def forward(self, x: Tensor) -> Tensor:
        return self.fault(x) if len(torch.unique(x)) <= self.levels else x


class Faulty(Tiny):
    """The trained network with such a module behind its first ReLU, where 2 and 3 bits hit it."""

    def __init__(self, fault: Fault) -> None:
        super().__init__()
        self.load_state_dict(tiny_network().state_dict())
        self.requires_grad_(False).eval()
        self.coarse = Coarse(fault)

    def forward(self, x: Tensor) -> Tensor:
        x = self.coarse(self.relu1(self.fc1(x.flatten(1))))
        return self.fc3(self.relu2(self.fc2(x)))


def faulty_model(fault: Fault) -> Any:
    """It, wrapped and calibrated."""
    return tiny_model(Faulty(fault))


def is_coarse(candidate: tuple[int, ...]) -> bool:
    """Whether a candidate hits the fault."""
    return candidate[1] in (2, 3)
