"""Every call gets a module of its own, in a copy of a float network."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from qexplore._table import Tabular, counted, text_table
from qexplore.errors import TraceError
from qexplore.model import foreign_hooks, takes_any_arguments
from qexplore.preparation.connections import Connections, check_example, outputs_of
from qexplore.preparation.folding import copied_network, require_equal


@dataclass(frozen=True)
class OwnModulesReport(Tabular):
    """What `give_own_modules` did; ``print`` shows it.

    Attributes:
        network: the copy. Where something changed it is a ``torch.fx.GraphModule`` with the network's class and module
            names; where nothing did, it is of the network's own class.
        changed: each module that was called more than once, with the names of the modules that now do its second and
            later calls.
        kept: each module that is still called more than once, or could not be looked into, with the reason.
        difference: largest difference of outputs on the example, as a share of the largest one; None without example.
    """

    network: nn.Module
    changed: Mapping[str, tuple[str, ...]]
    kept: Mapping[str, str]
    difference: float | None

    def __str__(self) -> str:
        found = counted(len(self.changed), "module")
        lines = [f"{found} called more than once: every call has a module of its own now"]
        if self.difference is not None:
            lines.append(f"Outputs on the example differ by at most {self.difference:.1e} of the largest")
        rows = [(name, f"also {', '.join(others)}") for name, others in self.changed.items()]
        rows += [(name, f"stays: {reason}") for name, reason in self.kept.items()]
        return "\n".join([*lines, text_table(("module", ""), rows)] if rows else lines)


def give_own_modules(network: nn.Module, example_input: Any = None) -> OwnModulesReport:
    """Give every call of a module that is called more than once a module of its own, in a copy of ``network``.

    PyTorch's quantization stacks keep one observer a module and fuse modules by name, so a ReLU that is called twice
    gets one range for two tensors, is dropped without a word, or stops the stack. Modules with parameters or buffers
    stay shared: their calls share weights on purpose.

    Args:
        network: a float network that `torch.fx` can trace, not wrapped; left as it is.
        example_input: a tensor, a tuple of positional or a dict of keyword arguments, on which outputs before and after
            are compared. It also settles arguments that are no tensors; without it they have their defaults.

    Returns:
        What was done; its ``network`` is the copy.

    Raises:
        TraceError: `torch.fx` cannot trace the network, or it carries hooks that a graph would lose.
        ModelError: a network that cannot be copied, or whose outputs change.
        DataError: ``example_input`` has none of these forms, or ``forward`` does not take it or fails on it.
    """
    copied = copied_network(network)
    check_example(copied, example_input)
    connections = trace_network(copied, example_input)
    calls = {module: nodes for module, nodes in connections.calls.items() if len(nodes) > 1}
    kept = {connections.name_of(module): reason for module in calls if (reason := _refusal(connections, module))}
    kept |= {name: f"it cannot be looked into: {reason}" for name, reason in connections.opaque.items()}
    splits = {module: nodes for module, nodes in calls.items() if connections.name_of(module) not in kept}
    before = None if example_input is None else outputs_of(network, example_input)
    own = as_graph_module(connections) if splits else copied
    changed = {connections.name_of(module): _split(own, module, nodes) for module, nodes in splits.items()}
    if isinstance(own, fx.GraphModule):
        own.recompile()
    step = "giving every call its own module"
    difference = None if before is None else require_equal(before, own, example_input, step)
    return OwnModulesReport(own, changed, kept, difference)


def trace_network(network: nn.Module, example: Any = None) -> Connections:
    """The graph of ``network``, which is only looked at.

    Raises:
        TraceError: it cannot be traced, with the reason.
    """
    if takes_any_arguments(inspect.signature(network.forward)):
        raise TraceError(
            f"forward of {type(network).__name__} must name its arguments, but takes *args or **kwargs: wrap it in a "
            "network that names them"
        )
    return Connections(network, example)


def as_graph_module(connections: Connections) -> fx.GraphModule:
    """The traced network as a module that runs its graph; it holds the network's own modules, under their names.

    Arguments that tracing settled keep their names, with the settled value as default, and refuse another one. Modules
    that are never called are left out, and so is what the network does in training alone outside its modules.

    Raises:
        TraceError: the network carries hooks, which a graph would lose.
    """
    network, graph = connections.network, connections.graph
    if foreign_hooks(network):
        raise TraceError(
            f"{type(network).__name__} must carry no hooks of its own, for a graph would lose them: remove them, or "
            "put what they do into forward"
        )
    _name_arguments(connections)
    for node in graph.nodes:
        if getattr(node.target, "__name__", "") == "_assert_is_none":
            node.target = require_none
    graph.set_codegen(fx.graph.CodeGen())  # the one of settled arguments cannot be scripted, and has no defaults
    graph._tracer_cls = None  # unpickling traces the module's code, which plain torch.fx can
    module = fx.GraphModule(network, graph, class_name=type(network).__name__)
    flags = {name: one.training for name, one in network.named_modules(remove_duplicate=False)}
    for name, one in module.named_modules(remove_duplicate=False):
        one.training = flags[name]  # containers are new
    return module


@fx.node.has_side_effect
def require_none(value: Any, message: str) -> None:
    """Refuse a value for an argument that tracing settled to None.

    Torch's own check must not get into generated code: there it registers itself for patching under a name that the
    code does not have, and every later trace of the process stops with a KeyError.

    Raises:
        TraceError: it is not None.
    """
    if isinstance(value, fx.Proxy):
        value.tracer.create_proxy("call_function", require_none, (value, message), {})
    elif value is not None:
        raise TraceError(message)


def _name_arguments(connections: Connections) -> None:
    """Give placeholders the names that ``forward`` has for them, and settled ones their value as default."""
    names = list(inspect.signature(connections.network.forward).parameters)
    placeholders = [node for node in connections.graph.nodes if node.op == "placeholder"]
    if len(placeholders) != len(names):  # one for every leaf of a settled list or dict
        raise TraceError(
            f"arguments of {type(connections.network).__name__} that are no tensors must be single values, got "
            f"{connections.fixed}: wrap the network in one that holds them"
        )
    for node, name in zip(placeholders, names, strict=True):
        if name in connections.fixed:
            node.target, node.args = name, (connections.fixed[name],)


def _refusal(connections: Connections, module: nn.Module) -> str | None:
    """Why calls of ``module`` must go on sharing it; None when they need not."""
    if any(True for _ in module.parameters()) or any(True for _ in module.buffers()):
        return "its calls share weights or statistics"
    return "it carries hooks" if foreign_hooks(module) else None


def _split(own: nn.Module, module: nn.Module, nodes: list[fx.Node]) -> tuple[str, ...]:
    """Give every call after the first a copy of ``module``, named after it; returns the names."""
    name, taken = str(nodes[0].target), {name for name, _ in own.named_modules()}
    names: list[str] = []
    for number, node in enumerate(nodes[1:], start=2):
        free = f"{name}_{number}"
        while free in taken:
            free += "_"
        own.add_submodule(free, copy.deepcopy(module))  # type: ignore[operator]
        node.target = free
        names.append(free)
    return tuple(names)
