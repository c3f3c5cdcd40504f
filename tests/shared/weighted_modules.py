"""One module of every kind that has a weight, and the same wrapped so that only the weight is quantized."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qexplore import predicates
from qexplore.model import QuantizedModel


class Own(nn.Module):
    """A module of the user's own, with a weight and more."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 40))
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.t() * self.scale


MODULES: dict[str, Callable[[], nn.Module]] = {
    "conv1d": lambda: nn.Conv1d(12, 6, 5),
    "conv2d": lambda: nn.Conv2d(20, 4, 3),
    "conv3d": lambda: nn.Conv3d(5, 6, 3),
    "grouped": lambda: nn.Conv2d(32, 8, 3, groups=4),
    "depthwise": lambda: nn.Conv2d(8, 8, 3, groups=8),
    "transposed1d": lambda: nn.ConvTranspose1d(12, 6, 5),
    "transposed2d": lambda: nn.ConvTranspose2d(6, 8, 3),
    "transposed2d_grouped": lambda: nn.ConvTranspose2d(24, 8, 3, groups=2),
    "transposed3d_depthwise": lambda: nn.ConvTranspose3d(4, 4, 3, groups=4),
    "linear": lambda: nn.Linear(150, 5),
    "embedding": lambda: nn.Embedding(11, 70),
    "attention": lambda: nn.MultiheadAttention(40, 2),
    "own": Own,
}
EVERY_MODULE = pytest.mark.parametrize("name", MODULES)


def built(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return build()


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    return built(build).eval()


def wrapped(name: str, granularity: Any = "channel") -> tuple[QuantizedModel, Tensor, Callable[[], Tensor]]:
    """The module wrapped, its float weight, and what reads the weight that the module sees."""
    module = seeded(MODULES[name])
    attribute = "in_proj_weight" if name == "attention" else "weight"
    weight = getattr(module, attribute).detach().clone()
    model = QuantizedModel(module, weights=predicates.weighted, weight_granularity=granularity)
    return model, weight, lambda: getattr(module, attribute).detach()
