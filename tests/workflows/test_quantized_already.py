"""Networks that are no float networks any more are refused, with what tells."""

import pytest
import torch
from torch import nn
from torch.ao import quantization
from torch.nn import functional as F

import qexplore as qx
from qexplore._quiet import quiet
from qexplore.errors import WorkflowError

X = torch.randn(8, 8)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 8))

    def forward(self, x):
        return F.linear(x, self.weight)


def network():
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()


def by_hand(prepare, qconfig, is_training=False):
    with quiet():
        given = network().train(is_training)
        given.qconfig = qconfig("x86")
        return prepare(given)


MADE = {
    "eager, dynamic": lambda: qx.quantize_dynamic(network(), X, stack="eager").model,
    "eager, static": lambda: qx.quantize_static(network(), [X], stack="eager").model,
    "fx, dynamic": lambda: qx.quantize_dynamic(network(), X).model,
    "fx, static": lambda: qx.quantize_static(network(), [X]).model,
    "fx, a function": lambda: qx.quantize_static(Functional().eval(), [X]).model,
    "packed": lambda: qx.quantize_dynamic(network(), X, linear_num_bits=4).model,
    "pt2e": lambda: qx.quantize_static(network(), [X], stack="pt2e").model,
    "pt2e, its graph": lambda: qx.quantize_static(network(), [X], stack="pt2e").model.exported,
    "onnxruntime": lambda: qx.quantize_dynamic(network(), X, stack="onnxruntime").model,
    "prepared": lambda: by_hand(quantization.prepare, quantization.get_default_qconfig),
    "prepared for training": lambda: by_hand(quantization.prepare_qat, quantization.get_default_qat_qconfig, True),
    "quantized by hand": lambda: quantization.convert(by_hand(quantization.prepare, quantization.get_default_qconfig)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("made", MADE)
def test_what_is_quantized_already_is_refused(made):
    given = MADE[made]()
    for call in (qx.quantize_dynamic, lambda one, x: qx.quantize_static(one, [x], stack="eager")):
        with pytest.raises(WorkflowError, match="must be a float one, but .* (is quantized|is prepared .*) already"):
            call(given, X)


def test_float_modules_that_live_among_the_quantized_ones_are_no_sign():
    class Summing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.sum = nn.Linear(8, 8), torch.ao.nn.quantized.FloatFunctional()
            self.quant = quantization.QuantStub()

        def forward(self, x):
            return self.layer(self.quant(x))

    assert qx.quantize_dynamic(Summing().eval(), X, stack="eager").report.strategy
