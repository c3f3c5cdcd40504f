"""Functions with weights that the FX stack packed: what the report and the file say of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import qexplore as qx
from qexplore.errors import WorkflowError

CALLS = {
    "linear": (F.linear, (8, 8), {}),
    "conv1d": (F.conv1d, (8, 8, 3), {"padding": 1}),
    "conv2d": (F.conv2d, (8, 2, 3, 3), {"padding": 1, "groups": 4}),
}


class Functional(nn.Module):
    """A layer whose weights a function takes."""

    def __init__(self, kind, *, bias=True):
        super().__init__()
        self.function, shape, self.keywords = CALLS[kind]
        self.own = nn.Parameter(torch.randn(shape) / 4)
        self.shift = nn.Parameter(torch.randn(8)) if bias else None

    def forward(self, x):
        return self.function(x, self.own, self.shift, **self.keywords)


class Named(nn.Module):
    """A function on top of the network, where the other networks have it in a module that a number names."""

    def __init__(self, kind):
        super().__init__()
        self.block = nn.Sequential(Functional(kind, bias=False), nn.ReLU())
        self.own = nn.Parameter(torch.randn(CALLS[kind][1]) / 4)
        self.function, _, self.keywords = CALLS[kind]

    def forward(self, x):
        return self.function(self.block(x), self.own, **self.keywords)


class Subclass(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight, self.bias)


def networks(kind):
    torch.manual_seed(0)
    nested = nn.Sequential(nn.Sequential(Functional(kind), nn.ReLU()), nn.Sequential(Functional(kind, bias=False)))
    return {"nested": nested, "named": Named(kind), "subclass": nn.Sequential(Subclass(8, 8), nn.ReLU())}


def inputs(kind):
    return torch.randn(4, 8, *(6,) * (len(CALLS[kind][1]) - 2))


def quantized(network, x, method):
    batches = [(x, torch.zeros(len(x)))]
    if method == "dynamic":
        return qx.quantize_dynamic(network, x)
    if method == "static":
        return qx.quantize_static(network, batches)
    return qx.quantize_qat(network, batches, lambda output, target: output.square().mean(), learning_rate=0.1)


@pytest.mark.parametrize("method", ["dynamic", "static", "qat"])
@pytest.mark.parametrize(
    ("kind", "form"),
    [(kind, form) for kind in CALLS for form in ("nested", "named")] + [("linear", "subclass")],
)
def test_file_of_a_network_with_weights_of_functions_gives_equal_outputs(kind, form, method, tmp_path):
    network, x = networks(kind)[form].eval(), inputs(kind)
    result = quantized(network, x, method)
    result.save(tmp_path / "file")
    loaded = qx.load_quantized(tmp_path / "file", networks(kind)[form].eval())  # whatever its weights are
    with torch.no_grad():
        assert torch.equal(loaded(x), result.model(x))


@pytest.mark.parametrize("method", ["dynamic", "static", "qat"])
@pytest.mark.parametrize("kind", CALLS)
def test_weights_of_functions_are_in_the_report(kind, method):
    rows = [row for row in quantized(networks(kind)["nested"], inputs(kind), method).report.strategy if row.weights]
    assert len(rows) == (0 if method == "dynamic" and kind != "linear" else 2)
    for row in rows:
        assert str(row.weights).startswith("int8 per channel")
        assert row.is_quantized and "no weights" not in row.reason


def test_file_of_another_weight_of_a_function_is_refused(tmp_path):
    network, x = networks("linear")["named"].eval(), inputs("linear")
    quantized(network, x, "static").save(tmp_path / "file")
    network.own = nn.Parameter(torch.randn(4, 8))
    with pytest.raises(WorkflowError, match="file is of another network"):
        qx.load_quantized(tmp_path / "file", network)


def test_files_of_version_1_load(tmp_path):
    network, x = networks("linear")["named"].eval(), inputs("linear")
    result = quantized(network, x, "static")
    result.save(tmp_path / "file")
    content = torch.load(tmp_path / "file", weights_only=True)
    del content["functions"]
    torch.save(content | {"version": 1}, tmp_path / "file")
    with torch.no_grad():
        assert torch.equal(qx.load_quantized(tmp_path / "file", network)(x), result.model(x))
