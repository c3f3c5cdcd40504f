"""Weights in a file as TensorRT wants them: in int8 or in its int4 blocks, and straight in front of their layers."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qexplore._optional import import_optional
from qexplore.errors import ExportError
from qexplore.export.checker import check_tensorrt
from qexplore.export.onnx_graph import OnnxGraph, Step
from qexplore.export.plan import ExportPlan
from qexplore.export.tensorrt import Stored, TensorRTPlan
from qexplore.export.weights import StoredWeight


def fitted_to_tensorrt(plan: ExportPlan, changed: TensorRTPlan) -> ExportPlan:
    """``plan`` of a model in TensorRT's form, with its weights in the types and scales that the file is to have."""
    weights = {name: store_for_tensorrt(weight, changed.stored(name)) for name, weight in plan.weights.items()}
    return replace(plan, weights=weights)


def finish_for_tensorrt(path: str | Path) -> None:
    """Bring the weights of a written file straight to their layers, and have it checked.

    Raises:
        ExportError: the file breaks a rule.
    """
    put_weights_at_layers(path)
    found = check_tensorrt(path)
    if not found.is_valid:
        sentences = "; ".join(map(str, found.violations))
        raise ExportError(
            f"'{path}' must keep to TensorRT's rules, but it does not: {sentences}. Switch the points off that are "
            'named there (num_bits 0), or write for target="onnxruntime"'
        )


def store_for_tensorrt(weight: StoredWeight, kind: Stored) -> StoredWeight:
    """``weight`` in the type ``kind``; outside int4 in its own shape, with one scale or one for each channel.

    What shares a scale by then, shares it in the file: see `qexplore.export.tensorrt.in_tensorrt_form`.
    """
    if kind == "int4":
        return weight
    scale, axis = weight.scale, weight.axis
    if (scale == scale.flat[0]).all():
        scale, axis = scale.reshape(-1)[0].reshape(()), None
    elif weight.block_size:
        assert (scale == scale[:, :1]).all(), "the blocks of a channel share their scale"
        scale, axis = np.ascontiguousarray(scale[:, 0]), 0
    encoding = replace(weight.encoding, type=kind)
    return replace(
        weight, encoding=encoding, values=_folded(weight), scale=scale, axis=axis, block_size=0, unfolded=None
    )


def _folded(weight: StoredWeight) -> NDArray[np.float32]:
    """The values in the shape of the weight."""
    if weight.unfolded is None or weight.unfolded == weight.shape:
        return weight.values.reshape(weight.shape)
    return np.ascontiguousarray(weight.values.reshape(weight.unfolded).swapaxes(1, 2)).reshape(weight.shape)


def put_weights_at_layers(path: str | Path) -> None:
    """Rewrite the file at ``path`` so that no Transpose stands between a quantized weight and its layer.

    torch writes one for a Linear layer on inputs of more than two axes. What is transposed instead are the stored
    integers, and their scales.
    """
    onnx = import_optional("onnx", extra="onnx", purpose="writing an ONNX file")
    file = Path(path)
    model = onnx.load(str(file))
    graph = OnnxGraph(model)
    replaced: set[str] = set()
    for node in model.graph.node:
        step = graph.steps.get(node.input[0]) if node.op_type == "Transpose" else None
        if step is not None and not step.quantizes and graph.is_constant(step.data):
            node.CopyFrom(_transposed(onnx, model, graph, step, node))
            replaced.add(step.result)
    if replaced:
        _drop_unread(model, replaced)
        beside = file.with_name(f"{file.name}.data")
        onnx.save(model, str(file), save_as_external_data=beside.is_file(), location=beside.name)


def _transposed(onnx: Any, model: Any, graph: OnnxGraph, step: Step, transpose: Any) -> Any:
    """A DequantizeLinear of the transposed constants, in place of ``transpose``."""
    rank = len(graph.shape(step.data))
    order = graph.attribute(transpose, "perm", list(reversed(range(rank))))
    known = {tensor.name for tensor in model.graph.initializer}
    inputs = []
    for name in filter(None, (step.data, step.scale, step.zero_point)):
        if math.prod(graph.shape(name)) == 1 or len(graph.shape(name)) < rank:
            inputs.append(name)
            continue
        inputs.append(f"{name}.{'_'.join(map(str, order))}")
        if inputs[-1] not in known:
            values = np.ascontiguousarray(graph.values(name).transpose(order))
            model.graph.initializer.append(onnx.numpy_helper.from_array(values, inputs[-1]))
    attributes = {"axis": order.index(step.axis % rank)}
    attributes |= {"block_size": step.block_size} if step.block_size else {}
    name = step.node.name and f"{step.node.name}.{transpose.name}"
    return onnx.helper.make_node("DequantizeLinear", inputs, list(transpose.output), name=name, **attributes)


def _drop_unread(model: Any, results: set[str]) -> None:
    """Take out the nodes that made ``results``, and their constants, where nobody reads them any more."""
    read = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    gone = [node for node in model.graph.node if results & set(node.output) and not read & set(node.output)]
    for node in gone:
        model.graph.node.remove(node)
    still = {name for node in model.graph.node for name in node.input}
    unread = {name for node in gone for name in node.input} - still
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name in unread]:
        model.graph.initializer.remove(tensor)
