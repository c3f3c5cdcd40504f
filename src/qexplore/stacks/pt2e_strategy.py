"""How each layer of a converted graph is quantized, read from its quantize and dequantize nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from qexplore.stacks.base import LayerStrategy, Settings
from qexplore.stacks.exported_modules import Call, innermost, layer_of, with_absent

_FUSED = frozenset(
    {"relu", "relu_", "hardtanh", "hardtanh_", "hardswish", "hardswish_", "silu", "silu_", "gelu", "tanh"}
    | {"leaky_relu", "leaky_relu_", "add", "add_", "dropout", "dropout_"}
)
"""What the kernels of a convolution or a Linear layer do before they give integers; a Dropout does nothing there."""

_NO_LAYERS = frozenset(
    {"dropout", "dropout_", "alias", "detach", "clone", "to", "_to_copy", "copy_"}
    | {"zeros", "ones", "full", "empty", "arange"}
)


@dataclass
class _Layer:
    """What is found of one layer: its rows may come from several nodes."""

    name: str
    type: str
    weights: list[str] = field(default_factory=list)
    activations: list[str] = field(default_factory=list)
    floats: list[str] = field(default_factory=list)  # operators that stay float
    kernels: list[str] = field(default_factory=list)  # layers in whose kernel it is computed
    reads_integers: bool = False


def read_strategy(
    converted: fx.GraphModule,
    network: nn.Module,
    calls: tuple[Call, ...],
    settings: Settings,
    float_modules: frozenset[str],
) -> tuple[LayerStrategy, ...]:
    """One row for every layer, in call order.

    Args:
        converted: what torchao gave.
        network: what was exported, for its modules.
        calls: in the exported graph.
        settings: for the reasons alone.
        float_modules: names that the predicate did not choose.
    """
    modules = dict(network.named_modules())
    layers: dict[str, _Layer] = {}
    nodes = [node for node in converted.graph.nodes if _computes(node)]
    for node in nodes:
        name, kind = _layer_of(node, modules)
        _look_at(layers.setdefault(name, _Layer(name, kind)), node)
    for node in nodes:
        _note_kernel(node, layers, modules)
    rows = {layer.name: _row(layer, settings, float_modules) for layer in layers.values()}
    return tuple(with_absent(rows, calls, modules))


def _computes(node: fx.Node) -> bool:
    """Whether a node is part of a layer: it computes floats, and is no bookkeeping around integers."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return False
    is_pooling = _quantizer_behind(node) is not None  # a flatten between integers is one of torchao's layers
    if (target.is_view and not is_pooling) or _operator(node) in _NO_LAYERS:
        return False
    given = pytree.tree_leaves(node.meta.get("val"))
    return any(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in given)


def _operator(node: fx.Node) -> str:
    return str(getattr(node.target, "_opname", ""))


def _layer_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> tuple[str, str]:
    return layer_of(innermost(node), modules) or (node.name, _operator(node).strip("_"))


def _look_at(layer: _Layer, node: fx.Node) -> None:
    weights = [text for one in node.all_input_nodes if (text := _weight(one))]
    behind = _output_of(node)[0]
    texts = [_activation(behind)] if behind is not None else [_at_run_time(one) for one in node.all_input_nodes]
    activations = [text for text in texts if text]
    layer.reads_integers |= any(_operator(one) == "dequantize_per_tensor" for one in node.all_input_nodes)
    layer.weights += weights
    layer.activations += activations
    if not weights and not activations:
        layer.floats.append(_operator(node).strip("_"))


def _note_kernel(node: fx.Node, layers: Mapping[str, _Layer], modules: Mapping[str, nn.Module]) -> None:
    """Tell the layers between a layer with weights and its quantizer that its kernel computes them."""
    name = _layer_of(node, modules)[0]
    behind, passed = _output_of(node)
    for one in passed:
        layer = layers.get(_layer_of(one, modules)[0])
        if behind is not None and layer is not None and layer.name != name:
            layer.activations = layer.activations or [_activation(behind)]
            layer.floats = []
            layer.kernels.append(name)


def _weight(node: fx.Node) -> str:
    """Such as ``"int8 per channel"``; empty for what is no dequantized constant."""
    if "dequantize_per" not in _operator(node) or not _is_constant(node.args[0]):
        return ""
    is_per_channel = "per_channel" in _operator(node)
    quant_min, quant_max, dtype = node.args[-3:]
    return f"{_integer(quant_min, quant_max, dtype)} per {'channel' if is_per_channel else 'tensor'}"


def _is_constant(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.op == "get_attr"


def _integer(quant_min: Any, quant_max: Any, dtype: Any) -> str:
    """The narrowest integer that holds the range, such as ``"uint8"``, or ``"uint7"`` for 0 to 127."""
    num_bits = (int(quant_max) - int(quant_min)).bit_length()
    return f"{'int' if dtype.is_signed else 'uint'}{num_bits}"


def _output_of(node: fx.Node) -> tuple[fx.Node | None, list[fx.Node]]:
    """The quantizer of what a node gives, and the nodes that its kernel computes on the way there."""
    passed: list[fx.Node] = []
    has_kernel = any(_weight(one) for one in node.all_input_nodes)
    while (found := _quantizer_behind(node)) is None:
        users = list(node.users)
        if not has_kernel or len(users) != 1 or _operator(users[0]) not in _FUSED:
            return None, []
        node = users[0]
        passed.append(node)
    return found, passed


def _quantizer_behind(node: fx.Node) -> fx.Node | None:
    return next((user for user in node.users if _operator(user) == "quantize_per_tensor" and not _chosen(user)), None)


def _activation(quantizer: fx.Node) -> str:
    _, _, zero_point, quant_min, quant_max, dtype = quantizer.args
    scheme = "symmetric" if dtype.is_signed and zero_point == 0 else "affine"  # type: ignore[union-attr]
    return f"{_integer(quant_min, quant_max, dtype)} per tensor, {scheme}"


def _at_run_time(node: fx.Node) -> str:
    """What is said of an input that is quantized with a range found at run time."""
    quantizer = node.args[0] if _operator(node) == "dequantize_per_tensor" else None
    choose = _chosen(quantizer) if isinstance(quantizer, fx.Node) else None
    if choose is None:
        return ""
    scheme = "symmetric" if "symmetric" in _operator(choose) else "affine"
    return f"{_integer(*quantizer.args[3:6])} per tensor, {scheme}, at run time"  # type: ignore[union-attr]


def _chosen(quantizer: fx.Node) -> fx.Node | None:
    """The node that finds a quantizer's scale at run time, if one does."""
    scale = quantizer.args[1] if _operator(quantizer) == "quantize_per_tensor" else None
    if not isinstance(scale, fx.Node) or not scale.args or not isinstance(scale.args[0], fx.Node):
        return None
    return scale.args[0]


def _row(layer: _Layer, settings: Settings, float_modules: frozenset[str]) -> LayerStrategy:
    weights, activations = ("; ".join(dict.fromkeys(texts)) for texts in (layer.weights, layer.activations))
    row = LayerStrategy(layer.name, layer.type, weights, activations, "")
    if not row.is_quantized:
        return replace(row, reason=_why_float(layer, settings, float_modules))
    reason = _why_integers(row, layer, settings)
    if layer.floats:
        reason += f"; its {', '.join(dict.fromkeys(layer.floats))} stays float"
    return replace(row, reason=reason)


def _why_integers(row: LayerStrategy, layer: _Layer, settings: Settings) -> str:
    ranges = "learned in training" if settings.method == "qat" else "from calibration"
    if layer.kernels:
        return f"computed in the kernel of {', '.join(dict.fromkeys(layer.kernels))}"
    if not row.weights:
        if layer.reads_integers:
            return f"no weights: integers in, integers out; range {ranges}, or its input's"
        return f"computed in float, rounded for the layer that reads it; range {ranges}"
    if "at run time" in row.activations:
        return "weights rounded once; the input's range is taken at run time"
    scales = "a scale a channel, as their ranges differ" if "channel" in row.weights else "one scale for all channels"
    return f"integer kernel; {scales}; output " + (f"range {ranges}" if row.activations else "float")


def _why_float(layer: _Layer, settings: Settings, float_modules: frozenset[str]) -> str:
    if layer.name in float_modules:
        return f"not selected by modules={settings.modules}"
    if layer.type in ("LSTM", "GRU", "RNN"):
        return f'torchao has no integer kernel for {layer.type}: stack="fx" or "eager" quantizes it dynamically'
    if settings.method == "dynamic":
        return "dynamic quantization of torchao has integer kernels for Linear layers only"
    return "no integer kernel of torchao for it here"
