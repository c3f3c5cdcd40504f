"""A wrapped network as a graph: `torch.fx`, with every quantization point a node of its own."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from qexplore._trees import cloned, tensors_of
from qexplore.errors import TraceError
from qexplore.evaluation.layers import quantization_of
from qexplore.model import (
    Autocast,
    BiasCorrection,
    PathTracer,
    Placement,
    QuantizedModel,
    WeightQuantization,
    bound_arguments,
    comes_last,
    float_weights,
    floating_tensors,
    foreign_hooks,
    point_hooks,
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
        graph, opaque = trace_around(network, partial(_Tracer, network, on_module), fixed, hooked)
    except TraceError as error:
        raise CaptureError(str(error)) from error
    _quantize_ends(graph, model, on_module, bound)
    explicit = {node.args[1] for node in graph.nodes if node.target is quantize}
    hidden, weights = _inside_modules(graph, network, indices, explicit)
    lost = set(indices.values()) - explicit.union(weights.values(), *hidden.values())
    if lost:
        names = ", ".join(point.name for point in model.points if point.index in lost)
        raise CaptureError(f"the points {names} do not appear in the traced network")
    for module, hook in point_hooks(network):
        if indices[hook.name] in explicit:
            remove_point_hooks(module)
    unseen = {name: why for name, why in opaque.items() if not _is_torchs(network.get_submodule(name))}
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


def _is_torchs(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn")


class _Tracer(PathTracer):
    """Makes a node of every point."""

    def __init__(self, network: nn.Module, on_module: dict[int, int], opaque: Collection[str]) -> None:
        super().__init__(opaque)
        self._on_module = on_module
        self._kind = Placement.of(network).device.type
        self._outside = Autocast.here(self._kind)
        self._holds_points = {
            name
            for name, module in network.named_modules()
            if any(id(inner) in on_module for inner in module.modules() if inner is not module)
        }

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if module_qualified_name in self._holds_points:
            return module_qualified_name in self._opaque
        return super().is_leaf_module(m, module_qualified_name)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        # A graph knows nothing of the blocks that its code stands in; this one changes what operations compute.
        node: fx.Node = super().create_node(*args, **kwargs)
        here = Autocast.here(self._kind)
        node.meta["autocast"] = None if here == self._outside else here
        return node

    def enter(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        before = next(iter(reversed(self.graph.nodes)), None)
        if self.is_leaf_module(module, self.path[-1]):
            output: Any = self.create_proxy("call_module", self.path[-1], args, kwargs)
        elif type(module) is nn.TransformerEncoder and len(args) == 1 and not kwargs:
            output = _layer_by_layer(module, args[0])
        else:
            output = module.forward(*args, **kwargs)  # past the hooks, which would meet proxies
        point = self._on_module.get(id(module))
        if point is None:
            return output
        quantized = self.create_proxy("call_function", quantize, (output, point), {})
        quantized.node.meta["call"] = module, before
        return quantized


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
        inside |= {indices[quantization.name] for *_, quantization in weight_quantizations(module)}
        if inside:
            hidden[name] = tuple(sorted(inside))
    return hidden, weights


# ------------------------------------------------------------------------------------------ in-place operations


def without_writes(traced: Trace, inputs: Any) -> Any:
    """Rewrite operations that write into their argument, so that every value can be kept and read again.

    Runs the graph once on ``inputs``, in float, and gives its output; ``node.meta["value"]`` notes what each node gave.

    Raises:
        CaptureError: an operation writes into something else than what it returns.
    """
    watcher = _WriteWatcher(traced)
    with float_weights(traced.root):
        output = watcher.run(*traced.bind(inputs))
    order, latest = {node: place for place, node in enumerate(traced.graph.nodes)}, dict[fx.Node, fx.Node]()
    for write in watcher.writes:
        if write.argument is not None:
            written = latest.get(write.argument, write.argument)
            _give_own_memory(traced, write.node, written, is_returned=watcher.returned[write.node])
        for source in write.names:
            for user in list(source.users):
                if order.get(user, -1) > order[write.node]:
                    user.replace_input_with(source, write.node)
            latest[source] = write.node
    return output


def _give_own_memory(traced: Trace, node: fx.Node, written: fx.Node, *, is_returned: bool) -> None:
    """Let ``node`` write into a copy of ``written``, or not at all."""
    if not is_returned:
        raise CaptureError(f"'{node}' writes into a tensor that it does not return")
    module = traced.root.get_submodule(str(node.target)) if node.op == "call_module" else None
    if getattr(module, "inplace", None) is True:
        module.inplace = False  # type: ignore[union-attr]
        return
    with traced.graph.inserting_before(node):
        copied = traced.graph.call_method("clone", (written,))
    copied.meta = written.meta | {"written": True}
    node.replace_input_with(written, copied)


@dataclass(frozen=True)
class _Write:
    """A node that writes into a tensor that others have made.

    Attributes:
        node: the one that writes.
        names: earlier nodes whose value is that very tensor.
        argument: which of them it is given; None for a quantizer, which in a graph makes a tensor of its own.
    """

    node: fx.Node
    names: tuple[fx.Node, ...]
    argument: fx.Node | None = None


class _WriteWatcher(fx.Interpreter):
    """Runs a graph in float and notes which nodes write into an argument."""

    def __init__(self, traced: Trace) -> None:
        super().__init__(traced.root, garbage_collect_values=False, graph=traced.graph)
        self.writes: list[_Write] = []
        self.returned: dict[fx.Node, bool] = {}

    def run_node(self, n: fx.Node) -> Any:
        given = {arg: self.env[arg] for arg in n.all_input_nodes if isinstance(self.env[arg], Tensor)}
        before = {arg: value._version for arg, value in given.items()}
        if n.target is quantize:
            value: Any = self.fetch_args_kwargs_from_env(n)[0][0]
            output: Any = cloned(value)
            if self._is_written_back(n, value):
                self.writes.append(_Write(n, self._names(value)))
        else:
            with region_of(n):
                output = super().run_node(n)
        for arg, value in given.items():
            if value._version != before[arg]:
                self.writes.append(_Write(n, self._names(value), arg))
                self.returned[n] = output is value
        n.meta["fresh"] = isinstance(output, Tensor) and not self._is_shared(output, n)
        n.meta["value"] = _described(output)
        return output

    def _names(self, value: Any) -> tuple[fx.Node, ...]:
        return tuple(node for node, known in self.env.items() if known is value)

    def _is_written_back(self, node: fx.Node, value: Any) -> bool:
        """Whether a quantizer's module has written ``value`` into its argument: what the hook then does too."""
        module, last = node.meta.get("call", (None, None))
        if getattr(module, "inplace", False) is True:
            return True
        inside = set(itertools.takewhile(lambda one: one is not last, _before(node)))
        return any(write.node in inside and self.env.get(write.node) is value for write in self.writes)

    def _is_torchs(self, node: fx.Node) -> bool:
        """Whether only torch's own code runs; a user's may hand out a tensor that it keeps."""
        if node.op == "call_module":
            module = self.module.get_submodule(str(node.target))
            return _is_torchs(module) and not foreign_hooks(module)
        home = getattr(node.target, "__module__", None)
        return node.op == "call_method" or home is None or home.partition(".")[0] in _TRUSTED

    def _is_shared(self, output: Tensor, node: fx.Node) -> bool:
        """Whether ``output`` lies in memory that an argument or the network itself lies in."""
        if node.op in ("placeholder", "get_attr") or output._base is not None or not self._is_torchs(node):
            return True
        storage = output.untyped_storage().data_ptr()
        given = tensors_of([self.env[arg] for arg in node.all_input_nodes])
        own = [*self.module.parameters(), *self.module.buffers()]
        return any(tensor.untyped_storage().data_ptr() == storage for tensor in (*given, *own))


def _before(node: fx.Node) -> Iterator[fx.Node]:
    while node.op != "root":
        node = node.prev
        yield node


_TRUSTED = ("torch", "_operator", "operator", "builtins", "math", "qexplore")


@dataclass(frozen=True)
class Described:
    """What is kept of a tensor that a node gave."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    nbytes: int


def described_in(node: fx.Node) -> tuple[Described, ...]:
    """The tensors in what ``node`` gave, once `without_writes` has run it."""
    value = node.meta.get("value")
    return (value,) if isinstance(value, Described) else tuple(value or ())


def _described(output: Any) -> Described | tuple[Described, ...]:
    """A tensor, or all those in what a node gave."""
    if isinstance(output, Tensor):
        return Described(tuple(output.shape), output.dtype, output.nbytes)
    return tuple(Described(tuple(one.shape), one.dtype, one.nbytes) for one in tensors_of(output))
