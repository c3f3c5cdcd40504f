"""The checker of TensorRT's rules: valid files pass, and a violation planted for each rule is found under its name."""

from __future__ import annotations

import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto  # noqa: E402
from onnx_drafts import E4M3, INT4, Draft, change, check, constant, convolution, int4_product, rewire  # noqa: E402

from qexplore.export.checker import RULES  # noqa: E402


def float_weights() -> Draft:
    draft = Draft()
    draft.give("w", np.random.default_rng(0).normal(size=(3, 2, 3, 3)))
    draft.add("Conv", [draft.pair("x"), draft.pair("w", [0.1, 0.2, 0.3], axis=0)], "y")
    return draft


def transposed_convolution(scale=0.1, **attributes) -> Draft:
    draft = Draft()
    filters = draft.weight("w", np.ones((2, 3, 2, 2)), scale, **attributes)
    draft.add("ConvTranspose", [draft.pair("x"), filters], "y")
    return draft


def relu6(scale: float) -> Draft:
    draft = Draft()
    draft.add("Clip", ["x", draft.give("low", 0.0), draft.give("high", 6.0)], "r")
    draft.add("Identity", [draft.pair("r", scale)], "y")
    return draft


def without_zero_points() -> Draft:
    draft = Draft()
    scale = draft.give("s", 0.1)
    draft.add("QuantizeLinear", ["x", scale], "q", output_dtype=TensorProto.INT8)
    draft.add("DequantizeLinear", ["q", scale], "y")
    return draft


VALID = {
    "int8": convolution,
    "float8": lambda: convolution(E4M3),
    "opset 13": lambda: convolution(opset=13),
    "int4 in blocks of 64": int4_product,
    "int4 in blocks of 128": lambda: int4_product(block=128),
    "weights in float behind Q and DQ": float_weights,
    "transposed convolution, one scale": transposed_convolution,
    "transposed convolution, a scale for each input channel": lambda: transposed_convolution([0.1, 0.2], axis=0),
    "ReLU6 over the whole grid": lambda: relu6(6 / 127),
    "ReLU6 beyond the grid": lambda: relu6(4 / 127),
    "ReLU6 on a signed grid of 3 bits, widened": lambda: relu6(6 / 96),
    "no zero points": without_zero_points,
}


@pytest.mark.parametrize("name", VALID)
def test_file_within_the_rules_passes(name, tmp_path):
    found = check(VALID[name](), tmp_path)
    assert found.is_valid, str(found)
    assert found.rules == tuple(RULES)


def odd_width(low: int, high: int, dtype=np.int8, between: str = "") -> Draft:
    draft, step = Draft(), 0.25
    draft.add("Clip", ["x", draft.give("low", low * step), draft.give("high", high * step)], "c")
    if between:
        draft.add(between, ["c", "c"], "between")
    draft.add("Identity", [draft.pair("c", step, dtype)], "y")
    return draft


def foreign_operator() -> Draft:
    draft = convolution()
    draft.node("r").domain = "com.example"
    return draft


def integer_operator() -> Draft:
    draft = Draft()
    draft.inputs = {"x": (TensorProto.INT8, [2, 3]), "z": (TensorProto.INT8, [3, 2])}
    draft.output = ("y", TensorProto.INT32)
    draft.add("MatMulInteger", ["x", "z"], "y")
    return draft


def quantized_bias(dtype) -> Draft:
    draft = convolution()
    bias = draft.weight("bias", [1, 2, 3], 0.01, dtype)
    draft.nodes.insert(0, draft.nodes.pop())
    return rewire(draft, "c", 2, bias)


def computed(name: str) -> Draft:
    """A scale or zero point that a caller may replace: an input with a default value."""
    draft = convolution()
    tensor = draft.constants[name]
    draft.inputs[name] = (tensor.data_type, list(tensor.dims))
    return draft


def float_behind_quantize() -> Draft:
    draft = convolution()
    draft.add("Cast", ["r_q"], "y2", to=TensorProto.FLOAT)
    return draft


def dangling_quantize() -> Draft:
    draft = convolution()
    draft.add("QuantizeLinear", ["c", "x_scale", "x_zero"], "nobody")
    return draft


def dangling_dequantize() -> Draft:
    draft = convolution()
    draft.add("DequantizeLinear", ["r_q", "r_scale", "r_zero"], "nobody")
    return draft


def quantized_input(**options) -> Draft:
    draft = Draft(**options)
    draft.inputs = {"x": (TensorProto.INT8, ["batch", 2])}
    draft.add("DequantizeLinear", ["x", draft.give("s", 0.1)], "y")
    return draft


def quantized_output() -> Draft:
    draft = Draft()
    draft.output = ("x_q", TensorProto.INT8)
    draft.add("Identity", [draft.pair("x")], "other")
    return draft


def weight_behind(kind: str) -> Draft:
    draft = convolution()
    draft.nodes.insert(-1, onnx.helper.make_node(kind, ["m_dq"], ["between"]))
    return rewire(draft, "y", 1, "between")


def table_of_embeddings() -> Draft:
    draft = Draft()
    draft.inputs = {"x": (TensorProto.INT64, ["batch"])}
    draft.add("Gather", [draft.weight("w", np.ones((4, 3)), 0.1), "x"], "y")
    return draft


def with_axis(draft: Draft, output: str, axis: int) -> Draft:
    node = draft.node(output)
    node.attribute[0].i = axis
    return draft


def per_channel_activation() -> Draft:
    draft = Draft()
    draft.add("Identity", [draft.pair("x", [0.1, 0.2], axis=1)], "y")
    return draft


def int4_activation() -> Draft:
    draft = Draft()
    draft.add("Identity", [draft.pair("x", 0.1, INT4)], "y")
    return draft


def int4_convolution() -> Draft:
    draft = Draft()
    draft.inputs = {"x": (TensorProto.FLOAT, ["batch", 64, 4, 4])}
    filters = draft.weight("w", np.ones((3, 64, 64, 2)), np.ones((3, 64, 1, 2)), INT4, axis=2, block_size=64)
    draft.add("Conv", ["x", filters], "y")
    return draft


def int4_matrix(shape, scales, **attributes) -> Draft:
    draft = Draft()
    draft.inputs = {"x": (TensorProto.FLOAT, ["batch", shape[0]])}
    draft.add("MatMul", ["x", draft.weight("m", np.ones(shape), scales, INT4, **attributes)], "y")
    return draft


def int8_blocks() -> Draft:
    draft = Draft()
    draft.inputs = {"x": (TensorProto.FLOAT, ["batch", 128])}
    matrix = draft.weight("m", np.ones((128, 6)), np.full((2, 6), 0.1), axis=0, block_size=64)
    draft.add("MatMul", ["x", matrix], "y")
    return draft


def no_sign_given() -> Draft:
    draft = Draft()
    scale = draft.give("s", 0.1)
    draft.add("QuantizeLinear", ["x", scale], "q")
    draft.add("DequantizeLinear", ["q", scale], "y")
    return draft


# The rule, and what breaks it: every rule of the checker stands here.
PLANTED = [
    ("opset", "too old", lambda: quantized_input(opset=12)),
    ("opset", "too new", lambda: convolution(opset=26)),
    ("opset", "float8 before it was there", lambda: convolution(E4M3, opset=18)),
    ("operator", "of another domain", foreign_operator),
    ("operator", "on integers", integer_operator),
    ("type", "16 bits", lambda: convolution(np.int16)),
    ("type", "E5M2", lambda: convolution(ml_dtypes.float8_e5m2)),
    ("type", "int32", lambda: quantized_bias(np.int32)),
    ("signed", "uint8", lambda: convolution(np.uint8)),
    ("signed", "uint4", lambda: odd_width(0, 15, ml_dtypes.uint4)),
    ("signed", "nothing given", no_sign_given),
    ("zero point", "of an activation", lambda: change(convolution(), "x_zero", 3, np.int8)),
    ("zero point", "of one channel", lambda: change(convolution(), "w_zero", [0, 0, 1], np.int8)),
    ("zero point", "not fixed", lambda: computed("x_zero")),
    ("zero point type", "another type", lambda: change(convolution(), "w_zero", [0, 0, 0], np.int16)),
    ("zero point type", "another number", lambda: change(convolution(), "w_zero", 0, np.int8)),
    ("scale", "zero", lambda: change(convolution(), "x_scale", 0.0)),
    ("scale", "negative in one channel", lambda: change(convolution(), "w_scale", [0.1, -0.1, 0.1])),
    ("scale", "infinite", lambda: change(convolution(), "x_scale", np.inf)),
    ("scale", "not a number", lambda: change(convolution(), "x_scale", np.nan)),
    ("scale", "double", lambda: change(convolution(), "x_scale", 0.02, np.float64)),
    ("scale", "not fixed", lambda: computed("x_scale")),
    ("per channel", "an activation", per_channel_activation),
    ("per channel", "along the inputs of a convolution", lambda: with_axis(float_weights_along(1), "w_dq", 1)),
    ("per channel", "along the inputs of a product", lambda: gemm_along_inputs()),
    ("per channel", "outputs of a transposed convolution", lambda: transposed_convolution([0.1] * 3, axis=1)),
    ("per channel", "too few scales", lambda: with_axis(convolution(), "w_dq", 1)),
    ("block", "int8", int8_blocks),
    ("block", "of 32", lambda: int4_product(block=32)),
    ("block", "none", lambda: int4_matrix((128, 6), np.full(6, 0.1), axis=1)),
    ("block", "one scale", lambda: int4_matrix((128, 6), 0.1)),
    ("block", "odd last axis", lambda: int4_matrix((64, 5), np.full((1, 5), 0.1), axis=0, block_size=64)),
    ("block", "not whole", lambda: int4_matrix((100, 6), np.full((2, 6), 0.1), axis=0, block_size=64)),
    ("int4", "an activation", int4_activation),
    ("int4", "a convolution", int4_convolution),
    ("pair", "integers go elsewhere", float_behind_quantize),
    ("pair", "quantized for nobody", dangling_quantize),
    ("pair", "dequantized for nobody", dangling_dequantize),
    ("pair", "quantized input", quantized_input),
    ("pair", "quantized output", quantized_output),
    ("pair", "two scales", lambda: rewire(convolution(), "r_dq", 1, "x_scale2")),
    ("weight", "an operator between", lambda: weight_behind("Relu")),
    ("weight", "a table of embeddings", table_of_embeddings),
    ("bias", "int8", lambda: quantized_bias(np.int8)),
    ("bias", "int32", lambda: quantized_bias(np.int32)),
    ("clip", "3 bits", lambda: odd_width(-4, 3)),
    ("clip", "5 bits, narrow", lambda: odd_width(-15, 15)),
    ("clip", "4 bits, unsigned", lambda: odd_width(0, 15)),
    ("clip", "3 bits, hidden", lambda: rewire(odd_width(-4, 3, between="Max"), "c_q", 0, "between")),
]


def float_weights_along(axis: int) -> Draft:
    draft = Draft()
    draft.add("Conv", [draft.pair("x"), draft.weight("w", np.ones((3, 2, 3, 3)), [0.1, 0.2], axis=axis)], "y")
    return draft


def gemm_along_inputs() -> Draft:
    draft = convolution()
    draft.constants.update({"m": constant("m", np.ones((5, 48)), np.int8)})
    draft.give("m_scale", np.full(48, 0.1))
    draft.give("m_zero", np.zeros(48), np.int8)
    return with_axis(draft, "m_dq", 1)


@pytest.mark.parametrize(("rule", "name", "plant"), PLANTED, ids=[f"{rule}: {name}" for rule, name, _ in PLANTED])
def test_planted_violation_is_found_under_its_rule(rule, name, plant, tmp_path):
    draft = plant()
    draft.give("x_scale2", 0.5)
    found = check(draft, tmp_path)
    assert not found.is_valid
    assert rule in {violation.rule for violation in found.violations}, str(found)


# Where a draft cannot break one rule without another, the others are named here.
ALSO = {"opset: too old": {"pair"}, "type: int32": {"bias"}, "bias: int32": {"type"}, "signed: uint4": {"clip"}}


@pytest.mark.parametrize(("rule", "name", "plant"), PLANTED, ids=[f"{rule}: {name}" for rule, name, _ in PLANTED])
def test_planted_violation_breaks_no_other_rule(rule, name, plant, tmp_path):
    draft = plant()
    draft.give("x_scale2", 0.5)
    broken = {violation.rule for violation in check(draft, tmp_path).violations}
    assert broken - ALSO.get(f"{rule}: {name}", set()) == {rule}


def test_every_rule_has_a_planted_violation():
    assert {rule for rule, _, _ in PLANTED} == set(RULES)


def test_page_lists_every_rule():
    page = (Path(__file__).resolve().parents[2] / "docs" / "tensorrt.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z0-9 ]+)` \|", page, flags=re.MULTILINE) == list(RULES)
