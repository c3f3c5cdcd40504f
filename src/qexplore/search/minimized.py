"""From what was measured to what pymoo minimises: objectives, and violations of what is required."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pymoo.core.problem import Problem

from qexplore.evaluation import DirectEvaluator, Evaluation
from qexplore.metrics import Metric, WholeSetMetric
from qexplore.model import Candidates
from qexplore.search.further import FurtherMetrics
from qexplore.search.limits import CostLimits
from qexplore.search.requirements import Requirements, worst_score
from qexplore.search.space import SearchSpace

if TYPE_CHECKING:
    from qexplore.cost import Cost

Objectives = NDArray[np.float64]


class MinimizedProblem(Problem):  # type: ignore[misc]
    """Objectives and constraints of evaluations, apart from how these are measured."""

    metric: Metric | WholeSetMetric
    space: SearchSpace
    costs: tuple[Cost, ...]
    limits: CostLimits
    requirements: Requirements
    further: FurtherMetrics
    direct: DirectEvaluator

    @property
    def min_accuracy(self) -> float | None:
        """The worst acceptable score; None where all are."""
        return self.requirements.min_accuracy

    def candidates_of(self, evaluations: Sequence[Evaluation]) -> Candidates:
        """Their candidates, shape ``[N, L]``."""
        rows = np.array([evaluation.candidate for evaluation in evaluations], dtype=np.int64)
        return rows.reshape(-1, self.space.num_points)

    def costs_of(self, candidates: Candidates) -> NDArray[np.float64]:
        """Costs of ``candidates``, shape ``[N, L]``: shape ``[N, C]``, in the order of ``costs``."""
        return np.stack([cost.cost(candidates) for cost in self.costs], axis=1)

    def is_feasible(self, evaluation: Evaluation) -> bool:
        """Whether score and cost are acceptable."""
        return evaluation.is_complete and bool((self.constraints([evaluation]) <= 0).all())

    def objectives(self, evaluations: Sequence[Evaluation]) -> Objectives:
        """What is minimised, shape ``[N, 1 + C]``. A stopped candidate has its bound.

        A failed one is worse than all others, and finite, so that it is on no front where nothing is required either.
        """
        scores = np.array([self._known_score(evaluation) for evaluation in evaluations])
        costs = self.costs_of(self.candidates_of(evaluations))
        failed = np.array([evaluation.state == "failed" for evaluation in evaluations], dtype=bool)
        costs[failed] = np.maximum(costs[failed], self.costs_of(self.space.widest)[0])
        minimized = self.minimized(scores, costs)
        minimized[failed, 0] += 1.0
        return minimized

    def minimized(self, accuracy: NDArray[np.float64], costs: NDArray[np.float64]) -> Objectives:
        """From the user's direction, ``accuracy [N]`` and ``costs [N, C]``, to what is minimised."""
        return np.column_stack([-self.metric.gain(accuracy), costs])

    def constraints(self, evaluations: Sequence[Evaluation]) -> Objectives:
        """Violations, shape ``[N, G]``, at most 0 where a candidate is acceptable.

        Of ``min_accuracy`` where there is one; of the minima of further metrics, 0 where the first is missed; of limits
        on costs. Nothing is measured for it: a candidate that meets the first but has no further scores violates their
        minima.
        """
        violation = self.requirements.violation
        first = [violation(self._known_score(e)) for e in evaluations]
        none = [0.0] * len(self.further)
        further = [
            self.further.violations(e.further) if e.is_complete and missed <= 0 else none
            for e, missed in zip(evaluations, first, strict=True)
        ]
        shaped = np.array(further, dtype=np.float64).reshape(len(evaluations), len(self.further))
        required = [] if self.min_accuracy is None else [first]
        rows = np.column_stack([*required, shaped, self.limits.excess(self.candidates_of(evaluations))])
        failed = np.array([evaluation.state == "failed" for evaluation in evaluations], dtype=bool)
        rows[failed] = np.maximum(rows[failed], 1.0 + max(0.0, violation(self._worst_score())))
        return rows

    def _known_score(self, evaluation: Evaluation) -> float:
        if evaluation.is_complete:
            return evaluation.score
        return self._worst_score() if evaluation.bound is None else evaluation.bound

    def _worst_score(self) -> float:
        return worst_score(self.metric, self.direct.float_evaluation.score)
