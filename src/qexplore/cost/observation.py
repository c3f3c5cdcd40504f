"""A float forward of each example, and what costs need to know of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from qexplore.cost.bits import not_observed
from qexplore.cost.moments import Moments
from qexplore.cost.operations import Operations
from qexplore.errors import ModelError
from qexplore.model import (
    Example,
    Placement,
    QuantizedModel,
    alone,
    call,
    in_eval_mode,
    measuring,
    taped,
    with_plain_weights,
)
from qexplore.tape import Operation, Sources, Tape, Value, recording

Groups = tuple[tuple[int, ...], ...]
"""Indices of points that belong together."""


@dataclass(frozen=True, eq=False)
class Observed:
    """What forwards showed of one sample.

    Attributes:
        operations: multiply-accumulates, and the points that their operands come from.
        moments: bytes alive, as a function of the widths.
        meetings: groups of activation points whose values are added up, as the branches of a residual network are; no
            point is in two groups.
        feeds: the activation point that a weight point is multiplied by, by index; without the weights that meet
            several points, or none.
        idle: names of the weights that no operation on data reads.
    """

    operations: Operations
    moments: Moments
    meetings: Groups
    feeds: dict[int, int] = field(default_factory=dict)
    idle: tuple[str, ...] = ()


@alone
def observe(model: QuantizedModel, *, cost: str = "observe") -> Observed:
    """Run the network in float on each of ``model.examples`` and note what it multiplies and keeps alive for a sample.

    Values are followed by the memory that they are in: a tensor at a point carries that point, operations that only
    move values hand it on (views, copies, padding, pooling by maxima, ReLU), every other one ends it. Where batches
    differed, multiply-accumulates are the mean over the samples, and bytes alive those of the batch that has most.

    Args:
        model: calibrated or described, so that it has examples.
        cost: who asks, for the message.

    Raises:
        ProblemError: no forward was observed yet.
    """
    examples = _examples(model, cost)
    model = with_plain_weights(model)
    index = {point.name: point.index for point in model.points}
    parameters: dict[Any, int] = {point.parameter: index[point.name] for point in model.weight_points}
    tapes = [taped(model, example.inputs, parameters, index) for example in examples]
    weights = {point.index for point in model.points if point.kind == "weight"}
    meetings = unite(met - weights for tape in tapes for met in tape.additions)
    operations = _merged(tapes, examples)
    idle = weights - {point for tape in tapes for point in tape.weights_read}
    # A lookup multiplies nothing, whether data or a table of positions chooses its rows.
    named = (point for point in model.points if point.index in idle and "Embedding" not in point.module_type)
    names = tuple(point.name for point in named)
    feeds = _feeds(operations.operations, weights)
    return Observed(operations, _moments(tapes, examples), meetings, feeds, names)


def _examples(model: QuantizedModel, cost: str) -> list[Example]:
    """In an order that does not depend on that of the data, as sums do on their order."""
    if not model.examples:
        raise not_observed(cost, "what one forward does")
    return sorted(model.examples, key=lambda example: (example.passed, example.num_samples))


def count_macs(network: nn.Module, example_input: Any = None) -> Operations:
    """Multiply-accumulates of one float forward, and a list of what was not counted; ``print`` shows both.

    The counts are those of ``torch.utils.flop_counter``, halved, and of formulas for what it has none for, recurrent
    layers and products with vectors among them. Biases, normalisation, activations and pooling have no products of two
    tensors to count; they are listed, and apart from them what may have some. What is computed of parameters and
    buffers alone, as the weight behind a parametrization is, is the same for every sample and counts nowhere.
    Parameters on the meta device will do.

    Args:
        network: a float network, or a wrapped one.
        example_input: a tensor, a tuple of positional or a dict of keyword arguments; counted as it is, batch included.
            None takes a wrapped network's examples: the mean over the samples that it has seen.

    Raises:
        ModelError: a plain network without an example input.
        ProblemError: a wrapped network that has seen none yet.
    """
    if isinstance(network, QuantizedModel) and example_input is None:
        examples = _examples(network, "count_macs")
        return _merged([taped(network, example.inputs, {}, {}) for example in examples], examples)
    if isinstance(network, QuantizedModel):
        return _report(taped(network, example_input, {}, {}))
    if example_input is None:
        raise ModelError("count_macs needs an `example_input` to run the network on, got None")
    placement = Placement.of(network)
    with measuring(placement.device), in_eval_mode(network), torch.no_grad(), recording(network) as tape:
        call(network, placement.copy_inputs(example_input))
    return _report(tape)


def _report(tape: Tape) -> Operations:
    left_out = sorted((+tape.not_counted).items(), key=lambda item: (-item[1], item[0]))
    return Operations(tuple(tape.operations), tuple(left_out), tuple(sorted(tape.missing.items())))


def _merged(tapes: Sequence[Tape], examples: Sequence[Example]) -> Operations:
    """What one sample takes, in the mean over the samples that the examples stand for."""
    reports = [_report(tape) for tape in tapes]
    all_seen = sum(example.num_seen for example in examples)
    shares = [example.num_seen / (all_seen * example.num_samples) for example in examples]
    if shares == [1.0]:
        return reports[0]
    operations = [
        replace(operation, macs=_whole(operation.macs * share))
        for report, share in zip(reports, shares, strict=True)
        for operation in report.operations
    ]
    runs = Counter[str]()
    missing: dict[str, float] = {}
    for report, share in zip(reports, shares, strict=True):
        runs |= Counter(dict(report.not_counted))  # the most of one forward
        for name, least in report.missing:
            missing[name] = missing.get(name, 0) + least * share
    return Operations(tuple(operations), tuple(runs.most_common()), tuple(sorted(missing.items())))


def _whole(number: float) -> float:
    return round(number) if number == round(number) else number


def _moments(tapes: Sequence[Tape], examples: Sequence[Example]) -> Moments:
    # By-products that nothing reads exist in this library only: the indices of a max pooling, batch statistics.
    def is_activation(value: Value) -> bool:
        return value.is_read or value.is_marked or not value.is_by_product

    return Moments.of(
        [
            (value.origin.sources, value.num_elements / example.num_samples, value.num_bytes / example.num_samples)
            for value in alive
            if is_activation(value)
        ]
        for tape, example in zip(tapes, examples, strict=True)
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


def _feeds(operations: Iterable[Operation], weights: set[int]) -> dict[int, int]:
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
