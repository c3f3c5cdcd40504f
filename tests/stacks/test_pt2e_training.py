"""Training of exported graphs whose BatchNorm torchao cannot take together with the layer before it."""

import pytest
import torch
from torch import nn

import qexplore as qx

NETWORKS = {
    "grouped transposed": [nn.ConvTranspose2d(4, 4, 3, groups=2), nn.BatchNorm2d(4)],
    "no statistics": [nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)],
    "no weight": [nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, affine=False)],
    "neither": [nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, affine=False, track_running_stats=False)],
    "linear, no statistics": [nn.Flatten(), nn.Linear(144, 4), nn.BatchNorm1d(4, track_running_stats=False)],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_norms_that_torchao_cannot_fuse_stay_float_in_training(name):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), *NETWORKS[name], nn.ReLU())
    batches = [(torch.randn(4, 3, 8, 8), torch.zeros(4)) for _ in range(2)]
    result = qx.quantize_qat(network, batches, lambda output, target: output.square().mean(), stack="pt2e")
    rows = {row.name: row for row in result.report.strategy}
    norm = next(name for name, module in network.named_modules() if "BatchNorm" in type(module).__name__)
    assert rows["0"].is_quantized and rows[norm].state == "float"
    assert result.report.error < 0.1 and not result.report.alarms
