"""How sure a mean over samples is, and a difference of two on the same samples."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
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
        error = float(np.std(scores, ddof=1, dtype=np.float64)) / math.sqrt(len(scores))
        reach = t_quantile(len(scores) - 1) * error
        low, high = mean - reach, mean + reach
    limits = [metric.at_mean(float(end)) for end in (low, high)]
    if not all(map(math.isfinite, limits)):
        return None
    least, greatest = metric.range
    return float(min(max(limits[0], least), greatest)), float(min(max(limits[1], least), greatest))


def paired_interval(
    scores: Scores, others: Scores, metric: Metric, *, confidence: float = CONFIDENCE
) -> tuple[float, float] | None:
    """Interval, by default of 95 %, of ``metric`` of ``scores`` less that of ``others``, shape ``[num_samples]`` each.

    Both are scores of the same samples, so only samples whose scores differ make it wide. Scores that are all 0 or 1
    get the interval of Agresti and Min (2005, "Simple improved confidence intervals for comparing matched
    proportions"), which has a width also where none differs; others Student's t interval of the mean difference, for
    ``metric.of_mean`` by its slopes (the delta method). None with fewer than two samples, and where there is no slope.
    """
    if len(scores) < 2:
        return None
    if _are_hits(metric, scores, others):
        gained, lost = int((scores > others).sum()) + 0.5, int((scores < others).sum()) + 0.5
        count = len(scores) + 2
        middle = (gained - lost) / count
        reach = (
            _normal_quantile((1 + confidence) / 2) * math.sqrt((gained + lost) / count - middle**2) / math.sqrt(count)
        )
        return max(middle - reach, -1.0), min(middle + reach, 1.0)
    found = mean_difference([scores], others, metric)
    if found is None:
        return None
    difference, error = found
    reach = t_quantile(len(scores) - 1, (1 + confidence) / 2) * error
    return difference - reach, difference + reach


def mean_difference(rows: Sequence[Scores], others: Scores, metric: Metric) -> tuple[float, float] | None:
    """Mean over ``rows`` of their metric less that of ``others``, and its standard error; all of the same samples.

    The error of scores that are all 0 or 1 is that of Agresti and Min, as if of two samples more half of one had been
    gained and half of one lost by all of ``rows``: not nothing where no sample differs. None with fewer than two
    samples, and where ``metric.of_mean`` has no value or no slope at one of the means.
    """
    if len(others) < 2:
        return None
    means = [float(np.mean(one, dtype=np.float64)) for one in (*rows, others)]
    values, slopes = [metric.at_mean(mean) for mean in means], [_slope(metric, mean) for mean in means]
    if not all(map(math.isfinite, (*values, *slopes))):
        return None
    influence = np.zeros(len(others))
    for one, slope in zip(rows, slopes, strict=False):
        influence += slope * one.astype(np.float64) / len(rows)
    influence -= slopes[-1] * others.astype(np.float64)
    if _are_hits(metric, *rows, others):
        count = len(others) + 2
        error = math.sqrt((float(np.sum(influence**2)) + 1) / count - (float(np.sum(influence)) / count) ** 2)
        error /= math.sqrt(count)
    else:
        error = float(np.std(influence, ddof=1)) / math.sqrt(len(others))
    return sum(values[:-1]) / len(rows) - values[-1], error


def _are_hits(metric: Metric, *scores: Scores) -> bool:
    return metric.is_mean and all(((one == 0) | (one == 1)).all() for one in scores)


def t_quantile(freedom: int, probability: float = _QUANTILE) -> float:
    """Of Student's t distribution, by default for a 95 % interval."""
    from scipy import stats  # a second to import, and only needed once there is something to measure

    return float(stats.t.ppf(probability, freedom))


def _slope(metric: Metric, mean: float) -> float:
    """Of ``metric.of_mean`` at a mean."""
    if metric.is_mean:
        return 1.0
    step = 1e-5 * max(1.0, abs(mean))
    return (metric.at_mean(mean + step) - metric.at_mean(mean - step)) / (2 * step)


@functools.cache
def _normal_quantile(probability: float = _QUANTILE) -> float:
    return NormalDist().inv_cdf(probability)


def _wilson(share: float, count: int, z: float) -> tuple[float, float]:
    # scipy's binomtest gives the same, after a p-value that costs a search three milliseconds a candidate.
    shrink = 1 + z**2 / count
    centre = (share + z**2 / (2 * count)) / shrink
    reach = z / shrink * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return centre - reach, centre + reach
