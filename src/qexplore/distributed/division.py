"""How candidates are divided among workers."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from qexplore.model import Candidates

LEAST_SECONDS = 0.25
"""Of work in a task, where it can be had: what it costs to send one is a few thousandths."""
_SHARE = 2
"""Each task is of this part of what a worker's share of the rest is: large ones first, small ones level the end out."""


def divided(
    candidates: Candidates, num_workers: int, seconds_each: float, points: NDArray[np.int64] | None = None
) -> list[NDArray[np.int64]]:
    """Places of ``candidates``, shape ``[N, L]``, in parts; the large ones first.

    Neighbours in the order of their choices share the work of the layers that come first, so parts are cut from that
    order. Sizes fall as in guided self-scheduling (C. Polychronopoulos, D. Kuck, 1987): half a worker's share of what
    is left, and never so few candidates that sending them costs more than it levels out, unless workers would have
    nothing to do.

    Args:
        candidates: codes.
        num_workers: that may take part.
        seconds_each: that a candidate takes, about.
        points: in the order in which the network passes them; None for that of the columns.
    """
    rows = np.asarray(candidates, dtype=np.int64)
    ordered = np.lexsort(rows[:, slice(None) if points is None else points].T[::-1]) if rows.size else np.arange(0)
    fair = math.ceil(len(rows) / max(1, num_workers))
    least = max(1, min(fair, round(LEAST_SECONDS / max(seconds_each, 1e-9))))
    parts, start = [], 0
    while start < len(rows):
        size = max(least, math.ceil((len(rows) - start) / (_SHARE * num_workers)))
        parts.append(ordered[start : start + size])
        start += size
    return parts
