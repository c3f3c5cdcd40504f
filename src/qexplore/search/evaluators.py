"""The two evaluators of a metric: the one that is obviously right, and the one that a search asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qexplore._arguments import checked_number
from qexplore.errors import ProblemError
from qexplore.evaluation import DirectEvaluator, Evaluator, PrefixEvaluator
from qexplore.metrics import Metric, WholeSetMetric
from qexplore.model import Loader, QuantizedModel

ENGINES = ("auto", "prefix", "direct")


def checked_limit(max_seconds_each: float | None) -> float | None:
    """The time limit of a candidate, or None.

    Raises:
        ProblemError: it is no positive number.
    """
    if max_seconds_each is None:
        return None
    return checked_number("`max_seconds_each`", max_seconds_each, ProblemError, above=0, hint=": None limits nothing")


def evaluators_of(
    model: QuantizedModel,
    loader: Loader,
    engine: str,
    budget_bytes: int | None,
    options: Mapping[str, Any],
    metric: Metric | WholeSetMetric,
    divergence: str | None = None,
) -> tuple[DirectEvaluator, Evaluator]:
    """The direct evaluator of ``metric``, with ``options``, and the one that ``engine`` names: perhaps the same.

    Raises:
        ProblemError: a candidate has less time than the float network takes.
    """
    direct = DirectEvaluator(model, loader, metric, divergence=divergence, **options)
    limit, seconds = direct.max_seconds_each, direct.float_evaluation.seconds
    if limit is not None and limit < seconds:
        raise ProblemError(
            f"`max_seconds_each` must leave time for the float network, which took {seconds:.3g} s by "
            f"'{direct.metric.name}', got {limit:g}: give several times as much, for a candidate takes longer"
        )
    if engine == "direct":
        return direct, direct
    return direct, PrefixEvaluator(direct, budget_bytes=budget_bytes, required=engine == "prefix")
