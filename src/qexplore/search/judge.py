"""Which of the measured candidates make up a front: the search set's word counts as far as it can tell them apart."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from qexplore.evaluation import Evaluation, paired_interval
from qexplore.front import nondominated
from qexplore.metrics import Metric, Scores
from qexplore.search.problem import LayerwiseQuantizationProblem

Numbers = NDArray[np.float64]
Rows = NDArray[np.int64]

_CONFIDENCE = 0.9
"""Of the paired interval, two-sided: better by chance in one of twenty comparisons at most."""
_ABOUT_EQUAL = 0.03
"""Costs that differ by no more than this share of the dearest are about equal."""
_MOST_PAIRS, _LEAST_PAIRS = 2000, 10
"""Pairs that are looked at, evenly spread over all, and how many have to be told apart for anything to be said."""
_MOST_PAIRED = 2000
"""Candidates of which all pairs are listed; of more, so many evenly spread: pairs grow by the square."""
_MOST_CONTRADICTED, _CHANCE = 0.1, 0.05
"""A share of pairs, twice what chance alone would contradict; more of them count where so few would be as bad by chance
(a binomial test: two of seventeen say nothing)."""


def is_contradicted(problem: LayerwiseQuantizationProblem, evaluations: Sequence[Evaluation]) -> tuple[int, int] | None:
    """As `Contest.contradictions` of the feasible ones among ``evaluations`` whose divergence is known."""
    return _contest(problem, _known(problem, evaluations)).contradictions()


def judged(
    problem: LayerwiseQuantizationProblem, evaluations: Sequence[Evaluation]
) -> tuple[list[Evaluation], list[Evaluation]]:
    """As `Contest.members` of the feasible ones among ``evaluations`` whose divergence is known."""
    known = _known(problem, evaluations)
    rows, gave_way = _contest(problem, known).members()
    return [known[row] for row in rows], [known[row] for row in gave_way]


def _known(problem: LayerwiseQuantizationProblem, evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    return [one for one in evaluations if one.divergence is not None and problem.is_feasible(one)]


def _contest(problem: LayerwiseQuantizationProblem, known: Sequence[Evaluation]) -> Contest:
    metric = problem.metric if isinstance(problem.metric, Metric) else None
    divergence = np.array([one.divergence for one in known], dtype=np.float64)
    return Contest(problem.objectives(known), divergence, lambda row: known[row].scores, metric)


def contradiction_words(contradicted: int, told: int) -> str:
    """Why scores alone decide, from what `Contest.contradictions` found."""
    return (
        f"accuracy: divergence does not tell which candidate is better here, {contradicted} of {told} pairs of about "
        "equal cost whose scores differ beyond chance contradict it"
    )


def judged_words(num_gave_way: int, metric_name: str) -> str:
    """That divergence decided, and how many gave way on it."""
    if not num_gave_way:
        return "divergence: nobody gave way"
    return (
        f"divergence: {num_gave_way} point{'s' if num_gave_way > 1 else ''} of better {metric_name} on the search set "
        "gave way to points that it cannot tell from them and that are nearer to the float network"
    )


@dataclass(frozen=True, eq=False)
class Contest:
    """Feasible candidates that compete for a front, as plain arrays.

    Attributes:
        objectives: what is minimised, the score turned and then each cost, shape ``[N, 1 + C]``.
        divergence: from the float network's outputs, shape ``[N]``.
        scores: those by sample of a row; None where there are none.
        metric: compares them; None where none can, as for a metric of a whole set.
    """

    objectives: Numbers
    divergence: Numbers
    scores: Callable[[int], Scores | None]
    metric: Metric | None

    def contradictions(self) -> tuple[int, int] | None:
        """How often scores contradict divergence where they can: the judge must not go by what misleads.

        Of two candidates of about equal cost whose scores differ beyond chance, the better one should diverge less from
        the float network. Where outputs change much without changing a prediction, such as by a gain on all logits, it
        does not.

        Returns:
            The pairs in which it does not and all that were told apart; None where these are few, or agree well enough.
        """
        told = contradicted = 0
        for row, other in self._pairs():
            better, worse = (row, other) if self.objectives[row, 0] < self.objectives[other, 0] else (other, row)
            if self._is_told(better, worse):
                told += 1
                contradicted += bool(self.divergence[better] > self.divergence[worse])
        is_beyond_chance = binom.sf(contradicted - 1, told, _MOST_CONTRADICTED) < _CHANCE
        return (contradicted, told) if told >= _LEAST_PAIRS and is_beyond_chance else None

    def _pairs(self) -> list[tuple[int, int]]:
        """Of about equal cost and different scores, evenly spread."""
        places = _spread(len(self.objectives), _MOST_PAIRED)
        rows, others = (places[one] for one in np.triu_indices(len(places), 1))
        loss, costs = self.objectives[:, 0], self.objectives[:, 1:]
        most = costs.max(axis=0, initial=0)
        near = (np.abs(costs[rows] - costs[others]) <= _ABOUT_EQUAL * most).all(axis=1) & (loss[rows] != loss[others])
        rows, others = rows[near], others[near]
        some = _spread(len(rows), _MOST_PAIRS)
        return list(zip(rows[some].tolist(), others[some].tolist(), strict=True))

    def members(self) -> tuple[Rows, Rows]:
        """The front by score, cost and, where scores cannot be told apart, divergence; and who gave way on it.

        At every cost there is one that stands: the one that diverges least from the float network among all that cost
        no more, unless another of them scores better beyond chance, in a paired comparison on the same samples. Of
        those that stand, the non-dominated by score and cost make up the front. The score of a search set is a step
        function that a search climbs wherever it is high by luck; the divergence is graded, and no search has fitted
        it.

        Returns:
            Rows of the members of the front, and of those that would be on it by score and cost alone.
        """
        if not len(self.objectives):
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        by_score = nondominated(self.objectives)
        rows = self._standing(np.flatnonzero(nondominated(np.column_stack([self.objectives, self.divergence]))))
        rows = rows[nondominated(self.objectives[rows])]
        equal = (self.objectives[:, None] == self.objectives[None, rows]).all(axis=2).any(axis=1)
        return rows, np.flatnonzero(by_score & ~equal)

    def _standing(self, rows: Rows) -> Rows:
        """Those of ``rows`` that stand at some cost."""
        costs = self.objectives[rows, 1:]
        order = np.lexsort((*costs.T[::-1], self.divergence[rows]))
        rows, costs = rows[order], costs[order]
        is_told = functools.cache(self._is_told)  # many costs ask for the same pairs
        found: dict[int, None] = {}
        for limit in np.unique(costs, axis=0):
            found[self._best(rows[(costs <= limit).all(axis=1)], is_told)] = None
        return np.array(list(found), dtype=np.int64)

    def _best(self, rows: Rows, is_told: Callable[[int, int], bool]) -> int:
        """Of ``rows``, the least divergence first, the one that stands."""
        best, loss = int(rows[0]), self.objectives[:, 0]
        for row in rows[loss[rows] < loss[best]].tolist():
            if loss[row] < loss[best] and is_told(row, best):
                best = row
        return best

    def _is_told(self, row: int, other: int) -> bool:
        """Whether the scores of two candidates differ beyond chance."""
        scores, others = self.scores(row), self.scores(other)
        if scores is None or others is None or self.metric is None:
            return True
        between = paired_interval(scores, others, self.metric, confidence=_CONFIDENCE)
        return between is None or not between[0] <= 0 <= between[1]


def _spread(count: int, most: int) -> Rows:
    """Up to ``most`` of ``count`` places, evenly spread."""
    return np.unique(np.linspace(0, max(0, count - 1), min(count, most)).round().astype(np.int64))
