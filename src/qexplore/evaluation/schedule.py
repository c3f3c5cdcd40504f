"""Which step runs when, for many candidates at once: each once for all that agree on the widths it depends on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qexplore.evaluation.graph import Steps
from qexplore.model import Candidates

Key = tuple[int, ...]
"""A step's index, and the widths that its value depends on."""


@dataclass
class Operation:
    """One step for one choice of the widths it depends on.

    Attributes:
        step: its index.
        widths: those of the points that the step itself takes.
        inputs: slots that hold the values it takes.
        output: slot that its value goes to.
        key: what its value is known by, where it is to be kept for later calls; else None.
        is_loaded: whether the value is taken from what earlier calls kept.
        last_reads: slots that nothing reads afterwards.
        rows: candidates whose network output this value is.
        is_stacked: whether ``widths`` are several of the last quantizer; the outputs, one for each of ``rows``, then
            stand one after the other.
        in_place: whether a quantizer may write into the value it takes.
    """

    step: int
    widths: tuple[int, ...]
    inputs: tuple[int, ...]
    output: int
    key: Key | None = None
    is_loaded: bool = False
    last_reads: tuple[int, ...] = ()
    rows: list[int] = field(default_factory=list)
    is_stacked: bool = False
    in_place: bool = False


@dataclass(frozen=True)
class Schedule:
    """Operations in order.

    Attributes:
        operations: each reads slots that earlier ones have filled.
        num_slots: how many slots they use; the first ones hold the network's arguments.
        peak: largest sum of all values held at once, in bytes, for a batch of the size that `Step.nbytes` stands for.
    """

    operations: tuple[Operation, ...]
    num_slots: int
    peak: int


def make_schedule(
    steps: Steps,
    candidates: Candidates,
    *,
    kept_steps: frozenset[int] = frozenset(),
    is_kept: Callable[[Key], bool] = lambda key: False,
) -> Schedule:
    """Plan the evaluation of ``candidates`` on one batch.

    Candidates are taken in the order of their widths, first passed point first, so that equal beginnings meet and few
    values are held at once.

    Args:
        steps: the network.
        candidates: shape ``[N, L]``.
        kept_steps: steps whose values are to be kept for later calls.
        is_kept: whether the value with this key is there already.
    """
    operations = _operations(steps, candidates, kept_steps, is_kept)
    operations = _needed(operations)
    _note_last_reads(operations)
    _allow_writes(steps, operations)
    num_slots = 1 + max((operation.output for operation in operations), default=steps.num_inputs - 1)
    return Schedule(tuple(operations), max(num_slots, steps.num_inputs), _peak(steps, operations))


def in_order(steps: Steps, candidates: Candidates) -> NDArray[np.int64]:
    """Rows of ``candidates`` such that those that agree on the first points stand together."""
    if len(steps.order) == 0:
        return np.arange(len(candidates))
    return np.lexsort(candidates[:, steps.order[::-1]].T)


def _operations(
    steps: Steps, candidates: Candidates, kept_steps: frozenset[int], is_kept: Callable[[Key], bool]
) -> list[Operation]:
    rows = in_order(steps, candidates)
    ordered = candidates[rows]
    variants = _variants(steps, ordered)
    widths = ordered.tolist()
    slots: list[dict[int, int]] = [{0: index} for index in range(steps.num_inputs)]
    slots += [{} for _ in steps.steps[steps.num_inputs :]]
    own = [(step.points, step.inputs, step.upstream) for step in steps.steps]
    computed = [index for index in range(steps.num_inputs, len(steps.steps)) if index not in steps.tail]
    stacks: dict[int, Operation] = {}
    operations: list[Operation] = []
    by_slot: dict[int, Operation] = {}
    free = steps.num_inputs
    for place, row in enumerate(rows.tolist()):
        chosen = widths[place]
        for index in computed:
            variant = variants[index][place]
            if variant in slots[index]:
                continue
            points, inputs, upstream = own[index]
            operation = Operation(
                index,
                tuple([chosen[point] for point in points]),
                tuple([slots[source][variants[source][place]] for source in inputs]),
                free,
            )
            if index in kept_steps:
                operation.key = (index, *[chosen[point] for point in upstream])
                if is_kept(operation.key):
                    operation.is_loaded, operation.inputs = True, ()
            slots[index][variant] = free
            by_slot[free] = operation
            operations.append(operation)
            free += 1
        if steps.tail:
            source = own[steps.tail[0]][1][0]
            before = slots[source][variants[source][place]]
            if before not in stacks:
                stacks[before] = Operation(steps.tail[0], (), (before,), free, is_stacked=True)
                operations.append(stacks[before])
                free += 1
            stacks[before].widths += (chosen[steps.order[-1]],)
            stacks[before].rows.append(row)
            continue
        output = slots[steps.output][variants[steps.output][place]]
        if output not in by_slot:  # the network hands an argument on
            by_slot[output] = Operation(steps.output, (), (), output)
            operations.append(by_slot[output])
        by_slot[output].rows.append(row)
    return operations


def _variants(steps: Steps, ordered: Candidates) -> list[list[int]]:
    """For each step a number per candidate, the same where they agree on all widths that it depends on."""
    numbers: dict[tuple[int, ...], list[int]] = {(): [0] * len(ordered)}
    for step in steps.steps:
        if step.upstream not in numbers:
            unique = np.unique(ordered[:, list(step.upstream)], axis=0, return_inverse=True)
            numbers[step.upstream] = unique[1].reshape(-1).tolist()
    return [numbers[step.upstream] for step in steps.steps]


def _needed(operations: list[Operation]) -> list[Operation]:
    """Without those whose values only lead to one that is loaded, or to none."""
    read: set[int] = set()
    kept = []
    for operation in reversed(operations):
        if operation.rows or operation.output in read:
            read.update(operation.inputs)
            kept.append(operation)
    return kept[::-1]


def _note_last_reads(operations: list[Operation]) -> None:
    seen: set[int] = set()
    for operation in reversed(operations):
        last = [slot for slot in dict.fromkeys(operation.inputs) if slot not in seen]
        if operation.output not in seen:
            last.append(operation.output)  # an output of the network, which the metric reads at once
        operation.last_reads = tuple(last)
        seen.update(operation.inputs)


def _allow_writes(steps: Steps, operations: list[Operation]) -> None:
    """Let a quantizer write into a value that it is the last to read, and that is nobody else's memory."""
    producers = {operation.output: operation for operation in operations}
    alone = _unviewed(steps)
    for operation in operations:
        if steps.steps[operation.step].point is None or operation.is_stacked:
            continue
        for place, slot in enumerate(operation.inputs):
            source = producers.get(slot)
            if source is None or source.rows or source.is_loaded or source.key is not None:
                continue
            if source.step in alone and slot in operation.last_reads:
                # Of a sum either part will do.
                operation.inputs = (slot, *operation.inputs[:place], *operation.inputs[place + 1 :])
                operation.in_place = True
                break


def _unviewed(steps: Steps) -> set[int]:
    """Steps whose value is memory of its own that no other value lies in; quantizers, which may be off, are not."""
    viewed = {source for step in steps.steps for source in step.inputs if step.point is None and not step.is_fresh}
    return {
        index for index, step in enumerate(steps.steps) if step.is_fresh and step.point is None and index not in viewed
    }


def _peak(steps: Steps, operations: list[Operation]) -> int:
    sizes: dict[int, int] = {}
    held = peak = 0
    for operation in operations:
        copies = len(operation.widths) if operation.is_stacked else 1
        sizes[operation.output] = steps.steps[operation.step].nbytes * copies
        held += sizes[operation.output]
        peak = max(peak, held)
        held -= sum(sizes.pop(slot, 0) for slot in operation.last_reads)
    return peak
