"""A part of an evaluation set, drawn at random, as the hooked network takes it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qexplore.evaluation.batches import EvaluationSet
from qexplore.evaluation.samples import Batch, drawn_whole, num_counted


def places_of_part(data: EvaluationSet, count: int, sizes: Sequence[int], counted: NDArray[np.bool_]) -> Sequence[int]:
    """Places of the whole batches, of ``sizes``, that are taken for ``count`` of the samples that count."""
    of_each = num_counted(counted, sizes)
    if data.is_held:
        return [int(place) for place in drawn_whole(of_each, count)]
    # A set that is read anew in each pass is not held here either: batches from its beginning will do.
    return range(min(1 + int(np.searchsorted(np.cumsum(of_each), count)), len(sizes)))


def part_of(
    data: EvaluationSet, count: int, sizes: Sequence[int], counted: NDArray[np.bool_], references: Sequence[Any]
) -> list[Batch]:
    """About ``count`` samples that count; with ``references``, the float network's outputs, where they are held."""
    if data.is_held:
        samples = data.samples(sizes, references, counted)
        return [samples.fetched(batch) for batch in samples.part_at_random(count)]
    batches = itertools.islice(data, len(places_of_part(data, count, sizes, counted)))
    ends = np.cumsum(sizes).tolist()
    return [
        Batch(inputs, target, np.arange(end - size, end))
        for (inputs, target), size, end in zip(batches, sizes, ends, strict=False)
    ]
