"""Metrics of a whole set, which run the model themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from qexplore.errors import DataError, MetricError
from qexplore.evaluation.batches import require_same_samples
from qexplore.evaluation.scoring import apply_metric
from qexplore.metrics import WholeSetMetric
from qexplore.model import Loader, Placement, QuantizedModel


def whole_score(metric: WholeSetMetric, model: QuantizedModel, loader: Any) -> float:
    """The metric of a whole set.

    Raises:
        MetricError: it raised, or gave no number.
    """
    try:
        return _as_score(apply_metric(metric, model, loader), metric.name)
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
