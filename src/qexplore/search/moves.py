"""New candidates from known ones, all of them within the space."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qexplore.model import Candidates
from qexplore.search.space import SearchSpace

_MOST_GENES = 2
_STEPS, _STEP_WEIGHTS = (-2, -1, 1, 2), (0.125, 0.375, 0.375, 0.125)


def neighbours(parents: Candidates, count: int, space: SearchSpace, rng: np.random.Generator) -> Candidates:
    """``count`` candidates that differ from one of ``parents`` by a choice or two, up or down, at one or two genes."""
    chosen = space.gene_places(parents)[rng.integers(len(parents), size=count)]
    num_moved = rng.integers(1, _MOST_GENES + 1, size=(count, 1))
    is_moved = rng.random(chosen.shape).argsort(axis=1) < num_moved
    steps = rng.choice(_STEPS, size=chosen.shape, p=_STEP_WEIGHTS)
    return space.at(np.clip(chosen + np.where(is_moved, steps, 0), 0, space.sizes - 1))


def crossovers(
    parents: Candidates, count: int, space: SearchSpace, call_order: NDArray[np.int64], rng: np.random.Generator
) -> Candidates:
    """``count`` candidates with the first points of one parent and the last of another.

    First and last in the order in which the network passes them, so that a child shares the beginning of its first
    parent, whose values an evaluator may still hold. Tied points stay together, at the place of their first.
    """
    first, second = (parents[rng.integers(len(parents), size=count)] for _ in range(2))
    rank = np.empty_like(call_order)
    rank[call_order] = np.arange(len(call_order))
    earliest = np.full(space.num_genes, len(call_order))
    np.minimum.at(earliest, space.gene_of, rank)
    cut = rng.integers(1, max(2, len(call_order)), size=(count, 1))
    return np.where(earliest[space.gene_of] < cut, first, second)


def distinct(candidates: Candidates) -> Candidates:
    """Each of ``candidates``, shape ``[N, L]``, once, in rising order; codes are whole numbers from 0 to 65535."""
    if not candidates.size:
        return candidates[:1]
    # Their bytes, the greatest first, are in the same order, and sorted ten times as fast.
    keys = np.ascontiguousarray(candidates, dtype=">u2").view(f"S{2 * candidates.shape[1]}")[:, 0]
    return candidates[np.unique(keys, return_index=True)[1]]
