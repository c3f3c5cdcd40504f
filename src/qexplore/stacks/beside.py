"""A quantized network run beside the float one: what a layer gave, and what float makes of the inputs that it got."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from qexplore._trees import cloned, map_tensors, tensors_of
from qexplore.model import calls_heard_by
from qexplore.stacks.base import Beside, Listener, Settings, Step
from qexplore.stacks.layer import LayerStrategy
from qexplore.stacks.rounding import Rounding
from qexplore.stacks.twins import Twin, kind_of, origin

_CLAMPS = (nn.ReLU, nn.Hardtanh)
_CLAMPING = ("relu", "relu6", "hardtanh", "clamp")


@dataclass(frozen=True)
class FloatGraph:
    """A float network and its graph.

    Attributes:
        graph: its nodes have the names that the quantized graph has for them, where it can.
        owners: whose modules and tensors the graph names: the network, then what tracing made.
    """

    graph: fx.Graph
    owners: tuple[nn.Module, ...]

    def clamps(self, node: fx.Node) -> bool:
        """Whether ``node`` keeps values within bounds, and changes no others."""
        if node.op == "call_module":
            return isinstance(self.named(node.target), _CLAMPS)
        return node.op in ("call_function", "call_method") and kind_of(node) in _CLAMPING

    def named(self, name: Any) -> Any:
        """The module or tensor ``name``.

        Raises:
            AttributeError: there is none.
        """
        *others, last = self.owners
        for owner in others:
            try:
                return operator.attrgetter(name)(owner)
            except AttributeError:
                continue
        return operator.attrgetter(name)(last)


def graph_beside(
    float_graph: FloatGraph,
    model: fx.GraphModule,
    found: Mapping[fx.Node, Twin],
    rows: Iterable[LayerStrategy],
    settings: Settings,
    name_of: Callable[[fx.Node], str],
) -> Beside:
    """What runs a quantized graph, and tells of each node that has a row and a twin in the float graph.

    Args:
        float_graph: of the network that was quantized.
        model: the quantized graph.
        found: what its nodes stand for.
        rows: the strategy.
        settings: of the workflow.
        name_of: the row's name of a node of ``model``.
    """
    known = {row.name: Rounding.of(row, settings) for row in rows}

    def beside(args: tuple[Any, ...], listener: Listener) -> None:
        _Beside(float_graph, model, found, known, name_of, listener).run(*cloned(args))

    return beside


class _Beside(fx.Interpreter):
    """Runs a quantized graph, and each float twin right after its node."""

    def __init__(
        self,
        float_graph: FloatGraph,
        model: fx.GraphModule,
        found: Mapping[fx.Node, Twin],
        known: Mapping[str, Rounding],
        name_of: Callable[[fx.Node], str],
        listener: Listener,
    ) -> None:
        super().__init__(model)
        self._float, self._twins, self._known = float_graph, found, known
        self._name_of, self._listener = name_of, listener
        self._before: dict[fx.Node, Any] = {}  # what a node that has no twin has rounded

    def run_node(self, n: fx.Node) -> Any:
        twin = self._twins.get(n) if n.op.startswith("call") else None
        rounding = None if twin is None else self._known.get(self._name_of(n))
        seen = {} if rounding is None else dict(self._seen(n))
        output = super().run_node(n)
        if twin is not None:
            if rounding is not None:
                self._compare(n, output, _Float(self._float, twin, seen), rounding)
        elif n.op.startswith("call") and n.all_input_nodes:
            source = n.all_input_nodes[0]
            self._before[n] = self._before.get(source, self.env[source])
        for one in self.user_to_last_uses.get(n, []):
            self._before.pop(one, None)
        return output

    def _seen(self, node: fx.Node) -> Iterable[tuple[fx.Node, _Input]]:
        """What ``node`` reads, by float node."""
        for one in node.all_input_nodes:
            source = self._twins.get(origin(one, self._twins))
            if source is not None:
                value = self._before.get(one, self.env[one])
                is_rounded = one in self._before and not any(tensor.is_quantized for tensor in tensors_of(value))
                yield source.last, _Input(_in_float(value), is_rounded)

    def _compare(self, node: fx.Node, output: Any, twin: _Float, rounding: Rounding) -> None:
        try:
            expected, ideal = twin.run(None), twin.run(rounding)
        except Exception:  # what the quantized layer reads is not all that the float one does
            return
        if _shapes(output) != _shapes(expected):  # a node that stands for others than it was taken to
            return
        if any(one.is_quantized for one in tensors_of(output)):
            ideal = rounding.output(ideal)
        read = [one.value for one in twin.seen.values()]
        given, expected, ideal = (self._kept(node, one) for one in (_in_float(output), expected, ideal))
        self._listener(Step(self._name_of(node), given, expected, ideal, read))

    def _kept(self, node: fx.Node, value: Any) -> Any:
        """``value`` as a clamp behind ``node`` leaves it: the integers in front of one need not hold what it cuts."""
        reader = node
        while len(reader.users) == 1 and (reader is node or reader not in self._twins):
            reader = next(iter(reader.users))
        twin = None if reader is node else self._twins.get(reader)
        if twin is None or len(twin.reads) != 1 or not self._float.clamps(twin.nodes[0]):
            return value
        return _Float(self._float, Twin(twin.nodes[:1]), {node: _Input(value, False) for node in twin.reads}).run(None)


@dataclass(frozen=True)
class _Input:
    """What a layer reads: before it was rounded for it, and whether it was."""

    value: Any
    is_rounded: bool


@dataclass(frozen=True)
class _Float:
    """The float nodes that a quantized one stands for, with what they read."""

    float_graph: FloatGraph
    twin: Twin
    seen: Mapping[fx.Node, _Input]

    def run(self, rounding: Rounding | None) -> Any:
        """What they give; with weights, and inputs that are rounded for them, as ``rounding`` has them."""
        made: dict[fx.Node, Any] = {}

        def load(node: fx.Node) -> Any:
            if node not in made and node in self.seen:
                one = self.seen[node]
                is_rounded = rounding is not None and (one.is_rounded or rounding.takes_range)
                return rounding.output(one.value) if rounding and is_rounded else cloned(one.value)
            if node not in made:
                made[node] = self._run(node, load, None)
            return made[node]

        for node in self.twin.nodes:
            made[node] = self._run(node, load, rounding)
        return made[self.twin.last]

    def _run(self, node: fx.Node, load: Callable[[fx.Node], Any], rounding: Rounding | None) -> Any:
        if node.op == "placeholder":
            raise LookupError(node.name)
        if node.op == "get_attr":
            return self.float_graph.named(node.target)
        args, kwargs = fx.node.map_arg(node.args, load), fx.node.map_arg(node.kwargs, load)
        if node.op == "call_module":
            module = self.float_graph.named(node.target)
            parameters = {} if rounding is None else rounding.parameters(module, self._gain(node))
            return functional_call(module, parameters, args, kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        if rounding is not None:
            weights = {one for one in node.all_input_nodes if one.op == "get_attr"}
            rounded = {one: rounding.weight(load(one)) for one in weights}
            args = fx.node.map_arg(node.args, lambda one: rounded[one] if one in rounded else load(one))
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def _gain(self, node: fx.Node) -> Tensor | None:
        """By what a BatchNorm behind ``node`` scales each channel, where it is part of the same layer."""
        behind = self.twin.nodes[self.twin.nodes.index(node) + 1 :][:1]
        norm = self.float_graph.named(behind[0].target) if behind and behind[0].op == "call_module" else None
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or norm.running_var is None:
            return None
        root = torch.rsqrt(norm.running_var + norm.eps)
        return root if norm.weight is None else norm.weight.detach() * root


def _in_float(tree: Any) -> Any:
    """A copy of ``tree`` in which quantized tensors are dequantized."""
    return map_tensors(lambda one: one.dequantize() if one.is_quantized else one.clone(), tree)


def _shapes(tree: Any) -> list[torch.Size]:
    return [one.shape for one in tensors_of(tree)]


def modules_beside(
    network: nn.Module,
    model: nn.Module,
    rows: Iterable[LayerStrategy],
    settings: Settings,
    run: Callable[..., Any] | None = None,
) -> Beside:
    """What runs a quantized network that has the module names of the float one, and tells of each that has a row.

    Args:
        network: in float.
        model: quantized.
        rows: the strategy.
        settings: of the workflow.
        run: what is called with the arguments; None for ``model``.
    """
    known = {row.name: Rounding.of(row, settings) for row in rows}
    names = {module: name for name, module in model.named_modules() if name in known}

    def beside(args: tuple[Any, ...], listener: Listener) -> None:
        def hear(module: nn.Module, given: Any, kwargs: Any, output: Any) -> None:
            name = names[module]
            plain, rounding = network.get_submodule(name), known[name]
            read = _in_float((given, kwargs))
            expected = plain(*_in_float(given), **_in_float(kwargs))
            if rounding.takes_range:
                given, kwargs = rounding.output(given), rounding.output(kwargs)
            ideal = functional_call(plain, rounding.parameters(plain), given, kwargs)
            ideal = rounding.output(ideal) if rounding.activations else ideal
            listener(Step(name, _in_float(output), expected, ideal, read))

        with calls_heard_by(names, hear, after_others=True):
            (run or model)(*cloned(args))

    return beside
