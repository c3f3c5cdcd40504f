"""Which of the measured candidates make up a front: the search set's word counts as far as it can tell them apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qexplore.evaluation import Evaluation, paired_interval
from qexplore.front import nondominated
from qexplore.metrics import Metric
from qexplore.search.problem import LayerwiseQuantizationProblem

_CONFIDENCE = 0.9
"""Of the paired interval, two-sided: better by chance in one of twenty comparisons at most."""


def judged(
    problem: LayerwiseQuantizationProblem, evaluations: Sequence[Evaluation]
) -> tuple[list[Evaluation], list[Evaluation]]:
    """The front by score, cost and, where scores cannot be told apart, divergence; and who gave way on it.

    At every cost there is one that stands: the one that diverges least from the float network among all that cost no
    more, unless another of them scores better beyond chance, in a paired comparison on the same samples. Of those that
    stand, the non-dominated by score and cost make up the front. The score of a search set is a step function that a
    search climbs wherever it is high by luck; the divergence is graded, and no search has fitted it.

    Args:
        problem: what was searched.
        evaluations: what it measured; feasible ones of which divergence and scores of samples are known take part.

    Returns:
        The members of the front, and those that would be on it by score and cost alone.
    """
    known = [one for one in evaluations if one.divergence is not None and problem.is_feasible(one)]
    if not known:
        return [], []
    objectives = problem.objectives(known)
    divergence = np.array([one.divergence for one in known])
    by_score = nondominated(objectives)
    in_question = np.flatnonzero(nondominated(np.column_stack([objectives, divergence])))
    standing = _standing(problem, [known[row] for row in in_question])
    rows = in_question[standing]
    rows = rows[nondominated(objectives[rows])]
    members = [known[row] for row in rows]
    equal = (objectives[:, None] == objectives[None, rows]).all(axis=2).any(axis=1)
    return members, [known[row] for row in np.flatnonzero(by_score & ~equal)]


def _standing(problem: LayerwiseQuantizationProblem, known: Sequence[Evaluation]) -> list[int]:
    """Places of those that stand at some cost."""
    costs = problem.costs_of(problem.candidates_of(known))
    order = sorted(range(len(known)), key=lambda row: (known[row].divergence, *costs[row]))
    found: dict[int, None] = {}
    for limit in np.unique(costs, axis=0):
        within = [row for row in order if (costs[row] <= limit).all()]
        found[_best(problem, known, within)] = None
    return list(found)


def _best(problem: LayerwiseQuantizationProblem, known: Sequence[Evaluation], rows: Sequence[int]) -> int:
    """Of ``rows``, the least divergence first, the one that stands."""
    best = rows[0]
    for row in rows[1:]:
        if problem.metric.is_better(known[row].score, known[best].score) and _is_told(problem, known[row], known[best]):
            best = row
    return best


def _is_told(problem: LayerwiseQuantizationProblem, one: Evaluation, other: Evaluation) -> bool:
    """Whether the scores of two candidates differ beyond chance."""
    if one.scores is None or other.scores is None or not isinstance(problem.metric, Metric):
        return True
    between = paired_interval(one.scores, other.scores, problem.metric, confidence=_CONFIDENCE)
    return between is None or not between[0] <= 0 <= between[1]
