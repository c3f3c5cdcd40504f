"""A file that onnxruntime quantized run beside the float one: what a layer gave, and what float makes of its inputs."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qexplore._onnx import OnnxModel
from qexplore._optional import import_optional
from qexplore._trees import tensors_of
from qexplore.stacks.base import Beside, Listener, Settings, Step
from qexplore.stacks.layer import LayerStrategy
from qexplore.stacks.rounding import Rounding

_GIVEN, _EXPECTED, _ROUNDED = "__given", "__expected", "__rounded"
_AXES = {"ConvTranspose": 1, "MatMul": 1, "Gemm": 1}
"""Output channels of weights where they are not the first axis."""


def onnx_beside(
    plain: Any, quantized: Any, owners: Mapping[str, Any], rows: Collection[LayerStrategy], settings: Settings
) -> Beside:
    """What runs a quantized ONNX model, and tells of each node of the float one that belongs to a row.

    Every value is an output more of the quantized model; the float one is cut at them, and reads them.

    Args:
        plain: the model that was quantized.
        quantized: what became of it; it has the float model's names for what its nodes give.
        owners: the layer of each node of ``plain``, by the node's name.
        rows: the strategy.
        settings: of the workflow.
    """
    known = {row.name: Rounding.of(row, settings) for row in rows}
    layers = _layers(plain.graph, owners, {row.name for row in rows if row.state == "absorbed"})
    made: list[_Models] = []

    def beside(args: tuple[Any, ...], listener: Listener) -> None:
        if not made:
            made.append(_Models(plain, quantized, layers, known))
        made[0].run(args, listener)

    return beside


def _layers(graph: Any, owners: Mapping[str, Any], absorbed: Collection[str]) -> dict[str, str]:
    """The layer that each node belongs to; what was absorbed belongs to the layer that it reads."""
    layers: dict[str, str] = {}
    givers = {name: node.name for node in graph.node for name in node.output}
    for node in graph.node:
        if node.name in owners:
            name = str(owners[node.name].name)
            before = next((givers[one] for one in node.input if one in givers), "")
            layers[node.name] = layers.get(before, name) if name in absorbed else name
    return layers


class _Models:
    """The quantized model with more outputs, and the float one in pieces, as it is and rounded."""

    def __init__(self, plain: Any, quantized: Any, layers: Mapping[str, str], known: Mapping[str, Rounding]) -> None:
        self._nodes = [node for node in plain.graph.node if layers.get(node.name) in known]
        self._layers, self._known = layers, known
        self._values = _shared_values(plain.graph, quantized.graph)
        cut = _cut(plain, self._values)
        rounded, self._rounded = _rounded(cut, self._values, layers, known)
        self._given, self._float, self._ideal = map(_session, (_with_outputs(quantized, self._values), cut, rounded))

    def run(self, args: tuple[Any, ...], listener: Listener) -> None:
        """On the arguments of a call."""
        if not self._values:
            return
        given = dict(zip(self._given.input_names, tensors_of(args), strict=False))
        given |= {name.removesuffix(_GIVEN): value for name, value in _outputs(self._given, given).items()}
        expected = _outputs(self._float, given)
        more = {name + _ROUNDED: rounding.output(given[name]) for name, rounding in self._rounded.items()}
        ideal = _outputs(self._ideal, given | more)
        for node in self._nodes:
            names = [name for name in node.output if name in self._values]
            layer = self._layers[node.name]
            rounding = self._known[layer]
            right = [ideal[name + _EXPECTED] for name in names]
            is_rounded = rounding.activations is not None and not rounding.takes_range
            right = rounding.output(right) if is_rounded else right
            others = [expected[name + _EXPECTED] for name in names]
            read = [given[name] for name in node.input if name in given]
            listener(Step(layer, [given[name] for name in names], others, right, read))


def _session(model: Any) -> OnnxModel:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        import_onnx().save(model, path)
        return OnnxModel(path, threads=torch.get_num_threads())


def _outputs(model: OnnxModel, feed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    given = model(**{name: feed[name] for name in model.input_names})
    return dict(zip(model.output_names, tensors_of(given), strict=True))


def _shared_values(plain: Any, quantized: Any) -> frozenset[str]:
    """Names of the floating tensors that nodes of both graphs give."""
    float_type = import_onnx().TensorProto.FLOAT
    typed = [*plain.value_info, *plain.output]
    floats = {one.name for one in typed if one.type.tensor_type.elem_type == float_type}
    made = {name for node in plain.node for name in node.output}
    return frozenset(floats & made & {name for node in quantized.node for name in node.output})


def import_onnx() -> Any:
    """The package onnx."""
    return import_optional("onnx", extra="onnx", purpose='the stack "onnxruntime"')


def _with_outputs(quantized: Any, values: frozenset[str]) -> Any:
    """``quantized`` with each of ``values`` as an output: rounded, where it is rounded for who reads it."""
    helper = import_onnx().helper
    model = copy.deepcopy(quantized)
    del model.graph.output[:]
    rounders = {node.input[0]: node for node in quantized.graph.node if node.op_type == "QuantizeLinear"}
    for name in values:
        rounder = rounders.get(name)
        if rounder is None:
            model.graph.node.append(helper.make_node("Identity", [name], [name + _GIVEN]))
        else:  # a node of its own, so that none of those that kernels are made of is read by somebody else
            read = [rounder.output[0], *rounder.input[1:]]
            model.graph.node.append(helper.make_node("DequantizeLinear", read, [name + _GIVEN]))
        model.graph.output.append(_floating(name + _GIVEN))
    return model


def _floating(name: str) -> Any:
    onnx = import_onnx()
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)


def _cut(plain: Any, values: frozenset[str]) -> Any:
    """``plain`` in which every node reads ``values`` from outside, and gives them under another name."""
    model = copy.deepcopy(plain)
    for node in model.graph.node:
        for place, name in enumerate(node.output):
            if name in values:
                node.output[place] = name + _EXPECTED
    del model.graph.output[:], model.graph.value_info[:]
    model.graph.output.extend(_floating(name + _EXPECTED) for name in values)
    model.graph.input.extend(map(_floating, values))
    return model


def _rounded(
    cut: Any, values: frozenset[str], layers: Mapping[str, str], known: Mapping[str, Rounding]
) -> tuple[Any, dict[str, Rounding]]:
    """The float model with weights as the rows have them, and what it reads rounded, where that is done at run time."""
    numpy_helper = import_onnx().numpy_helper
    model, read = copy.deepcopy(cut), dict[str, Rounding]()
    inputs = values | {one.name for one in cut.graph.input}
    initializers = {one.name: one for one in model.graph.initializer}
    for node in model.graph.node:
        rounding = known.get(layers.get(node.name, ""))
        for place, name in enumerate(node.input if rounding is not None else ()):
            assert rounding is not None
            if name in initializers:
                weight = torch.from_numpy(numpy_helper.to_array(initializers[name]).copy())
                rounded = rounding.weight(weight, _axis(node))
                initializers[name].CopyFrom(numpy_helper.from_array(rounded.numpy(), name))
            elif rounding.takes_range and name in inputs:
                read[name] = rounding
                node.input[place] = name + _ROUNDED
    model.graph.input.extend(_floating(name + _ROUNDED) for name in read)
    return model, read


def _axis(node: Any) -> int:
    """Where the output channels of a node's weight lie."""
    is_turned = any(one.name == "transB" and one.i for one in node.attribute)
    return 0 if is_turned else _AXES.get(node.op_type, 0)
