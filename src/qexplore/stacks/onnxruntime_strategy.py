"""How each layer of a file that onnxruntime quantized is quantized, read from its nodes and initializers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from qexplore._optional import import_optional
from qexplore.stacks.base import LayerStrategy, Settings
from qexplore.stacks.exported_modules import Call, innermost, is_layer, layer_of, with_absent

_MOVES_ONLY = frozenset(
    {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Shape", "Slice", "Cast", "Identity", "Constant", "Flatten"}
    | {"Expand", "Split", "ConstantOfShape", "Range", "Gather", "Concat", "Dropout"}
    | {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
)
"""Operators that move values and do not change them: no layers, unless integers are read from them."""

_AT_RUN_TIME = frozenset({"ConvInteger", "MatMulInteger", "DynamicQuantizeLSTM"})
_RECURRENT = ("LSTM", "GRU", "RNN")


@dataclass(frozen=True)
class Owner:
    """The layer that an ONNX node belongs to.

    Attributes:
        name: of the module, or of the function's own node.
        type: of the module, or of the function.
        is_module: whether it is a module.
    """

    name: str
    type: str
    is_module: bool


def owners_of(graph: Any, nodes: Iterable[fx.Node], modules: Mapping[str, nn.Module]) -> dict[str, Owner]:
    """The layer of each node of a float ONNX graph, by the node's name.

    Args:
        graph: what is quantized.
        nodes: of the exported program that it was written from; ONNX values have their names.
        modules: of the network, by name.
    """
    scopes = {node.name: innermost(node) for node in nodes if node.op == "call_function"}
    readers = {value: node for node in reversed(graph.node) for value in node.input}
    initializers = {one.name for one in graph.initializer}
    return {node.name: _owner(node, scopes, readers, initializers, modules) for node in graph.node}


def _owner(
    node: Any,
    scopes: Mapping[str, str],
    readers: Mapping[str, Any],
    initializers: set[str],
    modules: Mapping[str, nn.Module],
) -> Owner:
    # A fused BatchNorm gives its own name to what the convolution before it gives, so parameters are asked first.
    for value in node.input:
        found = _layer_with(value, modules) if value in initializers else None
        if found is not None:
            return Owner(*found, is_module=True)
    last = node
    while last is not None and not (known := [value for value in last.output if value in scopes]):
        last = next((readers[value] for value in last.output if value in readers), None)
    if last is None:
        return Owner(node.name, node.op_type.lower(), is_module=False)
    found = layer_of(scopes[known[0]], modules)
    return Owner(*found, is_module=True) if found else Owner(known[0], last.op_type.lower(), is_module=False)


def _layer_with(parameter: str, modules: Mapping[str, nn.Module]) -> tuple[str, str] | None:
    name = parameter.rpartition(".")[0]
    parent = name.rpartition(".")[0]
    if isinstance(modules.get(parent), nn.MultiheadAttention):
        name = parent
    return layer_of(name, modules) if name in modules and is_layer(modules[name]) else None


@dataclass
class _Layer:
    owner: Owner
    weights: list[str] = field(default_factory=list)
    activations: list[str] = field(default_factory=list)
    reads_integers: bool = False
    computes: bool = False


def read_strategy(
    graph: Any,
    owners: Mapping[str, Owner],
    modules: Mapping[str, nn.Module],
    calls: tuple[Call, ...],
    settings: Settings,
    kept_float: frozenset[str],
) -> tuple[LayerStrategy, ...]:
    """One row for every layer, in call order.

    Args:
        graph: the quantized one.
        owners: of the nodes of the float graph.
        modules: of the network, by name.
        calls: of modules, in the exported program.
        settings: for the reasons alone.
        kept_float: names of modules that the predicate did not choose.
    """
    reader = _Reader(graph)
    layers: dict[str, _Layer] = {}
    for node in graph.node:
        owner = _owner_by_name(node.name, owners)
        if owner is not None:
            layer = layers.setdefault(owner.name, _Layer(owner))
            layer.weights += reader.weights(node) if owner.is_module else []  # of a function, they are constants
            layer.activations += reader.activations(node)
            layer.reads_integers |= reader.reads_integers(node)
            layer.computes |= node.op_type not in _MOVES_ONLY and node.name in owners
    kept = [one for one in layers.values() if one.computes or one.weights or one.activations]
    rows = {one.owner.name: _row(one, settings, kept_float) for one in kept}
    return tuple(with_absent(rows, calls, modules))


def _owner_by_name(name: str, owners: Mapping[str, Owner]) -> Owner | None:
    """Nodes that replace another one are called after it, such as ``"node_linear_MatMul_quant"``."""
    while name and name not in owners:
        name = name.rpartition("_")[0]
    return owners.get(name)


class _Reader:
    """Finds what stands around a node of a quantized graph."""

    def __init__(self, graph: Any) -> None:
        onnx = import_optional("onnx", extra="onnx", purpose='the stack "onnxruntime"')
        self._array = onnx.numpy_helper.to_array
        self._initializers = {one.name: one for one in graph.initializer}
        self._givers = {value: node for node in graph.node for value in node.output}
        self._readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for value in node.input:
                self._readers.setdefault(value, []).append(node)

    def weights(self, node: Any) -> list[str]:
        """Such as ``["int8 per channel"]``."""
        if node.op_type in _AT_RUN_TIME:
            scale = "_quantized", "_scale"
            return [text for value in node.input if (text := self._weight(value, value.replace(*scale)))]
        givers = [self._givers.get(value) for value in node.input]
        dequantized = [giver for giver in givers if giver is not None and giver.op_type == "DequantizeLinear"]
        return [text for one in dequantized if (text := self._weight(one.input[0], one.input[1]))]

    def _weight(self, name: str, scale_name: str) -> str:
        if name not in self._initializers or scale_name not in self._initializers or name == scale_name:
            return ""
        integers, scale = (self._array(self._initializers[one]) for one in (name, scale_name))
        if integers.dtype.name not in ("int8", "uint8") or "bias" in name:
            return ""  # a bias has 32 bits in a convolution, 8 in an addition
        granularity = "channel" if scale.size > 1 else "tensor"
        return f"{integers.dtype.name.rstrip('8')}{_width(integers)} per {granularity}"

    def activations(self, node: Any) -> list[str]:
        """Such as ``["uint8 per tensor, affine"]``."""
        if node.op_type in _AT_RUN_TIME:
            return ["uint8 per tensor, affine, at run time"]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            return []
        readers = [reader for value in node.output for reader in self._readers.get(value, [])]
        return [self._described(one) for one in readers if one.op_type == "QuantizeLinear"]

    def _described(self, quantizer: Any) -> str:
        zero_point = self._array(self._initializers[quantizer.input[2]])
        is_symmetric = zero_point.dtype.name == "int8" and not int(zero_point)
        return f"{zero_point.dtype.name} per tensor, {'symmetric' if is_symmetric else 'affine'}"

    def reads_integers(self, node: Any) -> bool:
        """Whether an input that is no weight comes from integers."""
        givers = [self._givers.get(value) for value in node.input]
        return any(
            one is not None and one.op_type == "DequantizeLinear" and one.input[0] not in self._initializers
            for one in givers
        )


def _width(integers: Any) -> int:
    """Bits that the integers present need; with all of them reduced by one, 64 counts as 7 bits."""
    low, high = int(integers.min()), int(integers.max())
    if integers.dtype.name == "uint8":
        return max(1, high.bit_length())
    return next(bits for bits in range(2, 9) if low >= -(2 ** (bits - 1)) and high <= 2 ** (bits - 1))


def _row(layer: _Layer, settings: Settings, kept_float: frozenset[str]) -> LayerStrategy:
    weights, activations = ("; ".join(dict.fromkeys(texts)) for texts in (layer.weights, layer.activations))
    owner = layer.owner
    reason = _why_integers(weights, activations, layer) if weights or activations else ""
    return LayerStrategy(
        owner.name, owner.type, weights, activations, reason or _why_float(owner, settings, kept_float)
    )


def _why_integers(weights: str, activations: str, layer: _Layer) -> str:
    if "at run time" in activations:
        return "weights rounded once; the input's range is taken at run time"
    if not weights:
        if layer.reads_integers:
            return "no weights: integers in, integers out; range from calibration, or its input's"
        return "computed in float, rounded for the layer that reads it; range from calibration"
    scales = "a scale a channel, as their ranges differ" if "channel" in weights else "one scale for all channels"
    return f"integer kernel; {scales}; output " + ("range from calibration" if activations else "float")


def _why_float(owner: Owner, settings: Settings, kept_float: frozenset[str]) -> str:
    if owner.name in kept_float or (settings.modules is not None and not owner.is_module):
        return f"not selected by modules={settings.modules}"
    if settings.method == "static" and owner.type in _RECURRENT:
        return "onnxruntime has integer kernels for recurrent layers in dynamic quantization only"
    if settings.method == "dynamic":
        return "no integer kernel of onnxruntime for it in dynamic quantization"
    return "no integer kernel of onnxruntime for it here"
