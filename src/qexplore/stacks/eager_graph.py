"""A float network as a graph that torch.ao's eager stack can work with: no writes, activations as modules, fused."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from qexplore.model import CONVOLUTIONS, TRANSPOSED
from qexplore.preparation import as_graph_module, give_own_modules, module_of, take_out_writes, trace_network
from qexplore.stacks.torch_ao import require

_MODULE_OF: dict[Any, tuple[type[nn.Module], tuple[str, ...]]] = {
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"), (nn.ReLU, ())),
    F.relu6: (nn.ReLU6, ()),
    F.hardswish: (nn.Hardswish, ()),
    F.leaky_relu: (nn.LeakyReLU, ("negative_slope",)),
    F.elu: (nn.ELU, ("alpha",)),
    F.dropout: (nn.Dropout, ("p",)),
    F.dropout2d: (nn.Dropout2d, ("p",)),
}
"""Functions that the stack knows as modules only, with the arguments behind the tensor."""

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
LAYERS = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)
"""Modules with weights that the stack computes in integers, by their exact class."""

HOLDING_RANGE = (
    *LAYERS,
    *_NORMS,
    nn.ELU,
    nn.GroupNorm,
    nn.Hardswish,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.LeakyReLU,
    nn.PReLU,
)
"""Modules that hold the range of their output once they are converted."""

_NORM_OF: dict[Any, Any] = dict(zip(LAYERS, (*_NORMS, *_NORMS, nn.BatchNorm1d), strict=True))


@dataclass(frozen=True)
class EagerGraph:
    """A copy of a float network as a graph.

    Attributes:
        network: nothing in it writes into its argument, and activation functions are modules. Outputs are the float
            network's.
        steps: names of the modules that it calls and of the other nodes that compute something, in call order.
        copies: modules that a later call of another one got of its own, with the name of that one.
        functions: modules that were functions.
        kept: modules that are called more than once all the same, or could not be looked into, with the reason.
    """

    network: fx.GraphModule
    steps: tuple[str, ...]
    copies: dict[str, str]
    functions: frozenset[str]
    kept: dict[str, str]


def graph_of(network: nn.Module, example: tuple[Any, ...], chosen: Collection[str] | None = None) -> EagerGraph:
    """A copy of ``network`` as a graph in eval mode, in which calls of the modules ``chosen`` (None: all) are apart.

    Raises:
        TraceError: the network cannot be traced.
        ModelError: the network cannot be copied.
    """
    report = give_own_modules(network, example)
    own = report.network
    graph = own if isinstance(own, fx.GraphModule) else as_graph_module(trace_network(own, example))
    take_out_writes(graph)
    functions = frozenset(_make_modules(graph))
    settle_padding(graph)
    names = [name for name, _ in graph.named_modules()] if chosen is None else chosen
    split = split_calls(graph, names)
    for node in graph.graph.nodes:
        node.type = None  # annotations that are strings mean nothing in the generated code
    graph.recompile()
    nodes = [node for node in graph.graph.nodes if node.op in ("call_module", "call_function", "call_method")]
    steps = map(step_of, nodes)
    copies = {copy: name for name, others in report.changed.items() for copy in others} | split
    kept = {name: reason for name, reason in report.kept.items() if name not in split.values()}
    return EagerGraph(graph, tuple(dict.fromkeys(steps)), copies, functions, kept)


def step_of(node: fx.Node) -> str:
    """What a step of the network is called in reports: the module's name, or the node's."""
    return str(node.target if node.op == "call_module" else node.name)


def add_module(network: nn.Module, name: str, module: nn.Module) -> str:
    """Put ``module`` under ``name``, or under the first free name after it; returns the name."""
    taken, free, number = dict(network.named_modules()), name, 1
    while free in taken or hasattr(network, free):
        number += 1
        free = f"{name}_{number}"
    network.add_submodule(free, module)  # type: ignore[operator]
    return free


def _make_modules(network: fx.GraphModule) -> list[str]:
    """Replace activation functions by modules; their names."""
    made = []
    for node in list(network.graph.nodes):
        if node.op not in ("call_function", "call_method") or node.target not in _MODULE_OF:
            continue
        kind, names = _MODULE_OF[node.target]
        given = dict(zip(names, node.args[1:], strict=False)) | {
            name: value for name, value in node.kwargs.items() if name in names
        }
        source = node.args[0] if node.args else node.kwargs["input"]
        if any(isinstance(value, fx.Node) for value in given.values()):
            continue
        name = add_module(network, str(node.name), kind(**given).train(network.training))
        with network.graph.inserting_before(node):
            call = network.graph.call_module(name, (source,))
        node.replace_all_uses_with(call)
        network.graph.erase_node(node)
        made.append(name)
    return made


def settle_padding(network: nn.Module) -> None:
    """Give convolutions that name their padding its numbers, where it is the same on both sides."""
    module: Any
    for module in network.modules():
        if type(module) in CONVOLUTIONS and isinstance(module.padding, str):
            sides = named_padding(module.padding, module.dilation, module.kernel_size)
            if not any(side % 2 for side in sides):
                module.padding = tuple(side // 2 for side in sides)


def named_padding(padding: str, dilation: Sequence[int], kernel_size: Sequence[int]) -> list[int]:
    """How many zeros ``"valid"`` or ``"same"`` add along each axis; where the number is odd, one more at the end."""
    return [0 if padding == "valid" else d * (k - 1) for d, k in zip(dilation, kernel_size, strict=True)]


# -------------------------------------------------------------------------------------------------------- fusing


def split_calls(network: fx.GraphModule, chosen: Collection[str]) -> dict[str, str]:
    """Give every call of a module that will hold a range a module of its own; the copies share weights and statistics.

    Args:
        network: changed.
        chosen: names of modules that may be in integers; others stay.

    Returns:
        The names of the new modules, with that of the module whose call each took.
    """
    first: dict[nn.Module, str] = {}
    copies: dict[str, str] = {}
    for node in network.graph.nodes:
        module = module_of(network, node)
        if not isinstance(module, HOLDING_RANGE) or node.target not in chosen or any(True for _ in module.children()):
            continue
        name = first.setdefault(module, str(node.name))
        if name != node.name:
            shared = {id(one): one for one in (*module.parameters(), *module.buffers())}
            original = str(node.target)
            node.target = add_module(network, original, copy.deepcopy(module, shared))
            copies[node.target] = original
    network.recompile()
    return copies


def layers_called_once(network: fx.GraphModule) -> list[str]:
    """Names of the layers that one node calls."""
    calls = Counter(module_of(network, node) for node in network.graph.nodes)
    nodes = [node for node in network.graph.nodes if calls[module_of(network, node)] == 1]
    return [str(node.target) for node in nodes if type(module_of(network, node)) in LAYERS]


def fuse_layers(network: fx.GraphModule, chosen: Collection[str], *, is_qat: bool) -> dict[str, tuple[str, ...]]:
    """Fuse every chosen layer with the BatchNorm and the ReLU behind it, where nothing else reads what is between.

    A ReLU6 stays where it is; but the layer before it is fused with a ReLU, so that no integers are spent on negative
    values.

    Args:
        network: as `graph_of` gives it; changed. In train mode for quantization-aware training.
        chosen: names of the layers that are to be computed in integers, each called once.
        is_qat: whether BatchNorm stays a module that can be trained, inside the fused one.

    Returns:
        The names that went into each fused layer, by the layer's name.
    """
    calls = Counter(module_of(network, node) for node in network.graph.nodes)
    fused = {}
    for node in list(network.graph.nodes):
        if node.op != "call_module" or node.target not in chosen:
            continue
        gone = _fuse(network, node, _fusable_behind(network, node, calls, is_qat), is_qat)
        if gone:
            fused[str(node.target)] = gone
    network.recompile()
    return fused


def _fusable_behind(
    network: fx.GraphModule, node: fx.Node, calls: Mapping[nn.Module | None, int], is_qat: bool
) -> list[fx.Node]:
    """The BatchNorm and the activation right behind ``node``, as far as they are there; ``calls`` counts nodes."""
    behind = []
    reader = _sole_reader(node)
    if reader is not None and calls[module_of(network, reader)] == 1 and _takes_norm(network, node, reader, is_qat):
        behind.append(reader)
        reader = _sole_reader(reader)
    if reader is not None and _relu_kind(network, reader) is not None:
        behind.append(reader)
    return behind


def _relu_kind(network: fx.GraphModule, node: fx.Node) -> type[nn.Module] | None:
    """The class of the ReLU or ReLU6 that ``node`` is, as a module or a function; None for others."""
    if node.op == "call_module":
        kind: Any = type(module_of(network, node))
    else:
        kind = _MODULE_OF.get(node.target, (None,))[0] if node.op in ("call_function", "call_method") else None
    return kind if kind in (nn.ReLU, nn.ReLU6) else None


def _sole_reader(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _takes_norm(network: fx.GraphModule, node: fx.Node, reader: fx.Node, is_qat: bool) -> bool:
    """Whether ``reader`` is a BatchNorm that can be fused into the layer that ``node`` calls."""
    layer: Any = module_of(network, node)
    norm: Any = module_of(network, reader)
    if type(norm) is not _NORM_OF[type(layer)] or norm.running_mean is None:
        return False
    if not norm.affine and (is_qat or isinstance(layer, nn.Linear)):
        return False  # torch.ao's functions ask for its weight
    if isinstance(layer, nn.Linear):
        return node.meta.get("dims") == 2  # else BatchNorm's channels lie on another axis
    return type(layer) in CONVOLUTIONS or (not is_qat and layer.groups == 1)


def _fuse(network: fx.GraphModule, node: fx.Node, behind: list[fx.Node], is_qat: bool) -> tuple[str, ...]:
    """Let the module of ``node`` do what those of ``behind`` do, as far as torch.ao can; the names that are gone."""
    fused: Any = module_of(network, node)
    modules: list[Any] = [_module_for(network, one, fused.training) for one in behind]
    kinds = [nn.ReLU if type(one) is nn.ReLU6 else type(one) for one in modules]
    gone: list[str] = []
    while modules:
        count = next((n for n in (len(modules), 1) if _fuser(type(fused), *kinds[:n])), 0)
        if count == 0:
            break
        keeps_relu6 = type(modules[count - 1]) is nn.ReLU6
        taken = [nn.ReLU().train(one.training) if type(one) is nn.ReLU6 else one for one in modules[:count]]
        fused = _fuser(type(fused), *kinds[:count])(is_qat, fused, *taken)
        if keeps_relu6 and not is_qat:
            fused[-1] = nn.ReLU6()  # calibration then sees no value over 6, where the integers need none
        for one in behind[: count - keeps_relu6]:
            gone.append(step_of(one))
            one.replace_all_uses_with(node)
            network.graph.erase_node(one)
            if one.op == "call_module" and not any(one.target == other.target for other in network.graph.nodes):
                network.delete_submodule(str(one.target))
        modules, kinds, behind = modules[count:], kinds[count:], behind[count:]
    network.set_submodule(str(node.target), fused)
    return tuple(gone)


def _module_for(network: fx.GraphModule, node: fx.Node, training: bool) -> nn.Module:
    """What ``node`` does as a module that no other node calls: an activation may be called elsewhere too."""
    kind = _relu_kind(network, node)
    return module_of(network, node) or nn.Identity() if kind is None else kind().train(training)


def _fuser(*kinds: type[nn.Module]) -> Any:
    """torch.ao's function that fuses modules of these classes; None where it has none."""
    try:
        return require("get_fuser_method")(kinds)
    except AssertionError:
        return None
