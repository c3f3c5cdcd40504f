"""Metrics that come with the package.

Classification metrics take logits or probabilities, shape ``[B, C, ...]`` with two classes or more (or an object with
``logits``, or a container whose one floating tensor they are; of several one is chosen by ``output``). A sample whose
output holds NaN scores NaN, so its candidate is reported as failed instead of counting as merely wrong. A sample all of
whose labels are ignored scores `NOT_COUNTED` and is left out of the mean; any other label that is no class is refused.

All of them are means over samples, in which a long sample weighs as much as a short one. `over_labels` makes of each
the mean over all labels of the set.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from qexplore._arguments import checked_int
from qexplore.errors import MetricError
from qexplore.metrics.base import NOT_COUNTED, Metric, loss
from qexplore.metrics.output import logits_of
from qexplore.metrics.probabilities import FEWEST_ROWS, are_probabilities

IGNORED_TOKEN = -100
"""Target of tokens and samples that do not count, as in ``torch.nn.functional.cross_entropy``."""

IGNORED_PIXEL = 255
"""Target of pixels that do not count, as in the usual segmentation data sets."""


_labels_are_known = ContextVar("labels are known", default=False)


@contextmanager
def known_labels() -> Iterator[None]:
    """A block in which metrics take labels as they are: all of them have been looked at before.

    To ask whether a label is no class is to wait for all that an accelerator still has to do.
    """
    before = _labels_are_known.set(True)
    try:
        yield
    finally:
        _labels_are_known.reset(before)


def _shaped(output: Any, least: int, metric: str, form: str) -> Tensor:
    """The logits in ``output``, which need ``least`` axes."""
    logits = logits_of(output)
    if logits.dim() < least:
        raise MetricError(f"{metric} needs outputs of shape {form}, got {tuple(logits.shape)}")
    return logits


def _checked_labels(target: Any, logits: Tensor, classes: int, ignored: int, metric: str) -> Tensor:
    """``target`` as int64: a class of ``logits``, whose axis ``classes`` counts them, or ``ignored``."""
    num_classes = logits.shape[classes]
    if num_classes < 2:
        one = "output[:, 0]" if classes == 1 else "output[..., 0]"
        of_sample = "" if logits.dim() == 2 else ".flatten(1).mean(1)"
        raise MetricError(
            f"{metric} needs two classes or more, got outputs of shape {tuple(logits.shape)}: for one logit write "
            f"qexplore.Metric(lambda output, target: (({one} > 0) == target).float(){of_sample}, "
            "range=(0, 1))"
        )
    shape = tuple(size for axis, size in enumerate(logits.shape) if axis != classes % logits.dim())
    if not isinstance(target, Tensor) or tuple(target.shape) != shape or target.is_floating_point():
        raise _no_labels(metric, f" of shape {shape}", target)
    labels = target.long()
    if _labels_are_known.get():
        return labels
    impossible = ((labels < 0) | (labels >= num_classes)) & (labels != ignored)
    if impossible.any():
        raise MetricError(
            f"{metric} needs labels from 0 to {num_classes - 1}, for outputs of {num_classes} classes, or {ignored}, "
            f"which does not count, got {int(labels[impossible][0])}: pass unpack= that gives labels of these classes, "
            f"and {ignored} where there is none"
        )
    return labels


def _no_labels(metric: str, shape: str, target: Any) -> MetricError:
    got = f"{target.dtype} {tuple(target.shape)}" if isinstance(target, Tensor) else type(target).__name__
    way_out = "" if target is not None else ": batches must hold targets, (x, y), or unpack= must give them"
    return MetricError(f"{metric} needs class indices{shape} as target, got {got}{way_out}")


def _finished(scores: Tensor, logits: Tensor, counted: Tensor) -> Tensor:
    """NaN where outputs hold NaN, `NOT_COUNTED` where no label of a sample counts."""
    scores = scores.float().masked_fill(logits.flatten(1).isnan().any(dim=1), math.nan)
    return scores.masked_fill(~counted.flatten(1).any(dim=1), NOT_COUNTED)


def _hits(output: Any, target: Any, k: int) -> Tensor:
    logits = logits_of(output)
    if logits.dim() != 2 or not 1 <= k <= logits.shape[1]:
        raise MetricError(f"top-{k} accuracy needs outputs of shape [B, C] with C >= {k}, got {tuple(logits.shape)}")
    target = _checked_labels(target, logits, 1, IGNORED_TOKEN, f"top-{k} accuracy")
    best = logits.argmax(dim=1, keepdim=True) if k == 1 else logits.topk(k, dim=1).indices
    hits = best[:, 0] == target if k == 1 else (best == target[:, None]).any(dim=1)
    # torch counts NaN as largest, so it is found where the best is: no second pass over all outputs.
    undefined = logits.gather(1, best[:, :1])[:, 0].isnan()
    scores: Tensor = hits.float().masked_fill(undefined, math.nan).masked_fill(target == IGNORED_TOKEN, NOT_COUNTED)
    return scores


def topk_accuracy(k: int) -> Metric:
    """1 for a sample whose class is among the ``k`` largest outputs, else 0. Output ``[B, C]``, target ``[B]``.

    A sample with the target -100 does not count.

    Raises:
        MetricError: ``k`` is no positive int.
    """
    k = checked_int("`k` of topk_accuracy", k, MetricError, low=1)
    return Metric(partial(_hits, k=k), f"top-{k} accuracy", range=(0.0, 1.0), ignored=IGNORED_TOKEN)


top1_accuracy = replace(topk_accuracy(1), name="accuracy")
"""1 for a sample whose largest output is its class, else 0. Output ``[B, C]``, target ``[B]``, -100 does not count."""


def _class_scores(output: Any, target: Any, ignored: int, dim: int, metric: str, form: str) -> Tensor:
    logits = _shaped(output, 3, metric, form)
    target = _checked_labels(target, logits, dim, ignored, metric)
    counted = (target != ignored).flatten(1)
    hits = (logits.argmax(dim=dim) == target).flatten(1) & counted
    return _finished(hits.sum(dim=1) / counted.sum(dim=1).clamp(min=1), logits, counted)


token_accuracy = Metric(
    partial(_class_scores, ignored=IGNORED_TOKEN, dim=-1, metric="token accuracy", form="[B, T, C]"),
    "token accuracy",
    range=(0.0, 1.0),
    ignored=IGNORED_TOKEN,
)
"""Share of a sample's tokens that are right, mean over samples. Output ``[B, T, C]``, target ``[B, T]``.

The target of position ``t`` stands at ``t``: shift next-token targets in the loader. Tokens with the target -100 do not
count, nor does a sample that has no others.
"""

pixel_accuracy = Metric(
    partial(_class_scores, ignored=IGNORED_PIXEL, dim=1, metric="pixel accuracy", form="[B, C, H, W]"),
    "pixel accuracy",
    range=(0.0, 1.0),
    ignored=IGNORED_PIXEL,
)
"""Share of a sample's pixels that are right, mean over samples. Output ``[B, C, H, W]``, target ``[B, H, W]``.

Pixels with the target 255 do not count, nor does a sample that has no others.
"""


def _negative_log_likelihood(output: Any, target: Any) -> Tensor:
    logits = _shaped(output, 2, "negative log-likelihood", "[B, C] or [B, T, C]")
    target = _checked_labels(target, logits, -1, IGNORED_TOKEN, "negative log-likelihood")
    _refuse_probabilities(logits)
    flat = F.cross_entropy(
        logits.flatten(0, -2).float(), target.flatten(), reduction="none", ignore_index=IGNORED_TOKEN
    )
    losses: Tensor = flat.view(logits.shape[0], -1).sum(dim=1)
    counted = (target != IGNORED_TOKEN).reshape(logits.shape[0], -1)
    return _finished(losses / counted.sum(dim=1).clamp(min=1), logits, counted)


def _refuse_probabilities(logits: Tensor) -> None:
    rows = logits.numel() // logits.shape[-1]
    if not _labels_are_known.get() and rows >= FEWEST_ROWS and are_probabilities(logits, axis=-1):
        raise MetricError(
            "negative log-likelihood and perplexity need logits, got outputs that are probabilities, of which a "
            "softmax would be taken once more: pass output=, a function that gives the logarithm of them, such as "
            "lambda output: output.clamp(min=1e-7).log()"
        )


negative_log_likelihood = loss(_negative_log_likelihood, "negative log-likelihood", ignored=IGNORED_TOKEN)
"""Mean over a sample's tokens of minus the log-probability of the target, in nats; mean over samples, lower is better.

Output: logits ``[B, C]`` or ``[B, T, C]``, target ``[B]`` or ``[B, T]``. Tokens with the target -100 do not count, nor
does a sample that has no others. The target of position ``t`` stands at ``t``: shift next-token targets in the loader.
"""

perplexity = loss(
    _negative_log_likelihood,
    "perplexity",
    range=(1.0, math.inf),
    of_mean=math.exp,
    ignored=IGNORED_TOKEN,
    sample_range=(0.0, math.inf),
)
"""``exp`` of the mean `negative_log_likelihood` over samples; lower is better.

``qexplore.over_labels(perplexity)`` is ``exp`` of the mean over all tokens, as language models are compared by; both
are the same where all samples have as many tokens that count.
"""


def _num_counted(target: Tensor, ignored: int) -> Tensor:
    return (target.reshape(len(target), -1) != ignored).sum(dim=1)


def _by_labels(output: Any, target: Any, metric: Metric, mean_count: float) -> Tensor:
    scores = metric(output, target)
    assert metric.ignored is not None
    weights = _num_counted(target, metric.ignored) / mean_count
    return torch.where(scores == NOT_COUNTED, scores, scores * weights)


def _fit_to_labels(targets: Iterable[Any], metric: Metric) -> Callable[[Any, Any], Tensor]:
    assert metric.ignored is not None
    total = num_samples = 0
    for target in targets:
        if not isinstance(target, Tensor) or not target.dim() or target.is_floating_point():
            raise _no_labels(f"{metric.name} over labels", "", target)
        counts = _num_counted(target, metric.ignored)
        total, num_samples = total + int(counts.sum()), num_samples + int((counts > 0).sum())
    return partial(_by_labels, metric=metric, mean_count=total / max(1, num_samples))


def _fitted_to_batch(output: Any, target: Any, metric: Metric) -> Tensor:
    return _fit_to_labels([target], metric)(output, target)


def over_labels(metric: Metric) -> Metric:
    """``metric`` as a mean over all labels of the set that count, its tokens or pixels, in place of one over samples.

    A score is then what a sample contributes: its own mean times its number of labels over the mean number. Called by
    hand it takes its batch for the whole set; ``metric.fitted(targets)`` is for several batches. Candidates run to
    their end, since the best contribution is not the metric's best value; but where no sample can do better than 0,
    as for `perplexity`, no contribution can, and they are stopped early.

    >>> over_labels(perplexity).name
    'perplexity over labels'

    Raises:
        MetricError: ``metric`` is none that ignores labels.
    """
    if not isinstance(metric, Metric) or metric.ignored is None or metric.fit is not None:
        raise MetricError(
            f"over_labels takes a metric of labels such as qexplore.perplexity, with `ignored`, got {metric!r}"
        )
    inner = replace(metric, output=None)  # chosen once, by the metric that is given back
    return replace(
        metric,
        function=partial(_fitted_to_batch, metric=inner),
        name=f"{metric.name} over labels",
        fit=partial(_fit_to_labels, metric=inner),
        sample_range=(0.0, math.inf) if metric.best_sample == 0 and not metric.higher_is_better else None,
    )


def _squared_error(output: Any, target: Any) -> Tensor:
    output = _shaped(output, 1, "squared error", "[B, ...]")
    if not isinstance(target, Tensor) or target.shape != output.shape:
        got = tuple(target.shape) if isinstance(target, Tensor) else type(target).__name__
        raise MetricError(f"squared error needs a target of the output's shape {tuple(output.shape)}, got {got}")
    errors: Tensor = (output.float() - target.float()).square()
    return errors.reshape(len(errors), -1).mean(dim=1)


squared_error = loss(_squared_error, "squared error")
"""Mean over a sample's elements of the squared difference; lower is better. Output and target: ``[B, ...]``."""


def metric_named(name: str) -> Metric | None:
    """The metric of this module that is called ``name``; None where none is.

    >>> metric_named("top-5 accuracy").name, metric_named("mine")
    ('top-5 accuracy', None)
    """
    words = re.fullmatch(r"top-(\d+) accuracy", name)
    if words:
        return topk_accuracy(int(words[1]))
    plain = (top1_accuracy, token_accuracy, pixel_accuracy, negative_log_likelihood, perplexity, squared_error)
    own = [*plain, *(over_labels(one) for one in plain if one.ignored is not None)]
    return next((one for one in own if one.name == name), None)
