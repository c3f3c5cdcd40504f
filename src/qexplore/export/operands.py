"""Which operands of products and sums a written file has in float, read from the file alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qexplore.export.onnx_graph import OnnxGraph, node_name, read_graph

_LAYERS = ("Conv", "ConvTranspose", "Gemm")
"""Their third input is a bias, which integers are added to, not multiplied with."""
_PRODUCTS = (*_LAYERS, "MatMul", "Einsum")
_SUMS = ("Add", "Sub", "Mul", "Concat")
_HAND_ON = frozenset(
    """
    MaxPool Reshape Flatten Transpose Squeeze Unsqueeze Gather GatherElements GatherND Slice Split Identity Expand Tile
    Pad Clip Relu DepthToSpace SpaceToDepth Dropout Concat Resize Where Max Min Cast
    """.split()  # noqa: SIM905
)
"""Every value of their result is one of the operands', a bound, or what is filled in: integers stay integers."""


def float_operands(path: str | Path) -> tuple[str, ...]:
    """A sentence for every operand in a file that is in float, though integers can be had there.

    Operands of products (Conv, ConvTranspose, Gemm, MatMul, Einsum), weights among them; and of a sum, a product by
    element or a concatenation the one in float where another is in integers. Moves of values and clips may stand
    between the integers and the operand. Of a sum, constants are no operands: biases, masks and numbers stay float.

    Args:
        path: of the ONNX file.

    Raises:
        ExportError: there is no such file, or it is not valid ONNX.
        MissingPackageError: ``onnx`` is not installed.
    """
    graph = read_graph(path)
    return tuple(sentence for node in graph.nodes for sentence in _of_node(graph, node))


def _of_node(graph: OnnxGraph, node: Any) -> Iterator[str]:
    if node.op_type in _PRODUCTS:
        names = list(node.input)[:2] if node.op_type != "Einsum" else list(node.input)
    elif node.op_type in _SUMS:
        names = [name for name in dict.fromkeys(node.input) if not _is_fixed(graph, name)]
        if not any(_is_integer(graph, name) for name in names):
            return
    else:
        return
    for place, name in enumerate(names):
        if not _is_integer(graph, name):
            what = "weight" if _is_fixed(graph, name) else f"operand {place + 1}"
            yield f"{node.op_type} '{node_name(node)}' has its {what} in float: '{name}'"


def _is_integer(graph: OnnxGraph, name: str) -> bool:
    """Whether a tensor comes from a DequantizeLinear, through nothing but moves."""
    if name in graph.steps:
        return True
    node = graph.producer(name)
    if node is None or node.op_type not in _HAND_ON:
        return False
    given = list(node.input) if node.op_type in ("Concat", "Max", "Min") else list(node.input)[:1]
    given = list(node.input)[1:] if node.op_type == "Where" else given
    varying = [one for one in given if not _is_fixed(graph, one)]
    return all(_is_integer(graph, one) for one in varying or given[:1])


def _is_fixed(graph: OnnxGraph, name: str) -> bool:
    """Whether a tensor is written in the file as floats, or made of such alone."""
    node = graph.producer(name)
    if node is None or name in graph.steps:
        return graph.is_constant(name)
    if node.op_type in ("Constant", "Shape"):
        return True
    return bool(node.input) and all(_is_fixed(graph, one) for one in node.input if one)
