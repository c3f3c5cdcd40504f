"""A problem whose minima nothing reaches is refused when it is posed, with what is reached and what is in the way.

Without a minimum it is warned of where even the widest candidate is clearly worse than the float network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qexplore._choices import choice_name
from qexplore._warnings import warn
from qexplore.errors import EvaluationError, ProblemError, QExploreError
from qexplore.evaluation import Evaluation, paired_interval
from qexplore.metrics import Metric

if TYPE_CHECKING:
    from qexplore.search.problem import LayerwiseQuantizationProblem

_SAMPLES = 256
_FEWEST_SAMPLES = 64
"""For a point in the way that no more than a warning tells of: about a pass over the search set is enough for it."""


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
    if problem.min_accuracy is None:
        _warn_of_the_widest(problem, widest)
    misses = problem.requirements.violation
    # With few samples a narrower candidate may be the luckier one.
    if misses(widest.score) > 0 and all(
        misses(e.score) > 0 for e in problem.measure(problem.space.uniform()) if e.is_complete
    ):
        side = "above" if problem.metric.better == "higher" else "below"
        head = f"min_accuracy ({problem.min_accuracy:g}) is {side} what can be reached:"
        if misses(problem.float_accuracy) > 0:  # no width is to blame
            raise ProblemError(
                f"{head} the float network itself has {problem.metric.name} {problem.float_accuracy:.4f}. Relax "
                "min_accuracy"
            )
        raise ProblemError(
            f"{head} {_widest_words(problem, widest)}. {_culprit(problem, _SAMPLES)}Relax min_accuracy or raise "
            "num_bits_upper_limit"
        )
    problem.further.require_met(widest)


def _warn_of_the_widest(problem: LayerwiseQuantizationProblem, widest: Evaluation) -> None:
    """Warn where nothing on a front will come near the float network."""
    floats, metric = problem.direct.float_evaluation, problem.metric
    if not isinstance(metric, Metric) or widest.scores is None or floats.scores is None:
        return
    interval = paired_interval(widest.scores, floats.scores, metric)
    if interval is None or max(map(metric.gain, interval)) >= 0:
        return
    num_samples = max(_FEWEST_SAMPLES, min(_SAMPLES, problem.num_samples // (1 + problem.space.num_points)))
    warn(
        f"even {_widest_words(problem, widest)}: significantly worse (95 %, paired). {_culprit(problem, num_samples)}"
        "A min_accuracy or max_drop refuses what is too far away"
    )


def _widest_words(problem: LayerwiseQuantizationProblem, widest: Evaluation) -> str:
    choice = f"{int(problem.space.widest.max())} bits" if problem.space.has_widths else "the dearest choices"
    return (
        f"the widest candidate ({choice}) has {problem.metric.name} {widest.score:.4f}, the float network "
        f"{problem.float_accuracy:.4f}"
    )


def _culprit(problem: LayerwiseQuantizationProblem, num_samples: int) -> str:
    """The point that alone, all others in float, costs most of the score; empty where none can be told."""
    if not isinstance(problem.metric, Metric):
        return ""
    metric, widest = problem.metric, problem.space.widest[0]
    alone = np.concatenate([np.zeros((1, len(widest)), dtype=np.int64), np.diag(widest)])
    try:
        rows = problem.scores_on_subset(alone, metric, num_samples)
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
