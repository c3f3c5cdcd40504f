"""What a model's version costs on an accelerator: one wait, however many tensors there are."""

from __future__ import annotations

import pytest
import torch
from pretended_device import num_transfers
from torch import nn

from qexplore.model import content_version


@pytest.mark.parametrize("num_layers", [1, 30])
def test_a_version_waits_for_the_device_once(accelerator: torch.device, num_layers: int) -> None:
    layers = [nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)) for _ in range(num_layers)]
    network = nn.Sequential(*layers, nn.Linear(4, 70_000)).to(accelerator)
    before = num_transfers()
    version = content_version(network)
    assert num_transfers() == before + 1
    assert content_version(network) == version
    network[0][0].weight.data[1, 2] += 1
    assert content_version(network) != version


def test_tensors_of_two_devices_are_both_looked_at(accelerator: torch.device) -> None:
    network = nn.Sequential(nn.Linear(4, 4).to(accelerator), nn.Linear(4, 4))
    for layer in network:
        before = content_version(network)
        layer.bias.data[1] += 1
        assert content_version(network) != before
