"""What a search has learnt, and the candidates that it would measure next."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qexplore._random import stream
from qexplore.errors import ProblemError
from qexplore.evaluation import Evaluation
from qexplore.model import Candidate, Candidates
from qexplore.search.acquisition import Staircase, choose
from qexplore.search.additive import additive_front
from qexplore.search.archive import Archive
from qexplore.search.goals import Goal
from qexplore.search.moves import crossovers, distinct, neighbours
from qexplore.search.problem import LayerwiseQuantizationProblem
from qexplore.search.sensitivity import Lacking, SensitivityTable, quick_table
from qexplore.search.surrogate import Surrogate
from qexplore.search.trade_off import TradeOff

_NEIGHBOURS, _CROSSOVERS, _RANDOM = 1200, 600, 100
_MOST_FITTED = 300
"""Evaluations that the model is fitted on, those nearest to the front: more cost time and tell little."""
_RESOLUTION = 0.012
"""Scores that differ by less than this share of the way from the reference point to the best are taken as equal."""
_BELOW_FLOOR = 0.35
"""How far below the reference point scores are told apart, as a share of the way from there to the best."""

_TELLING_TOTALS, _LEAST_TOTAL = (0.02, 0.5), 1e-12
"""Summed sensitivities, in nats or as noise over signal, between which the knee of a front lies."""

Allowance = Callable[[], float]


class Guide:
    """Learns from evaluations; proposes candidates from which the hypervolume is expected to gain most.

    Args:
        problem: what is searched.
        seed: of the search.
        goal: what counts as progress.
        reference_point: (score, each cost) that hypervolumes are measured against.
        allowance: passes over the search set that a sensitivity table may cost, asked when it is taken.
        progress: show its bar; None on a terminal, and elsewhere a line every half minute.
        seconds: that the table may take, asked likewise.
    """

    def __init__(
        self,
        problem: LayerwiseQuantizationProblem,
        seed: int,
        goal: Goal,
        reference_point: tuple[float, ...],
        allowance: Allowance,
        progress: bool | None = False,
        seconds: Allowance = lambda: math.inf,
    ) -> None:
        self._problem = problem
        self._allowance, self._progress, self._seconds = allowance, progress, seconds
        self._goal = goal
        self._rng = stream(seed, "offspring")
        self._archive = Archive(problem)
        self._known: dict[Candidate, Evaluation] = {}
        self._trade_off = TradeOff(problem.costs, problem.space)
        self._known_additive: tuple[tuple[float, ...], Candidates] | None = None
        score, *costs = reference_point
        self._reference = problem.metric.gain(score), *costs
        self.num_passes = 0.0
        """Passes over the search set that were spent on sensitivities."""
        self.lacking: Lacking | None = None
        """What the sensitivity table left out."""

    def note(self, evaluations: Iterable[Evaluation]) -> None:
        """Learn from ``evaluations``."""
        for evaluation in evaluations:
            self._known[evaluation.candidate] = evaluation
            self._archive.add(evaluation)

    def guess(self, count: int, seen: Collection[Candidate]) -> Candidates:
        """Up to ``count`` members of the additive front from where networks begin to suffer to where they break down.

        For the first generation, when uniform choices alone are known and the model is of little use.
        """
        members = self._problem.effective(self._additive())
        places = self._problem.space.places(members)
        columns = zip(self._table.values, places.T, strict=True)
        totals = np.sum([np.array(values)[column] for values, column in columns], axis=0)
        wanted = np.geomspace(*_TELLING_TOTALS, count)
        apart = np.abs(np.log(np.maximum(totals, _LEAST_TOTAL)) - np.log(wanted)[:, None])
        rows = dict.fromkeys(apart.argmin(axis=1).tolist()) if len(members) else {}
        kept = [row for row in rows if tuple(members[row].tolist()) not in seen]
        return members[kept][self._problem.limits.are_kept(members[kept])]

    def propose(self, parents: Candidates, count: int, seen: Collection[Candidate]) -> Candidates:
        """Up to ``count`` candidates that are not in ``seen``, the most promising of many.

        Args:
            parents: what the search would breed from, shape ``[N, L]``; members of the front are added.
            count: how many.
            seen: not to be proposed again.
        """
        self._trade_off.draw(self._rng)
        pool = self._pool(parents, seen)
        if len(pool) <= count:
            return pool
        stairs = self._stairs()
        costs, beliefs = self._trade_off.cost(pool), self._fitted().predict(pool)
        chosen = choose(stairs, self._goal, costs, beliefs, count)
        return pool[chosen]

    def _pool(self, parents: Candidates, seen: Collection[Candidate]) -> Candidates:
        """Everything that comes into question: the additive front, children of what is known, some at random."""
        problem, space = self._problem, self._problem.space
        front = problem.candidates_of(self._archive.members)
        parents = np.concatenate([front, parents])
        parts = [self._additive(), space.random(_RANDOM, self._rng)]
        if len(parents):
            order = np.array(problem.model.call_order)
            children = crossovers(parents, _CROSSOVERS, space, order, self._rng)
            parts += [children, neighbours(children, _CROSSOVERS, space, self._rng)]
            parts += [neighbours(parents, _NEIGHBOURS, space, self._rng)]
        pool = distinct(problem.effective(np.concatenate(parts)))
        pool = pool[problem.limits.are_kept(pool)]
        new = [row for row, candidate in enumerate(pool.tolist()) if tuple(candidate) not in seen]
        return pool[new]

    @functools.cached_property
    def _table(self) -> SensitivityTable:
        table, self.num_passes = quick_table(self._problem, self._allowance(), self._progress, self._seconds())
        self.lacking = table.lacking
        return table

    def _additive(self) -> Candidates:
        """The additive front under the present weights of the costs; these of a single cost stay."""
        weights = self._trade_off.weights
        if self._known_additive is None or self._known_additive[0] != weights:
            self._known_additive = weights, self._additive_front()
        return self._known_additive[1]

    def _additive_front(self) -> Candidates:
        space, table = self._problem.space, self._table
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

    def _stairs(self) -> Staircase:
        members = self._archive.members
        costs = self._trade_off.cost(self._problem.candidates_of(members))
        gains = self._gains(members)
        gain, *most = self._reference
        reference = float(self._trade_off.of(np.array([most]))[0])
        return Staircase(*self._goal.view(costs, gains), self._goal.reference(gain, reference))

    def _fitted(self) -> Surrogate:
        """The model of what is known now."""
        known = [evaluation for evaluation in self._known.values() if evaluation.state != "stopped"]
        candidates = self._problem.candidates_of(known)
        gains = self._gains(known)
        lift = float(gains.max()) - self._reference[0]
        floor = self._reference[0] - _BELOW_FLOOR * lift if lift > 0 else float(gains.min())
        nearest = self._nearest_to_front(candidates, gains)
        surrogate = Surrogate(self._table, self._problem.space, _RESOLUTION * abs(lift)).fit(
            candidates[nearest], gains[nearest], floor=floor
        )
        stopped = [evaluation for evaluation in self._known.values() if evaluation.state == "stopped"]
        if stopped:
            surrogate.add_bounds(self._problem.candidates_of(stopped), self._gains(stopped))
        return surrogate

    def _nearest_to_front(self, candidates: Candidates, gains: NDArray[np.float64]) -> NDArray[np.int64]:
        """Rows of those that lack least to the best known at no higher cost."""
        members = self._archive.members
        known = self._trade_off.cost(self._problem.candidates_of(members))
        stairs = Staircase(known, self._gains(members), (-np.inf, np.inf))
        lacking = stairs.heights(self._trade_off.cost(candidates)) - gains
        return np.argsort(lacking, kind="stable")[:_MOST_FITTED]

    def _gains(self, evaluations: Sequence[Evaluation]) -> NDArray[np.float64]:
        """Scores, the higher the better: bounds of stopped candidates, the worst of all for failed ones."""
        return -self._problem.objectives(evaluations)[:, 0]
