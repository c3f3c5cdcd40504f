"""A problem whose minima nothing reaches is refused when it is posed, with what is reached and what is in the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qexplore._choices import choice_name
from qexplore.errors import EvaluationError, ProblemError, QExploreError
from qexplore.metrics import Metric

if TYPE_CHECKING:
    from qexplore.search.problem import LayerwiseQuantizationProblem

_SAMPLES = 256


def require_reachable(problem: LayerwiseQuantizationProblem) -> None:
    """Raise where neither the widest candidate nor another uniform one reaches the minima.

    Raises:
        EvaluationError: the widest candidate cannot be evaluated.
        ProblemError: says what is reached, and which point alone costs most; of a float network that misses the minima
            only that.
    """
    widest = next(problem.measure(problem.space.widest))
    if not widest.is_complete:
        raise EvaluationError(f"the widest candidate {widest.candidate} could not be evaluated: {widest.reason}")
    misses = problem.requirements.violation
    # With few samples a narrower candidate may be the luckier one.
    if misses(widest.score) > 0 and all(
        misses(e.score) > 0 for e in problem.measure(problem.space.uniform()) if e.is_complete
    ):
        side = "above" if problem.metric.better == "higher" else "below"
        choice = f"{int(problem.space.widest.max())} bits" if problem.space.has_widths else "the dearest choices"
        head = f"min_accuracy ({problem.min_accuracy:g}) is {side} what can be reached:"
        floats = f"{problem.float_accuracy:.4f}"
        if misses(problem.float_accuracy) > 0:  # no width is to blame
            raise ProblemError(
                f"{head} the float network itself has {problem.metric.name} {floats}. Relax min_accuracy"
            )
        raise ProblemError(
            f"{head} the widest candidate ({choice}) has {problem.metric.name} {widest.score:.4f}, the float network "
            f"{floats}. {_culprit(problem)}Relax min_accuracy or raise num_bits_upper_limit"
        )
    problem.further.require_met(widest)


def _culprit(problem: LayerwiseQuantizationProblem) -> str:
    """The point that alone, all others in float, costs most of the score; empty where none can be told."""
    if not isinstance(problem.metric, Metric):
        return ""
    metric, widest = problem.metric, problem.space.widest[0]
    alone = np.concatenate([np.zeros((1, len(widest)), dtype=np.int64), np.diag(widest)])
    try:
        rows = problem.scores_on_subset(alone, metric, _SAMPLES)
        scores = np.array([metric.summarize(row) for row in rows])
    except QExploreError:
        return ""
    lost = np.nan_to_num(metric.gain(scores[0] - scores[1:]), nan=np.inf)
    worst = int(lost.argmax())
    if not lost[worst] > 0:
        return ""
    choice = int(widest[worst])
    return (
        f"'{problem.model.points[worst].name}' costs most: alone at {choice_name(choice)}, all others in float, "
        f"{scores[1 + worst]:.4f} instead of {scores[0]:.4f} on {rows.shape[1]} samples; give it wider choices or off, "
        "or calibrate it otherwise. "
    )
