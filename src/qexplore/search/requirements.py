"""What a candidate's score has to meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qexplore._arguments import is_number
from qexplore.errors import ProblemError
from qexplore.metrics import Metric, Scores, WholeSetMetric


@dataclass(frozen=True)
class Requirements:
    """The constraint on a score; a violation of at most 0 is none.

    Attributes:
        metric: of the score.
        min_accuracy: the worst acceptable score, the largest one where lower is better; None accepts all.
    """

    metric: Metric | WholeSetMetric
    min_accuracy: float | None

    def violation(self, score: float) -> float:
        """By how much ``score`` is too bad."""
        gain = self.metric.gain
        return 0.0 if self.min_accuracy is None else gain(self.min_accuracy) - gain(score)


def checked_requirements(
    metric: Metric | WholeSetMetric,
    float_score: float,
    min_accuracy: Any,
    max_drop: Any,
    *,
    scores: Scores | None = None,
) -> Requirements:
    """Requirements from what the user gave; ``scores`` are the float network's, per sample, where there are any.

    Raises:
        ProblemError: both ``min_accuracy`` and ``max_drop``; one that is no number or outside the metric's range; a
            drop down to the worst score there is, which is no requirement.
    """
    if min_accuracy is not None and max_drop is not None:
        raise ProblemError(
            f"give min_accuracy ({min_accuracy!r}) or max_drop ({max_drop!r}), not both: max_drop is min_accuracy "
            "counted from the float network's score"
        )
    if max_drop is not None:
        if not is_number(max_drop) or max_drop < 0:
            raise ProblemError(
                f"max_drop must be a number of at least 0 in the unit of the metric '{metric.name}', got {max_drop!r}"
            )
        min_accuracy = float_score - metric.gain(float(max_drop))
        _require_a_limit(metric, float_score, min_accuracy, max_drop, scores)
    return Requirements(metric, _checked_min_accuracy(metric, min_accuracy))


def _require_a_limit(
    metric: Metric | WholeSetMetric, float_score: float, min_accuracy: float, max_drop: float, scores: Scores | None
) -> None:
    worst = metric.worst
    if worst is None and metric.higher_is_better and scores is not None and ((scores == 0) | (scores == 1)).all():
        worst = 0.0  # hits and misses, whatever range was declared
    if worst is None or metric.is_better(min_accuracy, worst):
        return
    percent = f"; for {max_drop:g} percent of a score up to 1 give {max_drop / 100:g}" if max_drop >= 1 else ""
    raise ProblemError(
        f"max_drop={max_drop!r} of the metric '{metric.name}' requires nothing: it is counted in the metric's unit "
        f"from the float network's {float_score:.4f}, and the worst score there is is {worst:g}. Give a smaller "
        f"one{percent}, or leave it out"
    )


def _checked_min_accuracy(metric: Metric | WholeSetMetric, value: Any) -> float | None:
    if value is None:
        return None
    low, high = metric.range
    if not is_number(value) or not low <= float(value) <= high:
        raise ProblemError(
            f"min_accuracy must be a number within the range of the metric '{metric.name}', [{low:g}, {high:g}], got "
            f"{value!r}"
        )
    return float(value)


_UNREACHABLE = 1e6


def worst_score(metric: Metric | WholeSetMetric, float_score: float) -> float:
    """What a failed candidate is taken to score: the worst of ``metric``, or far beyond the float network's score.

    Where that is far from 0, many times as far.
    """
    worst = metric.worst
    return float_score - metric.gain(_UNREACHABLE * max(1.0, abs(float_score))) if worst is None else worst
