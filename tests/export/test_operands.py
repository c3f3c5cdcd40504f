"""What a written file has in float although integers can be had there."""

import pytest
import torch
from called_networks import CALLED
from torch import nn

import qexplore as qx
from qexplore import predicates

pytest.importorskip("onnx")


def written(network, path, *inputs, target="onnxruntime", **points):
    torch.manual_seed(0)
    model = qx.QuantizedModel(network.eval(), **points)
    inputs = inputs or (torch.randn(4, 1, 8, 8),)
    model.calibrate([inputs], weight_method="max", unpack=lambda batch: (batch, None))
    return qx.export_onnx(model, path / "m.onnx", data=[inputs], unpack=lambda batch: (batch, None), target=target)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["all-int8", "tensorrt"])
@pytest.mark.parametrize("name", [name for name in CALLED if name != "two inputs"])
def test_file_of_a_scheme_has_no_operand_in_float(name, scheme, tmp_path):
    target = "tensorrt" if scheme == "tensorrt" else "onnxruntime"
    report = written(CALLED[name].make(), tmp_path, scheme=scheme, target=target)
    assert report.float_operands == ()
    assert report.parity.num_different == 0
    assert target != "tensorrt" or qx.check_tensorrt(tmp_path / "m.onnx").is_valid


def test_operands_that_no_point_quantizes_are_named_in_the_report(tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Tanh(), nn.Linear(4, 3))
    report = written(network, tmp_path, inputs=predicates.by_name("1"), weights=predicates.by_name("3"))
    assert len(report.float_operands) == 2
    assert "has its weight in float" in report.float_operands[0]
    assert "has its operand 1 in float" in report.float_operands[1]
    assert "in float: Gemm" in str(report)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "googlenet"])
def test_classifier_of_torchvision_has_no_operand_in_float_in_its_file_for_tensorrt(name, tmp_path):
    models = pytest.importorskip("torchvision.models")
    options = {"init_weights": False} if name == "googlenet" else {}
    network, images = getattr(models, name)(weights=None, **options), torch.randn(2, 3, 64, 64)
    report = written(network, tmp_path, images, scheme="tensorrt", target="tensorrt")
    assert report.float_operands == ()
    assert qx.check_tensorrt(tmp_path / "m.onnx").is_valid
