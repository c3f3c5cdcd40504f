"""One float forward of the example input, and what costs need to know of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from qexplore._random import isolated
from qexplore.cost.bits import not_observed
from qexplore.cost.moments import Moments, Sources
from qexplore.cost.operations import Operation, Operations
from qexplore.cost.tape import Tape, Value, recording
from qexplore.errors import ModelError
from qexplore.model import Placement, QuantizedModel, call, in_eval_mode, with_plain_weights

Groups = tuple[tuple[int, ...], ...]
"""Indices of points that belong together."""


@dataclass(frozen=True, eq=False)
class Observed:
    """What one forward of one sample showed.

    Attributes:
        operations: multiply-accumulates, and the points that their operands come from.
        moments: bytes alive, as a function of the widths.
        meetings: groups of activation points whose values are added up, as the branches of a residual network are; no
            point is in two groups.
        feeds: the activation point that a weight point is multiplied by, by index; without the weights that meet
            several points, or none.
    """

    operations: Operations
    moments: Moments
    meetings: Groups
    feeds: dict[int, int] = field(default_factory=dict)


def observe(model: QuantizedModel, *, cost: str = "observe") -> Observed:
    """Run the network once in float on ``model.example_input`` and note what it multiplies and keeps alive.

    Values are followed by the memory that they are in: a tensor at a point carries that point, operations that only
    move values hand it on (views, copies, padding, pooling by maxima, ReLU), every other one ends it.

    Args:
        model: calibrated or described, so that it has an example input.
        cost: who asks, for the message.

    Raises:
        ProblemError: no forward was observed yet.
    """
    if model.example_input is None:
        raise not_observed(cost, "what one forward does")
    model = with_plain_weights(model)
    index = {point.name: point.index for point in model.points}
    parameters: dict[Any, int] = {point.parameter: index[point.name] for point in model.weight_points}
    with isolated(Placement.of(model.model).device), recording(parameters) as tape:

        def mark(name: str, tensors: list[Tensor]) -> None:
            if name in index:
                tape.mark(index[name], tensors)

        output = model.listen(model.example_input, mark)
    tape.keep(output)
    weights = {point.index for point in model.points if point.kind == "weight"}
    meetings = unite(met - weights for met in tape.additions)
    return Observed(_report(tape), _moments(tape), meetings, _feeds(tape.operations, weights))


def count_macs(network: nn.Module, example_input: Any = None) -> Operations:
    """Multiply-accumulates of one float forward, and a list of what was not counted; ``print`` shows both.

    The counts are those of ``torch.utils.flop_counter``, halved, and of formulas for what it has none for, recurrent
    layers and products with vectors among them. Biases, normalisation, activations and pooling have no products of two
    tensors to count; they are listed, and apart from them what may have some. Parameters on the meta device will do.

    Args:
        network: a float network, or a wrapped one.
        example_input: a tensor, a tuple of positional or a dict of keyword arguments; counted as it is, batch included.
            None takes a wrapped network's example of one sample.

    Raises:
        ModelError: a plain network without an example input.
        ProblemError: a wrapped network that has seen none yet.
    """
    if isinstance(network, QuantizedModel):
        inputs = network.example_input if example_input is None else example_input
        if inputs is None:
            raise not_observed("count_macs", "what one forward does")
        with isolated(Placement.of(network.model).device), recording() as tape:
            network.listen(inputs, lambda name, tensors: None)
        return _report(tape)
    if example_input is None:
        raise ModelError("count_macs needs an `example_input` to run the network on, got None")
    placement = Placement.of(network)
    with isolated(placement.device), in_eval_mode(network), torch.no_grad(), recording() as tape:
        call(network, placement.copy_inputs(example_input))
    return _report(tape)


def _report(tape: Tape) -> Operations:
    left_out = sorted((+tape.not_counted).items(), key=lambda item: (-item[1], item[0]))
    return Operations(tuple(tape.operations), tuple(left_out), tuple(sorted(tape.missing.items())))


def _moments(tape: Tape) -> Moments:
    # By-products that nothing reads exist in this library only: the indices of a max pooling, batch statistics.
    def is_activation(value: Value) -> bool:
        return value.is_read or value.is_marked or not value.is_by_product

    return Moments.of(
        [(value.origin.sources, value.num_elements, value.num_bytes) for value in alive if is_activation(value)]
        for alive in tape.moments
    )


def unite(groups: Iterable[Collection[int]]) -> Groups:
    """``groups`` of points, those that overlap as one, sorted; groups of a single point are left out."""
    united: list[set[int]] = []
    for group in groups:
        touching = [other for other in united if not other.isdisjoint(group)]
        apart = [other for other in united if other.isdisjoint(group)]
        united = [*apart, set(group).union(*touching)]
    return tuple(sorted(tuple(sorted(group)) for group in united if len(group) > 1))


def _feeds(operations: list[Operation], weights: set[int]) -> dict[int, int]:
    met: dict[int, set[Sources]] = {}
    for operation in operations:
        for weight, activation in (operation.operands, operation.operands[::-1]):
            if len(weight) == 1 and weight[0] in weights and not set(activation) & weights:
                met.setdefault(weight[0], set()).add(activation)
    return {
        weight: next(iter(sources))[0]
        for weight, sources in met.items()
        if len(sources) == 1 and len(next(iter(sources))) == 1
    }
