"""The greedy ladder: down from the dearest candidate, one choice at one point a rung."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from qexplore.evaluation import Evaluation
from qexplore.model import Candidates
from qexplore.search.problem import LayerwiseQuantizationProblem
from qexplore.search.sensitivity import quick_table
from qexplore.search.space import SearchSpace
from qexplore.search.trade_off import TradeOff

_RUNGS_AT_ONCE = 8
_MISSES = 8
"""So many rungs in a row that do not meet the constraints, and no lower one will."""
_EQUAL = 1e-9


class Ladder:
    """Takes a step down at the point whose sensitivity grows least for each bit of cost saved, and goes on from there.

    The order comes from the sensitivity table alone, as in AIMET's automatic mixed precision; every rung is measured.

    Args:
        problem: what is searched.
        first: candidates to be measured before the ladder, shape ``[N, L]``.
        allowance: passes over the search set that the table may cost, asked when it is taken.
    """

    def __init__(
        self,
        problem: LayerwiseQuantizationProblem,
        first: Candidates,
        allowance: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._problem = problem
        self._allowance = allowance
        self._first: Candidates | None = first
        self._rungs = np.zeros((0, problem.space.num_points), dtype=np.int64)
        self._misses = 0
        self._has_table = False
        self.num_passes = 0.0

    def ask(self) -> Candidates:
        """The next rungs; none at the foot of the ladder, or well below where the constraints are met."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if not self._has_table:
            self._has_table = True
            table, self.num_passes = quick_table(self._problem, self._allowance())
            self._rungs = rungs([np.array(row) for row in table.values], self._problem)
        if self._misses >= _MISSES:
            return self._rungs[:0]
        asked, self._rungs = self._rungs[:_RUNGS_AT_ONCE], self._rungs[_RUNGS_AT_ONCE:]
        return asked

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """Count misses in a row."""
        for evaluation in evaluations:
            self._misses = 0 if self._problem.is_feasible(evaluation) else self._misses + 1


def rungs(values: list[NDArray[np.float64]], problem: LayerwiseQuantizationProblem) -> Candidates:
    """All candidates of the way down, the dearest left out, shape ``[steps, L]``.

    Args:
        values: sensitivities of each point by choice, the cheapest first.
        problem: says what a step saves.
    """
    space = problem.space
    trade_off = TradeOff(problem.costs, space)
    by_gene = [np.zeros(size) for size in space.sizes.tolist()]
    for gene, row in zip(space.gene_of.tolist(), values, strict=True):
        by_gene[gene] = by_gene[gene] + row
    current = space.sizes - 1
    way: list[NDArray[np.int64]] = []
    while True:
        below = _rungs_below(current, by_gene, trade_off, space)
        if below is None:
            break
        current = below
        way.append(space.at(current[None])[0])
    return np.array(way, dtype=np.int64).reshape(-1, space.num_points)


def _rungs_below(
    current: NDArray[np.int64], by_gene: list[NDArray[np.float64]], trade_off: TradeOff, space: SearchSpace
) -> NDArray[np.int64] | None:
    """The places one rung below ``current``; None at the foot of the ladder."""
    steps = [(gene, place) for gene, at in enumerate(current.tolist()) for place in range(at)]
    if not steps:
        return None
    genes, places = np.array(steps).T
    below = np.repeat(current[None], len(steps), axis=0)
    below[np.arange(len(steps)), genes] = places
    saved = float(trade_off.cost(space.at(current[None]))[0]) - trade_off.cost(space.at(below))
    grown = np.array([by_gene[gene][place] - by_gene[gene][current[gene]] for gene, place in steps])
    nearest = np.zeros(len(steps), dtype=bool)  # of each gene the choices that save least, and something
    for gene in np.unique(genes):
        saves = (genes == gene) & (saved > 0)
        if saves.any():
            nearest |= saves & (saved <= saved[saves].min() * (1 + _EQUAL))
    if not nearest.any():
        return None
    rate = np.where(nearest, grown / np.where(nearest, saved, 1.0), np.inf)
    chosen: NDArray[np.int64] = below[int(rate.argmin())]
    return chosen
