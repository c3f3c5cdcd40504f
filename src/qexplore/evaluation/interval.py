"""How sure a mean over samples is."""

from __future__ import annotations

import functools
import math
from statistics import NormalDist

import numpy as np

from qexplore.metrics import Metric, Scores

CONFIDENCE = 0.95
_QUANTILE = (1 + CONFIDENCE) / 2


def confidence_interval(scores: Scores, metric: Metric) -> tuple[float, float] | None:
    """95 % interval of ``metric`` for a population that ``scores``, shape ``[num_samples]``, are a random sample of.

    Scores that are all 0 or 1 get Wilson's score interval (Wilson 1927, "Probable inference, the law of succession, and
    statistical inference"), others Student's t interval of the mean, cut to the metric's range. None with fewer than
    two samples, and where ``metric.of_mean`` has no value at a limit: ``exp`` of a large one, say.
    """
    if len(scores) < 2:
        return None
    mean = float(np.mean(scores, dtype=np.float64))
    if ((scores == 0) | (scores == 1)).all():
        low, high = _wilson(mean, len(scores), _normal_quantile())
    else:
        from scipy import stats  # a second to import, and only needed once there is something to measure

        error = float(np.std(scores, ddof=1, dtype=np.float64)) / math.sqrt(len(scores))
        reach = float(stats.t.ppf(_QUANTILE, len(scores) - 1)) * error
        low, high = mean - reach, mean + reach
    try:
        limits = metric.of_mean(float(low)), metric.of_mean(float(high))
    except (OverflowError, ValueError):
        return None
    least, greatest = metric.range
    return float(min(max(limits[0], least), greatest)), float(min(max(limits[1], least), greatest))


@functools.cache
def _normal_quantile() -> float:
    return NormalDist().inv_cdf(_QUANTILE)


def _wilson(share: float, count: int, z: float) -> tuple[float, float]:
    # scipy's binomtest gives the same, after a p-value that costs a search three milliseconds a candidate.
    shrink = 1 + z**2 / count
    centre = (share + z**2 / (2 * count)) / shrink
    reach = z / shrink * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return centre - reach, centre + reach
