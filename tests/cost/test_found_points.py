"""Costs of points on inputs of modules and on calls, against hand arithmetic."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import qexplore as qx
from qexplore import predicates
from qexplore.cost import build_costs


class Fork(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(1, 2, 1, bias=False)
        self.head = nn.Linear(32, 3, bias=False)

    def forward(self, x):
        x = torch.tanh(x)
        return self.head((self.left(x) + self.right(x)).flatten(1))


class Products(nn.Module):
    def forward(self, x):
        x = torch.tanh(x.squeeze(1))
        return F.softmax(x @ x.transpose(1, 2), -1) @ x


def costs_of(network, names, **points):
    model = qx.QuantizedModel(network, **points)
    model.describe(torch.randn(5, 1, 4, 4))
    widths = [2 + index for index in range(len(model.points))]
    rows = np.array([widths])
    found = {cost.name: float(cost.cost(rows)[0]) for cost in build_costs(tuple(names), model)}
    return found, dict(zip(model.fake_quantizers, widths, strict=True)), model


@pytest.mark.parametrize("readers", [("left", "head"), ("left", "right", "head")])
def test_products_know_which_modules_read_a_tensor_quantized(readers):
    found, bits, model = costs_of(
        Fork(),
        ["bops", "total_bits", "activation_bytes"],
        inputs=predicates.by_name(*readers),
        weights=predicates.weighted,
    )
    right = bits["left.input"] if "right" in readers else 32
    convolutions = 32 * bits["left.input"] * bits["left.weight"] + 32 * right * bits["right.weight"]
    assert found["bops"] == convolutions + 96 * bits["head.input"] * bits["head.weight"]
    assert found["total_bits"] == sum(bits.values())
    assert found["activation_bytes"] == (16 * bits["left.input"] + 32 * bits["head.input"]) / 8
    assert {point.name: point.num_elements for point in model.points if point.kind == "argument"} == {
        "left.input": 16,
        "head.input": 32,
    }


@pytest.mark.parametrize(("readers", "width"), [(("left", "right"), 2), (("left",), 32)])
def test_what_is_read_at_a_point_alone_is_stored_at_its_width(readers, width):
    found, *_ = costs_of(Fork(), ["peak_activation_bytes"], inputs=predicates.by_name(*readers))
    # The input and its tanh, then what both convolutions give beside it, then the sum and they.
    tanh, pair = 16 * width / 8, 2 * 32 * 4
    assert found["peak_activation_bytes"] >= tanh + pair
    wide, *_ = costs_of(Fork(), ["peak_activation_bytes"], weights=predicates.weighted)
    assert wide["peak_activation_bytes"] - found["peak_activation_bytes"] == (16 * (32 - width) / 8)


class Both(nn.Module):
    """A layer and a product read one tensor; with ``also``, a sum that is none of theirs does too."""

    def __init__(self, also):
        super().__init__()
        self.layer, self.also = nn.Linear(4, 4, bias=False), also

    def forward(self, x):
        x = torch.tanh(x.squeeze(1))
        y = self.layer(x) @ x
        return y + x if self.also else y


@pytest.mark.parametrize("also", [False, True])
def test_tensor_that_a_layer_and_a_call_read_has_one_point_and_counts_once(also):
    names = ["bops", "total_bits", "activation_bytes", "peak_activation_bytes"]
    points = {"inputs": predicates.by_type(nn.Linear), "functions": predicates.by_operand(torch.matmul)}
    found, bits, model = costs_of(Both(also), names, **points)
    assert list(bits) == ["layer.input", "matmul.input"]
    assert model.points[0].readers == ("layer", "matmul.input_1")
    assert found["bops"] == 64 * bits["layer.input"] * 32 + 64 * bits["matmul.input"] * bits["layer.input"]
    assert found["total_bits"] == sum(bits.values())
    assert found["activation_bytes"] == 16 * sum(bits.values()) / 8
    # The network's input is alive throughout. Beside it what both read, what the product alone reads, and the product;
    # where a sum reads the first of these in float: it, the product and the sum.
    rest = 32 + 32 + 32 if also else bits["layer.input"] + bits["matmul.input"] + 32
    assert found["peak_activation_bytes"] == 16 * (32 + rest) / 8


def test_products_of_calls_have_their_operands():
    found, bits, _ = costs_of(Products(), ["bops"], functions=predicates.by_function(torch.tanh, F.softmax))
    assert found["bops"] == 64 * bits["tanh"] * bits["tanh"] + 64 * bits["softmax"] * bits["tanh"]
