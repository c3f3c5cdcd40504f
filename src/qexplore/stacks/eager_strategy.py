"""What the eager stack did to each layer of a network, and what it changed so that the network passes."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from qexplore.model import calls_heard_by
from qexplore.stacks import reasons
from qexplore.stacks.absent import ONLY_IN_TRAINING, absorbed
from qexplore.stacks.base import Settings
from qexplore.stacks.eager_building import Built
from qexplore.stacks.eager_dynamic import read_elsewhere
from qexplore.stacks.eager_graph import LAYERS, step_of
from qexplore.stacks.float_functional import Swapped
from qexplore.stacks.layer import LayerStrategy, listed
from qexplore.stacks.plain import has_own_forward
from qexplore.stacks.strategy import (
    MOVES_ONLY,
    WEIGHTED,
    describe_activations,
    describe_weights,
    is_left_out,
    reason_for_float,
    reason_for_integers,
    values_of,
)
from qexplore.stacks.torch_ao import RECURRENT


def strategy_of(
    network: nn.Module, built: Built, model: Any, settings: Settings, example: tuple[Any, ...]
) -> tuple[LayerStrategy, ...]:
    """One row for each step of ``network``, read back from the converted ``model``."""
    values = values_of(model, example)
    rows: dict[str, LayerStrategy] = {}
    for node in model.graph.nodes:
        row = _row(network, built, model, node, values.get(node), settings)
        if row is not None:
            rows.setdefault(row.name, row)
    for name, before in _gone(built).items():
        module = _float_module(network, built, name) or nn.ReLU()  # only functions that became ReLU are fused
        rows[name] = absorbed(name, module, before)
    return tuple(rows[name] for name in built.graph.steps if name in rows)


def row_name(node: fx.Node, swapped: Sequence[Swapped]) -> str:
    """What the row of a node of a converted graph is called."""
    functions = {one.name: one.node for one in swapped}
    holder: Any = node.args[0] if node.op == "call_method" and node.args else None
    return functions.get(str(getattr(holder, "target", "")), step_of(node))


def stands_for(model: fx.GraphModule, swapped: Sequence[Swapped]) -> dict[str, str]:
    """Names of the functions that modules do now, by the names of the nodes that call these."""
    names = {node.name: row_name(node, swapped) for node in model.graph.nodes if node.op == "call_method"}
    return {name: function for name, function in names.items() if name != function}


def _row(
    network: nn.Module, built: Built, model: nn.Module, node: fx.Node, output: Any, settings: Settings
) -> LayerStrategy | None:
    functions: dict[Any, Swapped] = {one.name: one for one in built.swapped}
    holder: Any = node.args[0] if node.args else None
    weights, original = None, None
    if node.op == "call_module":
        name = str(node.target)
        original = _float_module(network, built, name)
        if original is None and name not in built.graph.functions:
            return None  # a stub
        module = model.get_submodule(name)
        weights, kind = describe_weights(module), type(original or module).__name__
    elif node.op == "call_method" and holder.target in functions:
        swapped = functions[holder.target]
        name, kind = swapped.node, swapped.method
    elif node.op in ("call_function", "call_method"):
        name, kind = node.name, str(getattr(node.target, "__name__", node.target)).strip("_")
        if kind in MOVES_ONLY or not isinstance(output, Tensor):
            return None
    else:
        return None
    if isinstance(original, ONLY_IN_TRAINING):
        return absorbed(name, original, "")
    activations = describe_activations(output)
    reason = reason_for_integers(original, weights, activations, settings)
    reason = reason or _reason_for_float(network, built, node, name, settings)
    return LayerStrategy.present(name, kind, weights, activations, reason)


def _reason_for_float(network: nn.Module, built: Built, node: fx.Node, name: str, settings: Settings) -> str:
    original = _float_module(network, built, name)
    if name in built.refused:
        return built.refused[name]
    if node.op == "call_function" and getattr(node.target, "__name__", "") in WEIGHTED:
        return reasons.FUNCTION
    float_name = built.graph.copies.get(name, name)
    if float_name in settings.left_float:
        return settings.left_float[float_name]
    if is_left_out(float_name, original, settings):
        return reasons.NOT_SELECTED.format(modules=settings.modules)
    own = built.layout.domains.reasons.get(node.name)
    if own is not None and not has_own_forward(original):
        return own
    if isinstance(original, LAYERS) or has_own_forward(original) or type(original) in RECURRENT:
        return reason_for_float(name, original, settings)
    return reasons.READS_FLOAT


def _float_module(network: nn.Module, built: Built, name: str) -> nn.Module | None:
    """The module of the float network that ``name`` in the graph is, or is a copy of; None for others."""
    try:
        return network.get_submodule(built.graph.copies.get(name, name))
    except AttributeError:
        return None


def _gone(built: Built) -> dict[str, str]:
    """Modules that became part of another step, with the name of that one."""
    gone = {name: layer for layer, names in built.fused.items() for name in names}
    return gone | {one.relu: one.node for one in built.swapped if one.relu}


def notes_of(built: Built, rows: Sequence[LayerStrategy], settings: Settings) -> tuple[str, ...]:
    """What was changed so that the network passes, and what could not be done."""
    notes = []
    originals = list(dict.fromkeys(built.graph.copies.values()))
    if originals:
        notes.append(f"called more than once, so every call has a module of its own: {listed(originals)}")
    notes += [f"'{name}' is called more than once or taken as a whole: {why}" for name, why in built.graph.kept.items()]
    ranged = [one.node for one in built.swapped if not one.method.endswith("_scalar")]
    if ranged:
        notes.append(f"functions that are modules now, to have a range: {listed(ranged)}")
    own: dict[str, str | None] = {}
    for node in built.graph.network.graph.nodes:
        own.setdefault(step_of(node), built.layout.domains.reasons.get(node.name))
    left = defaultdict(list)
    for row in rows:
        reason = own.get(row.name)
        if reason and row.state == "float" and row.name not in built.refused:
            left[reason].append(row.name)
    notes += [f"left float: {listed(names)} ({reason})" for reason, names in left.items()]
    notes += [f"'{name}' is left float: {reason}" for name, reason in built.refused.items()]
    if built.layout.domains.contiguous:
        notes.append(
            f"the kernel of {settings.engine} goes wrong on tensors in channels-last order, so they are put in "
            f"contiguous order before: {listed(built.layout.domains.contiguous)}"
        )
    if built.untrained:
        notes.append(
            f"rounded at conversion only, for torch.ao has no form of them that trains: {listed(built.untrained)}"
        )
    return tuple(notes)


# ------------------------------------------------------------------------------------------------------- dynamic


def dynamic_strategy(
    network: nn.Module, model: nn.Module, settings: Settings, example: tuple[Any, ...]
) -> tuple[LayerStrategy, ...]:
    """One row for each module of ``network`` that computes something, in call order."""
    names = {module: name for name, module in network.named_modules()}
    called: dict[nn.Module, None] = {}
    layers = [one for one in names if not list(one.children()) or list(one.parameters(recurse=False))]
    with calls_heard_by(layers, lambda module, *_: called.setdefault(module)), torch.no_grad():
        network(*copy.deepcopy(example))
    rows, read = [], read_elsewhere(network)
    for module in called:
        name, weights = names[module], describe_weights(model.get_submodule(names[module]))
        if isinstance(module, ONLY_IN_TRAINING):
            rows.append(absorbed(name, module, ""))
            continue
        reason = reason_for_integers(module, weights, None, settings) or _reason_in_dynamic(
            name, module, settings, read
        )
        rows.append(LayerStrategy.present(name, type(module).__name__, weights, None, reason))
    return tuple(rows)


def _reason_in_dynamic(name: str, module: nn.Module, settings: Settings, read: Collection[str]) -> str:
    reason = reason_for_float(name, module, settings)
    if reason == reasons.NO_KERNEL_HERE.format(kernel=settings.engine) and name in read:
        return reasons.READ_ELSEWHERE
    is_own = not type(module).__module__.startswith("torch.") and bool(list(module.parameters(recurse=False)))
    return reasons.OWN_PARAMETERS if is_own and reason in (reasons.DYNAMIC, reasons.TAKEN_AS_A_WHOLE) else reason
