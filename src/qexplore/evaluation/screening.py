"""Looking at a few samples first: a bound on the score of all of them that holds with a stated probability."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qexplore.evaluation.base import Evaluator
from qexplore.metrics import Metric, Scores, WholeSetMetric

_LEAST_SET = 8192
_SHARE = 32
_MOST_SHARE = 4


@dataclass(frozen=True)
class Screen:
    """A random part of the evaluation set, and how sure a candidate's rejection has to be.

    The part holds of each class its share, so that means over it vary no more than those of plainly random ones.

    Attributes:
        num_samples: size of the part.
        error: probability that a candidate is rejected wrongly, at most.
        num_run: samples that an evaluator runs for it, more where it takes batches whole.
    """

    num_samples: int
    error: float = 1e-3
    num_run: int = 0

    @classmethod
    def of(cls, metric: Metric | WholeSetMetric, num_samples: int, evaluator: Evaluator | None = None) -> Screen | None:
        """The screen for a set of ``num_samples``: a thirty-second of 8,192 samples or more. None where none is of use.

        Small sets say too little in parts, and without limits on a sample's score there is no bound. Where the batches
        that ``evaluator`` takes whole make up more than a quarter of the set, a look at them costs more than it saves.
        """
        if not isinstance(metric, Metric) or not metric.is_mean or metric.fit is not None or num_samples < _LEAST_SET:
            return None
        if not all(map(math.isfinite, _limits(metric))):
            return None
        part = num_samples // _SHARE
        num_run = part if evaluator is None else evaluator.subset_size(part)
        return cls(part, num_run=num_run) if num_run <= num_samples // _MOST_SHARE else None

    def bounds(self, scores: Scores, metric: Metric, num_samples: int) -> NDArray[np.float64]:
        """What the scores of whole sets of ``num_samples`` do not beat, but for the chance ``error``: shape ``[N]``.

        The inequality of Hoeffding and Serfling for sampling without replacement: R. Serfling, "Probability
        inequalities for the sum in sampling without replacement", Annals of Statistics 2, 1974, corollary 1.1.

        Args:
            scores: of a random part, shape ``[N, samples]``.
            metric: says the limits of a sample's score, and the direction.
            num_samples: of the whole set.
        """
        counts = metric.counts(scores)
        # Those of the part that count are a random part of all that count. There are num_samples of these at most, and
        # fewer would only make the slack smaller.
        count = np.maximum(1, counts.sum(axis=1))
        low, high = _limits(metric)
        left = 1.0 - (count - 1) / num_samples
        slack = (high - low) * np.sqrt(left * math.log(1.0 / self.error) / (2 * count))
        means = np.where(counts, scores, 0.0).sum(axis=1, dtype=np.float64) / count
        return np.asarray(np.clip(means + metric.gain(slack), *metric.range))


def _limits(metric: Metric) -> tuple[float, float]:
    """The least and the greatest score of a sample."""
    assert metric.limits_of_sample is not None, "a plain mean without a fit has them"
    return metric.limits_of_sample
