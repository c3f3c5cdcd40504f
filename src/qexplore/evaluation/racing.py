"""Stopping early by proof: which samples come first, and when a candidate can no longer matter."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qexplore.metrics import Metric, WholeSetMetric

_ROUNDING = 1e-6
_GROWTH = 1.1
"""What is known has to grow by this factor before the order changes, which costs what was kept of old batches."""


def why_not(metric: Metric | WholeSetMetric) -> str:
    """Why candidates cannot be stopped early under ``metric``; empty where they can."""
    if isinstance(metric, WholeSetMetric):
        return "a whole-set metric has no score per sample"
    if metric.best_sample is not None:
        return ""
    if metric.sample_range is None and not metric.is_mean:
        return (
            f"the metric '{metric.name}' is no plain mean of its samples' scores: give it `sample_range`, the least "
            "and the greatest score of a sample"
        )
    if metric.sample_range is None and metric.fit is not None:
        return f"the metric '{metric.name}' weighs samples by the whole set"
    return f"the best score that a sample can have is not known for the metric '{metric.name}'"


class Race:
    """What the samples run so far prove about each of ``N`` candidates.

    A candidate's final score is at best the mean of what it has and the best possible score for every sample that is
    left. Once that does not beat ``must_beat``, no outcome can. Samples that do not count are no part of the mean; that
    any sample left may be one makes the bound no smaller, for the best score is not below the mean. A metric that is a
    rising function of that mean is bounded by its value at the mean's bound.

    Args:
        metric: one that `why_not` has nothing against.
        num_samples: of the whole set.
        must_beat: one score per candidate, shape ``[N]``.
    """

    def __init__(self, metric: Metric, num_samples: int, must_beat: NDArray[np.float64]) -> None:
        assert metric.best_sample is not None, "what `why_not` refuses"
        self._best = metric.best_sample
        self._metric = metric
        self._gain = metric.gain
        self._num_samples = num_samples
        self._must_beat = metric.gain(np.asarray(must_beat, dtype=np.float64))
        self._sums = np.zeros(len(self._must_beat))
        self._counts = np.zeros(len(self._must_beat), dtype=np.int64)
        self._num_run = np.zeros(len(self._must_beat), dtype=np.int64)
        self._provable = np.ones(len(self._must_beat), dtype=bool)

    def add(self, rows: NDArray[np.int64], scores: NDArray[np.float32]) -> None:
        """Take in scores of more samples, shape ``[len(rows), samples]``, for the candidates ``rows``."""
        counts = self._metric.counts(scores)
        exact = np.where(counts, scores.astype(np.float64), self._best)
        self._sums[rows] += exact.sum(axis=1, where=counts)
        self._counts[rows] += counts.sum(axis=1)
        self._num_run[rows] += scores.shape[1]
        # A score beyond the metric's range, or NaN, proves nothing: such a candidate runs to its end.
        self._provable[rows] &= (self._gain(exact) <= self._gain(self._best)).all(axis=1)

    def bounds(self) -> NDArray[np.float64]:
        """What each candidate's score cannot beat, shape ``[N]``."""
        return self._at(self._means())

    def _means(self) -> NDArray[np.float64]:
        """What the mean of each candidate's scores cannot beat."""
        left = self._num_samples - self._num_run
        return np.asarray((self._sums + left * self._best) / np.maximum(1, self._counts + left))

    def _at(self, means: NDArray[np.float64]) -> NDArray[np.float64]:
        """The metric at these means; NaN, which proves nothing, where it has no value."""
        return means if self._metric.is_mean else np.array([self._metric.at_mean(mean) for mean in means.tolist()])

    def is_decided(self) -> NDArray[np.bool_]:
        """Candidates that are proved not to beat their score, shape ``[N]``."""
        # Sums of whole numbers are exact; others may be off in the last places, which must not decide.
        slack = np.where(self._sums == np.rint(self._sums), 0.0, _ROUNDING * np.maximum(1.0, np.abs(self._sums)))
        most = np.maximum(1, self._counts + self._num_samples - self._num_run)
        beaten = self._gain(self._at(self._means() + self._gain(slack / most))) <= self._must_beat
        return np.asarray(beaten & self._provable & (self._num_run < self._num_samples))


class SampleOrder:
    """Samples that earlier candidates got wrong come first; the order changes as more candidates become known.

    Args:
        metric: of the scores.
        counted: which samples of the whole set count, shape ``[num_samples]``; the others come last.
    """

    def __init__(self, metric: Metric, counted: NDArray[np.bool_]) -> None:
        self._metric = metric
        self._counted = counted
        self._totals = np.where(counted, 0.0, np.inf)
        self._known = 0
        self._known_at_last_change = 0

    def note(self, scores: NDArray[np.float32]) -> None:
        """Learn from the scores of a complete evaluation, those that count, in the order of the evaluation set."""
        self._totals[self._counted] += self._metric.gain(scores)
        self._known += 1

    def changed(self) -> NDArray[np.int64] | None:
        """A new order, hardest first, when it is time for one."""
        if self._known < max(1.0, _GROWTH * self._known_at_last_change):
            return None
        self._known_at_last_change = self._known
        return np.argsort(self._totals, kind="stable")
