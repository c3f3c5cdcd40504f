"""TensorRT's rules for where Q and DQ stand: pairs, weights, biases, and what may not be in the graph at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from qexplore.export.onnx_graph import OnnxGraph, Step, node_name
from qexplore.export.violation import Violation, violation

_INTEGER_OPERATORS = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")
_DOMAINS = ("", "ai.onnx")
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_BIAS_PLACE = 2
_FLOAT = "float"
_PASSING = ("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Gather", "Slice", "Identity")
"""Operators that give the same on integers: TensorRT moves a Q or DQ past them."""
_LEVELS_BELOW_8_BITS = tuple(2**num_bits - 1 for num_bits in range(1, 7))
_NEAR = 1e-3
"""Of a level, for bounds that went through float32."""


def check_operators(graph: OnnxGraph) -> Iterator[Violation]:
    """No operators on integers, which the parser refuses, and none outside the standard."""
    for node in graph.nodes:
        if node.domain not in _DOMAINS:
            sentence = (
                f"every operator must be of the ONNX standard, but {node.op_type} is of the domain '{node.domain}'"
            )
            yield violation("operator", node, "", sentence)
        elif node.op_type in _INTEGER_OPERATORS:
            sentence = f"quantization must stand as QuantizeLinear and DequantizeLinear, not as {node.op_type}"
            yield violation("operator", node, "", sentence)


def check_pairs(graph: OnnxGraph) -> Iterator[Violation]:
    """Every Q is read by DQs of the same scale and by nothing else; every DQ reads a Q or a constant, and is read."""
    for step in graph.steps.values():
        yield from _check_quantize(graph, step) if step.quantizes else _check_dequantize(graph, step)


def _check_quantize(graph: OnnxGraph, step: Step) -> Iterator[Violation]:
    uses = graph.uses(step.result)
    strangers = sorted({use.node.op_type for use in uses} - {"DequantizeLinear"})
    if step.result in graph.outputs:
        strangers.append("the graph's output")
    if strangers or not uses:
        found = f"it goes to {', '.join(strangers)}" if strangers else "nothing reads it"
        sentence = f"the integers '{step.result}' must go to a DequantizeLinear and nowhere else, but {found}"
        yield violation("pair", step, step.result, sentence)


def _check_dequantize(graph: OnnxGraph, step: Step) -> Iterator[Violation]:
    before = graph.step_before(step)
    if before is None and not graph.is_constant(step.data):
        sentence = f"DequantizeLinear must read a QuantizeLinear or a constant, but '{step.data}' is neither"
        yield violation("pair", step, step.data, sentence)
    elif before is not None and not _scales_agree(graph, before, step):
        sentence = f"'{before.data}' must be dequantized with the scale that it was quantized with, and along its axis"
        yield violation("pair", step, step.scale, sentence)
    if not graph.uses(step.result) and step.result not in graph.outputs:
        yield violation("pair", step, step.result, f"nothing reads '{step.result}', which is dequantized for nobody")


def _scales_agree(graph: OnnxGraph, quantize: Step, dequantize: Step) -> bool:
    if quantize.scale == dequantize.scale:
        several = graph.is_constant(quantize.scale) and graph.values(quantize.scale).size > 1
        return not several or (quantize.axis, quantize.block_size) == (dequantize.axis, dequantize.block_size)
    if not (graph.is_constant(quantize.scale) and graph.is_constant(dequantize.scale)):
        return False
    first, second = graph.values(quantize.scale), graph.values(dequantize.scale)
    is_axis_equal = first.size == 1 or quantize.axis == dequantize.axis
    return is_axis_equal and first.size == second.size and bool((first.ravel() == second.ravel()).all())


def check_weights(graph: OnnxGraph) -> Iterator[Violation]:
    """A weight's DQ goes straight into the place of the weight; biases fall under `check_biases`."""
    for step in graph.steps.values():
        if step.quantizes or not graph.is_of_weight(step):
            continue
        places = [f"{use.node.op_type} '{node_name(use.node)}'" for use in graph.uses(step.result) if _is_stray(use)]
        if step.result in graph.outputs:
            places.append("the graph's output")
        if places:
            sentence = (
                f"the quantized weight '{step.data}' must go straight into {', '.join(_WEIGHTED)}, but it goes to "
                f"{', '.join(places)}"
            )
            yield violation("weight", step, step.data, sentence)


def _is_stray(use: Any) -> bool:
    if _is_bias(use):
        return False
    return use.node.op_type not in _WEIGHTED or (use.node.op_type.startswith("Conv") and use.place == 0)


def _is_bias(use: Any) -> bool:
    return use.node.op_type in ("Conv", "ConvTranspose", "Gemm") and use.place == _BIAS_PLACE


def check_biases(graph: OnnxGraph) -> Iterator[Violation]:
    """Biases stay in float."""
    for step in graph.steps.values():
        for use in [] if step.quantizes else graph.uses(step.result):
            if _is_bias(use):
                sentence = f"the bias of {use.node.op_type} '{node_name(use.node)}' must be float, but is dequantized"
                yield violation("bias", step, step.data, sentence)


def check_clips(graph: OnnxGraph) -> Iterator[Violation]:
    """No Clip in front of a Q that cuts the grid down to fewer bits: it would stand between a layer and its Q.

    Such a Clip ends at whole levels, the upper one 2^n - 1 with n below 7, the lower one 0 or as far on the other side.
    A Clip that belongs to the network, such as ReLU6's, is none of them.
    """
    for step in graph.steps.values():
        clip = _clip_before(graph, step.data) if step.quantizes else None
        if clip is None:
            continue
        bounds = _levels(graph, clip, step.scale)
        if bounds is not None and bounds[1] in _LEVELS_BELOW_8_BITS and bounds[0] in (0, -bounds[1], -bounds[1] - 1):
            num_levels = bounds[1] - bounds[0] + 1
            sentence = (
                f"'{step.data}' must be quantized on the whole grid, but a Clip leaves {num_levels} levels of it: "
                "widths between those of TensorRT's types cannot be had there"
            )
            yield violation("clip", clip, step.data, sentence)


def _clip_before(graph: OnnxGraph, name: str) -> Any:
    node = graph.producer(name)
    if node is not None and node.op_type in ("Identity", "Max") and len(set(node.input)) == 1:
        return _clip_before(graph, node.input[0])  # Max of a tensor and itself
    return node if node is not None and node.op_type == "Clip" else None


def _levels(graph: OnnxGraph, clip: Any, scale: str) -> tuple[int, int] | None:
    """The bounds of a Clip in steps of the quantizer behind it; None where they are not whole."""
    names = [*clip.input[1:], "", ""][:2]
    if not all(name and graph.is_constant(name) for name in (*names, scale)) or graph.values(scale).size != 1:
        return None
    step = float(graph.values(scale).astype(np.float64).item())
    if not step > 0:
        return None
    low, high = (float(graph.values(name).astype(np.float64).item()) / step for name in names)
    whole = round(low), round(high)
    return whole if abs(low - whole[0]) < _NEAR and abs(high - whole[1]) < _NEAR else None


def layers_in_float(graph: OnnxGraph) -> Iterator[str]:
    """A sentence for every layer that is likely to run in float although one of its operands is quantized.

    Allowed, but not what one quantizes for. int4 weights are meant for operands in float.
    """
    for node in graph.nodes:
        if node.op_type not in _WEIGHTED:
            continue
        first, second = (_type_behind(graph, name) for name in node.input[:2])
        if first != second and second != "int4":
            owner = f"{node.op_type} '{node_name(node)}'"
            yield f"{owner} is likely to run in float: its operands are {first} and {second}, not of one type"


def _type_behind(graph: OnnxGraph, name: str) -> str:
    step = graph.steps.get(name)
    if step is not None:
        return step.type
    node = graph.producer(name)
    return _type_behind(graph, node.input[0]) if node is not None and node.op_type in _PASSING else _FLOAT
