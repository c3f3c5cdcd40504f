"""What a layer or its class computes of its own is what the quantized network computes."""

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


class Standardized(nn.Conv2d):
    """A convolution whose weight is computed, where its own class has a parameter."""

    def __init__(self, *args):
        super().__init__(*args)
        self.raw = nn.Parameter(self._parameters.pop("weight").data)

    @property
    def weight(self):
        return self.raw / self.raw.norm()


@pytest.mark.parametrize("stack", ["fx", "eager"])
def test_a_weight_that_a_class_computes_is_not_taken_for_a_parameter(stack):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), Standardized(8, 8, 3), nn.Conv2d(8, 4, 3)).eval()
    report = qx.quantize_static(network, [torch.randn(8, 3, 12, 12)], stack=stack).report
    assert report.error < 0.05 and report.strategy[0].is_quantized and report.strategy[-1].is_quantized
