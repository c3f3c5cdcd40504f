"""Metrics that come with the package.

Classification metrics take logits or probabilities, shape ``[B, C, ...]`` (or an object with ``logits``, or a tuple
whose first item they are). A sample whose output holds NaN scores NaN, so its candidate is reported as failed instead
of counting as merely wrong.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from qexplore._arguments import checked_int
from qexplore.errors import MetricError
from qexplore.metrics.base import Metric, loss

IGNORED_TOKEN = -100
"""Target of tokens and samples that do not count, as in ``torch.nn.functional.cross_entropy``."""

IGNORED_PIXEL = 255
"""Target of pixels that do not count, as in the usual segmentation data sets."""


def logits_of(output: Any) -> Tensor:
    """The tensor of logits in a network's output.

    Raises:
        MetricError: none of the forms named above.
    """
    if isinstance(output, Tensor):
        return output
    if hasattr(output, "logits"):
        return output.logits  # type: ignore[no-any-return]
    if isinstance(output, dict) and "logits" in output:
        return output["logits"]  # type: ignore[no-any-return]
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    raise MetricError(
        f"the output must be a tensor, hold `logits`, or be a tuple that begins with a tensor, got "
        f"{type(output).__name__}: write a qexplore.Metric of your own for it"
    )


def _shaped(output: Any, least: int, metric: str, form: str) -> Tensor:
    """The logits in ``output``, which need ``least`` axes."""
    logits = logits_of(output)
    if logits.dim() < least:
        raise MetricError(f"{metric} needs outputs of shape {form}, got {tuple(logits.shape)}")
    return logits


def _check_target(target: Any, shape: tuple[int, ...], metric: str) -> Tensor:
    if isinstance(target, Tensor) and tuple(target.shape) == shape and not target.is_floating_point():
        return target
    got = f"{target.dtype} {tuple(target.shape)}" if isinstance(target, Tensor) else type(target).__name__
    raise MetricError(f"{metric} needs class indices of shape {shape} as target, got {got}")


def _nan_where_undefined(scores: Tensor, logits: Tensor) -> Tensor:
    return scores.masked_fill(logits.flatten(1).isnan().any(dim=1), math.nan)


def _hits(output: Any, target: Any, k: int) -> Tensor:
    logits = logits_of(output)
    if logits.dim() != 2 or not 1 <= k <= logits.shape[1]:
        raise MetricError(f"top-{k} accuracy needs outputs of shape [B, C] with C >= {k}, got {tuple(logits.shape)}")
    target = _check_target(target, (logits.shape[0],), f"top-{k} accuracy")
    best = logits.argmax(dim=1, keepdim=True) if k == 1 else logits.topk(k, dim=1).indices
    hits = best[:, 0] == target if k == 1 else (best == target[:, None]).any(dim=1)
    # torch counts NaN as largest, so it is found where the best is: no second pass over all outputs.
    undefined = logits.gather(1, best[:, :1])[:, 0].isnan()
    scores: Tensor = hits.float().masked_fill(undefined, math.nan)
    return scores


def topk_accuracy(k: int) -> Metric:
    """1 for a sample whose class is among the ``k`` largest outputs, else 0.

    Raises:
        MetricError: ``k`` is no positive int.
    """
    k = checked_int("`k` of topk_accuracy", k, MetricError, low=1)
    return Metric(lambda output, target: _hits(output, target, k), f"top-{k} accuracy", range=(0.0, 1.0))


top1_accuracy = Metric(lambda output, target: _hits(output, target, 1), "accuracy", range=(0.0, 1.0))
"""1 for a sample whose largest output is its class, else 0. Output ``[B, C]``, target ``[B]``."""


def _class_scores(output: Any, target: Any, ignored: int, dim: int, metric: str, form: str) -> Tensor:
    logits = _shaped(output, 3, metric, form)
    shape = tuple(size for axis, size in enumerate(logits.shape) if axis != dim % logits.dim())
    target = _check_target(target, shape, metric)
    counted = (target != ignored).flatten(1)
    hits = (logits.argmax(dim=dim) == target).flatten(1) & counted
    # A sample of which nothing counts is not wrong anywhere.
    scores = torch.where(counted.any(dim=1), hits.sum(dim=1) / counted.sum(dim=1).clamp(min=1), torch.tensor(1.0))
    return _nan_where_undefined(scores.float(), logits)


token_accuracy = Metric(
    lambda output, target: _class_scores(output, target, IGNORED_TOKEN, -1, "token accuracy", "[B, T, C]"),
    "token accuracy",
    range=(0.0, 1.0),
)
"""Share of a sample's tokens that are right. Output ``[B, T, C]``, target ``[B, T]``, -100 does not count.

The target of position ``t`` stands at ``t``: shift next-token targets in the loader. Every sample weighs the same.
"""

pixel_accuracy = Metric(
    lambda output, target: _class_scores(output, target, IGNORED_PIXEL, 1, "pixel accuracy", "[B, C, H, W]"),
    "pixel accuracy",
    range=(0.0, 1.0),
)
"""Share of a sample's pixels that are right. Output ``[B, C, H, W]``, target ``[B, H, W]``, 255 does not count."""


def _negative_log_likelihood(output: Any, target: Any) -> Tensor:
    logits = _shaped(output, 2, "negative log-likelihood", "[B, C] or [B, T, C]")
    target = _check_target(target, tuple(logits.shape[:-1]), "negative log-likelihood")
    flat = F.cross_entropy(
        logits.flatten(0, -2).float(), target.flatten().long(), reduction="none", ignore_index=IGNORED_TOKEN
    )
    losses: Tensor = flat.view(logits.shape[0], -1).sum(dim=1)
    counted = (target != IGNORED_TOKEN).reshape(logits.shape[0], -1).sum(dim=1)
    return _nan_where_undefined(losses / counted.clamp(min=1), logits)


negative_log_likelihood = loss(_negative_log_likelihood, "negative log-likelihood")
"""Mean over a sample's tokens of minus the log-probability of the target, in nats; lower is better.

Output: logits ``[B, C]`` or ``[B, T, C]``, target ``[B]`` or ``[B, T]``; -100 does not count.
"""

perplexity = loss(_negative_log_likelihood, "perplexity", range=(1.0, math.inf), of_mean=math.exp)
"""``exp`` of the mean `negative_log_likelihood` over samples; lower is better."""


def _squared_error(output: Any, target: Any) -> Tensor:
    output = _shaped(output, 1, "squared error", "[B, ...]")
    if not isinstance(target, Tensor) or target.shape != output.shape:
        got = tuple(target.shape) if isinstance(target, Tensor) else type(target).__name__
        raise MetricError(f"squared error needs a target of the output's shape {tuple(output.shape)}, got {got}")
    errors: Tensor = (output.float() - target.float()).square()
    return errors.reshape(len(errors), -1).mean(dim=1)


squared_error = loss(_squared_error, "squared error")
"""Mean over a sample's elements of the squared difference; lower is better. Output and target: ``[B, ...]``."""
