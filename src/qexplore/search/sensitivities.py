"""What sensitivities of single points say of whole candidates: their sums, and the front of these."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np

from qexplore.errors import ProblemError
from qexplore.model import Candidate, Candidates
from qexplore.search.additive import additive_front
from qexplore.search.problem import LayerwiseQuantizationProblem
from qexplore.search.process import Totals
from qexplore.search.sensitivity import Lacking, SensitivityTable, quick_samples, quick_table
from qexplore.search.trade_off import TradeOff

_WHOLE_PASSES, _ROUGH_PASSES, _ROUGH_SECONDS = 2.5, 1.0, 0.1
"""What a table may cost before the first guesses: so many passes as a whole, else one pass, and a share of the seconds.
Guesses need little to be good."""
_TELLING_TOTALS, _LEAST_TOTAL = (0.02, 0.5), 1e-12
"""Summed sensitivities, in nats or as noise over signal, between which the knee of a front lies."""

Allowance = Callable[[], float]


class Sensitivities:
    """The table of a search: taken when it is first asked for, and what follows from it.

    Args:
        problem: what is searched.
        trade_off: the weights of its costs.
        allowance: passes over the search set that the table may cost, asked when it is taken.
        seconds: that it may take, asked likewise.
        progress: show its bar; None on a terminal, and elsewhere a line every half minute.
    """

    def __init__(
        self,
        problem: LayerwiseQuantizationProblem,
        trade_off: TradeOff,
        allowance: Allowance,
        seconds: Allowance,
        progress: bool | None,
    ) -> None:
        self._problem = problem
        self._trade_off = trade_off
        self._allowance, self._seconds, self._progress = allowance, seconds, progress
        self._table: SensitivityTable | None = None
        self._is_rough = False
        self._known_front: tuple[tuple[float, ...], Candidates] | None = None
        self.num_passes = 0.0
        """Spent on tables."""

    @property
    def table(self) -> SensitivityTable:
        """The whole table, as far as it can be afforded."""
        if self._table is None or self._is_rough:
            self._take(self._allowance(), self._seconds())
        assert self._table is not None
        return self._table

    @property
    def lacking(self) -> Lacking | None:
        """What the table left out; of a rough one nothing is said, the whole one is to come."""
        return None if self._table is None or self._is_rough else self._table.lacking

    def _rough_table(self) -> SensitivityTable:
        """A table of a pass where the whole one costs more than a few."""
        if self._table is not None:
            return self._table
        size, count = self._problem.num_samples, sum(map(len, self._problem.space.choices))
        whole = quick_samples(count, size)
        is_dear = count * whole > _WHOLE_PASSES * size
        most = min(_ROUGH_PASSES if is_dear else _WHOLE_PASSES, self._allowance())
        self._take(most, _ROUGH_SECONDS * self._seconds())
        assert self._table is not None
        self._is_rough = self._table.num_samples < whole or self._table.lacking is not None
        return self._table

    def _take(self, most_passes: float, most_seconds: float) -> None:
        table, passes = quick_table(self._problem, most_passes, self._progress, most_seconds)
        self.num_passes += passes
        self._table, self._is_rough, self._known_front = table, False, None

    @functools.cached_property
    def totals(self) -> Totals:
        """Sums of the whole table as features."""
        return Totals(self.table, self._problem.space)

    def front(self) -> Candidates:
        """The additive front under the present weights of the costs, shape ``[K, L]``; these of a single cost stay."""
        table, weights = self.table, self._trade_off.weights
        if self._known_front is None or self._known_front[0] != weights:
            self._known_front = weights, self._front_of(table)
        return self._known_front[1]

    def guesses(self, count: int, seen: Collection[Candidate], *, roughly: bool = False) -> Candidates:
        """Up to ``count`` members of the additive front from where networks begin to suffer to where they break down.

        For the first generations, when nothing or uniform choices alone are known and a model of scores is of little
        use. ``roughly`` makes do with a table of a pass.
        """
        table = self._rough_table() if roughly else self.table
        members = self._problem.effective(self._front_of(table))
        places = self._problem.space.places(members)
        columns = zip(table.values, places.T, strict=True)
        totals = np.sum([np.array(values)[column] for values, column in columns], axis=0)
        wanted = np.geomspace(*_TELLING_TOTALS, count)
        apart = np.abs(np.log(np.maximum(totals, _LEAST_TOTAL)) - np.log(wanted)[:, None])
        rows = dict.fromkeys(apart.argmin(axis=1).tolist()) if len(members) else {}
        kept = [row for row in rows if tuple(members[row].tolist()) not in seen]
        return members[kept][self._problem.limits.are_kept(members[kept])]

    def _front_of(self, table: SensitivityTable) -> Candidates:
        space = self._problem.space
        summed = space.by_gene(table.values)
        by_gene = replace(
            table,
            point_names=tuple(map(str, range(space.num_genes))),
            num_bits=tuple(tuple(range(len(row))) for row in summed),
            values=tuple(tuple(row.tolist()) for row in summed),
        )
        try:
            return space.at(additive_front(by_gene, [row.tolist() for row in self._trade_off.gene_costs()]).num_bits)
        except ProblemError:  # a point whose output is not finite at any choice
            return np.zeros((0, space.num_points), dtype=np.int64)
