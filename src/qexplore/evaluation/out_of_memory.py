"""Memory that ran out: how that is told from other errors, and a batch in two."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from qexplore.evaluation.samples import Pair, Samples


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out, on an accelerator or in the machine; also where a metric's error is wrapped."""
    while error is not None:
        of_machine = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
        if of_machine or isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            return True
        error = error.__cause__
    return False


def pieces(
    batches: Iterable[Pair], references: Sequence[Any], in_halves: Sequence[int] = ()
) -> Iterator[tuple[Any, Any, Any]]:
    """Inputs, target and reference of each batch, or of each half of one where ``in_halves`` holds their sizes."""
    for place, (inputs, target) in enumerate(batches):
        reference = references[place] if references else None
        if in_halves:
            yield from _in_two(inputs, target, reference, in_halves[place])
        else:
            yield inputs, target, reference


def _in_two(inputs: Any, target: Any, reference: Any, count: int) -> list[tuple[Any, Any, Any]]:
    """A batch of ``count`` samples in two, views of it; whole where it cannot be cut."""
    samples = Samples([(inputs, target)], [count], references=[] if reference is None else [reference])
    if count < 2 or not samples.can_be_cut:
        return [(inputs, target, reference)]
    return [(half.inputs, half.target, half.reference) for half in samples.cut(-(-count // 2))]
