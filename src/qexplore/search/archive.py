"""All non-dominated, feasible evaluations seen so far."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import moocore
import numpy as np
from numpy.typing import NDArray

from qexplore.evaluation import Evaluation
from qexplore.front import Front
from qexplore.model import Candidates
from qexplore.search.problem import LayerwiseQuantizationProblem


class Archive:
    """Grows with every evaluation; unbounded, and the same whatever the order of equal objectives is not."""

    def __init__(self, problem: LayerwiseQuantizationProblem, evaluations: Iterable[Evaluation] = ()) -> None:
        self._problem = problem
        self._members: list[Evaluation] = []
        for evaluation in evaluations:
            self.add(evaluation)

    @property
    def members(self) -> Sequence[Evaluation]:
        """The evaluations on the front."""
        return tuple(self._members)

    def add(self, evaluation: Evaluation) -> bool:
        """Take ``evaluation`` in when nothing known is at least as good; says whether the front grew."""
        if not evaluation.is_complete or not self._problem.is_feasible(evaluation):
            return False
        together = [*self._members, evaluation]
        keeps = moocore.is_nondominated(self._problem.objectives(together), keep_weakly=False)
        if not keeps[-1]:
            return False
        self._members = [member for member, keep in zip(together, keeps, strict=True) if keep]
        return True

    def must_beat(self, candidates: Candidates) -> NDArray[np.float64]:
        """The score that each candidate, shape ``[N, L]``, has to beat to matter, shape ``[N]``.

        The best known at no more bits, and anything that is not feasible.
        """
        problem = self._problem
        sign = 1.0 if problem.metric.higher_is_better else -1.0
        least = -math.inf if problem.min_accuracy is None else math.nextafter(sign * problem.min_accuracy, -math.inf)
        scores = np.array([sign * member.score for member in self._members])
        known = problem.cost.cost(problem.candidates_of(self._members))
        costs = problem.cost.cost(candidates)
        limits = [max(scores[known <= cost], default=least) for cost in costs]
        return sign * np.maximum(np.array(limits, dtype=np.float64), least)

    def hypervolume(self, reference_point: tuple[float, float]) -> float:
        """Hypervolume of the members against ``(accuracy, total bits)``, in accuracy times bits."""
        if not self._members:
            return 0.0
        reference = self._problem.minimized(np.array([reference_point[0]]), np.array([[reference_point[1]]]))
        return float(moocore.hypervolume(self._problem.objectives(self._members), ref=reference[0]))

    def front(self) -> Front:
        """The members as a `Front`."""
        return self._problem.front_of(self._members)


def reference_point(problem: LayerwiseQuantizationProblem, evaluations: Sequence[Evaluation]) -> tuple[float, float]:
    """(score, total bits) that hypervolumes are measured against.

    ``min_accuracy``, or without one the worst score among ``evaluations``, those of the uniform widths; and the cost of
    the widest candidate, or one bit more than ``max_total_bits``.
    """
    scores = [evaluation.score for evaluation in evaluations if evaluation.is_complete]
    scores = scores or [problem.float_accuracy]  # nothing could be measured
    worst = min(scores) if problem.metric.higher_is_better else max(scores)
    accuracy = worst if problem.min_accuracy is None else problem.min_accuracy
    most = problem.requirements.max_total_bits
    widest = float(problem.cost.cost(problem.space.widest)[0])
    # A front that reaches the limit should count there too.
    return accuracy, widest if most is None else min(widest, most + 1.0)
