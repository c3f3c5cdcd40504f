"""A wrapped network as a graph: `torch.fx`, with every quantization point a node of its own."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils import parametrize

from qexplore._trees import map_leaves, opened
from qexplore.errors import TraceError
from qexplore.evaluation.calls import FRAME, SETTLED, CallsLost, SettledCalls, Site, place_calls
from qexplore.evaluation.layers import quantization_of
from qexplore.model import (
    ArgumentNames,
    Autocast,
    BiasCorrection,
    PathTracer,
    Placement,
    QuantizedModel,
    WeightQuantization,
    bound_arguments,
    comes_last,
    entered,
    floating_tensors,
    foreign_hooks,
    point_hooks,
    read_inside,
    remove_frames,
    remove_point_hooks,
    takes_any_arguments,
    trace_around,
    weight_quantizations,
    without_tensors,
)


class CaptureError(Exception):
    """A network that cannot be taken apart into steps; the message says why."""


def quantize(tree: Any, point: int, addend: Any = None) -> Any:
    """Stands in a graph for the quantizer of the point with this index, which may take a sum over."""
    raise AssertionError("a graph is run by its steps")


@dataclass
class Trace:
    """A traced network.

    Attributes:
        graph: its nodes; `quantize` marks the points. ``node.meta["autocast"]`` is the region of ``torch.autocast``
            that the network has entered there; None where it has entered none.
        root: holds the modules and tensors that nodes name. Points inside opaque modules keep their hooks.
        hidden: points inside a module that is run as a whole, by the module's name.
        weights: the point of the weight of a module that the graph calls, by the module's name; a weight that is read
            by itself goes by the name of its parametrizations.
        opaque: modules of the user's own that could not be looked into, each with the reason.
        signature: binds inputs to placeholders, which stand in its order.
        fixed: values of arguments that were settled while tracing, by name.
        names: of the points, by index.
    """

    graph: fx.Graph
    root: nn.Module
    hidden: dict[str, tuple[int, ...]]
    weights: dict[str, int]
    opaque: dict[str, str]
    signature: inspect.Signature
    fixed: dict[str, Any]
    names: tuple[str, ...]

    def bind(self, inputs: Any) -> list[Any]:
        """The values of the placeholders for ``inputs``, a batch's.

        Raises:
            CaptureError: arguments that are no tensors differ from those that were traced.
        """
        bound = bound_arguments(self.signature, inputs)
        for name, value in self.fixed.items():
            if bound[name] is not value and bound[name] != value:
                raise CaptureError(f"the argument '{name}' is {value!r} in one batch and {bound[name]!r} in another")
        return list(bound.values())


def trace(model: QuantizedModel, inputs: Any) -> Trace:
    """Trace ``model``, a copy that may be changed: hooks of points that become nodes are taken off.

    Args:
        model: in eval mode.
        inputs: one batch's, as `qexplore.model.call` takes them.

    Raises:
        CaptureError: says what stands in the way.
    """
    network = model.model
    _refuse_hooks(network)
    indices = {point.name: point.index for point in model.points}
    on_module = {id(module): indices[hook.name] for module, hook in point_hooks(network) if hasattr(hook, "outputs")}
    called, read = _found_points(model, indices)
    inside = _looked_into(network, {module for module, _ in called}, read)
    remove_frames(network)
    signature = inspect.signature(network.forward)
    if takes_any_arguments(signature):
        raise CaptureError(
            "the network's forward takes *args or **kwargs, for which a graph has no names: wrap it in a module whose "
            "forward names its arguments, such as `def forward(self, input_ids): return "
            "self.network(input_ids=input_ids, use_cache=False).logits`"
        )
    bound = bound_arguments(signature, inputs)
    fixed = without_tensors(bound)
    # A module with hooks of the user's own is run as a whole, hooks and all.
    hooked = [name for name, module in network.named_modules() if name and foreign_hooks(module)]
    try:
        graph, opaque = trace_around(network, partial(_Tracer, network, on_module, read, inside), fixed, hooked)
        _place_calls(graph, model, list(bound.values()), called)
    except (TraceError, CallsLost) as error:
        raise CaptureError(str(error)) from error
    _quantize_ends(graph, model, on_module, bound)
    explicit = {node.args[1] for node in graph.nodes if node.target is quantize}
    hidden, weights = _inside_modules(graph, network, indices, explicit)
    lost = set(indices.values()) - explicit.union(weights.values(), *hidden.values())
    if lost:
        names = ", ".join(point.name for point in model.points if point.index in lost)
        raise CaptureError(f"the points {names} do not appear in the traced network")
    met = {one: names for name in hidden for one, names in read_inside(network.get_submodule(name)).items()}
    for module, hook in point_hooks(network):
        if indices[hook.name] in explicit and hook.name not in met.get(module, ()):
            remove_point_hooks(module)
    unseen = {name: why for name, why in opaque.items() if not is_torchs(network.get_submodule(name))}
    return Trace(graph, network, hidden, weights, unseen, signature, fixed, tuple(point.name for point in model.points))


def region_of(node: fx.Node) -> AbstractContextManager[Any]:
    """The block of ``torch.autocast`` that ``node`` stands in."""
    autocast: Autocast | None = node.meta.get("autocast")
    return nullcontext() if autocast is None else autocast.region()


def itself(tree: Any) -> Any:
    """What a graph ends in, so that its output is always a node."""
    return tree


def _refuse_hooks(network: nn.Module) -> None:
    if foreign_hooks(network):
        raise CaptureError("the network itself carries hooks of its own")
    if torch.nn.modules.module._global_forward_hooks or torch.nn.modules.module._global_forward_pre_hooks:
        raise CaptureError("torch carries global module hooks")
    for name, module in network.named_modules():
        if not comes_last(module):
            raise CaptureError(f"'{name}' carries a hook that was added after its quantizer")


def is_torchs(module: nn.Module) -> bool:
    """Whether a module is one of torch's own."""
    return type(module).__module__.startswith("torch.nn")


Read = Mapping[str, Mapping[str, int]]
"""Points on what modules read: by the module's name and the argument's, "" standing for all."""


def _found_points(model: QuantizedModel, indices: Mapping[str, int]) -> tuple[dict[Site, int], Read]:
    """The points on calls, by site, and on what modules read."""
    called: dict[Site, int] = {}
    read: dict[str, dict[str, int]] = {}
    for point in model.found.points:
        called |= dict.fromkeys(point.calls, indices[point.name])
        for module, part in point.sites if point.kind == "argument" else ():
            read.setdefault(module, {})[part] = indices[point.name]
    return called, read


def _looked_into(network: nn.Module, callers: Collection[str], readers: Collection[str]) -> set[str]:
    """Modules, of torch's too, that have such points inside; its attention asks its tensors what no proxy can tell."""
    found = {name for name in callers if not isinstance(network.get_submodule(name), nn.MultiheadAttention)}
    for name in (*callers, *readers):
        while name:
            name = name.rpartition(".")[0]
            found.add(name)
    return found


def _place_calls(graph: fx.Graph, model: QuantizedModel, values: list[Any], called: dict[Site, int]) -> None:
    """Put nodes for points on calls; those inside a module that is run as a whole are met there, as ever."""
    whole = tuple(dict.fromkeys(str(node.target) for node in graph.nodes if node.op == "call_module"))
    inside = {site for site in called if any(f"{site[0]}.".startswith(f"{name}.") for name in whole)}
    for name in whole:
        if any(f"{site[0]}.".startswith(f"{name}.") for site in inside):
            model.calls.put_on(model.model, within=name)
    if called.keys() == inside:
        return

    def insert(node: fx.Node, point: int, reader: fx.Node | None = None) -> fx.Node:
        if reader is not None and (shared := _quantizer_behind(node, point)) is not None:
            if reader < shared:
                reader.prepend(shared)
            reader.replace_input_with(node, shared)
            return shared
        with graph.inserting_after(node) if reader is None else graph.inserting_before(reader):
            made = graph.call_function(quantize, (node, point))
        made.meta["call"] = None, (node if reader is None else made).prev
        if reader is not None:
            reader.replace_input_with(node, made)
            return made
        node.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)
        return made

    nodes = {site: point for site, point in called.items() if site not in inside}
    place_calls(graph, model.model, values, nodes, quantize, insert)


def _quantizer_behind(node: fx.Node, point: int) -> fx.Node | None:
    """What others read ``node`` through, where its tensor is at ``point``."""
    return next((user for user in node.users if user.target is quantize and user.args[:2] == (node, point)), None)


class _Tracer(PathTracer):
    """Makes a node of every point, those on calls apart."""

    def __init__(
        self, network: nn.Module, on_module: dict[int, int], read: Read, inside: set[str], opaque: Collection[str]
    ) -> None:
        super().__init__(opaque)
        self._on_module = on_module
        self._read_by = read
        self._quantized: dict[tuple[fx.Node, int], fx.Proxy] = {}
        self._frames = [("", 0)]
        self._settled = [SettledCalls()]
        self._num_frames = itertools.count(1)
        self._kind = Placement.of(network).device.type
        self._outside = Autocast.here(self._kind)
        self._holds_points = {
            name
            for name, module in network.named_modules()
            if any(id(inner) in on_module for inner in module.modules() if inner is not module)
        }
        self._holds_points |= inside

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if module_qualified_name in self._holds_points:
            return module_qualified_name in self._opaque
        return super().is_leaf_module(m, module_qualified_name)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        # A graph knows nothing of the blocks that its code stands in; this one changes what operations compute.
        node: fx.Node = super().create_node(*args, **kwargs)
        here = Autocast.here(self._kind)
        node.meta["autocast"] = None if here == self._outside else here
        node.meta[FRAME], node.meta[SETTLED] = self._frames[-1], self._settled[-1].taken()
        return node

    def trace(self, *args: Any, **kwargs: Any) -> fx.Graph:
        with entered(self._settled[0]):
            graph: fx.Graph = super().trace(*args, **kwargs)
            return graph

    def enter(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        if self.path[-1] in self._read_by:
            args, kwargs = self._read(module, self._read_by[self.path[-1]], args, kwargs)
        before = next(iter(reversed(self.graph.nodes)), None)
        if self.is_leaf_module(module, self.path[-1]):
            output: Any = self.create_proxy("call_module", self.path[-1], args, kwargs)
        elif type(module) is nn.TransformerEncoder and len(args) == 1 and not kwargs:
            output = _layer_by_layer(module, args[0])
        else:
            self._frames.append((self.path[-1], next(self._num_frames)))
            self._settled.append(SettledCalls())
            with entered(self._settled[-1]):
                output = module.forward(*args, **kwargs)  # past the hooks, which would meet proxies
            self._frames.pop(), self._settled.pop()
        point = self._on_module.get(id(module))
        if point is None:
            return output
        quantized = self.create_proxy("call_function", quantize, (output, point), {})
        quantized.node.meta["call"] = module, before
        return quantized

    def _read(self, module: nn.Module, points: Mapping[str, int], args: Any, kwargs: dict[str, Any]) -> Any:
        """Arguments as a module reads them whose inputs are quantized."""
        names = ArgumentNames.of(module)
        given = {**{names.at(place): value for place, value in enumerate(args)}, **kwargs}
        for argument, point in points.items():
            given = {name: self._quantized_in(name, value, argument, point) for name, value in given.items()}
        return tuple(given[names.at(place)] for place in range(len(args))), {name: given[name] for name in kwargs}

    def _quantized_in(self, name: str, value: Any, wanted: str, point: int) -> Any:
        """``value``, which goes by ``name``, with the point on what goes by the name ``wanted`` in it."""
        if wanted in ("", name):
            quantized = partial(self._quantized_once, point=point, part=None)
            return map_leaves(lambda leaf: quantized(leaf) if isinstance(leaf, fx.Proxy) else leaf, value)
        if not wanted.startswith(f"{name}."):
            return value
        if isinstance(value, fx.Proxy):
            return self._quantized_once(value, point, (name, wanted))
        whole = opened(value)
        if whole is None:
            return value
        pairs = zip(whole.keys, whole.parts, strict=True)
        return whole.with_parts([self._quantized_in(f"{name}.{key}", part, wanted, point) for key, part in pairs])

    def _quantized_once(self, proxy: fx.Proxy, point: int, part: tuple[str, str] | None) -> fx.Proxy:
        key = proxy.node, point
        if key not in self._quantized:
            made = self.create_proxy("call_function", quantize, (proxy, point), {})
            made.node.meta["call"] = None, made.node.prev
            if part is not None:
                made.node.meta["part"] = part
            self._quantized[key] = made
        return self._quantized[key]


def _layer_by_layer(encoder: nn.TransformerEncoder, source: Any) -> Any:
    """What torch's encoder does without masks; its own forward asks questions that a proxy cannot answer."""
    for layer in encoder.layers:
        source = layer(source)
    return source if encoder.norm is None else encoder.norm(source)


def _quantize_ends(graph: fx.Graph, model: QuantizedModel, on_module: dict[int, int], bound: dict[str, Any]) -> None:
    """Put nodes for the point on the input, and for one on the network as a whole."""
    arguments = _input_arguments(model)
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    last = placeholders[-1] if placeholders else None
    for node, value in zip(placeholders, bound.values(), strict=True):
        name, users, quantized = str(node.target), list(node.users), node
        for argument, point in arguments.items() if floating_tensors(value) else ():
            if argument and not f"{argument}.".startswith(f"{name}."):
                continue
            assert last is not None
            with graph.inserting_after(last):
                last = quantized = graph.call_function(quantize, (quantized, point))
            if argument not in ("", name):
                quantized.meta["part"] = name, argument
        for user in users:
            user.replace_input_with(node, quantized)
    output = next(node for node in graph.nodes if node.op == "output")
    at_output = on_module.get(id(model.model))
    with graph.inserting_before(output):
        if at_output is not None:
            output.args = (graph.call_function(quantize, (output.args[0], at_output)),)
        else:
            output.args = (graph.call_function(itself, (output.args[0],)),)


def _input_arguments(model: QuantizedModel) -> dict[str, int]:
    """The points of inputs, by what they quantize: an argument, a part of one, or all under the name ""."""
    indices = {point.name: point.index for point in model.points}
    return {hook.argument: indices[hook.name] for _, hook in point_hooks(model.model) if hasattr(hook, "argument")}


def _inside_modules(
    graph: fx.Graph, network: nn.Module, indices: dict[str, int], explicit: set[Any]
) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Points that are no nodes, by the name of the called module: those inside it, and that of its own weight."""
    hidden, weights = {}, {}
    for name in dict.fromkeys(str(node.target) for node in graph.nodes if node.op == "call_module"):
        module = network.get_submodule(name)
        if isinstance(module, parametrize.ParametrizationList):
            if isinstance(module[0], (WeightQuantization, BiasCorrection)):
                weights[name] = indices[module[0].name]
            continue
        own = quantization_of(module)
        if own is not None:
            weights[name] = indices[own[1].name]
            continue
        inside = {indices[hook.name] for _, hook in point_hooks(module)} - explicit
        inside |= {indices[point] for points in read_inside(module).values() for point in points}
        inside |= {indices[quantization.name] for *_, quantization in weight_quantizations(module)}
        if inside:
            hidden[name] = tuple(sorted(inside))
    return hidden, weights
