"""One point instead of a front."""

from __future__ import annotations

import inspect
import math
import os
from typing import Any

from qexplore._arguments import checked_keywords
from qexplore._clock import own_clock
from qexplore.distributed import RayWorkers
from qexplore.errors import ProblemError
from qexplore.exploration.budget import Budget
from qexplore.exploration.run import run_search
from qexplore.exploration.studying import StudyFile
from qexplore.front import FrontPoint
from qexplore.metrics import top1_accuracy
from qexplore.model import Loader, QuantizedModel, Unpack
from qexplore.search import Cheapest, Goal, LayerwiseQuantizationProblem, MostAccurate, SearchSettings


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
    study: str | os.PathLike[str] | None = None,
    share: bool = False,
    on_mismatch: str = "refuse",
    workers: RayWorkers | None = None,
    **problem_options: Any,
) -> FrontPoint:
    """The cheapest choices that are accurate enough, or the most accurate ones that are cheap enough.

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
        max_seconds: end after so many seconds, as for `explore`; posing the problem counts.
        seed: of the search.
        report_loader: data that the point's accuracy is reported on, as ``point.report_accuracy``.
        unpack: ``unpack(batch) -> (inputs, target)`` for batches of another form.
        progress: show a bar on stderr; None shows it on a terminal, and elsewhere a line every half minute.
        study: path of a file in which everything is written down, as for `explore`; so are the next two.
        share: let other processes write to it at the same time.
        on_mismatch: what to do with a study that was measured otherwise.
        workers: measure in other processes and on other machines, as for `explore`.
        problem_options: further arguments of `LayerwiseQuantizationProblem`, such as ``choices`` or ``limits``. The
            first of ``costs`` is what the point is cheap in.

    Raises:
        ProblemError: none or several of the three goals; one that cannot be reached, with what can be.
        FrontError: nothing that was measured meets all that was asked, with how many missed what.
        CalibrationError, DataError, MetricError, EvaluationError: see `LayerwiseQuantizationProblem`.
    """
    checked_keywords(fit, problem_options, None, beside=inspect.signature(LayerwiseQuantizationProblem).parameters)
    goals: dict[str, Any] = {"min_accuracy": min_accuracy, "max_drop": max_drop, "max_total_bits": max_total_bits}
    given = [name for name, value in goals.items() if value is not None]
    if len(given) != 1:
        raise ProblemError(
            f"fit needs exactly one of min_accuracy, max_drop and max_total_bits, got {' and '.join(given) or 'none'}: "
            "for several at once pose a LayerwiseQuantizationProblem and pick from the front of explore"
        )
    settings = SearchSettings(seed, judge="accuracy")  # the most accurate point is what was asked for
    file = StudyFile.asked(study, share, on_mismatch)
    with own_clock() as clock:
        budget = Budget(max_evaluations, max_seconds)
        problem = LayerwiseQuantizationProblem(model, loader, metric, **goals, unpack=unpack, **problem_options)
        exploration = run_search(
            problem,
            settings,
            budget,
            report_loader=report_loader,
            unpack=unpack,
            progress=progress,
            goal=_goal(problem),
            file=file,
            workers=workers,
            clock=clock,
        )
    front = exploration.front
    return front.cheapest() if max_total_bits is None else front.most_accurate()


def _goal(problem: LayerwiseQuantizationProblem) -> Goal:
    requirements, max_total_bits = problem.requirements, problem.limits.by_name.get("total_bits")
    if requirements.min_accuracy is None:
        if max_total_bits is None:
            raise ProblemError(
                f"fit goes by the first metric: '{problem.metric.name}' needs min_accuracy or max_drop, got None for it"
            )
        is_searched = [cost.name for cost in problem.costs] == ["total_bits"]
        return MostAccurate(max_total_bits if is_searched else math.inf)
    return Cheapest(problem.metric.gain(requirements.min_accuracy))
