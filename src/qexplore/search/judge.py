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
_ABOUT_EQUAL = 0.03
"""Costs that differ by no more than this share of the dearest are about equal."""
_MOST_PAIRS, _LEAST_PAIRS = 2000, 10
"""Pairs that are looked at, evenly spread over all, and how many have to be told apart for anything to be said."""
_MOST_CONTRADICTED = 0.1
"""A share of pairs, twice what chance alone would contradict."""


def is_contradicted(problem: LayerwiseQuantizationProblem, evaluations: Sequence[Evaluation]) -> tuple[int, int] | None:
    """How often scores contradict divergence where they can: the judge must not go by what misleads.

    Of two feasible candidates of about equal cost whose scores differ beyond chance, the better one should diverge less
    from the float network. Where outputs change much without changing a prediction, such as by a gain on all logits, it
    does not.

    Returns:
        The pairs in which it does not and all that were told apart; None where these are few, or agree well enough.
    """
    known = [one for one in evaluations if one.divergence is not None and problem.is_feasible(one)]
    if len(known) < 2:
        return None
    costs = problem.costs_of(problem.candidates_of(known))
    gains = problem.metric.gain(np.array([one.score for one in known]))
    rows, others = np.triu_indices(len(known), 1)
    near = (np.abs(costs[rows] - costs[others]) <= _ABOUT_EQUAL * costs.max(axis=0)).all(axis=1)
    rows, others = rows[near & (gains[rows] != gains[others])], others[near & (gains[rows] != gains[others])]
    some = np.unique(np.linspace(0, max(0, len(rows) - 1), min(len(rows), _MOST_PAIRS)).round().astype(int))
    told = contradicted = 0
    for row, other in zip(rows[some].tolist(), others[some].tolist(), strict=True):
        better, worse = (row, other) if gains[row] > gains[other] else (other, row)
        if _is_told(problem, known[better], known[worse]):
            told += 1
            contradicted += known[better].divergence > known[worse].divergence
    return (contradicted, told) if told >= _LEAST_PAIRS and contradicted > _MOST_CONTRADICTED * told else None


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
