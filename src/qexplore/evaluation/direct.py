"""The plain loop through the hooked model: slow, and obviously right."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from qexplore._random import isolated
from qexplore.errors import DataError, EvaluationError, MetricError, ModelError, QExploreError
from qexplore.evaluation.base import Evaluation
from qexplore.evaluation.batches import EvaluationSet, require_same_samples
from qexplore.evaluation.interval import confidence_interval
from qexplore.metrics import Metric, Scores, WholeSetMetric
from qexplore.model import Candidates, Loader, Placement, QuantizedActivationsModel, Unpack, call, in_eval_mode


class DirectEvaluator:
    """Sets a candidate's widths and runs the model over the whole evaluation set.

    Measures the float network once when it is built, so that data and metric are known to work.

    Args:
        model: the wrapped network; its own state is left as it is.
        loader: the evaluation set.
        metric: per sample, or of a whole set.
        unpack: ``unpack(batch) -> (inputs, target)``.
        hold_bytes: how much of the set may be held in memory; None takes a quarter of what is free.

    Raises:
        DataError: see `EvaluationSet`.
        MetricError: the metric does not give one finite score per sample for the float network.
        EvaluationError: the float network or the metric raised.
    """

    def __init__(
        self,
        model: QuantizedActivationsModel,
        loader: Loader,
        metric: Metric | WholeSetMetric,
        *,
        unpack: Unpack | None = None,
        hold_bytes: int | None = None,
    ) -> None:
        self._model = model
        self._loader = loader
        self._metric = metric
        self._placement = Placement.of(model.model)
        self._changes_inputs: bool | None = None  # whether the network writes into them; None until a float pass
        self._data: EvaluationSet | None = None
        if isinstance(metric, Metric):
            self._data = EvaluationSet(loader, self._placement, unpack=unpack, hold_bytes=hold_bytes)
        else:
            _check_whole_set_loader(loader)
        self.float_evaluation = self.evaluate_float()

    @property
    def fingerprint(self) -> str:
        """Changes with the model's content, the samples and the metric."""
        parts = (self._model.version(), self._data.checksum if self._data else None, self._metric.name)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def evaluate(self, candidates: Candidates, *, must_beat: Sequence[float] | None = None) -> Iterator[Evaluation]:
        """Measure ``candidates``, shape ``[N, L]``, one after the other; ``must_beat`` is not made use of."""
        for row in np.asarray(candidates):
            yield self._evaluate_one(tuple(int(width) for width in row))

    def evaluate_float(self) -> Evaluation:
        """Measure the network with every quantizer off.

        Raises:
            QExploreError: it cannot be measured; the original error is the cause.
        """
        off = tuple(0 for _ in self._model.points)
        self._changes_inputs = None  # told by this pass alone: a quantized input is a copy already
        try:
            return self._measure(off)
        except QExploreError:
            raise
        except Exception as error:
            raise EvaluationError(
                f"the float network could not be evaluated: {type(error).__name__}: {error}. For batches of another "
                "form pass unpack=, a function of a batch that returns (inputs, target)"
            ) from error

    def _evaluate_one(self, candidate: tuple[int, ...]) -> Evaluation:
        start = time.perf_counter()
        try:
            return self._measure(candidate)
        except (DataError, ModelError):
            raise  # a loader that changes or a wrapper without its network spoils every candidate, not this one
        except Exception as error:
            reason = str(error) if isinstance(error, QExploreError) else f"{type(error).__name__}: {error}"
            return Evaluation(candidate, "failed", reason=reason, seconds=time.perf_counter() - start)

    def _measure(self, candidate: tuple[int, ...]) -> Evaluation:
        start = time.perf_counter()
        model = self._model
        with model.using(candidate), in_eval_mode(model), torch.no_grad(), isolated(self._placement.device):
            if isinstance(self._metric, WholeSetMetric):
                score, scores = _as_score(_apply(self._metric, model, self._loader), self._metric.name), None
            else:
                scores = self._scores(self._metric)
                score = self._metric.summarize(scores)
        _check_score(score, self._metric)
        return Evaluation(
            candidate,
            "complete",
            score=score,
            scores=scores,
            interval=None if scores is None else confidence_interval(scores, self._metric),  # type: ignore[arg-type]
            num_samples=0 if scores is None else len(scores),
            seconds=time.perf_counter() - start,
        )

    def _scores(self, metric: Metric) -> Scores:
        assert self._data is not None
        parts, changed = [], False
        for inputs, target in self._data:
            given = inputs if self._changes_inputs is False else pytree.tree_map_only(Tensor, torch.clone, inputs)
            before = _versions(given)
            output = call(self._model, given)
            changed = changed or before != _versions(given)
            parts.append(_checked_scores(_apply(metric, output, target), metric.name, (inputs, target)))
        if self._changes_inputs is None:
            self._changes_inputs = changed
        scores: Scores = torch.cat(parts).cpu().numpy()
        if not np.isfinite(scores).all():
            what = "NaN" if np.isnan(scores).any() else "infinity"
            count = int((~np.isfinite(scores)).sum())
            raise MetricError(f"the metric '{metric.name}' gave {what} for {count} of {len(scores)} samples")
        return scores


def _check_whole_set_loader(loader: Loader) -> None:
    """Hold an iterable to giving the same samples each time; what else ``f(model, loader)`` takes is its own affair."""
    if not isinstance(loader, Iterable):
        return
    if isinstance(loader, Iterator):
        raise DataError(
            "a whole-set metric reads the loader for every candidate, got an iterator: pass a DataLoader or list"
        )
    require_same_samples(loader)


def _versions(inputs: Any) -> list[object]:
    """One mark per tensor that moves when it is written into; inference tensors keep no count and always move."""
    tensors = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    return [object() if tensor.is_inference() else tensor._version for tensor in tensors]


def _apply(metric: Metric | WholeSetMetric, *arguments: Any) -> Any:
    """What ``metric`` says; what it raises is told apart from what the network raises."""
    try:
        return metric(*arguments)
    except QExploreError:
        raise
    except Exception as error:
        raise MetricError(f"the metric '{metric.name}' raised {type(error).__name__}: {error}") from error


def _checked_scores(scores: Any, name: str, batch: Any) -> Tensor:
    """Scores that have one entry per sample; which axis of the inputs counts samples is the network's affair."""
    sizes = [leaf.shape[0] for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()]
    if isinstance(scores, Tensor) and scores.dim() == 1 and (not sizes or scores.shape[0] in sizes):
        return scores.detach().float()
    got = f"a tensor of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else repr(scores)
    raise MetricError(
        f"the metric '{name}' must return one score per sample, shape [{sizes[0] if sizes else 'B'}], got {got}. "
        "For one number over a whole set use qexplore.whole_set(f) with f(model, loader)"
    )


def _as_score(value: Any, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise MetricError(f"the metric '{name}' must return a number, got {value!r}") from error


def _check_score(score: float, metric: Metric | WholeSetMetric) -> None:
    low, high = metric.range
    slack = 1e-6 * max(1.0, abs(score)) if math.isfinite(score) else 0.0
    if not math.isfinite(score) or not low - slack <= score <= high + slack:
        raise MetricError(f"the metric '{metric.name}' must be finite and within {metric.range}, got {score}")
