"""What the eager stack did to each layer of a network, and what it changed so that the network passes."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from qexplore.model import calls_heard_by
from qexplore.stacks.base import LayerStrategy, Settings
from qexplore.stacks.eager_building import Built
from qexplore.stacks.eager_dynamic import RECURRENT
from qexplore.stacks.eager_graph import LAYERS
from qexplore.stacks.float_functional import Swapped
from qexplore.stacks.strategy import (
    MOVES_ONLY,
    describe_activations,
    describe_weights,
    reason_for_absence,
    reason_for_float,
    reason_for_integers,
)

_ONLY_IN_TRAINING = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity)
_LISTED = 5


def strategy_of(
    network: nn.Module, built: Built, model: Any, settings: Settings, example: tuple[Any, ...]
) -> tuple[LayerStrategy, ...]:
    """One row for each step of ``network``, read back from the converted ``model``."""
    interpreter = fx.Interpreter(model, garbage_collect_values=False)
    with torch.no_grad():
        interpreter.run(*example)
    rows: dict[str, LayerStrategy] = {}
    for node in model.graph.nodes:
        row = _row(network, built, model, node, interpreter.env.get(node), settings)
        if row is not None:
            rows.setdefault(row.name, row)
    for name, before in _gone(built).items():
        module = _float_module(network, built, name) or nn.ReLU()  # only functions that became ReLU are fused
        rows[name] = LayerStrategy(name, type(module).__name__, "", "", reason_for_absence(module, before))
    return tuple(rows[name] for name in built.graph.steps if name in rows)


def _row(
    network: nn.Module, built: Built, model: nn.Module, node: fx.Node, output: Any, settings: Settings
) -> LayerStrategy | None:
    functions: dict[Any, Swapped] = {one.name: one for one in built.swapped}
    holder: Any = node.args[0] if node.args else None
    weights, original = "", None
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
    if isinstance(original, _ONLY_IN_TRAINING):
        return LayerStrategy(name, kind, "", "", reason_for_absence(original, ""))
    activations = describe_activations(output)
    if weights or activations:
        reason = reason_for_integers(original, weights, activations, settings)
    else:
        reason = _reason_for_float(network, built, node, name, settings)
    return LayerStrategy(name, kind, weights, activations, reason)


def _reason_for_float(network: nn.Module, built: Built, node: fx.Node, name: str, settings: Settings) -> str:
    original = _float_module(network, built, name)
    if name in built.refused:
        return built.refused[name]
    float_name = built.graph.copies.get(name, name)
    if original is not None and settings.modules is not None and not settings.modules(float_name, original):
        return reason_for_float(float_name, original, settings)
    own = built.layout.domains.reasons.get(node.name)
    if own is not None:
        return own
    if isinstance(original, LAYERS) or type(original) in RECURRENT:
        return reason_for_float(name, original, settings)
    return "what it reads is float"


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
        notes.append(f"called more than once, so every call has a module of its own: {_listed(originals)}")
    notes += [f"'{name}' is called more than once or taken as a whole: {why}" for name, why in built.graph.kept.items()]
    if built.swapped:
        notes.append(f"functions that are modules now, to have a range: {_listed([one.node for one in built.swapped])}")
    left = defaultdict(list)
    for row in rows:
        if row.reason in built.layout.domains.reasons.values():
            left[row.reason].append(row.name)
    notes += [f"left float: {_listed(names)} ({reason})" for reason, names in left.items()]
    notes += [f"'{name}' is left float: {reason}" for name, reason in built.refused.items()]
    if built.layout.domains.contiguous:
        notes.append(
            f"the kernel of {settings.engine} goes wrong on tensors in channels-last order, so they are put in "
            f"contiguous order before: {_listed(built.layout.domains.contiguous)}"
        )
    if built.untrained:
        notes.append(
            f"rounded at conversion only, for torch.ao has no form of them that trains: {_listed(built.untrained)}"
        )
    return tuple(notes)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(f"'{name}'" for name in names[:_LISTED]) + more


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
    rows = []
    for module in called:
        weights = describe_weights(model.get_submodule(names[module]))
        if weights:
            reason = reason_for_integers(module, weights, "", settings)
        elif isinstance(module, _ONLY_IN_TRAINING):
            reason = reason_for_absence(module, "")
        else:
            reason = reason_for_float(names[module], module, settings)
        rows.append(LayerStrategy(names[module], type(module).__name__, weights, "", reason))
    return tuple(rows)
