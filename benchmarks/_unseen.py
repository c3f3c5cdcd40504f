"""Fronts on data that nothing was chosen on: each candidate is measured there once, by an engine of its own."""

from __future__ import annotations

from typing import Any

import moocore
import numpy as np

from qexplore.model import Loader
from qexplore.search import LayerwiseQuantizationProblem


def unseen(problem: LayerwiseQuantizationProblem, loader: Loader) -> LayerwiseQuantizationProblem:
    """The same model, choices and metric on other data, and nothing required there."""
    return LayerwiseQuantizationProblem(
        problem.model, loader, problem.metric, choices=problem.plan, costs=problem.costs
    )


def hypervolume(problem: LayerwiseQuantizationProblem, candidates: Any, reference: tuple[float, float]) -> float:
    """Of what ``candidates`` score on the problem's data, against (accuracy, cost); what is known is not measured."""
    rows = np.array(candidates, dtype=np.int64).reshape(-1, problem.space.num_points)
    scores = np.array([evaluation.score for evaluation in problem.measure(rows)])
    points = np.column_stack([-scores, problem.costs_of(rows)[:, 0]])[scores > reference[0]]
    return float(moocore.hypervolume(points, ref=(-reference[0], reference[1]))) if len(points) else 0.0
