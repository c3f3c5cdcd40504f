"""What the FX stack did to each layer of a network, and what it could not do."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import Tensor, fx, nn

from qexplore.preparation import Connections
from qexplore.stacks import reasons
from qexplore.stacks.absent import NORMS, Call, with_absent
from qexplore.stacks.base import Settings
from qexplore.stacks.eager_graph import step_of
from qexplore.stacks.exported_modules import innermost, layer_of
from qexplore.stacks.fx_ranges import APART
from qexplore.stacks.layer import LayerStrategy
from qexplore.stacks.packed_functions import packed_of
from qexplore.stacks.strategy import (
    MOVES_ONLY,
    WEIGHTED,
    describe_activations,
    describe_tensors,
    describe_weights,
    is_left_out,
    reason_for_float,
    reason_for_integers,
)
from qexplore.stacks.torch_ao import require, wrong_kernel
from qexplore.stacks.twins import Twin


def strategy_of(
    network: nn.Module,
    connections: Connections,
    model: nn.Module,
    values: Mapping[fx.Node, Any],
    settings: Settings,
    found: Mapping[fx.Node, Twin],
) -> tuple[LayerStrategy, ...]:
    """One row for each step of ``network``, in call order.

    Args:
        network: in float.
        connections: its graph.
        model: the converted network.
        values: what every node of its graph gives.
        settings: for the reasons alone.
        found: what the nodes of ``model`` stand for.
    """
    rows: dict[str, LayerStrategy] = {}
    own_modules = dict(network.named_modules())
    for node in values:
        row = _row(own_modules, model, node, step_name(node, found), values, settings)
        if row is not None:
            rows.setdefault(row.name, row)
    return with_absent(rows, _calls(connections, rows), _modules(connections))


def _row(
    modules: Mapping[str, nn.Module],
    model: nn.Module,
    node: fx.Node,
    name: str,
    values: Mapping[fx.Node, Any],
    settings: Settings,
) -> LayerStrategy | None:
    original, output = None, values[node]
    if node.op == "call_module":
        original = modules[name]
        weights, kind = describe_weights(model.get_submodule(name)), type(original).__name__
    elif node.op in ("call_function", "call_method"):
        kind = _name_of(node).rpartition(".")[2].removesuffix("_dynamic")
        if kind in MOVES_ONLY or not isinstance(output, Tensor):
            return None
        packed = packed_of(model, node)
        weights = None if packed is None else describe_tensors([packed.unpack()[0]])
        name, kind = (weights and layer_of(innermost(node), modules)) or (name, kind)
    else:
        return None
    activations = describe_activations(output)
    reason = reason_for_integers(original, weights, activations, settings)
    reason = reason or _reason_for_float(name, original, node, modules, settings)
    return LayerStrategy.present(name, kind, weights, activations, reason)


def step_name(node: fx.Node, found: Mapping[fx.Node, Twin]) -> str:
    """The name of a converted node in the float graph: a module's, or that of the function's node."""
    return step_of(found[node].nodes[0] if node in found else node)


def row_name(network: nn.Module, model: nn.Module, node: fx.Node, found: Mapping[fx.Node, Twin]) -> str:
    """What the row of a node of the converted ``model`` is called: a function with weights like its module."""
    is_packed = node.op == "call_function" and packed_of(model, node) is not None
    layer = layer_of(innermost(node), dict(network.named_modules())) if is_packed else None
    return layer[0] if layer else step_name(node, found)


def _reason_for_float(
    name: str, original: nn.Module | None, node: fx.Node, modules: Mapping[str, nn.Module], settings: Settings
) -> str:
    if APART in node.meta:
        return str(node.meta[APART])
    around = innermost(node)
    if original is None and is_left_out(around, modules.get(around), settings):  # torch.ao asks a function's module
        return reasons.NOT_SELECTED.format(modules=settings.modules)
    own = reason_for_float(name, original, settings)
    if own != reasons.NO_KERNEL_HERE.format(kernel=settings.engine):
        return own
    if (node.target if original is None else type(original)) not in _known_to_fx():
        return reasons.NO_FORM_IN_FX
    return own if _is_dequantized(node) else reasons.READS_FLOAT


@functools.cache
def _known_to_fx() -> frozenset[Any]:
    """Classes, functions and methods of which torch.ao has an integer form for some input."""
    patterns = [config.pattern for config in require("get_native_backend_config")().configs]
    return frozenset(one for one in patterns if not isinstance(one, (tuple, type(None))))


def _is_dequantized(node: fx.Node) -> bool:
    """Whether what ``node`` reads was in integers, and is float for its sake."""
    return any(_name_of(one) == "dequantize" for one in node.all_input_nodes)


def _name_of(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


def _calls(connections: Connections, rows: Collection[str]) -> Iterator[Call]:
    for node in connections.graph.nodes:
        module = connections.module(node)
        name = _name_of(node) if module is None else connections.name_of(module)
        if name in WEIGHTED and innermost(node) in rows:
            name = innermost(node)
        source = str(node.args[0]) if node.args else ""
        yield Call(name, str(node), source, is_module=module is not None)


def _modules(connections: Connections) -> dict[str, nn.Module]:
    return {connections.name_of(one): one for one in connections.calls}


def notes_of(
    connections: Connections, copies: Mapping[str, str], rows: tuple[LayerStrategy, ...], settings: Settings
) -> Iterator[str]:
    """What was changed so that the network passes, and what could not be done."""
    modules = _modules(connections)
    if copies:
        shared = ", ".join(f"'{name}'" for name in dict.fromkeys(copies.values()))
        yield f"called more than once, so every call has a range of its own, and its weights in integers: {shared}"
    for name, why in connections.opaque.items():
        yield f"'{name}' cannot be traced and is taken as a whole, in float: {why}"
    folded = sum(row.state == "absorbed" and isinstance(modules.get(row.name), NORMS) for row in rows)
    if folded:
        yield f"{folded} BatchNorm layers are folded into the layers before them"
    if not any(row.is_quantized for row in rows):
        yield reasons.NOTHING
    if settings.method == "dynamic":
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
