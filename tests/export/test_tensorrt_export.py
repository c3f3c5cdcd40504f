"""Files written for TensorRT keep to its rules and compute what the widened model computes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from network_state import network_state, random_state
from networks import TRAINABLE, batches, digits, trained
from torch import Tensor, nn

import qexplore as qx
from qexplore import predicates
from qexplore._onnx import OnnxModel
from qexplore.errors import ExportError
from qexplore.export.tensorrt import in_tensorrt_form

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

MIXED = (3, 5, 8, 7, 2, 6, 4)


def wrapped(name: str) -> qx.QuantizedModel:
    """A trained network with activations and weights at mixed widths."""
    entry = TRAINABLE[name]
    model = qx.QuantizedModel(trained(name), entry.predicate, predicates.weighted, **entry.options)
    model.calibrate(batches(digits().calibration))
    model.num_bits = [MIXED[index % len(MIXED)] for index in range(len(model.points))]
    return model


def untrained(network: nn.Module, x: Tensor, choice, **options) -> qx.QuantizedModel:
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    model = qx.QuantizedModel(network, None, predicates.weighted, **{"quantize_input": True} | options)
    model.calibrate([x])
    model.num_bits = [choice] * len(model.points)
    return model


def nodes(path: Path, kind: str) -> list:
    return [node for node in onnx.load(path).graph.node if node.op_type == kind]


def constants(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


@pytest.mark.parametrize(
    "name",
    [
        "small_cnn",
        pytest.param("transformer", marks=pytest.mark.slow),
        pytest.param("resnet20", marks=pytest.mark.slow),
        pytest.param("mobilenet", marks=pytest.mark.slow),
    ],
)
def test_network_of_mixed_widths_keeps_to_the_rules_and_to_the_widened_model(name, tmp_path):
    model, path, x = wrapped(name), tmp_path / "model.onnx", digits().report.x[:20]

    def state():
        return network_state(model), model.version(), model.num_bits.tolist(), model(x).tolist(), random_state()

    before = state()
    report = qx.export_onnx(model, path, data=batches(digits().report), target="tensorrt")
    assert state() == before
    check = qx.check_tensorrt(path)
    assert check.is_valid, str(check)
    assert report.num_samples == 300
    assert report.num_different == 0
    changed = {point.name: point for point in in_tensorrt_form(model)[1].points}
    assert set(report.widened) == {point.note for point in changed.values() if point.note}
    for point, num_bits in zip(model.points, model.num_bits, strict=True):
        if num_bits < 7:
            assert any(f"'{point.name}'" in sentence for sentence in report.widened)
    assert {point.type for point in report.points} == {"int8"}


def test_file_for_onnxruntime_at_odd_widths_is_rejected_for_its_clips_and_types(tmp_path):
    model = qx.QuantizedActivationsModel(trained("small_cnn"), predicates.by_type(nn.ReLU), unsigned=False)
    model.calibrate(batches(digits().calibration))
    model.num_bits = [5, 6, 3, 12]
    qx.export_onnx(model, tmp_path / "model.onnx")
    found = qx.check_tensorrt(tmp_path / "model.onnx")
    # Each type is that of a Q and a DQ (3 bits lie in int4, 12 in int16), which have scales of their own each.
    assert Counter(violation.rule for violation in found.violations) == {"clip": 3, "int4": 2, "type": 2, "pair": 4}


@pytest.mark.parametrize(("size", "shape"), [(64, (5, 3, 128)), (128, (5, 128))])
def test_blocks_that_tensorrt_has_are_int4_in_the_file(size, shape, tmp_path):
    x, path = torch.randn(shape, generator=torch.Generator().manual_seed(1)), tmp_path / "model.onnx"
    model = untrained(nn.Sequential(nn.Linear(128, 6)), x, 3, weight_granularity=size, quantize_input=False)
    report = qx.export_onnx(model, path, x, data=[x], target="tensorrt")
    check = qx.check_tensorrt(path)
    assert check.is_valid, str(check)
    assert check.tensors == {"int4 weights": 1}
    assert check.notes == ()
    assert report.largest_difference < 1e-5
    packed = [tensor for tensor in onnx.load(path).graph.initializer if tensor.data_type == onnx.TensorProto.INT4]
    assert [len(tensor.raw_data) for tensor in packed] == [128 * 6 // 2]


def test_blocks_that_tensorrt_does_not_have_become_one_scale_for_each_channel(tmp_path):
    x, path = torch.randn(5, 128, generator=torch.Generator().manual_seed(1)), tmp_path / "model.onnx"
    model = untrained(nn.Sequential(nn.Linear(128, 6)), x, 4, weight_granularity=32)
    report = qx.export_onnx(model, path, x, data=[x], target="tensorrt")
    assert qx.check_tensorrt(path).is_valid
    assert report.largest_difference < 1e-5
    assert any("one scale for all of a channel's blocks of 32" in sentence for sentence in report.widened)


class Convolutions(nn.Sequential):
    """Grouped, transposed, both, and a plain one."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(4, 6, 3, groups=2),
            nn.ConvTranspose2d(6, 4, 3),
            nn.ConvTranspose2d(4, 6, 3, groups=2),
            nn.Conv2d(6, 4, 1),
        )


@pytest.mark.parametrize("granularity", ["channel", 8])
def test_convolutions_of_every_kind_keep_to_the_rules(granularity, tmp_path):
    x, path = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(1)), tmp_path / "model.onnx"
    model = untrained(Convolutions(), x, 5, weight_granularity=granularity)
    report = qx.export_onnx(model, path, x, data=[x], target="tensorrt")
    check = qx.check_tensorrt(path)
    assert check.is_valid, str(check)
    assert check.tensors == {"int8 activations": 1, "int8 weights": 4}
    assert report.largest_difference < 1e-5 * report.parity.largest_output
    read = {node.input[1] for node in nodes(path, "Conv") + nodes(path, "ConvTranspose")}
    assert read == {node.output[0] for node in nodes(path, "DequantizeLinear")[1:]}  # the input's comes first


def test_e4m3_is_float8_in_the_file(tmp_path):
    x, path = torch.randn(5, 16, generator=torch.Generator().manual_seed(1)), tmp_path / "model.onnx"
    model = untrained(nn.Sequential(nn.Linear(16, 6)), x, "E4M3")
    report = qx.export_onnx(model, path, x, data=[x], target="tensorrt")
    assert report.widened == ()
    check = qx.check_tensorrt(path)
    assert check.is_valid, str(check)
    assert check.tensors == {"float8e4m3fn activations": 1, "float8e4m3fn weights": 1}
    assert report.largest_difference < 1e-5


class Tied(nn.Module):
    """One weight for two layers, one of them on inputs of three axes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).mean(dim=1))


def test_weight_that_two_layers_share_goes_straight_into_both(tmp_path):
    x, path = torch.randn(5, 3, 8, generator=torch.Generator().manual_seed(1)), tmp_path / "model.onnx"
    model = qx.QuantizedModel(Tied(), None, predicates.weighted, quantize_input=True)
    model.calibrate([x])
    report = qx.export_onnx(model, path, x, data=[x], target="tensorrt")
    assert qx.check_tensorrt(path).is_valid
    assert report.largest_difference < 1e-5
    assert not nodes(path, "Transpose")
    assert set(constants(path)) <= {name for node in onnx.load(path).graph.node for name in node.input}


class Masked(nn.Module):
    """A weight that the forward works on before it is used."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.linear(x), self.linear.weight.abs().t())


def test_weight_that_does_not_go_straight_into_a_layer_is_an_error_with_the_way_out(tmp_path):
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    model = qx.QuantizedModel(Masked(), None, predicates.weighted)
    with pytest.raises(ExportError, match=r"must keep to TensorRT's rules.*'linear\.weight.*Switch the points off"):
        qx.export_onnx(model, tmp_path / "model.onnx", x, target="tensorrt")


def test_wide_points_are_float_in_the_file_and_rules_are_kept_at_the_lowest_opset(tmp_path):
    model, path = wrapped("small_cnn"), tmp_path / "model.onnx"
    model.num_bits = [8, 16, 7, 6, 5, 9, 4, 3]
    report = qx.export_onnx(model, path, data=batches(digits().report), target="tensorrt", opset=18)
    check = qx.check_tensorrt(path)
    assert check.is_valid, str(check)
    assert not nodes(path, "Max")
    assert report.num_different == 0
    assert [point.name for point in report.points if point.type == "float"] == ["relu1", "conv2.weight"]
    assert "point 'relu1': 16 bits left in float: TensorRT has no integers above 8 bits" in report.widened


def test_report_compares_with_the_changed_model_and_with_the_one_given(tmp_path):
    model = qx.QuantizedModel(trained("small_cnn"), TRAINABLE["small_cnn"].predicate)
    model.calibrate(batches(digits().calibration))
    model.num_bits = [["E4M3", "E3M4", 3, "E2M1", 9, "off"][index % 6] for index in range(len(model.points))]
    path = tmp_path / "model.onnx"

    report = qx.export_onnx(model, path, data=iter(list(batches(digits().report))), target="tensorrt")

    assert report.largest_difference < 1e-3 * report.parity.largest_output
    session = OnnxModel(path, optimization="off")
    x = digits().report.x
    with torch.no_grad():
        given, actual = model.eval()(x), session(x)
    found = report.parity_with_given
    assert found.num_samples == len(x)
    assert found.num_different == int((given.argmax(1) != actual.argmax(1)).sum())
    assert found.largest_difference == pytest.approx(float((given - actual).abs().max()), rel=1e-3)
    assert found.largest_difference > 100 * report.largest_difference
    assert "compared with the model as changed for TensorRT on 300 samples: 0 predictions differ" in str(report)
    assert f"the model as it was given on 300 samples: {found.num_different} predictions differ" in str(report)
    assert "ORT_DISABLE_ALL" in str(report)


def test_report_of_a_file_for_onnxruntime_compares_with_the_model_alone(tmp_path):
    report = qx.export_onnx(wrapped("small_cnn"), tmp_path / "model.onnx", data=batches(digits().report))

    assert report.parity_with_given is None
    assert "compared with the model on 300 samples" in str(report)
    assert "TensorRT" not in str(report)
