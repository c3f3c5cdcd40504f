"""The greedy ladder: down from the dearest candidate, one choice at one point a rung."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qexplore.evaluation import Evaluation
from qexplore.model import Candidates
from qexplore.search.problem import LayerwiseQuantizationProblem
from qexplore.search.sensitivity import Lacking, quick_table
from qexplore.search.space import SearchSpace
from qexplore.search.trade_off import TradeOff

_RUNGS_AT_ONCE = 8
_MISSES = 8
"""So many rungs in a row whose score misses what is required, and no lower one will meet it."""
_EQUAL = 1e-9
_NEVER = 1e150
"""For a sensitivity that is not finite: after all others, and as far from each other as nothing."""


class Ladder:
    """Takes a step down at the point whose sensitivity grows least for each bit of cost saved, and goes on from there.

    The order comes from the sensitivity table alone, as in AIMET's automatic mixed precision; every rung is measured.

    Args:
        problem: what is searched.
        first: candidates to be measured before the ladder, shape ``[N, L]``.
        allowance: passes over the search set that the table may cost, asked when it is taken.
        progress: show its bar; None on a terminal, and elsewhere a line every half minute.
        seconds: that the table may take, asked likewise.
    """

    def __init__(
        self,
        problem: LayerwiseQuantizationProblem,
        first: Candidates,
        allowance: Callable[[], float],
        progress: bool | None = False,
        seconds: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._problem = problem
        self._allowance, self._progress, self._seconds = allowance, progress, seconds
        self._way = self._down(first)
        self._misses = 0
        self.num_passes = 0.0
        self.lacking: Lacking | None = None

    def ask(self) -> Candidates:
        """The next rungs that keep to the limits; none at the foot, or well below where scores are good enough."""
        return next(self._way, np.zeros((0, self._problem.space.num_points), dtype=np.int64))

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """Count misses in a row: scores that are known to be too bad, and none.

        A rung that was stopped for it can beat no other tells nothing of lower ones.
        """
        for evaluation, violated in zip(evaluations, self._problem.constraints(evaluations), strict=True):
            misses = evaluation.state == "failed" or bool((violated > 0).any())
            self._misses = self._misses + 1 if misses else 0

    def _down(self, first: Candidates) -> Iterator[Candidates]:
        yield first
        self._misses = 0  # narrow uniform choices miss, and say nothing of the rungs
        table, self.num_passes = quick_table(self._problem, self._allowance(), self._progress, self._seconds())
        self.lacking = table.lacking
        left = self._problem.effective(rungs(table.values, self._problem))
        left = left[self._problem.limits.are_kept(left)]
        while len(left) and self._misses < _MISSES:
            yield left[:_RUNGS_AT_ONCE]
            left = left[_RUNGS_AT_ONCE:]


def rungs(values: Iterable[ArrayLike], problem: LayerwiseQuantizationProblem) -> Candidates:
    """All candidates of the way down, the dearest left out, shape ``[steps, L]``.

    Args:
        values: sensitivities of each point by choice, the cheapest first.
        problem: says what a step saves.
    """
    space = problem.space
    trade_off = TradeOff(problem.costs, space)
    finite = (np.nan_to_num(row, nan=_NEVER, posinf=_NEVER) for row in values)
    by_gene, way = space.by_gene(finite), [space.sizes - 1]
    while (below := _rungs_below(way[-1], by_gene, trade_off, space)) is not None:
        way.append(below)
    return space.at(np.array(way)[1:])


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
