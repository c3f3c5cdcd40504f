"""How sure a mean over samples is."""

from __future__ import annotations

import math

import numpy as np

from qexplore.metrics import Metric, Scores

CONFIDENCE = 0.95


def confidence_interval(scores: Scores, metric: Metric) -> tuple[float, float] | None:
    """95 % interval of ``metric`` for a population that ``scores``, shape ``[num_samples]``, are a random sample of.

    Scores that are all 0 or 1 get Wilson's score interval (Wilson 1927, "Probable inference, the law of succession, and
    statistical inference"), others Student's t interval of the mean, cut to the metric's range. None with fewer than
    two samples, and where ``metric.of_mean`` has no value at a limit: ``exp`` of a large one, say.
    """
    if len(scores) < 2:
        return None
    from scipy import stats  # a second to import, and only needed once there is something to measure

    if np.isin(scores, (0.0, 1.0)).all():
        test = stats.binomtest(int(scores.sum(dtype=np.float64)), len(scores))
        low, high = test.proportion_ci(CONFIDENCE, "wilson")
    else:
        mean = float(np.mean(scores, dtype=np.float64))
        error = float(np.std(scores, ddof=1, dtype=np.float64)) / math.sqrt(len(scores))
        reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(scores) - 1)) * error
        low, high = mean - reach, mean + reach
    try:
        limits = metric.of_mean(float(low)), metric.of_mean(float(high))
    except (OverflowError, ValueError):
        return None
    lowest, highest = np.clip(limits, *metric.range)
    return float(lowest), float(highest)
