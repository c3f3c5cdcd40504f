"""The network as an ordered list of steps, each knowing which widths its value depends on."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from qexplore._trees import map_tensors
from qexplore.evaluation.layers import WeightedLayer
from qexplore.evaluation.softmax import log_softmax_of_few, softmax_of_few
from qexplore.evaluation.trace import Trace, itself, quantize, region_of
from qexplore.evaluation.written import described_in
from qexplore.model import WeightStore, changed_in, point_hooks, weight_quantizations
from qexplore.quant import FixedQuantizer, TensorQuantizer, quantize_stacked

Clamp = tuple[float, float]
Function = Callable[[Sequence[Any]], Any]


@dataclass(frozen=True)
class Step:
    """One operation of the network, or one quantizer.

    Attributes:
        name: of the node in the traced graph.
        inputs: the steps whose values it takes.
        function: gives its value from theirs; of a quantizer, what is to be quantized.
        point: index of the point that it quantizes; None for an operation.
        clamp: limits that a quantizer clamps to, taken over from the operation before it.
        adds: whether a quantizer takes two inputs and quantizes their sum, likewise.
        hidden: quantizers inside the module that it calls, by the index of their point.
        upstream: all points that its value depends on, in the order they are passed.
        shapes: of the tensors in its value, for one batch.
        nbytes: size of its value for one batch.
        is_fresh: whether its value is a tensor of its own, and no view of another.
        is_rowwise: whether it treats every sample alone, to the last bit, in a batch of any size.
        weight: index of the point of the weight of the module that it calls; None for others.
        at: of such a module, its function with the weight put through a quantizer.
        layer: that module at every choice of its weight.
        around: the step's function around another module than that.
        part: of a quantizer of one of several tensors in an argument: the names of the argument and of the tensor.
    """

    name: str
    inputs: tuple[int, ...]
    function: Function
    point: int | None
    clamp: Clamp | None
    adds: bool
    hidden: dict[int, TensorQuantizer]
    upstream: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    nbytes: int
    is_fresh: bool
    is_rowwise: bool
    weight: int | None = None
    at: Callable[[FixedQuantizer | None], Function] | None = None
    layer: WeightedLayer | None = None
    around: Callable[[Callable[..., Any]], Function] | None = None
    part: tuple[str, str] | None = None

    @property
    def points(self) -> tuple[int, ...]:
        """The points whose widths this step itself takes."""
        own = self.weight if self.point is None else self.point
        return tuple(self.hidden) if own is None else (own,)

    def settle(self, quantizers: Sequence[FixedQuantizer | None]) -> tuple[FixedQuantizer | None, ...]:
        """The quantizers for `run`: one for each of `points`, None where it is off."""
        if self.clamp is None:
            return tuple(quantizers)
        return tuple(None if quantizer is None else quantizer.behind_clamp(*self.clamp) for quantizer in quantizers)

    def run(self, values: Sequence[Any], settled: Sequence[FixedQuantizer | None], *, in_place: bool = False) -> Any:
        """The step's value from the values of `inputs` and what `settle` gave; ``in_place`` lets a quantizer write."""
        if self.adds:
            first, second = values
            if settled[0] is not None:
                return settled[0](first, second, in_place=in_place)
            return self._quantize(first + second, None)
        if self.part is not None:
            return changed_in(self.part[0], values[0], self.part[1], lambda one: self._quantize(one, settled[0]))
        if self.point is not None:
            return self._quantize(self.function(values), settled[0], in_place)
        if self.at is not None:
            return self.at(settled[0])(values)
        for quantizer, chosen in zip(self.hidden.values(), settled, strict=True):
            quantizer.switched_off, quantizer.settled = chosen is None, chosen
        return self.function(values)

    def run_stacked(self, values: Sequence[Any], settled: Sequence[FixedQuantizer | None]) -> Tensor:
        """What each of ``k`` quantizers makes of one tensor ``[B, ...]``, one after the other: ``[k * B, ...]``."""
        tensor = self.function(values)
        present = [quantizer for quantizer in settled if quantizer is not None]
        stacked = quantize_stacked(tensor, present) if present else tensor[:0]
        if len(present) == len(settled):
            return stacked
        parts, off = iter(stacked.split(len(tensor))), self._quantize(tensor, None)
        return torch.cat([off if quantizer is None else next(parts) for quantizer in settled])

    def _quantize(self, value: Any, quantizer: FixedQuantizer | None, in_place: bool = False) -> Any:
        if not isinstance(value, Tensor):
            return map_tensors(lambda tensor: self._quantize(tensor, quantizer), value)
        if quantizer is not None and value.is_floating_point():
            return quantizer(value, in_place=in_place)
        # Memory of its own in any case: what is not quantized may be written into elsewhere.
        return value.clone() if self.clamp is None else value.clamp(*self.clamp)


@dataclass(frozen=True)
class Steps:
    """A network in steps.

    Attributes:
        steps: ordered such that each comes as early as the points it depends on allow; the first ``num_inputs`` stand
            for the network's arguments.
        num_inputs: how many arguments there are.
        output: the step whose value is the network's.
        order: all points in the order they are passed.
    """

    steps: tuple[Step, ...]
    num_inputs: int
    output: int
    order: tuple[int, ...]

    @functools.cached_property
    def tail(self) -> tuple[int, ...]:
        """The last quantizer and the steps behind it, where they take nothing else and treat each sample alone.

        All widths of that quantizer can then go through them together. Empty where it is not so.
        """
        if not self.order:
            return ()
        last = self.order[-1]
        behind = [index for index, step in enumerate(self.steps) if last in step.upstream]
        first, *others = (self.steps[index] for index in behind)
        is_chain = all(step.inputs == (index,) for step, index in zip(others, behind, strict=False))
        fits = (
            first.point == last
            and len(first.inputs) == 1
            and not first.adds
            and first.is_fresh  # a tensor, and not one in a container
            and len(first.shapes[0]) > 0
        )
        alone = all(step.is_rowwise and not step.points for step in others)
        return tuple(behind) if fits and is_chain and alone and behind[-1] == self.output else ()

    def run(self, arguments: Sequence[Any], quantizers: Sequence[FixedQuantizer | None]) -> Any:
        """The network's output, every step run once: what faster ways are held against.

        Args:
            arguments: values of the first steps.
            quantizers: one for each point, by index.
        """
        values = list(arguments)
        for step in self.steps[self.num_inputs :]:
            settled = step.settle([quantizers[point] for point in step.points])
            values.append(step.run([values[place] for place in step.inputs], settled))
        return values[self.output]


def build_steps(traced: Trace, root: nn.Module, weights: WeightStore | None = None) -> Steps:
    """The steps of a traced network whose nodes an earlier run has described.

    Args:
        traced: the graph.
        root: what nodes' names stand for: ``traced.root`` or a copy of it.
        weights: holds quantized weights of modules that run as a whole.
    """
    weights = WeightStore() if weights is None else weights
    constants = {
        node: operator.attrgetter(str(node.target))(root) for node in traced.graph.nodes if node.op == "get_attr"
    }
    nodes = [node for node in traced.graph.nodes if node.op not in ("get_attr", "output")]
    order = tuple(dict.fromkeys(point for node in nodes for point in _own_points(node, traced)))
    rank = {point: place for place, point in enumerate(order)}
    upstream = _upstream(nodes, traced, rank)
    nodes.sort(key=lambda node: (node.op != "placeholder", rank[upstream[node][-1]] if upstream[node] else -1))
    place = {node: index for index, node in enumerate(nodes)}
    # A module that is called twice has one weight for both.
    layers = functools.cache(lambda target, norm: WeightedLayer(root.get_submodule(target), norm))
    steps = []
    for node in nodes:
        around: Callable[[Callable[..., Any]], Function] = functools.partial(_around, node, place, constants)
        inputs, function = _call(node, _target(node, root), place, constants)
        weight = _weight(node, traced)
        layer = None if weight is None else layers(str(node.target), node.meta.get("norm"))
        described = described_in(node)
        steps.append(
            Step(
                name=node.name,
                inputs=inputs,
                function=function,
                point=node.args[1] if node.target is quantize else None,
                clamp=node.meta.get("clamp"),
                adds=_is_sum(node),
                hidden=_hidden_quantizers(node, traced, root, weights),
                weight=weight,
                at=None if layer is None else _at(layer, around),
                layer=layer,
                around=around,
                upstream=upstream[node],
                shapes=tuple(tensor.shape for tensor in described),
                nbytes=sum(tensor.nbytes for tensor in described),
                is_fresh=bool(node.meta.get("fresh")) and bool(inputs),
                is_rowwise=_is_rowwise(node, root),
                part=node.meta.get("part"),
            )
        )
    output = next(node for node in traced.graph.nodes if node.op == "output").args[0]
    return Steps(tuple(steps), sum(node.op == "placeholder" for node in nodes), place[output], order)


def _is_sum(node: fx.Node) -> bool:
    """Whether a quantizer has taken over an addition."""
    return node.target is quantize and len(node.args) == 3


def _is_rowwise(node: fx.Node, root: nn.Module) -> bool:
    """Whether samples cannot meet in this operation; few are known to be so to the last bit."""
    if node.op != "call_module":
        return node.target in (itself, softmax_of_few, log_softmax_of_few)
    module = root.get_submodule(str(node.target))
    if module._forward_hooks or module._forward_pre_hooks:
        return False
    if isinstance(module, (nn.Softmax, nn.LogSoftmax)):
        return module.dim is not None and all(module.dim % max(1, len(one.shape)) > 0 for one in described_in(node))
    return isinstance(module, (nn.Identity, nn.Dropout)) or (type(module) is nn.Flatten and module.start_dim == 1)


def _own_points(node: fx.Node, traced: Trace) -> tuple[int, ...]:
    if node.target is quantize:
        return (node.args[1],)  # type: ignore[return-value]
    weight = _weight(node, traced)
    if weight is not None:
        return (weight,)
    return traced.hidden.get(str(node.target), ()) if node.op == "call_module" else ()


def _weight(node: fx.Node, traced: Trace) -> int | None:
    return traced.weights.get(str(node.target)) if node.op == "call_module" else None


def _upstream(nodes: Sequence[fx.Node], traced: Trace, rank: dict[int, int]) -> dict[fx.Node, tuple[int, ...]]:
    found: dict[fx.Node, tuple[int, ...]] = {}
    for node in nodes:
        points = set(_own_points(node, traced)).union(*(found.get(arg, ()) for arg in node.all_input_nodes))
        found[node] = tuple(sorted(points, key=rank.__getitem__))
    for node in filter(_is_written_into, nodes):  # once for each time that it is, so that none finds another's numbers
        found[node] = found[next(iter(node.users))]
    return found


def _is_written_into(node: fx.Node) -> bool:
    """Whether this is a copy that `without_writes` has made for an operation to write into."""
    return node.target == "clone" and node.meta.get("written", False) and len(node.users) == 1


def _hidden_quantizers(
    node: fx.Node, traced: Trace, root: nn.Module, weights: WeightStore
) -> dict[int, TensorQuantizer]:
    if node.op != "call_module" or str(node.target) not in traced.hidden:
        return {}
    module = root.get_submodule(str(node.target))
    inside = {hook.name: hook.quantizer for _, hook in point_hooks(module)}
    for *_, quantization in weight_quantizations(module):
        quantization.keep(weights)
        inside[quantization.name] = quantization.quantizer
    return {point: inside[traced.names[point]] for point in traced.hidden[str(node.target)]}


def _at(
    layer: WeightedLayer, around: Callable[[Callable[..., Any]], Function]
) -> Callable[[FixedQuantizer | None], Function]:
    return functools.cache(lambda quantizer: around(layer.at(quantizer)))


def _around(
    node: fx.Node, place: dict[fx.Node, int], constants: dict[fx.Node, Any], target: Callable[..., Any]
) -> Function:
    return _call(node, target, place, constants)[1]


def _call(
    node: fx.Node, target: Callable[..., Any], place: dict[fx.Node, int], constants: dict[fx.Node, Any]
) -> tuple[tuple[int, ...], Function]:
    """Where a node's arguments come from, and a function of their values."""
    if node.op == "placeholder":
        return (), _no_function
    target = _in_region(node, target)
    sources = [arg for arg in node.all_input_nodes if arg in place]
    inputs = tuple(place[arg] for arg in sources)
    if _is_sum(node):
        return (place[node.args[0]], place[node.args[2]]), _first  # type: ignore[index]
    if node.target is quantize and len(sources) == 1 and node.args[0] is sources[0]:
        return inputs, _first
    args: Any = (node.args[0],) if node.target is quantize else node.args
    slots = {arg: index for index, arg in enumerate(sources)}
    if not node.kwargs and all(isinstance(arg, fx.Node) or not _nodes_in(arg) for arg in args):
        return inputs, _flat_call(target, args, slots, constants)

    def call(values: Sequence[Any]) -> Any:
        def value(arg: fx.Node) -> Any:
            return values[slots[arg]] if arg in slots else constants[arg]

        given, named = fx.node.map_arg((args, node.kwargs), value)
        return target(*given, **named)

    return inputs, call


def _in_region(node: fx.Node, target: Callable[..., Any]) -> Callable[..., Any]:
    """``target`` in the block of ``torch.autocast`` that the network calls it in; quantizers compute alike anywhere."""
    if node.meta.get("autocast") is None or node.target is quantize:
        return target

    def call(*args: Any, **kwargs: Any) -> Any:
        with region_of(node):
            return target(*args, **kwargs)

    return call


def _flat_call(
    target: Callable[..., Any], args: Sequence[Any], slots: dict[fx.Node, int], constants: dict[fx.Node, Any]
) -> Function:
    """The common case, quick: no keyword, every argument a value or a constant."""
    template = [constants.get(arg) if isinstance(arg, fx.Node) else arg for arg in args]
    fills = [(index, slots[arg]) for index, arg in enumerate(args) if isinstance(arg, fx.Node) and arg in slots]
    if fills == [(0, 0)] and len(template) == 1:
        return lambda values: target(values[0])

    def call(values: Sequence[Any]) -> Any:
        given = template.copy()
        for index, slot in fills:
            given[index] = values[slot]
        return target(*given)

    return call


def _nodes_in(arg: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.node.map_arg(arg, lambda node: found.append(node))
    return found


def _target(node: fx.Node, root: nn.Module) -> Callable[..., Any]:
    if node.op == "placeholder":
        return _no_function
    if node.op == "call_module":
        return root.get_submodule(str(node.target))
    if node.op == "call_method":
        name = str(node.target)
        return lambda owner, *args, **kwargs: getattr(owner, name)(*args, **kwargs)
    if node.target is quantize:
        return lambda tree: tree
    return node.target  # type: ignore[return-value]


def _first(values: Sequence[Any]) -> Any:
    return values[0]


def _no_function(values: Sequence[Any]) -> Any:
    raise AssertionError("an argument is given, not computed")
