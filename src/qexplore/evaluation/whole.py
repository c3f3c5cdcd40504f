"""Metrics of a whole set, which run the model themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from qexplore._trees import tensors_of, versions_of
from qexplore.errors import DataError, MetricError
from qexplore.evaluation.batches import require_same_samples
from qexplore.evaluation.scoring import apply_metric
from qexplore.metrics import WholeSetMetric
from qexplore.model import Loader, Placement, QuantizedModel


def whole_score(metric: WholeSetMetric, model: QuantizedModel, loader: Any) -> float:
    """The metric of a whole set.

    Raises:
        MetricError: it raised, gave no number, or wrote into batches that the next candidate is given too.
    """
    held = tensors_of(loader) if isinstance(loader, (list, tuple)) else []
    held = [one for one in held if not one.is_inference()]  # others keep no count
    before = versions_of(held)
    try:
        score = _as_score(apply_metric(metric, model, loader), metric.name)
        if versions_of(held) != before:
            raise MetricError(
                f"the metric '{metric.name}' must leave the batches of a list as they are, for the next candidate gets "
                "them too, but it wrote into one, or the network did: give copies to the network, model(x.clone())"
            )
        return score
    except MetricError as error:
        device = Placement.of(model.model).device
        if device.type == "cpu" or not isinstance(error.__cause__, RuntimeError):
            raise
        hint = f"the network lies on {device}, and a metric of a whole set moves batches there itself"
        raise MetricError(f"{error}: {hint}") from error.__cause__


def _as_score(value: Any, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise MetricError(f"the metric '{name}' must return a number, got {value!r}") from error


def require_rereadable(loader: Loader) -> None:
    """Hold an iterable to giving the same samples each time; what else ``f(model, loader)`` takes is its own affair."""
    if not isinstance(loader, Iterable):
        return
    if isinstance(loader, Iterator):
        raise DataError(
            "a whole-set metric reads the loader for every candidate, got an iterator: pass a DataLoader or list"
        )
    require_same_samples(loader)
