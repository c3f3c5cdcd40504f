"""Dynamic quantization of torch.ao's eager stack: Linear and recurrent layers, swapped in a copy of the network."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from qexplore.errors import StackError, TraceError
from qexplore.model import BY_KEYWORD, foreign_hooks
from qexplore.predicates import everything, select_modules
from qexplore.preparation import as_graph_module, trace_network
from qexplore.stacks import reasons
from qexplore.stacks.base import Settings
from qexplore.stacks.packed_linear import pack_converted
from qexplore.stacks.stopping import stopping
from qexplore.stacks.strategy import reason_for_float
from qexplore.stacks.torch_ao import RECURRENT, linear_qconfig_of, qconfig_of, require


def convert_dynamic(network: nn.Module, settings: Settings) -> nn.Module:
    """A copy of ``network`` whose Linear and recurrent layers hold integers.

    Raises:
        WorkflowError: there is no such layer among the selected modules, or torch.ao cannot convert one.
        SelectionError: ``settings.modules`` selects nothing.
    """
    model = _called_by_place(copy.deepcopy(network))
    layers = _layers(model, settings)
    if not layers:
        raise _nothing_to_convert(model, type(network).__name__, settings)
    for module in model.modules():
        if type(module) is nn.TransformerEncoderLayer:
            # Its fast path reads the weights of its linear layers, which are methods after conversion.
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder):
            # That path alone takes the nested tensors which this makes of a padding mask.
            module.enable_nested_tensor = module.use_nested_tensor = False
    linear, recurrent = linear_qconfig_of(settings), qconfig_of(settings)
    spec = {name: linear if type(module) is nn.Linear else recurrent for name, module in layers.items()}
    names = {module: name for name, module in model.named_modules()}
    further = list(_further_names(model, set()))
    with stopping(f"torch.ao cannot convert {type(network).__name__}", model):
        require("quantize_dynamic")(model, spec, inplace=True)
    model = pack_converted(model, settings.linear_num_bits)
    for parent, name, module in further:  # torch.ao swaps what stands there once more, or leaves it float
        parent._modules[name] = model.get_submodule(names[module])
    return model.eval()  # torch's new modules think that they are trained


def _nothing_to_convert(model: nn.Module, owner: str, settings: Settings) -> StackError:
    where = "" if settings.modules is None else f" among those that modules={settings.modules} selects"
    read = read_elsewhere(model)
    kinds = {name: one for name, one in model.named_modules() if isinstance(one, (nn.Linear, *RECURRENT))}
    why = {name: reason_for_float(name, one, settings) for name, one in kinds.items()}
    refused = {name: reasons.READ_ELSEWHERE if name in read else reason for name, reason in why.items()}
    told = "".join(f"; '{name}' is left out: {reason}" for name, reason in list(refused.items())[:3])
    return StackError(
        f"dynamic quantization needs a Linear, LSTM or GRU layer{where}, and {owner} has none that can be swapped{told}"
    )


@contextmanager
def each_once(model: nn.Module) -> Iterator[nn.Module]:
    """Let every module of ``model`` have one name for a block; a forward that ran may have given it others."""
    parents = {parent: dict(parent._modules) for parent, _, _ in _further_names(model, set())}
    for parent, name, _ in list(_further_names(model, set())):
        del parent._modules[name]
    try:
        yield model
    finally:
        for parent, modules in parents.items():
            parent._modules.clear()  # in their order, which a container calls them in
            parent._modules.update(modules)


def _further_names(module: nn.Module, seen: set[nn.Module]) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Where a module stands that stands elsewhere before: in which one, by what name, and itself."""
    seen.add(module)
    for name, child in module._modules.items():
        if child in seen:
            yield module, name, child
        elif child is not None:
            yield from _further_names(child, seen)


def _called_by_place(network: nn.Module) -> nn.Module:
    """``network``, or its graph where linear layers are called by keyword: torch.ao's name their argument otherwise."""
    try:
        connections = trace_network(network)
    except TraceError:
        return network
    by_keyword = (connections.module(node) for node in connections.graph.nodes if BY_KEYWORD in node.meta)
    return as_graph_module(connections) if any(isinstance(one, nn.Linear) for one in by_keyword) else network


def read_elsewhere(network: nn.Module) -> frozenset[str]:
    """Names of the modules whose parameters ``network`` reads by itself; none where that cannot be traced."""
    try:
        graph = trace_network(network).graph
    except TraceError:
        return frozenset()
    return frozenset(str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr")


def dynamic_notes(network: nn.Module) -> tuple[str, ...]:
    """What was done so that ``network`` passes."""
    encoders = sum(type(module) is nn.TransformerEncoderLayer for module in network.modules())
    if not encoders:
        return ()
    nested = any(getattr(module, "use_nested_tensor", False) for module in network.modules())
    padded = "; behind a padding mask the places that it hides hold values, not the fast path's zeros" if nested else ""
    return (
        f"{encoders} TransformerEncoderLayer modules take their plain path, for the fast one reads float weights; "
        f"attention inside them stays float{padded}",
    )


def _layers(model: nn.Module, settings: Settings) -> dict[str, Any]:
    selected = select_modules(model, everything if settings.modules is None else settings.modules)
    read = read_elsewhere(model)
    return {
        name: module
        for name, module in selected.items()
        if type(module) in (nn.Linear, *RECURRENT)  # by exact class: parametrized is another
        and not foreign_hooks(module)
        and name not in read
        and name not in settings.left_float
    }
