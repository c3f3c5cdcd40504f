"""A quantized network that is called with something else than it takes says so in a sentence, loaded ones too."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import qexplore as qx
from qexplore.errors import DataError

WRONG = {
    "another type": (lambda x: x.double(), r"takes x float32 \[any, 8\], got x float64 \[16, 8\] \("),
    "another nesting": (lambda x: [x], r"takes x float32 \[any, 8\], got x_0 float32 \[16, 8\] \("),
    "no tensor": (lambda x: x.numpy(), r"takes x float32 \[any, 8\], got x ndarray \("),
    "another size": (lambda x: x[:, :-1], r"takes .*x .*\[any, 8\], got x .*\[16, 7\]"),
    "a sample alone": (lambda x: x[0], r"takes .*x .*\[any, 8\], got x .*\[8\]"),
}


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x, scale=None):
        y = self.b(self.a(x).relu())
        return y if scale is None else y * scale


def quantized(stack, method, folder):
    """The result's network, and the same from its file."""
    torch.manual_seed(0)
    network, x = Scaled().eval(), torch.randn(16, 8)
    if method == "dynamic":
        result = qx.quantize_dynamic(network, x, stack=stack)
    else:
        result = qx.quantize_static(network, [(x, None)], stack=stack)
    result.save(folder / "file")
    return x, (result.model, qx.load_quantized(folder / "file", network))


WAYS = [("fx", "static"), ("fx", "dynamic"), ("eager", "static"), ("pt2e", "dynamic"), ("onnxruntime", "static")]


@pytest.mark.parametrize(("stack", "method"), WAYS)
def test_what_is_called_wrongly_says_what_it_takes(stack, method, tmp_path, capfd):
    x, networks = quantized(stack, method, tmp_path)
    capfd.readouterr()
    for network in networks:
        assert network(x[:3]).shape == (3, 4)
        for make, sentence in WRONG.values():
            if stack == "onnxruntime":  # takes the tensors among its arguments, and tells types in its own words
                sentence = r"takes the inputs x tensor\(float\) \['batch', 8\], got"
                if make(x).__class__ is list:
                    continue
            with pytest.raises(DataError, match=sentence):
                network(make(x))
        with pytest.raises((TypeError, DataError)):
            network()
        if stack == "pt2e":  # there is no range to take at run time
            with pytest.raises(
                DataError, match=r"takes one sample at least, got x float32 \[0, 8\] \(RuntimeError: amin"
            ):
                network(x[:0])
    assert capfd.readouterr().err == ""  # torch prints the code of its graphs


@pytest.mark.parametrize(("stack", "method"), [("fx", "static"), ("fx", "dynamic"), ("eager", "dynamic")])
def test_an_empty_batch_gives_an_empty_output_where_ranges_are_known(stack, method, tmp_path):
    x, networks = quantized(stack, method, tmp_path)
    assert all(network(x[:0]).shape == (0, 4) for network in networks)


def test_errors_on_right_inputs_pass_as_they_are():
    network = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 4))
    quantized = qx.quantize_dynamic(network, torch.zeros(4, 5, dtype=torch.int64), stack="fx").model
    with pytest.raises(IndexError):
        quantized(torch.full((4, 5), 9))
