"""A ``forward`` that was set on one layer is what the quantized network computes."""

from types import MethodType

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import qexplore as qx


def larger(layer, x):
    return F.linear(x, layer.weight, layer.bias) * 1.5


def network_of_one_own():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    network[0].forward = MethodType(larger, network[0])
    return network, torch.randn(64, 8)


@pytest.mark.parametrize("method", ["static", "dynamic"])
@pytest.mark.parametrize("stack", ["fx", "eager", "pt2e"])
def test_a_forward_set_on_a_layer_is_not_lost(stack, method, tmp_path):
    network, x = network_of_one_own()
    quantize = qx.quantize_static if method == "static" else qx.quantize_dynamic
    result = quantize(network, [x] if method == "static" else x, stack=stack)
    assert result.report.error < 0.04
    first, last = result.report.strategy[0], result.report.strategy[-1]
    assert (first.name, first.type, last.is_quantized) == ("0", "Linear", True)
    assert first.is_quantized if stack == "pt2e" else "forward was set on it alone" in first.reason
    result.save(tmp_path / "saved.pt")
    with torch.no_grad():
        assert torch.equal(qx.load_quantized(tmp_path / "saved.pt", network)(x), result.model(x))
    assert type(network[0]) is nn.Linear
