"""The strategy text is read back from the converted network: it follows what is there, not what was asked for."""

from __future__ import annotations

import pytest
import torch
from networks import batches, digits, trained
from torch import nn

import qexplore as qx
from qexplore import predicates
from qexplore._quiet import quiet
from qexplore.stacks import torch_ao as stack
from qexplore.stacks.base import Settings
from qexplore.stacks.layer import Stored
from qexplore.stacks.strategy import describe_activations, describe_weights


def rows_with(**options):
    result = qx.quantize_static(trained("small_cnn"), batches(digits().calibration), engine="x86", **options)
    return {row.name: row for row in result.report.strategy}


@pytest.mark.parametrize(
    ("options", "conv1", "fc1", "activations"),
    [
        ({}, "int8 per channel", "int8 per channel", "uint8 per tensor, affine"),
        ({"weight_granularity": "tensor"}, "int8 per tensor", "int8 per tensor", "uint8 per tensor, affine"),
        ({"activations": "symmetric"}, "int8 per channel", "int8 per channel", "uint8 per tensor, symmetric"),
        ({"linear_num_bits": 4}, "int8 per channel", "int4 per channel, packed", "uint8 per tensor, affine"),
        (
            {"linear_num_bits": 3, "weight_granularity": "tensor"},
            "int8 per tensor",
            "int3 per channel, packed",
            "uint8 per tensor, affine",
        ),
        ({"modules": predicates.by_type(nn.Linear)}, "", "int8 per channel", ""),
    ],
)
def test_text_follows_the_qconfig(options, conv1, fc1, activations):
    rows = rows_with(**options)
    stored = (rows["conv1"].weights, rows["fc1"].weights, rows["conv1"].activations)
    assert tuple(str(one or "") for one in stored) == (conv1, fc1, activations)


def test_text_follows_an_observer_whose_integers_need_fewer_bits():
    narrow = stack.require("PerChannelMinMaxObserver").with_args(
        dtype=torch.qint8, qscheme=torch.per_channel_symmetric, quant_min=-16, quant_max=15
    )
    assert str(rows_with(weight_observer=narrow)["conv2"].weights) == "int5 per channel"


def test_text_follows_the_method():
    example = digits().report.x[:4]
    dynamic = {row.name: row for row in qx.quantize_dynamic(trained("small_cnn"), example).report.strategy}
    assert (str(dynamic["fc1"].weights), dynamic["fc1"].activations) == ("int8 per channel", None)
    assert "run time" in dynamic["fc1"].reason
    assert "from calibration" in rows_with()["fc1"].reason


def test_integers_decide_and_settings_do_not():
    """The same converted module, described while its weights are exchanged."""
    result = qx.quantize_static(trained("small_cnn"), batches(digits().calibration))
    layer = result.model.fc2
    with quiet():
        rounded = torch.quantize_per_tensor(torch.linspace(-1, 1, 320).reshape(10, 32), 0.2, 0, torch.qint8)
        layer.set_weight_bias(rounded, None)
    assert str(describe_weights(layer)) == "int4 per tensor"
    with quiet():
        layer.set_weight_bias(torch.quantize_per_tensor(torch.rand(10, 32), 1 / 255, -128, torch.qint8), None)
    assert str(describe_weights(layer)) == "int8 per tensor, affine"


@pytest.mark.parametrize(
    ("engine", "dtype", "zero_point", "text"),
    [
        ("qnnpack", torch.quint8, 17, "uint8 per tensor, affine"),
        ("qnnpack", torch.quint8, 127, "uint8 per tensor, symmetric"),  # the middle of 0 to 255
        ("qnnpack", torch.quint8, 63, "uint8 per tensor, affine"),
        ("x86", torch.quint8, 63, "uint8 per tensor, symmetric"),  # the middle of 0 to 127
        ("x86", torch.qint8, 0, "int8 per tensor, symmetric"),
        ("x86", torch.qint8, 3, "int8 per tensor, affine"),
    ],
)
def test_activations_are_described_from_a_tensor(engine, dtype, zero_point, text):
    with quiet(), stack.using_engine(engine):
        assert str(describe_activations(torch.quantize_per_tensor(torch.rand(4), 0.1, zero_point, dtype))) == text
        assert describe_activations(torch.rand(4)) is None


def test_every_layer_has_a_row_with_a_reason():
    network = trained("resnet20")
    result = qx.quantize_static(network, batches(digits().calibration), modules=~predicates.by_name("fc"))
    rows = {row.name: row for row in result.report.strategy}
    leaves = {name for name, module in network.named_modules() if not list(module.children())}
    assert leaves <= set(rows)
    assert all(row.reason for row in rows.values())
    assert [row.name for row in result.report.left_float] == ["fc"]
    assert rows["layer1.0.relu2"].reason == "fused into 'add'"
    assert rows["layer2.0.bn2"].reason == "folded into 'layer2.0.conv2'"


def test_reasons_name_what_is_there():
    settings = Settings("static", "fx", engine="qnnpack")
    from qexplore.stacks.strategy import reason_for_float, reason_for_integers

    assert "qnnpack" in reason_for_integers(None, Stored("weights", 8), Stored("activations", 8), settings)
    assert "recurrent" in reason_for_float("lstm", nn.LSTM(2, 2), settings)
    assert "qnnpack" in reason_for_float("gelu", nn.GELU(), settings)
