"""Minima of further metrics, for networks with several tasks or several measures of one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qexplore.errors import EvaluationError, ProblemError
from qexplore.evaluation import DirectEvaluator, Evaluation, Evaluator
from qexplore.front import FurtherMetric
from qexplore.metrics import Metric, WholeSetMetric, as_metric, judging
from qexplore.model import Candidate
from qexplore.search.requirements import Requirements, checked_requirements

Asked = tuple[Metric | WholeSetMetric, Any, Any]
Around = Callable[[Evaluator, str], Evaluator]
"""Another evaluator that asks the given one, and what that one is for."""


class FurtherMetrics:
    """Measures candidates by the metrics after the first, and says by how much scores miss their minima.

    Args:
        asked: the metrics, each with its ``min_accuracy`` and its ``max_drop``, as the user gave them.
        evaluators: makes the direct evaluator of a metric, and the one to search with, which may be the same.
    """

    def __init__(
        self,
        asked: Sequence[Asked],
        evaluators: Callable[[Metric | WholeSetMetric], tuple[DirectEvaluator, Evaluator]],
    ) -> None:
        self._measures: list[_Measure] = []
        for metric, *minimum in asked:
            direct, evaluator = evaluators(metric)
            floats = direct.float_evaluation
            requirements = checked_requirements(metric, floats.score, *minimum, scores=floats.scores)
            self._measures.append(_Measure(requirements, direct, evaluator, direct))

    def recorded_by(self, around: Around) -> FurtherMetrics:
        """The same, whose evaluators are asked through ``around``."""
        recorded = copy.copy(self)
        recorded._measures = [
            replace(
                one,
                evaluator=around(one.evaluator, f"search {place}"),
                judge=around(one.direct, f"direct {place}"),
            )
            for place, one in enumerate(self._measures, 1)
        ]
        return recorded

    def __len__(self) -> int:
        return len(self._measures)

    @property
    def metrics(self) -> tuple[Metric | WholeSetMetric, ...]:
        """The metrics themselves."""
        return tuple(one.requirements.metric for one in self._measures)

    @property
    def described(self) -> tuple[FurtherMetric, ...]:
        """What a front says of them."""
        return tuple(one.described for one in self._measures)

    def evaluate_float(self) -> None:
        """Measure the float network anew, for it has changed."""
        for one in self._measures:
            one.direct.evaluate_float()

    def added_to(self, evaluation: Evaluation, *, directly: bool = False) -> Evaluation:
        """``evaluation`` with its further scores, a pass over the set each; NaN where one cannot be measured, and why.

        Args:
            evaluation: complete by the first metric.
            directly: by the direct evaluators, for the last word.
        """
        if not self._measures:
            return evaluation
        measured = [one.evaluation(evaluation.candidate, directly) for one in self._measures]
        reason = next((one.reason for one in measured if not one.is_complete), evaluation.reason)
        return replace(evaluation, further=tuple(one.score for one in measured), reason=reason)

    def violations(self, scores: Sequence[float]) -> list[float]:
        """By how much each minimum is missed; 1 where a score is not known."""
        known = scores or [math.nan] * len(self)
        pairs = zip(self._measures, known, strict=True)
        return [1.0 if math.isnan(score) else one.requirements.violation(score) for one, score in pairs]

    def require_met(self, widest: Evaluation) -> None:
        """Raise where the widest candidate misses a minimum.

        Raises:
            ProblemError: names the metric and what can be reached.
            EvaluationError: the metric fails.
        """
        measured = widest if widest.further else self.added_to(widest)
        scores = measured.further
        for one, score, violation in zip(self._measures, scores, self.violations(scores), strict=True):
            if violation <= 0:
                continue
            of = one.described
            if math.isnan(score):
                raise EvaluationError(
                    f"the metric '{of.name}' could not be measured for the widest candidate {widest.candidate}: "
                    f"{measured.reason}. Mend the metric, or leave it and its minimum out"
                )
            raise ProblemError(
                f"min_accuracy of the metric '{of.name}' ({of.min_accuracy:g}) cannot be reached: the widest candidate "
                f"has {score:.4f}, the float network {of.float_accuracy:.4f}. Relax it"
            )


@dataclass(frozen=True)
class _Measure:
    """One further metric: what its scores have to meet, and who measures them: to search with, and at last."""

    requirements: Requirements
    direct: DirectEvaluator
    evaluator: Evaluator
    judge: Evaluator

    @property
    def described(self) -> FurtherMetric:
        metric, float_score = self.requirements.metric, self.direct.float_evaluation.score
        return FurtherMetric(metric.name, metric.higher_is_better, self.requirements.min_accuracy, float_score)

    def evaluation(self, candidate: Candidate, directly: bool = False) -> Evaluation:
        evaluator = self.judge if directly else self.evaluator
        return next(evaluator.evaluate(np.array([candidate], dtype=np.int64)))


def split_metrics(metric: Any, min_accuracy: Any, max_drop: Any, output: Any = None) -> list[Asked]:
    """Each metric with its minimum and its drop: one, or as many as the user gave.

    Raises:
        ProblemError: minima of another number than the metrics.
        MetricError: no metric.
    """
    if not isinstance(metric, (list, tuple)):
        return [(judging(as_metric(metric), output), min_accuracy, max_drop)]
    if not metric:
        raise ProblemError("`metric` must hold one metric at least, got an empty sequence")
    columns = []
    for name, value in (("min_accuracy", min_accuracy), ("max_drop", max_drop)):
        values = [None] * len(metric) if value is None else value
        if not isinstance(values, (list, tuple, np.ndarray)) or len(values) != len(metric):
            raise ProblemError(
                f"{name} must hold one value for each of {len(metric)} metrics, None where one has none, got {value!r}"
            )
        columns.append(values)
    for one, least, drop in list(zip(metric, *columns, strict=True))[1:]:
        if least is None and drop is None:
            raise ProblemError(
                f"the metric '{as_metric(one).name}' needs min_accuracy or max_drop: those after the first only have "
                "to reach theirs"
            )
    triples = zip(metric, *columns, strict=True)
    return [(judging(as_metric(one), output), least, drop) for one, least, drop in triples]
