"""What the FX stack did to each layer of a network, and what it could not do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, fx, nn

from qexplore.preparation import Connections
from qexplore.stacks import reasons
from qexplore.stacks.absent import NORMS, Call, with_absent
from qexplore.stacks.base import Settings
from qexplore.stacks.layer import LayerStrategy
from qexplore.stacks.packed_functions import packed_of
from qexplore.stacks.strategy import (
    MOVES_ONLY,
    describe_activations,
    describe_tensors,
    describe_weights,
    is_left_out,
    reason_for_float,
    reason_for_integers,
    reason_for_kind,
)
from qexplore.stacks.torch_ao import wrong_kernel


def strategy_of(
    network: nn.Module, connections: Connections, model: nn.Module, values: Mapping[fx.Node, Any], settings: Settings
) -> tuple[LayerStrategy, ...]:
    """One row for each step of ``network``, in call order.

    Args:
        network: in float.
        connections: its graph.
        model: the converted network.
        values: what every node of its graph gives.
        settings: for the reasons alone.
    """
    rows: dict[str, LayerStrategy] = {}
    for node, value in values.items():
        row = _row(network, model, node, value, settings)
        if row is not None:
            rows.setdefault(row.name, row)
    return with_absent(rows, _calls(connections), _modules(connections))


def _row(network: nn.Module, model: nn.Module, node: fx.Node, output: Any, settings: Settings) -> LayerStrategy | None:
    original, weights = None, None
    if node.op == "call_module":
        name = str(node.target)
        original = network.get_submodule(name)
        weights, kind = describe_weights(model.get_submodule(name)), type(original).__name__
    elif node.op in ("call_function", "call_method"):
        name, kind = node.name, _name_of(node).rpartition(".")[2].removesuffix("_dynamic")
        if kind in MOVES_ONLY or not isinstance(output, Tensor):
            return None
        packed = packed_of(model, node)
        weights = None if packed is None else describe_tensors([packed.unpack()[0]])
    else:
        return None
    activations = describe_activations(output)
    reason = reason_for_integers(original, weights, activations, settings)
    reason = reason or _reason_for_float(name, original, node, settings)
    return LayerStrategy.present(name, kind, weights, activations, reason)


def _reason_for_float(name: str, original: nn.Module | None, node: fx.Node, settings: Settings) -> str:
    is_last = is_left_out(name, original, settings) or settings.method == "dynamic"
    if is_last or _is_dequantized(node) or reason_for_kind(original, settings):
        return reason_for_float(name, original, settings)
    return reasons.READS_FLOAT


def _is_dequantized(node: fx.Node) -> bool:
    """Whether what ``node`` reads was in integers, and is float for its sake."""
    return any(_name_of(one) == "dequantize" for one in node.all_input_nodes)


def _name_of(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


def _calls(connections: Connections) -> Iterator[Call]:
    for node in connections.graph.nodes:
        module = connections.module(node)
        name = _name_of(node) if module is None else connections.name_of(module)
        source = str(node.args[0]) if node.args else ""
        yield Call(name, str(node), source, is_module=module is not None)


def _modules(connections: Connections) -> dict[str, nn.Module]:
    return {connections.name_of(one): one for one in connections.calls}


def notes_of(connections: Connections, rows: tuple[LayerStrategy, ...], settings: Settings) -> Iterator[str]:
    """What was changed so that the network passes, and what could not be done."""
    modules = _modules(connections)
    for name, why in connections.opaque.items():
        yield f"'{name}' cannot be traced and is taken as a whole, in float: {why}"
    folded = sum(row.state == "absorbed" and isinstance(modules.get(row.name), NORMS) for row in rows)
    if folded:
        yield f"{folded} BatchNorm layers are folded into the layers before them"
    if settings.method == "dynamic":
        if not any(row.is_quantized for row in rows):
            yield "nothing is quantized: there is no Linear or recurrent layer that was selected"
        return
    left = [row for row in rows if not row.is_quantized]
    for row in left:
        module = modules.get(row.name)
        why = wrong_kernel(module, settings.engine)
        if why and not is_left_out(row.name, module, settings):
            yield f"'{row.name}' is left float: {why}"
    softmax = ", ".join(row.name for row in left if row.type.lower() == "softmax")
    if softmax:
        yield f"left float, for FX has no integer form of it: {softmax}; nn.Softmax has one"
