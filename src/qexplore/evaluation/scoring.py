"""From a network's output to an `Evaluation`: the metric, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qexplore._trees import map_tensors, tensors_of, versions_of
from qexplore._warnings import warn
from qexplore.errors import MetricError, QExploreError
from qexplore.evaluation.base import Evaluation
from qexplore.evaluation.interval import confidence_interval
from qexplore.metrics import IGNORED_TOKEN, Metric, Scores, WholeSetMetric

_SLACK = 1e-6
"""Rounding, as a share of a score."""


def apply_metric(metric: Metric | WholeSetMetric, *arguments: Any) -> Any:
    """What ``metric`` says; what it raises is told apart from what the network raises."""
    try:
        return metric(*arguments)
    except QExploreError:
        raise
    except Exception as error:
        raise MetricError(f"the metric '{metric.name}' raised {type(error).__name__}: {error}") from error


def batch_scores(metric: Metric, output: Any, inputs: Any, target: Any) -> Tensor:
    """Scores of one batch, shape ``[B]``; which axis of the inputs counts samples is the network's affair.

    The target is brought to where the output lies: a network on several devices ends on another than it begins.

    Raises:
        MetricError: ``metric`` raised, wrote into what it was given, or did not give one score per sample.
    """
    outputs = tensors_of(output)
    if outputs:
        target = map_tensors(lambda tensor: tensor.to(outputs[0].device), target)
    given = [one for one in (*outputs, *tensors_of(target)) if not one.is_inference()]  # others keep no count
    before = versions_of(given)
    scores = apply_metric(metric, output, target)
    if versions_of(given) != before:
        raise MetricError(
            f"the metric '{metric.name}' must leave its output and target as they are, for other candidates are scored "
            "by them too, but it wrote into one: write into a copy, output.clone() or target.clone()"
        )
    sizes = [tensor.shape[0] for tensor in tensors_of((inputs, target)) if tensor.dim()]
    if isinstance(scores, Tensor) and scores.dim() == 1 and (not sizes or scores.shape[0] in sizes):
        # A copy in any case: a view would hold on to outputs, or change with memory that is written into again.
        return scores.detach().to(torch.float32, copy=True)
    got = f"a tensor of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else repr(scores)
    is_mean = isinstance(scores, Tensor) and not scores.dim()
    hint = '. Losses of torch\'s give one for each sample with reduction="none"' if is_mean else ""
    raise MetricError(
        f"the metric '{metric.name}' must return one score per sample, shape [{sizes[0] if sizes else 'B'}], got "
        f"{got}{hint}. For one number over a whole set use qexplore.whole_set(f) with f(model, loader)"
    )


def warn_of_unshifted(metric: Metric, inputs: Any, target: Any) -> None:
    """Warn where token labels are the network's own input, so that it would be asked for what it was given."""
    if metric.ignored != IGNORED_TOKEN or not isinstance(target, Tensor) or target.dim() != 2 or target.shape[1] < 2:
        return
    counted = target != IGNORED_TOKEN
    alike = [t for t in tensors_of(inputs) if t.shape == target.shape and not t.is_floating_point()]
    if counted.any() and any(torch.equal(tokens[counted], target[counted].to(tokens.dtype)) for tokens in alike):
        is_dict = isinstance(inputs, Mapping)
        kept = f"{{key: batch[key] for key in {list(inputs)}}}" if is_dict else "batch[0]"
        labels = 'batch["labels"]' if is_dict else "batch[1]"
        warn(
            f"the targets of '{metric.name}' are the input tokens themselves, but position t is scored against the "
            "target at t: a model of the next token needs them shifted, unpack=lambda batch: "
            f"({kept}, torch.nn.functional.pad({labels}[:, 1:], (0, 1), value=-100))"
        )


def summary(scores: Scores, metric: Metric) -> float:
    """The metric from all scores, shape ``[num_samples]``.

    Raises:
        MetricError: scores that are not finite, or none that counts.
    """
    counted = scores[metric.counts(scores)]
    finite = np.isfinite(counted)
    if not finite.all():
        what = "NaN" if np.isnan(counted).any() else "infinity"
        raise MetricError(f"the metric '{metric.name}' gave {what} for {int((~finite).sum())} of {len(scores)} samples")
    return metric.summarize(scores)


def complete(
    candidate: tuple[int, ...],
    score: float,
    scores: Scores | None,
    metric: Metric | WholeSetMetric,
    seconds: float,
    divergences: Scores | None = None,
) -> Evaluation:
    """The record of a whole measurement.

    Args:
        candidate: codes by point.
        score: the metric's value.
        scores: per sample; None for metrics of a whole set.
        metric: of the scores.
        seconds: time spent.
        divergences: of the same samples; NaN where none is told.

    Raises:
        MetricError: the score is not finite, or outside the metric's range; a sample scores better than it says.
    """
    num_samples, divergence = 0 if scores is None else len(scores), None
    if scores is not None and isinstance(metric, Metric):
        counted = metric.counts(scores)
        divergence = None if divergences is None else _mean_divergence(divergences[counted])
        divergence = divergence and 0.0 if not any(candidate) else divergence  # folding is no noise of a quantizer
        scores = scores[counted]
        _require_none_beyond(scores, metric)
    low, high = metric.range
    slack = _SLACK * max(1.0, abs(score))
    if not math.isfinite(score) or not low - slack <= score <= high + slack:
        raise MetricError(f"the metric '{metric.name}' must be finite and within {metric.range}, got {score}")
    return Evaluation(
        candidate,
        "complete",
        score=score,
        scores=scores,
        interval=None if scores is None else confidence_interval(scores, metric),  # type: ignore[arg-type]
        divergence=divergence,
        num_samples=num_samples,
        seconds=seconds,
    )


def _require_none_beyond(scores: Scores, metric: Metric) -> None:
    """Raise where a sample scores better than the best there is: what early stop has proved by that would not hold."""
    best = metric.best_sample
    if best is None:
        return
    beyond = metric.gain(scores) > metric.gain(best) + _SLACK * max(1.0, abs(best))
    if beyond.any():
        end = "greatest" if metric.higher_is_better else "least"
        field = "range" if metric.sample_range is None else "sample_range"
        extreme = metric.gain(metric.gain(scores).max())
        raise MetricError(
            f"the metric '{metric.name}' has {best:g} as the {end} of its `{field}`, by which candidates are stopped "
            f"early, and {int(beyond.sum())} of {len(scores)} samples score better, the best {extreme:g}: give it "
            "`sample_range`, the least and the greatest score that a sample can have"
        )


def _mean_divergence(divergences: Scores) -> float | None:
    return None if np.isnan(divergences).any() else float(divergences.mean(dtype=np.float64))


def failed(candidate: tuple[int, ...], error: Exception, seconds: float) -> Evaluation:
    """The record of a candidate that could not be measured."""
    reason = str(error) if isinstance(error, QExploreError) else f"{type(error).__name__}: {error}"
    return Evaluation(candidate, "failed", reason=reason, seconds=seconds)
