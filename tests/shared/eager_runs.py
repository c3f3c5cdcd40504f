"""Networks quantized by the eager stack, and what tests ask of them."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from networks import batches, digits
from torch import Tensor, nn

from qexplore._quiet import quiet
from qexplore.stacks import eager
from qexplore.stacks.base import Converted, Data, Settings
from qexplore.stacks.layer import LayerStrategy

ENGINES = [name for name in torch.backends.quantized.supported_engines if name != "none"]


def calibrate(prepared: nn.Module) -> None:
    with torch.no_grad():
        for x, _ in batches(digits().calibration):
            prepared(x)


def digits_data() -> Data:
    return Data((digits().calibration.x[:8],), calibrate)


def data_of(*inputs: Any) -> Data:
    """``inputs`` to be calibrated on."""

    def calibrate(prepared: nn.Module) -> None:
        with torch.no_grad():
            prepared(*copy.deepcopy(inputs))

    return Data(inputs, calibrate)


def static(network: nn.Module, data: Data | None = None, **options: Any) -> Converted:
    return eager.quantize(network, Settings("static", "eager", **options), data or digits_data())


@torch.no_grad()
def run(model: nn.Module, *inputs: Any) -> Tensor:
    with quiet():
        return model(*copy.deepcopy(inputs))


def accuracy(model: nn.Module) -> float:
    """On the 700 digits of the search and report splits."""
    x, y = (torch.cat(both) for both in zip(digits().search, digits().report, strict=True))
    return float((run(model, x).argmax(1) == y).float().mean())


def error(network: nn.Module, model: nn.Module, *inputs: Any) -> float:
    """Of the outputs, as a share of the float ones."""
    expected = run(network, *inputs)
    return float((run(model, *inputs) - expected).norm() / expected.norm())


def kinds(model: nn.Module) -> Counter[str]:
    return Counter(type(module).__name__ for module in model.modules())


def rows(converted: Converted) -> dict[str, LayerStrategy]:
    return {row.name: row for row in converted.strategy}
