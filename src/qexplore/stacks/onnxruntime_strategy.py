"""How each layer of a file that onnxruntime quantized is quantized, read from its nodes and initializers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from qexplore._optional import import_optional
from qexplore.stacks import reasons
from qexplore.stacks.absent import Call, with_absent
from qexplore.stacks.base import Settings
from qexplore.stacks.exported_modules import Found, innermost, layer_of
from qexplore.stacks.layer import LayerStrategy, Stored
from qexplore.stacks.onnxruntime_ties import tied_parameters

_MOVES_ONLY = frozenset(
    {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Shape", "Slice", "Cast", "Identity", "Constant", "Flatten"}
    | {"Expand", "Split", "ConstantOfShape", "Range", "Gather", "Concat", "Dropout"}
    | {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
)
"""Operators that move values and do not change them: no layers, unless integers are read from them."""

_AT_RUN_TIME = frozenset({"ConvInteger", "MatMulInteger", "DynamicQuantizeLSTM"})
OF_GEMM = "_MatMul"
"""What dynamic quantization adds to the name of a Gemm, of which it makes a MatMul first of all."""

_RECURRENT = ("LSTM", "GRU", "RNN")


@dataclass
class Layer(Found):
    """The layer that an ONNX node belongs to: a module, or a function called like its own node."""

    is_module: bool = False
    computes: bool = False


def owners_of(graph: Any, nodes: Iterable[fx.Node], modules: Mapping[str, nn.Module]) -> dict[str, Layer]:
    """The layer of each node of a float ONNX graph, by the node's name.

    Args:
        graph: what is quantized.
        nodes: of the exported program that it was written from; ONNX values have their names.
        modules: of the network, by name.
    """
    scopes = {node.name: innermost(node) for node in nodes if node.op == "call_function"}
    readers = {value: node for node in reversed(graph.node) for value in node.input}
    # Of a weight that several modules hold, the name does not tell whose node it is.
    initializers = {one.name for one in graph.initializer} - tied_parameters(modules)
    return {node.name: _owner(node, scopes, readers, initializers, modules) for node in graph.node}


def _owner(
    node: Any,
    scopes: Mapping[str, str],
    readers: Mapping[str, Any],
    initializers: set[str],
    modules: Mapping[str, nn.Module],
) -> Layer:
    # A fused BatchNorm gives its own name to what the convolution before it gives, so parameters are asked first.
    for value in node.input:
        found = _layer_with(value, modules) if value in initializers else None
        if found is not None:
            return Layer(*found, is_module=True)
    last = node
    while last is not None and not (known := [value for value in last.output if value in scopes]):
        last = next((readers[value] for value in last.output if value in readers), None)
    if last is None:
        return Layer(node.name, node.op_type.lower())
    found = layer_of(scopes[known[0]], modules)
    return Layer(*found, is_module=True) if found else Layer(known[0], last.op_type.lower())


def _layer_with(parameter: str, modules: Mapping[str, nn.Module]) -> tuple[str, str] | None:
    name = parameter.rpartition(".")[0]
    parent = name.rpartition(".")[0]
    if isinstance(modules.get(parent), nn.MultiheadAttention):
        name = parent
    return layer_of(name, modules)


def read_strategy(
    graph: Any,
    owners: Mapping[str, Layer],
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
    layers: dict[str, Layer] = {}
    for node in graph.node:
        owner = _owner_by_name(node.name, owners)
        if owner is not None:
            layer = layers.setdefault(owner.name, owner)
            layer.weights += reader.weights(node) if owner.is_module else []  # of a function, they are constants
            layer.activations += reader.activations(node)
            layer.reads_integers |= reader.reads_integers(node)
            layer.computes |= node.op_type not in _MOVES_ONLY and node.name.removesuffix(OF_GEMM) in owners
    kept = [one for one in layers.values() if one.computes or one.weights or one.activations]
    rows = {one.name: one.row(settings, _why_float(one, settings, kept_float)) for one in kept}
    return with_absent(rows, calls, modules)


def _owner_by_name(name: str, owners: Mapping[str, Layer]) -> Layer | None:
    """Nodes that replace another one are called after it, such as ``"node_linear_MatMul_quant"``."""
    while name and name not in owners:
        name = name.rpartition("_")[0]
    return owners.get(name)


class _Reader:
    """Finds what stands around a node of a quantized graph."""

    def __init__(self, graph: Any) -> None:
        onnx = import_optional("onnx", extra="onnx", purpose='the stack "onnxruntime"')
        self._as_array = onnx.numpy_helper.to_array
        self._initializers = {one.name: one for one in graph.initializer}
        self._givers = {value: node for node in graph.node for value in node.output}
        self._readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for value in node.input:
                self._readers.setdefault(value, []).append(node)

    def _array(self, initializer: str) -> Any:
        return self._as_array(self._initializers[initializer])

    def weights(self, node: Any) -> list[Stored]:
        """How the weights that a node reads are stored."""
        if node.op_type in _AT_RUN_TIME:
            stems = {one: one.removesuffix("_quantized") for one in node.input}
            found = [self._weight(one, f"{stem}_scale", f"{stem}_zero_point") for one, stem in stems.items()]
        else:
            givers = filter(None, map(self._givers.get, node.input))
            found = [self._weight(*one.input) for one in givers if one.op_type == "DequantizeLinear"]
        return [one for one in found if one is not None]

    def _weight(self, name: str, scale_name: str, zero_point_name: str = "") -> Stored | None:
        if name not in self._initializers or scale_name not in self._initializers or name == scale_name:
            return None
        integers, scale = self._array(name), self._array(scale_name)
        if integers.dtype.name not in ("int8", "uint8") or _is_bias(name):
            return None  # a bias has 32 bits in a convolution, 8 in an addition
        has_zero_point = zero_point_name in self._initializers and self._array(zero_point_name).any()
        return Stored(
            "weights",
            num_bits=_width(integers),
            granularity="channel" if scale.size > 1 else "tensor",
            signed=integers.dtype.name == "int8",
            symmetric=None if has_zero_point else True,  # of a LayerNorm, say, which nobody computes in integers
        )

    def activations(self, node: Any) -> list[Stored]:
        """How the tensors that a node gives are stored, or the one it reads, where its range is taken at run time."""
        if node.op_type in _AT_RUN_TIME:
            return [Stored("activations", 8, signed=False, symmetric=False, at_run_time=True)]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            return []
        readers = [reader for value in node.output for reader in self._readers.get(value, [])]
        return [self._described(one) for one in readers if one.op_type == "QuantizeLinear"]

    def _described(self, quantizer: Any) -> Stored:
        zero_point = self._array(quantizer.input[2])
        signed = zero_point.dtype.kind == "i"
        symmetric = signed and not int(zero_point)
        return Stored("activations", 8 * zero_point.dtype.itemsize, signed=signed, symmetric=symmetric)

    def reads_integers(self, node: Any) -> bool:
        """Whether an input that is no weight comes from integers."""
        givers = [self._givers.get(value) for value in node.input]
        return any(
            one is not None and one.op_type == "DequantizeLinear" and one.input[0] not in self._initializers
            for one in givers
        )


def _is_bias(initializer: str) -> bool:
    """By the parameter's own name, such as ``bias_quantized`` or ``in_proj_bias``: a module's may hold any word."""
    return "bias" in initializer.rpartition(".")[2].split("_")


def _width(integers: Any) -> int:
    """Bits that the integers present need; with all of them reduced by one, 64 counts as 7 bits."""
    low, high = int(integers.min()), int(integers.max())
    if integers.dtype.name == "uint8":
        return max(1, high.bit_length())
    return next(bits for bits in range(2, 9) if low >= -(2 ** (bits - 1)) and high <= 2 ** (bits - 1))


def _why_float(layer: Layer, settings: Settings, kept_float: frozenset[str]) -> str:
    if layer.name in settings.left_float:
        return settings.left_float[layer.name]
    if layer.name in kept_float or (settings.modules is not None and not layer.is_module):
        return reasons.NOT_SELECTED.format(modules=settings.modules)
    if settings.method == "static" and layer.type in _RECURRENT:
        return reasons.RECURRENT_IN_ONNX
    reason = reasons.NO_DYNAMIC_KERNEL if settings.method == "dynamic" else reasons.NO_KERNEL_HERE
    return reason.format(kernel="onnxruntime")
