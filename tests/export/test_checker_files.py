"""What the checker makes of files: broken, in parts, of another writer; and what it says of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import qexplore as qx
from qexplore.errors import ExportError

onnx = pytest.importorskip("onnx")

from onnx_drafts import Draft, change, check, convolution, rewire  # noqa: E402


def test_missing_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(
        ExportError, match=r"must be an ONNX file, but there is none at '.*none\.onnx'.*qx\.export_onnx"
    ):
        qx.check_tensorrt(tmp_path / "none.onnx")


@pytest.mark.parametrize("content", [b"", b"no protobuf at all", b"PK\x03\x04"])
def test_file_that_holds_no_model_is_an_error(content, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ExportError, match="must be a valid ONNX file, but it is not"):
        qx.check_tensorrt(path)


def test_file_cut_short_is_an_error(tmp_path):
    path = convolution().write(tmp_path / "model.onnx")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ExportError, match="must be a valid ONNX file"):
        qx.check_tensorrt(path)


def test_weights_stored_beside_the_file_are_read(tmp_path):
    path = change(convolution(), "w_zero", [0, 1, 0], np.int8).write(tmp_path / "model.onnx")
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, size_threshold=0)
    assert {violation.rule for violation in qx.check_tensorrt(path).violations} == {"zero point"}


def test_missing_weights_beside_the_file_are_an_error(tmp_path):
    path = convolution().write(tmp_path / "model.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, size_threshold=0, location="weights.bin")
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ExportError, match=r"weights\.bin"):
        qx.check_tensorrt(path)


def test_text_tells_what_is_quantized_and_which_rule_is_broken_where(tmp_path):
    text = str(check(change(convolution(), "r_zero", 5, np.int8), tmp_path))
    assert text.startswith("model.onnx for TensorRT: 2 int8 activations, 2 int8 weights\n")
    assert "zero point       absent, or constant and zero" in text
    assert "the zero point of 'r' must be 0: TensorRT quantizes symmetrically only" in text
    assert [line.split()[-1] for line in text.splitlines() if line.startswith(("zero point ", "scale "))] == [
        "2",  # Q and DQ
        "kept",
        "kept",
    ]


def test_file_without_quantization_is_valid_and_said_to_be_float(tmp_path):
    draft = Draft()
    draft.add("Relu", ["x"], "y")
    found = check(draft, tmp_path)
    assert found.is_valid
    assert "nothing is quantized" in str(found)


def test_layer_with_one_quantized_operand_is_valid_and_said_so(tmp_path):
    found = check(rewire(convolution(), "c", 0, "x"), tmp_path)
    assert {violation.rule for violation in found.violations} == {"pair"}  # the input's DQ has lost its reader
    assert found.notes == ("Conv 'Conv c' is likely to run in float: its operands are float and int8, not of one type",)


def test_pooling_and_reshaping_do_not_make_a_layer_run_in_float(tmp_path):
    assert check(convolution(), tmp_path).notes == ()  # a Flatten stands in front of the Gemm


def test_functions_of_the_file_are_looked_into(tmp_path):
    path = change(convolution(), "x_zero", 1, np.int8).write(tmp_path / "model.onnx")
    model = onnx.load(path)
    inside = [node for node in model.graph.node if node.output[0] in ("x_q", "x_dq")]
    outside = [node for node in model.graph.node if node.output[0] not in ("x_q", "x_dq")]
    inputs = ["x", "x_scale", "x_zero"]
    opset = [onnx.helper.make_opsetid("", 21)]
    model.functions.append(onnx.helper.make_function("com.example", "Fake", inputs, ["x_dq"], inside, opset))
    del model.graph.node[:]
    model.graph.node.append(onnx.helper.make_node("Fake", inputs, ["x_dq"], domain="com.example"))
    model.graph.node.extend(outside)
    onnx.save(model, path)
    assert {violation.rule for violation in qx.check_tensorrt(path).violations} == {"zero point"}


class Calibration:
    """Batches for onnxruntime's own quantization."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.batches = [{"x": random.normal(size=(4, 2, 4, 4)).astype(np.float32)} for _ in range(3)]

    def get_next(self):
        return self.batches.pop() if self.batches else None


def quantized_by_onnxruntime(tmp_path: Path, **options) -> Path:
    quantization = pytest.importorskip("onnxruntime.quantization")
    draft, random = Draft(), np.random.default_rng(0)
    filters, bias = draft.give("w", random.normal(size=(3, 2, 3, 3))), draft.give("b", [0.1, 0.2, 0.3])
    draft.add("Conv", ["x", filters, bias], "c", pads=[1, 1, 1, 1])
    draft.add("Relu", ["c"], "r")
    draft.add("Flatten", ["r"], "f")
    draft.add("MatMul", ["f", draft.give("m", random.normal(size=(48, 6)))], "y")
    path = draft.write(tmp_path / "float.onnx")
    quantization.quantize_static(path, tmp_path / "model.onnx", Calibration(), **options)
    return tmp_path / "model.onnx"


def test_what_onnxruntime_writes_for_tensorrt_passes(tmp_path):
    """With the settings that onnxruntime's documentation gives for its TensorRT provider."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    found = qx.check_tensorrt(
        quantized_by_onnxruntime(
            tmp_path,
            per_channel=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
        )
    )
    assert found.is_valid, str(found)
    assert found.tensors["int8 weights"] == 2


def test_what_onnxruntime_writes_for_itself_is_rejected(tmp_path):
    quantization = pytest.importorskip("onnxruntime.quantization")
    found = qx.check_tensorrt(quantized_by_onnxruntime(tmp_path, activation_type=quantization.QuantType.QUInt8))
    assert {"signed", "zero point", "bias"} <= {violation.rule for violation in found.violations}
