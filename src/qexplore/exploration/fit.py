"""One point instead of a front."""

from __future__ import annotations

import time
from typing import Any

from qexplore.errors import ProblemError
from qexplore.exploration.arguments import check_budget, check_search
from qexplore.exploration.budget import Budget
from qexplore.exploration.run import run_search
from qexplore.front import FrontPoint
from qexplore.metrics import top1_accuracy
from qexplore.model import Loader, QuantizedModel, Unpack
from qexplore.search import Cheapest, Goal, LayerwiseQuantizationProblem, MostAccurate


def fit(
    model: QuantizedModel,
    loader: Loader,
    metric: Any = top1_accuracy,
    *,
    min_accuracy: float | None = None,
    max_drop: float | None = None,
    max_total_bits: float | None = None,
    max_evaluations: int | None = 150,
    max_seconds: float | None = None,
    seed: int = 0,
    report_loader: Loader | None = None,
    unpack: Unpack | None = None,
    progress: bool | None = None,
    **problem_options: Any,
) -> FrontPoint:
    """The cheapest widths that are accurate enough, or the most accurate ones that are cheap enough.

    The search of `explore`, with all of its evaluations spent on the one point; the model keeps its own, so set them:
    ``model.num_bits = qx.fit(model, loader, max_drop=0.01).num_bits``.

    Args:
        model: wrapped and calibrated.
        loader: data to search on.
        metric: as for `LayerwiseQuantizationProblem`.
        min_accuracy: worst acceptable score; the point is the cheapest that reaches it.
        max_drop: the same, counted from the float network's score.
        max_total_bits: most total bits; the point is the most accurate within them. Exactly one of these three.
        max_evaluations: budget in full passes over ``loader``; None leaves it to ``max_seconds``.
        max_seconds: end at the first answer after so many seconds.
        seed: of the search.
        report_loader: data that the point's accuracy is reported on, as ``point.report_accuracy``.
        unpack: ``unpack(batch) -> (inputs, target)`` for batches of another form.
        progress: show a bar on stderr; None shows it on a terminal.
        problem_options: further arguments of `LayerwiseQuantizationProblem`, such as ``choices`` or ``limits``. The
            first of ``costs`` is what the point is cheap in.

    Raises:
        ProblemError: none or several of the three goals; one that cannot be reached, with what can be.
        CalibrationError, DataError, MetricError, EvaluationError: see `LayerwiseQuantizationProblem`.
    """
    given = [name for name, value in _named(min_accuracy, max_drop, max_total_bits) if value is not None]
    if len(given) != 1:
        raise ProblemError(
            f"fit needs exactly one of min_accuracy, max_drop and max_total_bits, got {' and '.join(given) or 'none'}: "
            "for several at once pose a LayerwiseQuantizationProblem and pick from the front of explore"
        )
    check_budget(max_evaluations, max_seconds, None)
    start = time.perf_counter()
    problem = LayerwiseQuantizationProblem(
        model,
        loader,
        metric,
        min_accuracy=min_accuracy,
        max_drop=max_drop,
        max_total_bits=max_total_bits,
        unpack=unpack,
        **problem_options,
    )
    check_search(problem, seed, _ALGORITHM, _POPULATION_SIZE, True, True, ())
    exploration = run_search(
        problem,
        budget=Budget(max_evaluations, max_seconds, None, start),
        seed=seed,
        algorithm=_ALGORITHM,
        population_size=_POPULATION_SIZE,
        initial=None,
        racing=True,
        screening=True,
        report_loader=report_loader,
        unpack=unpack,
        callbacks=(),
        progress=progress,
        goal=_goal(problem),
    )
    front = exploration.front
    return front.cheapest() if max_total_bits is None else front.most_accurate()


_ALGORITHM, _POPULATION_SIZE = "nsga2", 40


def _named(*values: Any) -> list[tuple[str, Any]]:
    return list(zip(("min_accuracy", "max_drop", "max_total_bits"), values, strict=True))


def _goal(problem: LayerwiseQuantizationProblem) -> Goal:
    requirements, max_total_bits = problem.requirements, problem.limits.of("total_bits")
    if requirements.min_accuracy is None:
        assert max_total_bits is not None
        return MostAccurate(max_total_bits)
    return Cheapest(requirements.min_accuracy if requirements.higher_is_better else -requirements.min_accuracy)
