"""What a search has learnt, and the candidates that it would measure next."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from qexplore._random import stream
from qexplore.evaluation import Evaluation
from qexplore.model import Candidate, Candidates
from qexplore.search.acquisition import Staircase, choose
from qexplore.search.archive import Archive
from qexplore.search.goals import Goal
from qexplore.search.low_fidelity import LowFidelity
from qexplore.search.moves import crossovers, distinct, neighbours
from qexplore.search.problem import LayerwiseQuantizationProblem
from qexplore.search.sensitivities import Allowance, Sensitivities
from qexplore.search.sensitivity import Lacking
from qexplore.search.surrogate import Described, Surrogate
from qexplore.search.trade_off import TradeOff

_NEIGHBOURS, _CROSSOVERS, _RANDOM = 1200, 600, 100
_MOST_FITTED = 300
"""Evaluations that the model is fitted on, those nearest to the front: more cost time and tell little."""
_RESOLUTION = 0.012
"""Scores that differ by less than this share of the way from the reference point to the best are taken as equal."""
_BELOW_FLOOR = 0.35
"""How far below the reference point scores are told apart, as a share of the way from there to the best."""

_PREVIEW_PASSES, _PREVIEW_SHARE, _LEAST_PREVIEW = 5.0, 0.5, 2.0
"""What first looks may cost: passes, a share of what a table might cost now, and how many passes it takes at least."""
_PREVIEWED_FIRST, _PREVIEWED_AT_ONCE, _LEAST_LOOKS = 24, 16, 10
"""Candidates that are looked at first, then a few at a time; a pass has to buy so many looks, or they are too dear."""

_MEMORY = 0.7
"""How much of the errors of earlier forecasts counts at each generation."""
_LOOKS, _LOOK_PASSES, _LOOK_SHARE, _ALL_LOOK_PASSES = 48, 3.0, 0.4, 40.0
"""Before each generation, at most; the passes that they may cost; these as a share of what a table might have; and the
passes of all looks of a search: the more is measured, the less they add."""


class Guide:
    """Learns from evaluations; proposes candidates from which the hypervolume is expected to gain most.

    Args:
        problem: what is searched.
        seed: of the search.
        goal: what counts as progress.
        reference_point: (score, each cost) that hypervolumes are measured against.
        allowance: passes over the search set that a sensitivity table or looks may cost, asked when they are taken.
        progress: show the table's bar; None on a terminal, and elsewhere a line every half minute.
        seconds: that the table may take, asked likewise.
        looks: whether to look at divergences of whole candidates on a part of the set.
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
        *,
        looks: bool = True,
    ) -> None:
        self._problem = problem
        self._allowance = allowance
        self._goal = goal
        self._rng = stream(seed, "offspring")
        self._archive = Archive(problem)
        self._known: dict[Candidate, Evaluation] = {}
        self._trade_off = TradeOff(problem.costs, problem.space)
        self.sensitivities = Sensitivities(problem, self._trade_off, allowance, seconds, progress)
        self._looks = looks
        self._low: LowFidelity | None = None
        self._forecasts: dict[Candidate, tuple[float, float]] = {}
        self._errors = np.zeros(2)
        self._counted = 0.0
        score, *costs = reference_point
        self._reference = problem.metric.gain(score), *costs

    @property
    def num_passes(self) -> float:
        """Passes over the search set that were spent on sensitivities and on looks at whole candidates."""
        return self.sensitivities.num_passes + self.num_look_passes

    @property
    def num_look_passes(self) -> float:
        """Those of looks alone."""
        return self._low.num_passes if self._low is not None else 0.0

    @property
    def lacking(self) -> Lacking | None:
        """What the sensitivity table left out."""
        return self.sensitivities.lacking

    def note(self, evaluations: Iterable[Evaluation]) -> None:
        """Learn from ``evaluations``."""
        for evaluation in evaluations:
            self._known[evaluation.candidate] = evaluation
            self._archive.add(evaluation)

    def propose(self, parents: Candidates, count: int, seen: Collection[Candidate]) -> Candidates:
        """Up to ``count`` candidates that are not in ``seen``, the most promising of many.

        Args:
            parents: what the search would breed from, shape ``[N, L]``; members of the front are added.
            count: how many.
            seen: not to be proposed again.
        """
        self._counted = self.num_passes
        if self._looks:
            self._looks, self._low = False, self._previewed()
        self._trade_off.draw(self._rng)
        pool = self._pool(parents, seen)
        if len(pool) <= count:
            return pool
        stairs, costs, (by_sums, by_divergence) = self._stairs(), self._trade_off.cost(pool), self._fitted()
        surrogate = by_divergence if self._trusts_divergence() else by_sums
        if self._low is not None and surrogate is not by_sums:
            left = min(_LOOK_PASSES, _LOOK_SHARE * self._affordable(), _ALL_LOOK_PASSES - self._low.num_passes)
            most = min(_LOOKS, int(max(0.0, left) / self._low.cost))
            rows = np.flatnonzero(self._low.worth_a_look(pool))
            some = choose(stairs, self._goal, costs[rows], surrogate.predict(pool[rows]), most)
            self._low.look(pool[rows[some]])
        chosen = pool[choose(stairs, self._goal, costs, surrogate.predict(pool), count)]
        forecasts = zip(*(model.predict(chosen).gain().tolist() for model in (by_sums, by_divergence)), strict=True)
        self._forecasts = dict(zip(map(tuple, chosen.tolist()), forecasts, strict=True))
        return chosen

    def _trusts_divergence(self) -> bool:
        """Whether divergences have foretold scores at least as well as sums of sensitivities, the last ones above all.

        Judged by what was foretold before it was measured: a model on divergences that are known explains the past
        better than it foresees candidates whose divergence it has to believe.
        """
        told = [(key, self._known[key]) for key in self._forecasts if key in self._known]
        complete = [(key, evaluation) for key, evaluation in told if evaluation.is_complete]
        if complete:
            gains = self._gains([evaluation for _, evaluation in complete])
            off = np.abs(np.array([self._forecasts[key] for key, _ in complete]) - gains[:, None])
            self._errors = _MEMORY * self._errors + off.sum(axis=0)
        self._forecasts = {}
        return self._low is not None and self._low.is_useful and bool(self._errors[1] <= self._errors[0])

    @property
    def _price(self) -> float:
        """Of an evaluation, in passes: the mean of all so far, early stop included."""
        return float(np.mean([self._problem.num_passes(evaluation) for evaluation in self._known.values()] or [1.0]))

    def _affordable(self) -> float:
        """Passes that may be spent before the next evaluations."""
        return self._allowance() - (self.num_passes - self._counted)

    def _previewed(self) -> LowFidelity | None:
        """Looks at candidates, a few at a time, for the front of divergence and cost; None where none can be had."""
        table, problem = self.sensitivities.table, self._problem
        metric = problem.divergence
        if metric is None or metric.name != table.metric_name:
            return None
        low = LowFidelity(problem, self.sensitivities.totals, metric, table.num_samples)
        most = min(_PREVIEW_PASSES, _PREVIEW_SHARE * self._affordable())
        if low.cost * _LEAST_LOOKS > 1 or most < _LEAST_PREVIEW:
            return None
        members = self.sensitivities.front()
        some = np.unique(np.linspace(0, len(members) - 1, min(len(members), _PREVIEWED_FIRST)).round().astype(int))
        first = problem.effective(members[some])
        first = first[problem.limits.are_kept(first)]
        known = [evaluation for evaluation in self._known.values() if evaluation.divergence is not None]
        low.look(problem.candidates_of(known)[: int(most / low.cost)])
        low.note(known, self._price)
        low.look(first[low.worth_a_look(first)][: int((most - low.num_passes) / low.cost)])
        reference = float(self._trade_off.of(np.array([self._reference[1:]]))[0])
        while low.num_passes and (count := min(_PREVIEWED_AT_ONCE, int((most - low.num_passes) / low.cost))) > 0:
            self._trade_off.draw(self._rng)
            pool = self._pool(low.front(self._trade_off), ())
            chosen = low.promising(pool, self._trade_off, self._goal, reference, count)
            if not len(chosen) or self._affordable() <= low.num_passes:
                break
            low.look(chosen)
        return low if low.num_passes else None

    def _pool(self, parents: Candidates, seen: Collection[Candidate]) -> Candidates:
        """Everything that comes into question: the additive front, children of what is known, some at random."""
        problem, space = self._problem, self._problem.space
        front = problem.candidates_of(self._archive.members)
        looked = [] if self._low is None or not self._low.is_useful else [self._low.front(self._trade_off)]
        parents = np.concatenate([front, parents, *looked])
        parts = [self.sensitivities.front(), space.random(_RANDOM, self._rng)]
        if len(parents):
            order = np.array(problem.model.call_order)
            children = crossovers(parents, _CROSSOVERS, space, order, self._rng)
            parts += [children, neighbours(children, _CROSSOVERS, space, self._rng)]
            parts += [neighbours(parents, _NEIGHBOURS, space, self._rng)]
        pool = distinct(problem.effective(np.concatenate(parts)))
        pool = pool[problem.limits.are_kept(pool)]
        new = [row for row, candidate in enumerate(pool.tolist()) if tuple(candidate) not in seen]
        return pool[new]

    def _stairs(self) -> Staircase:
        members = self._archive.members
        costs = self._trade_off.cost(self._problem.candidates_of(members))
        gains = self._gains(members)
        gain, *most = self._reference
        reference = float(self._trade_off.of(np.array([most]))[0])
        return Staircase(*self._goal.view(costs, gains), self._goal.reference(gain, reference))

    def _fitted(self) -> tuple[Surrogate, Surrogate]:
        """Models of what is known now: on sums of sensitivities, and on divergences, which may be the same one."""
        known = [evaluation for evaluation in self._known.values() if evaluation.state != "stopped"]
        candidates = self._problem.candidates_of(known)
        gains = self._gains(known)
        lift = float(gains.max()) - self._reference[0]
        floor = self._reference[0] - _BELOW_FLOOR * lift if lift > 0 else float(gains.min())
        nearest = self._nearest_to_front(candidates, gains)
        candidates, gains = candidates[nearest], gains[nearest]
        stopped = [evaluation for evaluation in self._known.values() if evaluation.state == "stopped"]

        def fitted(described: Described) -> Surrogate:
            surrogate = Surrogate(described, _RESOLUTION * abs(lift)).fit(candidates, gains, floor=floor)
            if stopped:
                surrogate.add_bounds(self._problem.candidates_of(stopped), self._gains(stopped))
            return surrogate

        by_sums = fitted(self.sensitivities.totals.described)
        if self._low is not None:
            self._low.note(known, self._price)
        is_told = self._low is not None and self._low.is_useful
        return by_sums, fitted(self._low.described) if self._low is not None and is_told else by_sums

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
