"""A metric that quantization makes better is an error in disguise, given with the wrong direction: it is warned of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from qexplore._warnings import warn
from qexplore.evaluation import Evaluation, paired_interval
from qexplore.metrics import Metric

if TYPE_CHECKING:
    from qexplore.search.problem import LayerwiseQuantizationProblem

_CONFIDENCE = 0.9999
"""Of narrow choices scoring better: an untrained network may be made better by them, but hardly so clearly."""


def warn_of_direction(problem: LayerwiseQuantizationProblem, measured: Sequence[Evaluation]) -> None:
    """Warn where the cheapest of ``measured`` scores clearly higher than float, and higher is taken as better.

    Metrics with a range are asked nothing: whoever gave one has looked at what the scores mean.
    """
    metric, floats = problem.metric, problem.direct.float_evaluation
    known = [one for one in measured if one.scores is not None]
    if not isinstance(metric, Metric) or not metric.higher_is_better or np.isfinite(metric.range).any() or not known:
        return
    costs = problem.costs[0].cost(np.array([one.candidate for one in known]))
    cheapest = known[int(np.argmin(costs))]
    assert floats.scores is not None and cheapest.scores is not None
    interval = paired_interval(cheapest.scores, floats.scores, metric, confidence=_CONFIDENCE)
    if interval is not None and interval[0] > 0:
        warn(
            f"the metric '{metric.name}' is taken as one of which more is better, and {cheapest.candidate} scores "
            f"{cheapest.score:.4g} where the float network scores {floats.score:.4g}: where it is an error, give "
            "qexplore.Metric(function, higher_is_better=False)"
        )
