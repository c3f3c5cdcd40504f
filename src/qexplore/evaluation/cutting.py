"""How an evaluation set is cut: samples in a batch, and batches between two moments to stop a candidate.

Pure functions of shapes, counts and memory, never of time: outputs depend on the batch size in their last bits.
"""

from __future__ import annotations

from dataclasses import dataclass

_CACHE_BYTES = 4 * 2**20
"""What the largest value of a batch may take on the CPU: values then stay in a core's share of the cache. One number
for all machines."""
_LEAST_BATCHES = 8
"""A set is cut into so many batches at least, so that a candidate can be stopped between them."""
_LEAST_SIZE = 8
"""Batches of a few samples, of one above all, take other ways through torch's kernels."""
_MANY_BATCHES = 16
"""From so many rounds on, a round of one batch for each worker is fine enough to stop candidates between rounds."""
_WORTH_A_LAUNCH = 16 * 2**20
"""Bytes of the largest value from which on an accelerator's arithmetic takes longer than starting it.

From batches of 64, 128 and 1,024 images through ResNet-20 on an H200: 28.8, 17.8 and 6.3 ms a candidate are about
1.4 ms a batch and 5 us an image of 49 kB, so 280 images, 14 MB, cost as much as their batch does to be started."""
_ENOUGH = 256 * 2**20
"""Bytes of the largest value from which on larger batches bring an accelerator a twentieth at most: memory is better
spent on values that candidates share."""
_BRANCHES = 4
"""How often the values of one candidate must fit into an accelerator's share of the budget: others branch off it."""


@dataclass(frozen=True)
class Demand:
    """What batches have to suit.

    Attributes:
        num_samples: in the set.
        largest: bytes of the largest value that a step gives, per sample.
        together: bytes of all values that one candidate holds at once, per sample.
        budget: bytes for values.
        stops: whether candidates may be stopped early.
    """

    num_samples: int
    largest: float
    together: float
    budget: int
    stops: bool


def size_for_cores(demand: Demand, num_workers: int) -> int:
    """Samples in a batch on the CPU: a power of two that the cache, the set and the budget allow.

    >>> size_for_cores(Demand(1024, largest=50176, together=2e5, budget=2**30, stops=True), num_workers=2)
    64
    """
    limit = min(
        _CACHE_BYTES / max(1.0, demand.largest),
        max(demand.num_samples / (_LEAST_BATCHES if demand.stops else num_workers), _LEAST_SIZE),
        demand.budget / 2 / num_workers / max(1.0, demand.together),
    )
    return 1 << max(0, int(limit).bit_length() - 1)


def size_for_accelerator(demand: Demand) -> int:
    """Samples in a batch on an accelerator, where starting an operation costs more than a small one takes.

    Without early stop the whole set at once, if it fits and is not so large that nothing is gained. With it an eighth
    of the set, but no less than makes up for the operations that each batch starts anew. Batches are of one size, or
    one less.

    >>> size_for_accelerator(Demand(1024, largest=50176, together=2e5, budget=2**34, stops=True))
    256
    >>> size_for_accelerator(Demand(1024, largest=50176, together=2e5, budget=2**34, stops=False))
    1024
    """
    largest = max(1.0, demand.largest)
    wished = max(demand.num_samples / _LEAST_BATCHES, _WORTH_A_LAUNCH / largest) if demand.stops else demand.num_samples
    fits = demand.budget / 2 / _BRANCHES / max(1.0, demand.together)
    size = max(1, int(min(wished, _ENOUGH / largest, fits, demand.num_samples)))
    num_batches = -(-demand.num_samples // size)
    return -(-demand.num_samples // max(1, num_batches))


def turns_for_cores(num_batches: int, num_workers: int) -> list[range]:
    """Batches between two moments to stop: one for each worker, or a single one where that would leave few moments.

    >>> turns_for_cores(4, 2)
    [range(0, 1), range(1, 2), range(2, 3), range(3, 4)]
    """
    stride = num_workers if num_batches >= _MANY_BATCHES * num_workers else 1
    return [range(start, min(start + stride, num_batches)) for start in range(0, num_batches, stride)]


def turns_for_accelerator(num_batches: int) -> list[range]:
    """Batches between two moments to stop: as many as were run before, for each moment waits for all that runs.

    Hard samples come first, so most proofs come in the first turns.

    >>> turns_for_accelerator(6)
    [range(0, 1), range(1, 2), range(2, 4), range(4, 6)]
    """
    ends = [0, *(1 << power for power in range(num_batches.bit_length() + 1))]
    return [
        range(start, min(end, num_batches)) for start, end in zip(ends, ends[1:], strict=False) if start < num_batches
    ]
