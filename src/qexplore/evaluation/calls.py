"""Points on calls of functions as nodes of a traced graph: found by running it as the hooked network runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from qexplore._functions import operand_name
from qexplore._trees import leaves
from qexplore.model import FUSED, CallNames, additive, attention_in_parts, entered, float_weights, operands_of

Site = tuple[str, str]
Insert = Callable[..., fx.Node]
"""``insert(node, point, reader=None)`` puts the quantizer of a point behind a node, for all or one that read it."""

FRAME = "frame"
"""In ``node.meta``: the module whose forward has made the node, by name, and which run of it."""
SETTLED = "settled"
"""In ``node.meta``: functions that this run has called since its node before, on tensors that are the same always."""


class CallsLost(Exception):
    """A point's call is no node of the graph; the message says which."""


def place_calls(
    graph: fx.Graph,
    root: torch.nn.Module,
    values: Sequence[Any],
    points: Mapping[Site, int],
    quantizer: Any,
    insert: Insert,
) -> None:
    """Put the quantizers of ``points`` behind the nodes that make their calls, attention in parts where these are.

    Args:
        graph: each node with the frame that made it; modules that it calls are not looked into.
        root: what its nodes name.
        values: of its placeholders, an example.
        points: on calls, by module and call; of modules that the graph does not call as a whole.
        quantizer: what nodes call that quantize.
        insert: puts one behind a node.

    Raises:
        CallsLost: a call that is no node.
    """
    reader = _Reader(graph, root, quantizer)
    with torch.no_grad(), float_weights(root):
        reader.run(*values)
    for frame, calls in reader.frames.items():
        own = {call: point for (module, call), point in points.items() if module == frame[0]}
        for call in own:
            if call.partition(".")[0] not in calls.nodes:
                raise _lost(frame[0], call)
        for call, node in calls.nodes.items():
            parts = {name.removeprefix(f"{call}."): point for name, point in own.items() if name.startswith(f"{call}.")}
            is_bool, given = calls.is_bool.get(call), calls.operands[call]
            for name, point in parts.items() if is_bool is None else ():
                if name not in given:
                    raise _lost(frame[0], f"{call}.{name}")
                insert(given[name], point, node)
            made = _in_parts(graph, node, parts, is_bool, insert) if parts and is_bool is not None else node
            if call in own:
                insert(made, own[call])


def _lost(module: str, call: str) -> CallsLost:
    return CallsLost(f"the call '{'.'.join(filter(None, (module, call)))}' is no node of the traced network")


@dataclass
class SettledCalls:
    """A run of a forward that is traced: calls on what is no proxy give no node, and yet have names."""

    functions: list[Any] = field(default_factory=list)

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """As `qexplore.model.frames.Frame`."""
        output = function(*args, **kwargs)
        if not any(isinstance(leaf, fx.Proxy) for leaf in leaves((output, args, kwargs))):
            self.functions.append(function)
        return output

    def finish(self) -> None:
        """As `qexplore.model.frames.Frame`."""

    def taken(self) -> tuple[Any, ...]:
        """Those since the last time."""
        taken = tuple(self.functions)
        self.functions.clear()
        return taken


@dataclass
class _Frame:
    """One run of a module's forward: the node of each of its calls."""

    node: Callable[[], fx.Node]
    maker: Callable[[Tensor], fx.Node | None]
    names: CallNames = field(default_factory=CallNames)
    nodes: dict[str, fx.Node] = field(default_factory=dict)
    is_bool: dict[str, bool] = field(default_factory=dict)
    operands: dict[str, dict[str, fx.Node]] = field(default_factory=dict)

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """As `qexplore.model.frames.Frame`."""
        own = self.names.of(function)
        if own:
            self.nodes[own] = self.node()
            made = {name: self.maker(tensor) for name, tensor in operands_of(args, kwargs).items()}
            self.operands[own] = {name: node for name, node in made.items() if node is not None}
        if function is FUSED:
            mask = kwargs.get("attn_mask", args[3] if len(args) > 3 else None)
            self.is_bool[own] = isinstance(mask, Tensor) and mask.dtype == torch.bool
        return function(*args, **kwargs)

    def finish(self) -> None:
        """As `qexplore.model.frames.Frame`."""


class _Reader(fx.Interpreter):
    """Runs a graph in float and notes which node makes which call."""

    def __init__(self, graph: fx.Graph, root: torch.nn.Module, quantizer: Any) -> None:
        super().__init__(root, graph=graph)
        self._quantizer = quantizer
        self.frames: dict[tuple[str, int], _Frame] = {}
        self._node: fx.Node = next(iter(graph.nodes))

    def run_node(self, n: fx.Node) -> Any:
        """Run one node; what a module calls is its own."""
        self._node = n
        frame = self.frames.setdefault(n.meta[FRAME], _Frame(lambda: self._node, self._maker))
        for function in n.meta[SETTLED]:
            frame.names.of(function)
        if n.target is self._quantizer:
            return self.fetch_args_kwargs_from_env(n)[0][0]
        if n.op not in ("call_function", "call_method"):
            return super().run_node(n)
        with entered(frame):
            return super().run_node(n)

    def _maker(self, tensor: Tensor) -> fx.Node | None:
        """Whose result ``tensor`` is, among what the present node reads."""
        return next((node for node in self._node.all_input_nodes if self.env.get(node) is tensor), None)


def _in_parts(graph: fx.Graph, node: fx.Node, points: Mapping[str, int], is_bool: bool, insert: Insert) -> fx.Node:
    """Attention's parts in the place of ``node``, with the quantizers of ``points`` behind them; gives the last one."""
    tracer, before = fx.proxy.GraphAppendingTracer(graph), node.prev
    proxied: Any = partial(fx.Proxy, tracer=tracer)

    def run(part: str, function: Any, args: Any, kwargs: Any) -> Any:
        made = function(*args, **kwargs)
        for place, operand in enumerate(args):
            point = points.get(f"{part}.{operand_name(place)}")
            if point is not None:
                insert(operand.node, point, made.node)
        return proxied(insert(made.node, points[part])) if part in points else made

    with graph.inserting_before(node):
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), proxied)
        given: dict[str, Any] = dict(zip(_ARGUMENTS, args, strict=False)) | dict(kwargs)
        if is_bool:
            given["attn_mask"] = additive(given["attn_mask"], given["query"])
        last = attention_in_parts(run, **given).node  # type: ignore[attr-defined]
    for made in _between(before, node):
        made.meta.setdefault("autocast", node.meta.get("autocast"))
    node.replace_all_uses_with(last)
    graph.erase_node(node)
    return last  # type: ignore[no-any-return]


_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


def _between(before: fx.Node, behind: fx.Node) -> Iterator[fx.Node]:
    node = before.next
    while node is not behind:
        yield node
        node = node.next
