"""A part of an evaluation set, drawn at random, as the hooked network takes it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from qexplore.evaluation.batches import EvaluationSet
from qexplore.evaluation.samples import Batch, drawn_whole


def places_of_part(data: EvaluationSet, count: int, num_samples: int, sizes: Sequence[int]) -> Sequence[int]:
    """Places of the whole batches, of ``sizes``, that are taken for ``count`` of ``num_samples``."""
    if data.is_held:
        return [int(place) for place in drawn_whole(sizes, count)]
    # A set that is read anew in each pass is not held here either: batches from its beginning will do.
    per_batch = max(1, num_samples // len(sizes))
    return range(min(-(-count // per_batch), len(sizes)))


def part_of(
    data: EvaluationSet, count: int, num_samples: int, sizes: Sequence[int], references: Sequence[Any]
) -> list[Batch]:
    """About ``count`` of ``num_samples``; with ``references``, the float network's outputs, where they are held."""
    if data.is_held:
        samples = data.samples(num_samples, references)
        return [samples.fetched(batch) for batch in samples.part_at_random(count)]
    chosen = [sizes[place] for place in places_of_part(data, count, num_samples, sizes)]
    batches = zip(itertools.islice(data, len(chosen)), chosen, strict=True)
    return [Batch(inputs, target, np.arange(size)) for (inputs, target), size in batches]
