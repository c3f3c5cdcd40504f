"""Looks at a part of the set that survive a candidate which fails."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qexplore.errors import EvaluationError, MetricError
from qexplore.metrics import Scores
from qexplore.model import Candidates


def looked_at(measure: Callable[[Candidates], Scores], candidates: Candidates) -> Scores:
    """What ``measure`` says of ``candidates``, shape ``[N, L]``: shape ``[N, samples]``, NaN for those that fail.

    One by one where they cannot be had together.

    Raises:
        EvaluationError, MetricError: all of them fail, in the words of the last.
    """
    try:
        return measure(candidates)
    except (EvaluationError, MetricError) as error:
        if len(candidates) == 1:
            raise
        last = error
    rows: dict[int, Scores] = {}
    for place in range(len(candidates)):
        try:
            rows[place] = measure(candidates[place : place + 1])[0]
        except (EvaluationError, MetricError) as error:
            last = error
    if not rows:
        raise last
    scores = np.full((len(candidates), len(next(iter(rows.values())))), np.nan, dtype=np.float32)
    for place, row in rows.items():
        scores[place] = row
    return scores


def any_looked_at(measure: Callable[[Candidates], Scores], candidates: Candidates) -> Scores:
    """The same where all may fail: NaN then, of a single sample."""
    try:
        return looked_at(measure, candidates)
    except (EvaluationError, MetricError):
        return np.full((len(candidates), 1), np.nan, dtype=np.float32)
