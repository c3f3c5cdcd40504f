"""Which module of a network a node of its exported graph comes from, and which modules have no node left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import fx, nn

from qexplore.predicates import as_predicate, select_modules
from qexplore.stacks.base import LayerStrategy, Settings
from qexplore.stacks.strategy import reason_for_absence


@dataclass(frozen=True)
class Call:
    """A call of a module in a graph as it was exported.

    Attributes:
        name: of the module.
        source: name of the module whose output it takes; empty where none gave it.
    """

    name: str
    source: str


def calls_of(nodes: Iterable[fx.Node]) -> tuple[Call, ...]:
    """The calls of modules among the nodes of a graph that nothing was done to, in order."""
    calls: dict[str, Call] = {}
    for node in nodes:
        name = innermost(node)
        if node.op == "call_function" and name not in calls:
            first = next(iter(node.all_input_nodes), None)
            calls[name] = Call(name, "" if first is None or first.op != "call_function" else innermost(first))
    return tuple(calls.values())


def innermost(node: fx.Node) -> str:
    """Name of the module that a node comes from; empty for the network itself."""
    stack = node.meta.get("nn_module_stack") or {"": ("", "")}
    return str(list(stack.values())[-1][0])


def layer_of(name: str, modules: Mapping[str, nn.Module]) -> tuple[str, str] | None:
    """Name and type of the layer that is the module ``name``; None for a module that only holds others."""
    module = modules.get(name)
    return None if module is None or not is_layer(module) else (name, type(module).__name__)


def is_layer(module: nn.Module) -> bool:
    """Whether a module computes by itself; attention does, although it holds another module for its parameters."""
    return isinstance(module, nn.MultiheadAttention) or next(module.children(), None) is None


def float_modules(network: nn.Module, settings: Settings, original: Callable[[str], str]) -> frozenset[str]:
    """Names in ``network`` of the modules that its predicate leaves float; empty without a predicate.

    Args:
        network: what is exported.
        settings: of the workflow.
        original: from a name in ``network`` to the name of the user's module.

    Raises:
        SelectionError: the predicate selects nothing.
    """
    if settings.modules is None:
        return frozenset()
    select_modules(network, settings.modules)
    predicate = as_predicate(settings.modules)
    return frozenset(
        name for name, module in network.named_modules() if is_layer(module) and not predicate(original(name), module)
    )


def with_absent(
    rows: Mapping[str, LayerStrategy], calls: tuple[Call, ...], modules: Mapping[str, nn.Module]
) -> list[LayerStrategy]:
    """``rows`` and, behind the row before it, each module that has no node of its own any more."""
    behind: dict[str, list[LayerStrategy]] = {}
    into: dict[str, str] = {}
    last = ""
    for call in calls:
        module = modules.get(call.name)
        if call.name in rows:
            last = into[call.name] = call.name
        elif module is not None and next(module.children(), None) is None:
            into[call.name] = into.get(call.source, "")
            reason = reason_for_absence(module, into[call.name])
            behind.setdefault(last, []).append(LayerStrategy(call.name, type(module).__name__, "", "", reason))
    merged = list(behind.get("", []))
    for name, row in rows.items():
        merged += [row, *behind.get(name, [])]
    return merged
