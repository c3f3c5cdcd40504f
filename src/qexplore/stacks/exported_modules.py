"""Which module of a network a node of its exported graph comes from, and what the nodes tell of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import fx, nn
from torch.nn.utils import parametrize

from qexplore.predicates import as_predicate, select_modules
from qexplore.stacks import reasons
from qexplore.stacks.absent import Call
from qexplore.stacks.base import Settings
from qexplore.stacks.layer import LayerStrategy, Stored, together


@dataclass
class Found:
    """What the nodes of a quantized graph tell of one layer."""

    name: str
    type: str
    weights: list[Stored] = field(default_factory=list)
    activations: list[Stored] = field(default_factory=list)
    reads_integers: bool = False

    def row(self, settings: Settings, why_float: str) -> LayerStrategy:
        """The layer's row; ``why_float`` is its reason if nothing of it is in integers."""
        weights, activations = together(self.weights), together(self.activations)
        reason = self.why_integers(settings) if weights or activations else why_float
        return LayerStrategy.present(self.name, self.type, weights, activations, reason)

    def why_integers(self, settings: Settings) -> str:
        """Why so, where anything of the layer is in integers."""
        if any(one.at_run_time for one in self.activations):
            return reasons.AT_RUN_TIME
        weights, origin = together(self.weights), reasons.RANGE[settings.method]
        if weights:
            return reasons.in_kernel("integer", weights, origin if self.activations else "float")
        reason = reasons.NO_WEIGHTS if self.reads_integers else reasons.ROUNDED_FOR_READER
        return reason.format(range=origin)


def calls_of(nodes: Iterable[fx.Node]) -> tuple[Call, ...]:
    """The calls of modules among the nodes of a graph that nothing was done to, in order."""
    calls: dict[str, Call] = {}
    for node in nodes:
        name = innermost(node)
        if node.op == "call_function" and name not in calls:
            first = next(iter(node.all_input_nodes), None)
            calls[name] = Call(name, name, "" if first is None or first.op != "call_function" else innermost(first))
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
    """Whether a module computes by itself; attention and a parametrized layer do, with modules for their parameters."""
    is_whole = isinstance(module, nn.MultiheadAttention) or parametrize.is_parametrized(module)
    return is_whole or next(module.children(), None) is None


def float_modules(network: nn.Module, settings: Settings, originals: Mapping[str, str]) -> frozenset[str]:
    """Names in ``network`` of the modules that its predicate leaves float, and of what stays float besides.

    Args:
        network: what is exported.
        settings: of the workflow.
        originals: names of the user's modules, by those in ``network`` that differ.

    Raises:
        SelectionError: the predicate selects nothing.
    """
    if settings.modules is None:
        return frozenset(settings.left_float)
    select_modules(network, settings.modules)
    predicate = as_predicate(settings.modules)
    return frozenset(
        {
            name
            for name, module in network.named_modules()
            if is_layer(module) and not predicate(originals.get(name, name), module)
        }
    ).union(settings.left_float)
