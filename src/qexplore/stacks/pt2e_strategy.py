"""How each layer of a converted graph is quantized, read from its quantize and dequantize nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from qexplore.model import floating_tensors
from qexplore.stacks import reasons
from qexplore.stacks.absent import Call, with_absent
from qexplore.stacks.base import Settings
from qexplore.stacks.exported_modules import Found, innermost, layer_of
from qexplore.stacks.layer import LayerStrategy, Stored
from qexplore.stacks.torch_ao import RECURRENT

_FUSED = frozenset(
    {"relu", "relu_", "hardtanh", "hardtanh_", "hardswish", "hardswish_", "silu", "silu_", "gelu", "tanh"}
    | {"leaky_relu", "leaky_relu_", "add", "add_", "dropout", "dropout_"}
)
"""What the kernels of a convolution or a Linear layer do before they give integers; a Dropout does nothing there."""

_NO_LAYERS = frozenset(
    {"dropout", "dropout_", "sym_size", "alias", "detach", "clone", "to", "_to_copy", "copy_"}
    | {"zeros", "ones", "full", "empty", "arange"}
)


@dataclass
class _Layer(Found):
    floats: list[str] = field(default_factory=list)  # operators that stay float
    kernels: list[str] = field(default_factory=list)  # layers in whose kernel it is computed

    def why_integers(self, settings: Settings) -> str:
        kernels, floats = (", ".join(dict.fromkeys(names)) for names in (self.kernels, self.floats))
        reason = reasons.IN_KERNEL_OF.format(layers=kernels) if kernels else super().why_integers(settings)
        return reasons.PARTLY_FLOAT.format(reason=reason, operators=floats) if floats else reason


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
    rows = {
        one.name: one.row(settings, _why_float(one, modules.get(one.name), settings, float_modules))
        for one in layers.values()
    }
    return with_absent(rows, calls, modules)


def _computes(node: fx.Node) -> bool:
    """Whether a node is part of a layer: it computes floats, and is no bookkeeping around integers."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return False
    is_pooling = _quantizer_behind(node) is not None  # a flatten between integers is one of torchao's layers
    if (target.is_view and not is_pooling) or _operator(node) in _NO_LAYERS:
        return False
    return bool(floating_tensors(node.meta.get("val")))


def _operator(node: fx.Node) -> str:
    return str(getattr(node.target, "_opname", ""))


def row_name(node: fx.Node, modules: Mapping[str, nn.Module]) -> str:
    """What the row of a node is called that computes something."""
    return _layer_of(node, modules)[0]


def _layer_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> tuple[str, str]:
    return layer_of(innermost(node), modules) or (node.name, _operator(node).strip("_"))


def _look_at(layer: _Layer, node: fx.Node) -> None:
    weights = [found for one in node.all_input_nodes if (found := _weight(one))]
    behind = _output_of(node)[0]
    outputs = [_activation(behind)] if behind is not None else map(_at_run_time, node.all_input_nodes)
    activations = [found for found in outputs if found]
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


def _weight(node: fx.Node) -> Stored | None:
    """How a weight is stored; None for what is no dequantized constant."""
    if "dequantize_per" not in _operator(node) or not _is_constant(node.args[0]):
        return None
    granularity: Any = "channel" if "per_channel" in _operator(node) else "tensor"
    return Stored("weights", granularity=granularity, **_integers(*node.args[-3:]))


def _is_constant(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.op == "get_attr"


def _integers(quant_min: Any, quant_max: Any, dtype: Any) -> dict[str, Any]:
    """The narrowest integers that hold the range: 7 bits without sign for 0 to 127."""
    return {"num_bits": (int(quant_max) - int(quant_min)).bit_length(), "signed": dtype.is_signed}


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


def _activation(quantizer: fx.Node) -> Stored:
    stored = _integers(*quantizer.args[3:6])
    is_symmetric = bool(stored["signed"] and quantizer.args[2] == 0)
    return Stored("activations", symmetric=is_symmetric, **stored)


def _at_run_time(node: fx.Node) -> Stored | None:
    """How an input is stored that is quantized with a range found at run time; None for others."""
    quantizer: Any = node.args[0] if _operator(node) == "dequantize_per_tensor" else None
    choose = _chosen(quantizer) if isinstance(quantizer, fx.Node) else None
    if choose is None:
        return None
    is_symmetric = "symmetric" in _operator(choose)
    return Stored("activations", symmetric=is_symmetric, at_run_time=True, **_integers(*quantizer.args[3:6]))


def _chosen(quantizer: fx.Node) -> fx.Node | None:
    """The node that finds a quantizer's scale at run time, if one does."""
    scale = quantizer.args[1] if _operator(quantizer) == "quantize_per_tensor" else None
    if not isinstance(scale, fx.Node) or not scale.args or not isinstance(scale.args[0], fx.Node):
        return None
    return scale.args[0]


def _why_float(layer: _Layer, module: nn.Module | None, settings: Settings, float_modules: frozenset[str]) -> str:
    if layer.name in settings.left_float:
        return settings.left_float[layer.name]
    if layer.name in float_modules:
        return reasons.NOT_SELECTED.format(modules=settings.modules)
    if isinstance(module, RECURRENT):
        return reasons.RECURRENT_IN_PT2E.format(kind=layer.type)
    if isinstance(module, (nn.RNN, nn.RNNCell)):
        return reasons.RNN_IN_PT2E
    is_dynamic = settings.method == "dynamic"
    return reasons.DYNAMIC_IN_PT2E if is_dynamic else reasons.NO_KERNEL_HERE.format(kernel="torchao")
