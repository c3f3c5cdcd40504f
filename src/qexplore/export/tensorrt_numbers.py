"""TensorRT's rules for the numbers of explicit quantization: types, zero points, scales, channels and blocks.

Sources: NVIDIA's documentation of TensorRT 10 and 11, "Working with Quantized Types", and the classes `IQuantizeLayer`
and `IDequantizeLayer` of its API.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from qexplore.export.onnx_graph import OnnxGraph, Step, Use, node_name
from qexplore.export.violation import Violation, violation

TYPES = ("int8", "float8e4m3fn", "int4")
INT4_BLOCKS = (64, 128)
_SCALE_TYPES = ("float", "float16", "bfloat16")
_OLDEST_OPSET, _NEWEST_OPSET = 13, 25
_FIRST_OPSET = {"int8": _OLDEST_OPSET, "float8e4m3fn": 19, "int4": 21}
_MATRIX_PRODUCTS = ("Gemm", "MatMul")


def check_opset(graph: OnnxGraph) -> Iterator[Violation]:
    """Scales have an axis from opset 13 on, float8 is there from 19, int4 from 21; TensorRT 11 reads up to 25."""
    if not graph.steps:
        return
    oldest = max(_FIRST_OPSET.get(step.type, _OLDEST_OPSET) for step in graph.steps.values())
    if not oldest <= graph.opset <= _NEWEST_OPSET:
        sentence = f"the opset must be from {oldest} to {_NEWEST_OPSET} for the types in this file, got {graph.opset}"
        yield Violation("opset", "", "", sentence)


def check_types(graph: OnnxGraph) -> Iterator[Violation]:
    """int8, float8 E4M3FN, and int4; unsigned types fall under `check_signs`."""
    for step in graph.steps.values():
        if step.type not in TYPES and not step.type.startswith("uint"):
            kind = step.type or "of a type that the file does not fix"
            sentence = f"'{step.data}' must be quantized to {', '.join(TYPES)}, but is {kind}"
            yield violation("type", step, step.data, sentence)


def check_signs(graph: OnnxGraph) -> Iterator[Violation]:
    """Signed only. A QuantizeLinear without zero point and ``output_dtype`` gives uint8, says the standard."""
    for step in graph.steps.values():
        if step.type.startswith("uint"):
            hint = "" if step.zero_point or not step.quantizes else ", for it has neither zero point nor output_dtype"
            yield violation("signed", step, step.data, f"'{step.data}' must be signed, but is {step.type}{hint}")


def check_zero_points(graph: OnnxGraph) -> Iterator[Violation]:
    """Absent, or written in the file and zero throughout."""
    for step in graph.steps.values():
        name = step.zero_point
        if not name:
            continue
        if not graph.is_constant(name):
            sentence = f"the zero point of '{step.data}' must be a constant, but '{name}' is computed or an input"
            yield violation("zero point", step, name, sentence)
        elif np.any(graph.values(name).astype(np.float64)):
            sentence = f"the zero point of '{step.data}' must be 0: TensorRT quantizes symmetrically only"
            yield violation("zero point", step, name, sentence)


def check_zero_point_types(graph: OnnxGraph) -> Iterator[Violation]:
    """Of the type of the quantized tensor, and as many as there are scales."""
    for step in graph.steps.values():
        name = step.zero_point
        if not name or not graph.is_constant(name):
            continue
        found = graph.type_of_constant(name)
        if found != step.type:
            sentence = f"the zero point of '{step.data}' must be {step.type} as the tensor is, but is {found}"
            yield violation("zero point type", step, name, sentence)
        if graph.is_constant(step.scale) and math.prod(graph.shape(name)) != math.prod(graph.shape(step.scale)):
            sentence = f"'{step.data}' must have as many zero points as scales, got {graph.shape(name)} of the former"
            yield violation("zero point type", step, name, sentence)


def check_scales(graph: OnnxGraph) -> Iterator[Violation]:
    """Written in the file, of a floating type, finite and above zero."""
    for step in graph.steps.values():
        if not graph.is_constant(step.scale):
            sentence = f"the scale of '{step.data}' must be a constant, but '{step.scale}' is computed or an input"
            yield violation("scale", step, step.scale, sentence)
            continue
        kind = graph.type_of_constant(step.scale)
        if kind not in _SCALE_TYPES:
            sentence = f"the scale of '{step.data}' must be float32, float16 or bfloat16, but is {kind}"
            yield violation("scale", step, step.scale, sentence)
            continue
        values = graph.values(step.scale).astype(np.float64)
        if not (np.isfinite(values) & (values > 0)).all():
            sentence = f"every scale of '{step.data}' must be finite and above 0, got {_least(values):g}"
            yield violation("scale", step, step.scale, sentence)


def _least(values: np.ndarray) -> float:
    odd = values[~np.isfinite(values)]
    return float(odd[0]) if odd.size else float(values.min())


def check_granularity(graph: OnnxGraph) -> Iterator[Violation]:
    """One scale for an activation; one, or one for each channel, for a weight; blocks for int4 only."""
    for step in graph.steps.values():
        shape = graph.shape(step.scale) if graph.is_constant(step.scale) else ()
        if math.prod(shape) == 1:
            continue
        if not graph.is_of_weight(step):
            sentence = f"the activation '{step.data}' must have one scale, got {math.prod(shape)}"
            yield violation("per channel", step, step.data, sentence)
        elif len(shape) == 1:
            yield from _check_channels(graph, step, shape[0])
        elif step.type != "int4":
            sentence = (
                f"'{step.data}' must have one scale, or one for each channel: blocks are for int4, not {step.type}"
            )
            yield violation("block", step, step.data, sentence)


def _check_channels(graph: OnnxGraph, step: Step, num_scales: int) -> Iterator[Violation]:
    shape = graph.weight_shape(step)
    axis = step.axis % len(shape) if shape else 0
    if not shape or shape[axis] != num_scales:
        sentence = (
            f"'{step.data}' of shape {shape} must have a scale for each place along axis {axis}, got {num_scales}"
        )
        yield violation("per channel", step, step.data, sentence)
        return
    for use in graph.dequantized_uses(step):
        wanted = _channel_axis(graph, use, len(shape))
        if wanted is not None and axis != wanted:
            sentence = (
                f"the scales of '{step.data}' must lie along axis {wanted}, as {use.node.op_type} "
                f"'{node_name(use.node)}' reads it, got axis {axis}"
            )
            yield violation("per channel", step, step.data, sentence)


def _channel_axis(graph: OnnxGraph, use: Use, rank: int) -> int | None:
    """Of the output channels; of a transposed convolution the input channels, for which TensorRT's kernels are made."""
    kind, place = use.node.op_type, use.place
    if kind in ("Conv", "ConvTranspose") and place == 1:
        return 0
    if kind == "Gemm" and place < 2:
        is_transposed = bool(graph.attribute(use.node, ("transA", "transB")[place], 0))
        return int(is_transposed) if place == 0 else 1 - int(is_transposed)
    if kind == "MatMul" and rank >= 2:
        return rank - 1 if place == 1 else rank - 2
    return None


def check_int4(graph: OnnxGraph) -> Iterator[Violation]:
    """Weights of matrix products only, in blocks of 64 or 128 along one of the last two axes."""
    for step in graph.steps.values():
        if step.type != "int4":
            continue
        if not graph.is_of_weight(step):
            yield violation("int4", step, step.data, f"'{step.data}' must be a weight to be int4, but is computed")
            continue
        readers = {use.node.op_type for use in graph.dequantized_uses(step)}
        if not readers <= set(_MATRIX_PRODUCTS):
            sentence = f"int4 weights must be those of {' or '.join(_MATRIX_PRODUCTS)}, but '{step.data}' goes to "
            yield violation("int4", step, step.data, sentence + ", ".join(sorted(readers)))
        if fault := _block_fault(graph, step):
            yield violation("block", step, step.data, f"'{step.data}' is int4 and {fault}")


def _block_fault(graph: OnnxGraph, step: Step) -> str:
    """What is wrong with the blocks of an int4 weight; empty where nothing is."""
    shape = graph.weight_shape(step)
    scales = graph.shape(step.scale) if graph.is_constant(step.scale) else ()
    if len(shape) < 2 or len(scales) != len(shape):
        return f"must have a scale for each block, so scales of {len(shape)} axes, got {len(scales)}"
    if shape[-1] % 2:
        return f"must have an even last axis, for two values share a byte, got {shape[-1]}"
    axis = step.axis % len(shape)
    if axis < len(shape) - 2:
        return f"its blocks must lie along one of the last two axes, got axis {axis} of {len(shape)}"
    if step.block_size not in INT4_BLOCKS:
        return f"its blocks must have {' or '.join(map(str, INT4_BLOCKS))} values, got {step.block_size}"
    wanted = tuple(size // step.block_size if place == axis else size for place, size in enumerate(shape))
    if shape[axis] % step.block_size or scales != wanted:
        return f"shape {shape} must be whole blocks of {step.block_size} along axis {axis}, got scales {scales}"
    return ""
