"""All non-dominated, feasible evaluations seen so far."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import moocore
import numpy as np
from numpy.typing import NDArray

from qexplore.cost import Cost
from qexplore.evaluation import Evaluation
from qexplore.front import Front, nondominated
from qexplore.model import Candidates
from qexplore.search.limits import TOTAL_BITS
from qexplore.search.problem import LayerwiseQuantizationProblem

_STEP = 0.01
"""Share of the way from the cheapest to the dearest candidate by which a reference point lies beyond a limit."""


class Archive:
    """Grows with every evaluation; unbounded, and the same whatever the order of equal objectives is not."""

    def __init__(self, problem: LayerwiseQuantizationProblem, evaluations: Iterable[Evaluation] = ()) -> None:
        self._problem = problem
        self._members: list[Evaluation] = []
        self._objectives = np.zeros((0, problem.n_obj))
        self._hypervolumes: dict[tuple[float, ...], float] = {}  # of the present members, by reference point
        for evaluation in evaluations:
            self.add(evaluation)

    @property
    def members(self) -> Sequence[Evaluation]:
        """The evaluations on the front."""
        return tuple(self._members)

    def add(self, evaluation: Evaluation) -> bool:
        """Take ``evaluation`` in when nothing known is at least as good; says whether the front grew."""
        if not self._problem.is_feasible(evaluation):
            return False
        together = [*self._members, evaluation]
        objectives = np.concatenate([self._objectives, self._problem.objectives([evaluation])])
        keeps = nondominated(objectives)
        if not keeps[-1]:
            return False
        self._members = [member for member, keep in zip(together, keeps, strict=True) if keep]
        self._objectives = objectives[keeps]
        self._hypervolumes = {}
        return True

    def must_beat(self, candidates: Candidates) -> NDArray[np.float64]:
        """The score that each candidate, shape ``[N, L]``, has to beat to matter, shape ``[N]``.

        The best known at no higher cost, and anything that is not feasible.
        """
        problem, gain = self._problem, self._problem.metric.gain
        least = -math.inf if problem.min_accuracy is None else math.nextafter(gain(problem.min_accuracy), -math.inf)
        scores = np.array([gain(member.score) for member in self._members])
        known = problem.costs_of(problem.candidates_of(self._members))
        costs = problem.costs_of(candidates)
        limits = [max(scores[(known <= cost).all(axis=1)], default=least) for cost in costs]
        return np.asarray(gain(np.maximum(np.array(limits, dtype=np.float64), least)))

    def hypervolume(self, reference_point: tuple[float, ...]) -> float:
        """Hypervolume of the members against ``(accuracy, each cost)``, in the product of their units."""
        if reference_point not in self._hypervolumes:
            self._hypervolumes[reference_point] = self._hypervolume(reference_point)
        return self._hypervolumes[reference_point]

    def _hypervolume(self, reference_point: tuple[float, ...]) -> float:
        if not self._members:
            return 0.0
        reference = self._problem.minimized(np.array([reference_point[0]]), np.array([reference_point[1:]]))
        return float(moocore.hypervolume(self._objectives, ref=reference[0]))

    def front(self) -> Front:
        """The members as a `Front`."""
        return self._problem.front_of(self._members)


def reference_point(problem: LayerwiseQuantizationProblem, evaluations: Sequence[Evaluation]) -> tuple[float, ...]:
    """(score, each cost) that hypervolumes are measured against.

    ``min_accuracy``, or without one the worst score among ``evaluations``, those of the uniform choices; and the most
    that the widest, the narrowest or a uniform candidate costs, or a little more than a limit.
    """
    scores = [evaluation.score for evaluation in evaluations if evaluation.is_complete]
    worst = min(scores or [problem.float_accuracy], key=problem.metric.gain)  # float where nothing could be measured
    accuracy = worst if problem.min_accuracy is None else problem.min_accuracy
    space = problem.space
    # Of a table from a device a wider choice may cost less, so that the widest candidate is not the dearest.
    costs = problem.costs_of(np.concatenate([space.narrowest, space.uniform(), space.widest]))
    ends = zip(problem.costs, costs.min(axis=0), costs.max(axis=0), strict=True)
    return accuracy, *(_reference_cost(problem, cost, least, dearest) for cost, least, dearest in ends)


def _reference_cost(problem: LayerwiseQuantizationProblem, cost: Cost, least: float, dearest: float) -> float:
    most = problem.limits.by_name.get(cost.name)
    # A front that reaches the limit should count there too.
    step = 1.0 if cost.name == TOTAL_BITS else (dearest - least) * _STEP
    return float(dearest if most is None else min(dearest, most + step))
