"""The greedy ladder: down from the widest candidate, one bit at one point a rung."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qexplore.evaluation import Evaluation
from qexplore.model import Candidates
from qexplore.search.problem import LayerwiseQuantizationProblem
from qexplore.search.sensitivity import quick_table

_RUNGS_AT_ONCE = 8
_MISSES = 8
"""So many rungs in a row that do not meet the constraints, and no lower one will."""


class Ladder:
    """Takes a bit from the point whose sensitivity grows least for each bit of cost saved, and goes on from there.

    The order comes from the sensitivity table alone, as in AIMET's automatic mixed precision; every rung is measured.

    Args:
        problem: what is searched.
        first: candidates to be measured before the ladder, shape ``[N, L]``.
    """

    def __init__(self, problem: LayerwiseQuantizationProblem, first: Candidates) -> None:
        self._problem = problem
        self._first: Candidates | None = first
        self._rungs = np.zeros((0, problem.space.num_points), dtype=np.int64)
        self._misses = 0
        self.num_passes = 0.0

    def ask(self) -> Candidates:
        """The next rungs; none at the foot of the ladder, or well below where the constraints are met."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if self.num_passes == 0.0:
            table, self.num_passes = quick_table(self._problem)
            self._rungs = rungs([np.array(row) for row in table.values], self._problem)
        if self._misses >= _MISSES:
            return self._rungs[:0]
        asked, self._rungs = self._rungs[:_RUNGS_AT_ONCE], self._rungs[_RUNGS_AT_ONCE:]
        return asked

    def tell(self, candidates: Candidates, evaluations: Sequence[Evaluation]) -> None:
        """Count misses in a row."""
        for evaluation in evaluations:
            meets = evaluation.is_complete and self._problem.is_feasible(evaluation)
            self._misses = 0 if meets else self._misses + 1


def rungs(values: list[NDArray[np.float64]], problem: LayerwiseQuantizationProblem) -> Candidates:
    """All candidates of the way down, the widest left out, shape ``[steps, L]``.

    Args:
        values: sensitivities of each point by width, rising widths.
        problem: says what a step saves.
    """
    current = problem.space.upper.copy()
    way: list[NDArray[np.int64]] = []
    while (current > problem.space.lower).any():
        points = np.flatnonzero(current > problem.space.lower)
        below = np.repeat(current[None], len(points), axis=0)
        below[np.arange(len(points)), points] -= 1
        saved = problem.cost.cost(current[None])[0] - problem.cost.cost(below)
        at = current - problem.space.lower
        grown = np.array([values[point][at[point] - 1] - values[point][at[point]] for point in points])
        current = below[int((grown / saved).argmin())]
        way.append(current)
    return np.array(way, dtype=np.int64).reshape(-1, problem.space.num_points)
