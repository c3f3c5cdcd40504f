"""A quantized network that is called with something else than it takes says so in a sentence, loaded ones too."""

from __future__ import annotations

import copy
import pickle

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


WAYS = [
    ("fx", "static"),
    ("fx", "dynamic"),
    ("eager", "static"),
    ("eager", "dynamic"),
    ("pt2e", "dynamic"),
    ("onnxruntime", "static"),
    ("float8", "static"),
]


@pytest.mark.parametrize(("stack", "method"), WAYS)
def test_what_is_called_wrongly_says_what_it_takes(stack, method, tmp_path, capfd):
    x, networks = quantized(stack, method, tmp_path)
    capfd.readouterr()
    for network in networks:
        assert network(x[:3]).shape == (3, 4)
        for name, (make, sentence) in WRONG.items():
            if (stack, name) == ("float8", "a sample alone"):
                continue  # is taken
            if stack == "onnxruntime":  # takes the tensors among its arguments, and tells types in its own words
                sentence = r"takes the inputs x tensor\(float\) \['batch', 8\], got"
                if make(x).__class__ is list:
                    continue
            with pytest.raises(DataError, match=sentence):
                network(make(x))
        for args, kwargs in (((), {}), ((x, x, x), {}), ((x,), {"other": x})):
            with pytest.raises(DataError, match=rf"takes .*x .*8\], got {len(args) + len(kwargs)} "):
                network(*args, **kwargs)
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


@pytest.mark.parametrize("stack", ["fx", "eager"])
def test_errors_on_right_inputs_pass_as_they_are(stack):
    network = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 4))
    quantized = qx.quantize_dynamic(network, torch.zeros(4, 5, dtype=torch.int64), stack=stack).model
    with pytest.raises(IndexError):
        quantized(torch.full((4, 5), 9))


class Registered(Scaled):
    """Of a kind that its subclasses have to name."""

    def __init_subclass__(cls, kind):
        raise AssertionError("nobody asked for another class")


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")  # torch's packed weights are pickled as one
def test_what_eager_makes_dynamic_is_of_the_networks_class_and_so_are_its_copies():
    x = torch.randn(16, 8)
    model = qx.quantize_dynamic(Registered(), x, stack="eager").model
    assert isinstance(model, Registered) and type(model).__name__ == "Registered"
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(again) is Registered and torch.equal(again(x), model(x))


def test_float8_gives_a_model_that_is_copied_and_pickled_like_any_other():
    x = torch.randn(16, 8)
    model = qx.quantize_float8(Scaled(), [x]).model
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(again) is qx.QuantizedModel and torch.equal(again(x), model(x))


def test_eager_takes_and_gives_back_arguments_that_no_file_can_hold(tmp_path):
    class Setting:
        factor = 2.0

    class Settled(Scaled):
        def forward(self, x, setting):
            return super().forward(x) * setting.factor

    x, network = torch.randn(16, 8), Settled()
    result = qx.quantize_dynamic(network, (x, Setting()), stack="eager")
    result.save(tmp_path / "file")
    loaded = qx.load_quantized(tmp_path / "file", network)
    assert torch.equal(loaded(x, Setting()), result.model(x, Setting()))
    with pytest.raises(DataError, match=r"takes x float32 \[any, 8\], got"):
        result.model(x[:, 1:], Setting())
