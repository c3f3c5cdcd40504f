"""Trained networks at mixed widths: the file computes what the model computes, and the model stays as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from network_state import network_state, random_state, ranges
from networks import TRAINABLE, batches, digits, trained
from torch import Tensor, nn

import qexplore as qx
from qexplore import predicates
from qexplore._onnx import OPTIMIZATIONS, OnnxModel
from qexplore.export.parity import compare_each

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def quantized(name: str, **options) -> qx.QuantizedModel:
    entry = TRAINABLE[name]
    model = qx.QuantizedModel(
        trained(name), entry.predicate, predicates.weighted, **(entry.options | {"asymmetric": "auto"} | options)
    )
    model.calibrate(batches(digits().calibration), weight_method="mse")
    return model


def drawn(model: qx.QuantizedModel, seed: int, widest: int = 16) -> list[int]:
    """A width of its own for every point."""
    draw = np.random.default_rng(seed)
    return [int(draw.integers(max(3, q.min_num_bits), widest + 1)) for q in model.fake_quantizers.values()]


def initializers(path: Path) -> dict:
    return {one.name: one for one in onnx.load(path).graph.initializer}


def types(path: Path, kind: str) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node if node.op_type == kind]


@pytest.mark.parametrize(
    ("name", "granularity"),
    [("small_cnn", "channel"), pytest.param("transformer", 16, marks=pytest.mark.slow), ("lstm", "tensor")],
)
def test_no_prediction_differs_at_any_level(name, granularity, tmp_path):
    model = quantized(name, weight_granularity=granularity)
    model.num_bits = drawn(model, seed=len(name))

    report = qx.export_onnx(model, tmp_path / "model.onnx", data=batches(digits().report))

    onnx.checker.check_model(str(report.path), full_check=True)
    assert report.num_points == len(model.points)
    for level in OPTIMIZATIONS:
        (found,) = compare_each([model], report.path, batches(digits().report), optimization=level)
        assert (found.num_samples, found.num_different) == (300, 0), level
        assert found.largest_difference <= 0.01 * found.largest_output, level


def test_eight_bits_do_not_meet_kernels_that_round_differently(tmp_path):
    """Bare pairs at 8 bits become integer convolutions, which round biases and may overflow."""
    model = quantized("small_cnn", unsigned=False, asymmetric=False)
    model.num_bits = [8] * len(model.points)

    report = qx.export_onnx(model, tmp_path / "model.onnx", data=batches(digits().report))

    assert report.num_different == 0
    assert report.largest_difference < 1e-4


def test_float_weights_between_quantized_activations_stay_float(tmp_path):
    """onnxruntime makes integers of them where it can: the points of a network that quantizes activations alone."""

    class Straight(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 8, 3)
            self.fc = nn.Linear(8 * 36, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.conv(x).flatten(1))

    model = qx.QuantizedActivationsModel(Straight(), predicates.by_type(nn.Conv2d, nn.Linear))
    model.calibrate(batches(digits().calibration))
    model.num_bits = [8, 8, 0]

    report = qx.export_onnx(model, tmp_path / "model.onnx")

    assert [point.type for point in report.points] == ["uint8", "int8", "float"]
    x = digits().report.x
    for level in OPTIMIZATIONS:
        difference = (OnnxModel(report.path, optimization=level)(x) - model(x)).abs()
        # Rounding may send a number in the middle between two steps the other way; rounded weights would change all.
        assert (difference > 1e-5).float().mean() < 0.02, level


def test_four_bit_weights_take_half_a_byte_each(tmp_path):
    model = quantized("small_cnn")
    model.num_bits = {name: 4 if name.endswith("weight") else 8 for name in model.fake_quantizers}
    report = qx.export_onnx(model, tmp_path / "model.onnx")

    stored = initializers(report.path)
    for point in model.weight_points:
        one = stored[f"{point.name}.quantized"]
        assert one.data_type == onnx.TensorProto.INT4
        assert len(one.raw_data) == point.parameter.numel() // 2
        assert point.name not in stored, "the float weight must not lie in the file too"
    assert report.size < sum(p.numel() * 4 for p in model.model.parameters()) / 2


def test_tied_weight_is_stored_once(tmp_path):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.relu(self.first(x)))

    model = qx.QuantizedModel(Tied(), weights=predicates.weighted, init_num_bits=5)
    x = torch.randn(7, 8)
    report = qx.export_onnx(model, tmp_path / "model.onnx", x, data=[x])

    assert [name for name in initializers(report.path) if name.endswith("quantized")] == ["first.weight.quantized"]
    assert len(types(report.path, "DequantizeLinear")) == 1
    assert report.largest_difference < 1e-6


def test_model_is_as_it_was(tmp_path):
    model = quantized("small_cnn")
    model.num_bits = drawn(model, seed=3)
    model.train()
    model.model.bn1.eval()
    before = network_state(model), ranges(model), model.num_bits.tolist(), random_state(), model.version()

    qx.export_onnx(model, tmp_path / "model.onnx", data=batches(digits().report))

    assert (network_state(model), ranges(model), model.num_bits.tolist(), random_state(), model.version()) == before


def test_points_that_are_off_stay_float(tmp_path):
    model = quantized("lstm")
    model.num_bits = [0] * len(model.points)

    report = qx.export_onnx(model, tmp_path / "model.onnx", data=batches(digits().report))

    assert report.num_points == 0
    assert not types(report.path, "QuantizeLinear") and not types(report.path, "DequantizeLinear")
    assert "off" in str(report) and "float" in str(report)


def test_corrected_biases_and_rounded_weights_of_other_formats_are_in_the_file(tmp_path):
    model = quantized("small_cnn")
    model.num_bits = {name: "E2M1" if name == "fc1.weight" else 5 for name in model.fake_quantizers}
    qx.correct_biases(model, batches(digits().calibration))

    report = qx.export_onnx(model, tmp_path / "model.onnx", data=batches(digits().report), allow=["E2M1"])

    assert report.num_different == 0
    assert report.largest_difference < 1e-4
    assert "fc1.weight" in "".join(report.not_represented)
    assert report.num_points == len(model.points) - 1


def test_float8_at_every_point(tmp_path):
    model = quantized("small_cnn", unsigned=False, asymmetric=False)
    model.num_bits = {name: "E4M3" if name.endswith("weight") else "E5M2" for name in model.fake_quantizers}

    report = qx.export_onnx(model, tmp_path / "model.onnx", data=batches(digits().report), opset=19)

    assert report.opset == 19
    assert report.num_different == 0
    assert {point.type for point in report.points} == {"float8e4m3fn", "float8e5m2"}
