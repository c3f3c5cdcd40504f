"""Minima of further metrics, for networks with several tasks or several measures of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qexplore.errors import ProblemError
from qexplore.evaluation import DirectEvaluator, Evaluation, PrefixEvaluator
from qexplore.metrics import Metric, WholeSetMetric, as_metric
from qexplore.search.requirements import Requirements, checked_requirements

Key = tuple[int, ...]
Asked = tuple[Metric | WholeSetMetric, Any, Any]


class FurtherMetrics:
    """Measures a candidate by further metrics, once, and only where it is asked for: one that fails the first is not.

    Args:
        asked: metrics after the first, each with its ``min_accuracy`` and its ``max_drop``, as the user gave them.
        evaluator: makes the evaluator of a metric.
    """

    def __init__(
        self,
        asked: Sequence[Asked],
        evaluator: Callable[[Metric | WholeSetMetric], DirectEvaluator | PrefixEvaluator],
    ) -> None:
        self._metrics = [metric for metric, _, _ in asked]
        self._evaluators = [evaluator(metric) for metric in self._metrics]
        self._floats = [_float_score(one) for one in self._evaluators]
        self._requirements: list[Requirements] = [
            checked_requirements(metric, score, least, drop)
            for (metric, least, drop), score in zip(asked, self._floats, strict=True)
        ]
        self._memory: dict[Key, list[Evaluation]] = {}
        self.num_passes = 0.0
        """Passes over the search set that all this has cost."""

    def __len__(self) -> int:
        return len(self._metrics)

    def forget(self) -> None:
        """The network has changed."""
        self._memory.clear()

    def violations(self, candidate: Key) -> list[float]:
        """By how much each minimum is missed; 1 where a candidate cannot be measured."""
        return [
            requirement.violation(evaluation.score) if evaluation.is_complete else 1.0
            for requirement, evaluation in zip(self._requirements, self._measured(candidate), strict=True)
        ]

    def require_met(self, candidate: Key) -> None:
        """Raise where the widest candidate misses a minimum.

        Raises:
            ProblemError: names the metric and what can be reached.
        """
        lines = zip(self._metrics, self._requirements, self._measured(candidate), self._floats, strict=True)
        for metric, requirement, evaluation, float_score in lines:
            if not evaluation.is_complete or requirement.violation(evaluation.score) > 0:
                reached = f"{evaluation.score:.4f}" if evaluation.is_complete else f"failed: {evaluation.reason}"
                raise ProblemError(
                    f"min_accuracy of the metric '{metric.name}' ({requirement.min_accuracy:g}) cannot be reached: the "
                    f"widest candidate has {reached}, the float network {float_score:.4f}. Relax it"
                )

    def _measured(self, candidate: Key) -> list[Evaluation]:
        if candidate not in self._memory:
            rows = np.array([candidate], dtype=np.int64)
            self._memory[candidate] = [next(iter(one.evaluate(rows))) for one in self._evaluators]
            self.num_passes += len(self._evaluators)
        return self._memory[candidate]


def split_metrics(metric: Any, min_accuracy: Any, max_drop: Any) -> list[Asked]:
    """Each metric with its minimum and its drop: one, or as many as the user gave.

    Raises:
        ProblemError: minima of another number than the metrics.
        MetricError: no metric.
    """
    if not isinstance(metric, (list, tuple)):
        return [(as_metric(metric), min_accuracy, max_drop)]
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
    return [(as_metric(one), least, drop) for one, least, drop in zip(metric, *columns, strict=True)]


def _float_score(evaluator: DirectEvaluator | PrefixEvaluator) -> float:
    direct = evaluator.direct if isinstance(evaluator, PrefixEvaluator) else evaluator
    return direct.float_evaluation.score
