"""What a front is made of, from evaluations of a problem."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qexplore.evaluation import Evaluation
from qexplore.search.intervals import intervals_of

if TYPE_CHECKING:
    from qexplore.search.problem import LayerwiseQuantizationProblem


def front_fields(problem: LayerwiseQuantizationProblem, evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Fields of a `Front` of the complete ones among ``evaluations``, in their order."""
    complete = [evaluation for evaluation in evaluations if evaluation.is_complete]
    candidates = problem.candidates_of(complete)
    unknown = (math.nan,) * len(problem.further)
    further = np.array([evaluation.further or unknown for evaluation in complete], dtype=np.float64)
    return {
        "num_bits": candidates,
        "accuracy": np.array([evaluation.score for evaluation in complete]),
        "costs": problem.costs_of(candidates),
        "interval": intervals_of(complete),
        "point_names": tuple(problem.model.fake_quantizers),
        "cost_names": tuple(cost.name for cost in problem.costs),
        "metric_name": problem.metric.name,
        "metric": problem.metric,
        "arithmetic": problem.direct.arithmetic,
        "fingerprint": problem.fingerprint,
        "higher_is_better": problem.metric.higher_is_better,
        "float_accuracy": problem.direct.float_evaluation.score,
        "further": problem.further.described,
        "further_scores": further.reshape(-1, len(problem.further)) if len(problem.further) else None,
    }
