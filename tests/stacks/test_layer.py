"""Layers are facts: what each stack says of a small network, how facts print, and that nobody reads the print back."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from networks import batches, digits, trained
from torch import nn

import qexplore as qx
from qexplore._choices import FloatFormat
from qexplore.stacks import LayerStrategy, Stored, layer_table, reasons
from qexplore.stacks.absent import Call, absorbed, with_absent
from qexplore.stacks.layer import together

SOURCE = Path(__file__).resolve().parents[2] / "src" / "qexplore"
WEIGHTS, OUTPUT = Stored("weights", 8, "channel"), Stored("activations", 8, signed=False, symmetric=False)


@pytest.mark.parametrize(
    ("stored", "text"),
    [
        (WEIGHTS, "int8 per channel"),
        (Stored("weights", 5), "int5 per tensor"),
        (Stored("weights", 8, symmetric=False), "int8 per tensor, affine"),
        (Stored("weights", 8, signed=False, symmetric=None), "uint8 per tensor"),
        (Stored("weights", 4, "channel", packed=True), "int4 per channel, packed"),
        (Stored("weights", 3, "group", group_size=8, packed=True), "int3 in groups of 8, packed"),
        (Stored("weights", FloatFormat(4, 3), "channel"), "E4M3 per channel"),
        (OUTPUT, "uint8 per tensor, affine"),
        (Stored("activations", 8, signed=False), "uint8 per tensor, symmetric"),
        (Stored("activations", 8), "int8 per tensor, symmetric"),
        (Stored("activations", 8, at_run_time=True), "int8 per tensor, symmetric, at run time"),
        (Stored("activations", FloatFormat(5, 2)), "E5M2 per tensor"),
        (Stored("weights", 8, "channel", also=(Stored("weights", 7),)), "int8 per channel; int7 per tensor"),
    ],
)
def test_facts_print_as_text(stored, text):
    assert str(stored) == text


def test_tensors_of_one_layer_are_said_once_where_they_are_alike():
    assert together([]) is None
    assert together([WEIGHTS, WEIGHTS]) == WEIGHTS
    narrow = Stored("weights", 4)
    both = together([WEIGHTS, narrow, WEIGHTS])
    assert both.each == (both, narrow) and both.num_bits == 8


@pytest.mark.parametrize(
    ("weights", "activations", "state"),
    [(WEIGHTS, OUTPUT, "integers"), (None, OUTPUT, "integers"), (WEIGHTS, None, "integers"), (None, None, "float")],
)
def test_what_is_stored_decides_about_the_state(weights, activations, state):
    row = LayerStrategy.present("conv", "Conv2d", weights, activations, "so")
    assert row.state == state and row.is_quantized == (state == "integers")


def test_table_has_a_dash_for_what_is_float():
    rows = [
        LayerStrategy.present("conv", "Conv2d", WEIGHTS, OUTPUT, "so"),
        LayerStrategy.present("gelu", "GELU", None, None, "why"),
    ]
    assert layer_table(rows).splitlines() == [
        "layer  type    weights           activations               error  reason",
        "-----  ------  ----------------  ------------------------  -----  ------",
        "conv   Conv2d  int8 per channel  uint8 per tensor, affine      -  so",
        "gelu   GELU    -                 -                             -  why",
    ]


# ------------------------------------------------------------------------------------------------------- absent


def test_absent_layers_stand_behind_the_row_before_them_and_say_where_they_went():
    modules = {"conv": nn.Conv2d(1, 1, 1), "bn": nn.BatchNorm2d(1), "relu": nn.ReLU(), "drop": nn.Dropout()}
    modules |= {"act": nn.ReLU(), "holder": nn.Sequential(nn.ReLU())}
    rows = {name: LayerStrategy.present(name, "", WEIGHTS, None, "so") for name in ("conv", "fc")}
    calls = [
        Call("drop", "0", ""),
        Call("conv", "1", "0"),
        Call("bn", "2", "1"),
        Call("relu", "3", "2"),
        Call("add", "4", "3", is_module=False),
        Call("act", "5", "4"),
        Call("holder", "6", "5"),
        Call("fc", "7", "6"),
        Call("act", "8", ""),
    ]
    merged = with_absent(rows, calls, modules)
    assert [(row.name, row.state, row.reason) for row in merged] == [
        ("drop", "absorbed", "does nothing outside training: left out"),
        ("conv", "integers", "so"),
        ("bn", "absorbed", "folded into 'conv'"),
        ("relu", "absorbed", "fused into 'conv'"),
        ("act", "absorbed", "fused into 'add'"),
        ("fc", "integers", "so"),
        ("act", "absorbed", "fused into its neighbour"),
    ]


def test_an_absorbed_layer_without_a_layer_before_it():
    assert absorbed("bn", nn.BatchNorm1d(2), "").reason == "folded into its neighbour"
    assert absorbed("drop", nn.Dropout2d(), "conv").reason == reasons.ONLY_IN_TRAINING


# ------------------------------------------------------------------------------------------- facts of every stack


def rows_of(strategy):
    return {row.name: row for row in strategy}


def calibration():
    return batches(digits().calibration)


def static(stack):
    if stack == "pt2e":
        pytest.importorskip("torchao")
    if stack == "onnxruntime":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    return rows_of(qx.quantize_static(trained("small_cnn"), calibration(), stack=stack).report.strategy)


@pytest.mark.parametrize("stack", ["eager", "fx", "pt2e", "onnxruntime"])
def test_static_rows_of_every_stack(stack):
    rows = static(stack)
    for name in ("conv1", "conv2", "fc1", "fc2"):
        weights, activations = rows[name].weights, rows[name].activations
        assert rows[name].state == "integers"
        assert (weights.of, weights.granularity, weights.signed, weights.symmetric) == (
            "weights",
            "channel",
            True,
            True,
        )
        assert weights.num_bits == 8 or (stack == "onnxruntime" and weights.num_bits == 7)
        assert not weights.packed and not weights.at_run_time and weights.also == ()
        if activations:  # what PT2E gives at the end is float
            assert (activations.of, activations.num_bits, activations.signed) == ("activations", 8, False)
            assert activations.symmetric is False and not activations.at_run_time
    assert rows["conv1"].activations and rows["conv1"].activations.granularity == "tensor"
    assert rows["bn1"].state == rows["bn2"].state == "absorbed"
    assert (rows["bn1"].weights, rows["bn1"].activations, rows["bn1"].is_quantized) == (None, None, False)
    assert all((row.state == "absorbed") == ("into '" in row.reason) for row in rows.values())
    assert all(row.state != "float" for row in rows.values())


@pytest.mark.parametrize(
    ("stack", "at_run_time", "signed"), [("eager", None, None), ("fx", None, None), ("pt2e", True, False)]
)
def test_dynamic_rows_tell_whose_range_is_taken_at_run_time(stack, at_run_time, signed):
    if stack == "pt2e":
        pytest.importorskip("torchao")
    example = digits().report.x[:4]
    rows = rows_of(qx.quantize_dynamic(trained("small_cnn"), example, stack=stack).report.strategy)
    assert rows["fc1"].state == "integers" and rows["fc1"].weights.num_bits == 8
    assert rows["conv1"].state == "float" and rows["bn1"].state in ("float", "absorbed")
    activations = rows["fc1"].activations
    assert (activations and activations.at_run_time, activations and activations.signed) == (at_run_time, signed)


def test_rows_of_onnxruntime_at_run_time():
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    example = digits().report.x[:4]
    rows = rows_of(qx.quantize_dynamic(trained("small_cnn"), example, stack="onnxruntime").report.strategy)
    assert rows["conv1"].activations == Stored("activations", 8, signed=False, symmetric=False, at_run_time=True)
    assert (rows["conv1"].weights.granularity, rows["fc1"].weights.granularity) == ("tensor", "channel")
    assert rows["relu1"].state == "float"


def test_layers_that_are_not_chosen_are_float_in_every_stack():
    chosen = qx.predicates.by_type(nn.Linear)
    for stack in ("eager", "fx"):
        result = qx.quantize_static(trained("small_cnn"), calibration(), stack=stack, modules=chosen)
        row = rows_of(result.report.strategy)["conv1"]
        assert (row.state, row.reason) == ("float", f"not selected by modules={chosen}")
        assert row in result.report.left_float


def test_rows_of_float8():
    rows = rows_of(qx.quantize_float8(trained("small_cnn"), calibration(), format="mixed").report.strategy)
    assert rows["conv1"].weights == Stored("weights", FloatFormat(3, 4), "channel")
    assert rows["pool"].activations == rows["input"].activations == Stored("activations", FloatFormat(4, 3))
    assert (rows["conv1"].state, rows["input"].state, rows["bn1"].state) == ("integers", "integers", "float")


def test_rows_of_packed_layers():
    packed = qx.pack_linear_weights(trained("small_cnn"), num_bits=3, group_size=8)
    rows = rows_of(packed.strategy)
    assert rows["fc1"].weights == Stored("weights", 3, "group", group_size=8, packed=True)
    assert rows["fc1"].activations is None and rows["conv1"].state == "float"
    rows = rows_of(qx.quantize_static(trained("small_cnn"), calibration(), linear_num_bits=4).report.strategy)
    assert rows["fc1"].weights == Stored("weights", 4, "channel", packed=True)
    assert rows["fc1"].activations and not rows["conv1"].weights.packed


def test_unsigned_weights_with_a_zero_point():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.PReLU(4), nn.Flatten(), nn.Linear(144, 3)).eval()
    network[1].weight.data = torch.linspace(-1, 1, 4)
    (row,) = (one for one in qx.quantize_static(network, calibration()).report.strategy if one.type == "PReLU")
    assert (row.weights.signed, row.weights.symmetric) == (False, False)
    assert str(row.weights) == "uint8 per tensor, affine"


# ------------------------------------------------------------------------------------------------------- reading

FACTS = {"reason", "weights", "activations"}
READING = {
    "startswith",
    "endswith",
    "removeprefix",
    "removesuffix",
    "find",
    "index",
    "split",
    "partition",
    "rpartition",
}


def sentences_read(source: str) -> list[int]:
    """Lines where a row's sentence is compared, searched or taken apart; what settings ask for is no sentence."""
    return [node.lineno for node in ast.walk(ast.parse(source)) if _reads(node)]


def _reads(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in READING:
        said = [one.value for one in ast.walk(node) if isinstance(one, ast.Constant)]
        is_told = any(isinstance(one, str) and one.startswith(("folded", "fused")) for one in said)
        return is_told or _is_fact(node.func.value)
    if not isinstance(node, ast.Compare):
        return False
    sides = [node.left, *node.comparators]
    is_text = any(isinstance(one, (ast.Constant, ast.JoinedStr)) and not _is_none(one) for one in sides)
    is_reason = any(isinstance(one, ast.Attribute) and one.attr == "reason" for one in sides)
    return is_reason or (is_text and any(map(_is_fact, sides)))


def _is_fact(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):  # str(row.weights)
        return any(map(_is_fact, node.args))
    of_settings = isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("settings")
    return isinstance(node, ast.Attribute) and node.attr in FACTS and not of_settings


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


@pytest.mark.parametrize(
    "line",
    [
        'row.reason.startswith(("folded into", "fused into"))',
        'text.startswith("folded")',
        'row.weights.endswith("packed")',
        '"per channel" in row.weights',
        '"at run time" in str(row.activations)',
        "row.reason == why",
        "row.reason in reasons.values()",
        'row.weights == "int8 per channel"',
    ],
)
def test_reading_a_sentence_back_is_seen(line):
    assert sentences_read(line) == [1]


@pytest.mark.parametrize("line", ['settings.activations == "symmetric"', "row.weights is None", 'row.state == "float"'])
def test_asking_for_facts_is_no_reading(line):
    assert sentences_read(line) == []


@pytest.mark.parametrize("room", ["stacks", "workflows", "pipeline"])
def test_no_code_reads_a_sentence_back(room):
    files = sorted((SOURCE / room).glob("*.py"))
    assert files
    found = [f"{file.name}:{line}" for file in files for line in sentences_read(file.read_text(encoding="utf-8"))]
    assert found == []


@pytest.mark.parametrize("file", [one.name for one in sorted((SOURCE / "stacks").glob("*.py"))])
def test_every_sentence_stands_in_one_file(file):
    said = {value for name, value in vars(reasons).items() if name.isupper() and isinstance(value, str)}
    said |= set(reasons.RANGE.values())
    tree = ast.parse((SOURCE / "stacks" / file).read_text(encoding="utf-8"))
    constants = {one.value for one in ast.walk(tree) if isinstance(one, ast.Constant) and isinstance(one.value, str)}
    assert len(said) > 30 and (file == "reasons.py") == bool(said & constants)
