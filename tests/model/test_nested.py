"""Nested tensors, as torch's encoders make of padded batches, are quantized like the padded ones."""

import numpy as np
import pytest
import torch
from torch import nn

import qexplore as qx
from qexplore import predicates


class Padded(nn.Module):
    def __init__(self, *, nested):
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested)
        self.head = nn.Linear(8, 3)

    def forward(self, x, mask):
        return self.head(self.encoder(x, src_key_padding_mask=mask)[:, 0])


SELECTED = {
    "inside": {"activations": predicates.by_type(nn.LayerNorm)},
    "inside with weights": {"activations": predicates.by_name("*.linear1"), "weights": predicates.by_type(nn.Linear)},
    "whole layers": {"activations": predicates.by_type(nn.TransformerEncoderLayer)},
    "the encoder": {"activations": predicates.by_type(nn.TransformerEncoder)},
    "weights": {"weights": predicates.weighted},
}


def batch():
    mask = torch.zeros(16, 5, dtype=torch.bool)
    mask[::2, 3:] = True
    x = torch.randn(16, 5, 8, generator=torch.Generator().manual_seed(0))
    return (x.masked_fill(mask[..., None], 0.0), mask), torch.arange(16) % 3


def wrapped(nested, selected):
    model = qx.QuantizedModel(Padded(nested=nested).eval(), quantize_input=False, **SELECTED[selected])
    model.calibrate([batch()], unpack=lambda one: one, weight_method="max")
    return model


@pytest.mark.parametrize("selected", SELECTED)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_points_on_nested_tensors_have_the_ranges_and_values_of_padded_ones(selected):
    model, plain = wrapped(True, selected), wrapped(False, selected)
    for quantizer, other in zip(model.fake_quantizers.values(), plain.fake_quantizers.values(), strict=True):
        quantizer.amax = other.amax  # padding counts in a range, too
        quantizer.unsigned = other.unsigned
    x, mask = batch()[0]
    for width in (4, 8, "E4M3", 0):
        model.num_bits = plain.num_bits = [width] * len(model.points)
        with torch.no_grad():
            torch.testing.assert_close(model(x, mask), plain(x, mask))
    problem = qx.LayerwiseQuantizationProblem(model, [batch()], unpack=lambda one: one)
    candidates = np.array([[3] * len(model.points), [6] * len(model.points)])
    engine, direct = (list(answers(candidates)) for answers in (problem.measure, problem.measure_directly))
    assert [one.scores.tolist() for one in engine] == [one.scores.tolist() for one in direct]
    assert len(qx.analyze(model, [batch()], 4, unpack=lambda one: one).points) == len(model.points)


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_a_nested_tensor_keeps_its_structure(layout):
    class Doubled(nn.Module):
        def __init__(self):
            super().__init__()
            self.point = nn.Identity()

        def forward(self, x):
            return self.point(x) + x

    rows = [torch.linspace(-1, 1, 6).reshape(3, 2), torch.linspace(-2, 3, 4).reshape(2, 2)]
    model = qx.QuantizedModel(Doubled(), predicates.by_type(nn.Identity), quantize_input=False)
    model.fake_quantizers["point"].amax = 3.0
    model.num_bits = [3]
    output = model(torch.nested.nested_tensor(rows, layout=layout))
    assert output.is_nested and output.layout == layout
    for one, row in zip(output.unbind(), rows, strict=True):
        assert torch.equal(one, row + (row * 1.0).round().clamp(-4, 3))
