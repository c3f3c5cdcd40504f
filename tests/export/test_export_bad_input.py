"""What cannot be exported is refused by a sentence, and leaves the model as it was."""

from __future__ import annotations

import sys

import pytest
import torch
from network_state import network_state
from networks import AWKWARD, batches, digits, trained, wrapping
from torch import Tensor, nn

import qexplore as qx
from qexplore import predicates
from qexplore.errors import CalibrationError, DataError, ExportError, MissingPackageError, ModelError, TraceError

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture
def model() -> qx.QuantizedActivationsModel:
    wrapped = qx.QuantizedActivationsModel(trained("small_cnn"), **wrapping("small_cnn"))
    wrapped.calibrate(batches(digits().calibration))
    return wrapped


def calibrated(network: nn.Module, x: Tensor) -> qx.QuantizedModel:
    wrapped = qx.QuantizedModel(network, weights=predicates.weighted, quantize_input=True)
    wrapped.calibrate([x])
    return wrapped


def test_float_network_is_refused(tmp_path):
    with pytest.raises(ModelError, match="takes a QuantizedModel, got Linear: wrap it and calibrate it first"):
        qx.export_onnx(nn.Linear(2, 2), tmp_path / "m.onnx", torch.zeros(1, 2))


def test_detached_model_is_refused(model, tmp_path):
    model.detach()
    with pytest.raises(ModelError, match="detached"):
        qx.export_onnx(model, tmp_path / "m.onnx")


def test_uncalibrated_model_is_refused(tmp_path):
    bare = qx.QuantizedActivationsModel(trained("small_cnn"), **wrapping("small_cnn"))
    with pytest.raises(CalibrationError, match=r"relu1, relu2, relu3. Call model.calibrate\(loader\) first"):
        qx.export_onnx(bare, tmp_path / "m.onnx", digits().report.x[:1])


def test_model_without_example_is_refused(tmp_path):
    weights_only = qx.QuantizedModel(trained("small_cnn"), weights=predicates.weighted)
    with pytest.raises(ExportError, match="`example_input` must be given"):
        qx.export_onnx(weights_only, tmp_path / "m.onnx")


def test_example_that_the_network_does_not_take_is_refused(model, tmp_path):
    with pytest.raises(ExportError, match="`example_input` must be what the network takes, but it stops: RuntimeError"):
        qx.export_onnx(model, tmp_path / "m.onnx", torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("opset", [17, 99, "21", True])
def test_opset_out_of_range_is_refused(model, opset, tmp_path):
    with pytest.raises(ExportError, match=r"`opset` must be an int in \[18, \d+\], got"):
        qx.export_onnx(model, tmp_path / "m.onnx", opset=opset)


def test_opset_too_low_names_the_points_and_what_they_need(model, tmp_path):
    model.num_bits = [8, 12, "E4M3", 8]
    with pytest.raises(
        ExportError, match="must be at least 21 .* got 18: 'relu1' .12 bits need opset 21.; 'relu2' .E4M3"
    ):
        qx.export_onnx(model, tmp_path / "m.onnx", opset=18)


def test_format_without_a_form_is_refused_until_it_is_allowed(model, tmp_path):
    model.num_bits = [8, "E2M3", "MXE4M3", 8]
    with pytest.raises(ExportError, match=r"'relu1' .onnxruntime has no E2M3.; 'relu2' .* allow="):
        qx.export_onnx(model, tmp_path / "m.onnx", allow=["relu3"])

    report = qx.export_onnx(model, tmp_path / "m.onnx", allow=["E2M3", "relu2"])

    assert report.num_points == 2
    assert [sentence.split(":")[0] for sentence in report.not_represented] == ["'relu1'", "'relu2'"]
    assert "could not be represented: 'relu1': onnxruntime has no E2M3; written in float, not quantized" in str(report)


def test_allowed_entry_that_names_nothing_is_refused_with_what_there_is(model, tmp_path):
    with pytest.raises(ExportError, match=r"got 'foo': the points are 'input'.*'relu1'.*; the formats E4M3, .*MXE2M1"):
        qx.export_onnx(model, tmp_path / "m.onnx", allow=["relu*", "e2m1", "foo"])
    assert not (tmp_path / "m.onnx").exists()


def test_unknown_target_is_refused(model, tmp_path):
    with pytest.raises(ExportError, match="'onnxruntime', 'tensorrt', got 'openvino'"):
        qx.export_onnx(model, tmp_path / "m.onnx", target="openvino")


def test_way_that_depends_on_the_data_is_refused(tmp_path):
    case = AWKWARD["branching"]
    wrapped = qx.QuantizedActivationsModel(case.build(), case.predicate)
    wrapped.calibrate([case.inputs()])
    before = network_state(wrapped)

    with pytest.raises(TraceError, match="Branching must be a network that torch.export can take apart"):
        qx.export_onnx(wrapped, tmp_path / "m.onnx")

    assert network_state(wrapped) == before


def test_fixed_batch_size_is_refused(tmp_path):
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.reshape(3, 4))

    with pytest.raises(TraceError, match="Fixed must take every batch size .*x.shape"):
        qx.export_onnx(calibrated(Fixed(), torch.randn(3, 4)), tmp_path / "m.onnx", torch.randn(3, 4))


def test_operator_that_onnx_does_not_have_is_named(tmp_path):
    class Eigen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.fc(x)
            return torch.linalg.eigvalsh(y[:, :, None] * y[:, None, :])

    wrapped = calibrated(Eigen(), torch.randn(3, 4))
    before = network_state(wrapped)

    with pytest.raises(ExportError, match="aten._linalg_eigh has none in opset 21"):
        qx.export_onnx(wrapped, tmp_path / "m.onnx")

    assert network_state(wrapped) == before


def test_half_precision_is_refused(tmp_path):
    wrapped = calibrated(nn.Sequential(nn.Linear(4, 2)), torch.randn(3, 4)).bfloat16()
    with pytest.raises(ExportError, match=r"point '(input|0.weight)' is bfloat16: export model.float\(\)"):
        qx.export_onnx(wrapped, tmp_path / "m.onnx", torch.randn(2, 4))


def test_folder_that_is_not_there_is_refused(tmp_path):
    wrapped = calibrated(nn.Sequential(nn.Linear(4, 2)), torch.randn(3, 4))
    with pytest.raises(ExportError, match="`path` must be a file that can be written"):
        qx.export_onnx(wrapped, tmp_path / "nowhere" / "m.onnx")


def test_data_that_gives_nothing_is_refused(tmp_path):
    wrapped = calibrated(nn.Sequential(nn.Linear(4, 2)), torch.randn(3, 4))
    with pytest.raises(DataError, match="`data` must hold at least one batch"):
        qx.export_onnx(wrapped, tmp_path / "m.onnx", data=[])
    with pytest.raises(
        DataError, match=r"m.onnx' stays, and its manifest: .* but was not compared to the end"
    ) as error:
        qx.export_onnx(
            wrapped, tmp_path / "m.onnx", data=[torch.randn(3, 4)], unpack=lambda batch: (batch[:, :3], None)
        )
    assert (tmp_path / "m.onnx").is_file() and isinstance(error.value.__cause__, DataError)


def test_missing_package_is_named_with_the_command_that_installs_it(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(
        MissingPackageError, match=r"'onnxscript', which is not installed: pip install 'qexplore\[onnx\]'"
    ):
        qx.export_onnx(model, tmp_path / "m.onnx")
