"""The two evaluators of a metric: the one that is obviously right, and the one that a search asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qexplore.evaluation import DirectEvaluator, Evaluator, PrefixEvaluator
from qexplore.metrics import Metric, WholeSetMetric
from qexplore.model import Loader, QuantizedModel

ENGINES = ("auto", "prefix", "direct")


def evaluators_of(
    model: QuantizedModel,
    loader: Loader,
    engine: str,
    budget_bytes: int | None,
    options: Mapping[str, Any],
    metric: Metric | WholeSetMetric,
    divergence: str | None = None,
) -> tuple[DirectEvaluator, Evaluator]:
    """The direct evaluator of ``metric``, with ``options``, and the one that ``engine`` names: perhaps the same."""
    direct = DirectEvaluator(model, loader, metric, divergence=divergence, **options)
    if engine == "direct":
        return direct, direct
    return direct, PrefixEvaluator(direct, budget_bytes=budget_bytes, required=engine == "prefix")
