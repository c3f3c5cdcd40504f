"""What pictures of three and more objectives show: a panel for each pair, and one line for each point.

Shape letters: K front members, M objectives, the score first and then the costs in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from qexplore.errors import FrontError
from qexplore.front import Front
from qexplore.report._wording import cost_axis, cost_unit, cost_words
from qexplore.report.records import ExplorationLike, Interval, UniformRecord, drawable_front, uniform_records

_MOST_COSTS = 4  # whose panels are still large enough to be read
_MARGIN = 0.04  # of an axis of parallel coordinates, beyond its outermost values


@dataclass(frozen=True)
class ObjectiveRecord:
    """One objective: its name in words, the unit they leave out, its label on an axis, its direction, its K values."""

    words: str
    unit: str
    axis: str
    higher_is_better: bool
    values: tuple[float, ...]


@dataclass(frozen=True)
class PairRecord:
    """Two objectives, by their places, and which of the K members no other one beats in these two."""

    x: int
    y: int
    nondominated: tuple[bool, ...]


@dataclass(frozen=True)
class ObjectivesRecord:
    """A front over each pair of its objectives; `knee` is the index of its knee, `accuracy_limits` are of its axis."""

    objectives: tuple[ObjectiveRecord, ...]
    pairs: tuple[PairRecord, ...]
    knee: int
    verified: bool
    uniform: tuple[UniformRecord, ...]
    float_accuracy: float | None
    min_accuracy: float | None
    accuracy_limits: Interval


@dataclass(frozen=True)
class ParallelCoordinatesRecord:
    """A front as K lines across M axes, on each of which better is up.

    `limits` are the values at the lower and the upper end of each axis, `heights[k][m]` where a line crosses it, from
    0 to 1. `knee` is the index of the front's knee.
    """

    objectives: tuple[ObjectiveRecord, ...]
    limits: tuple[Interval, ...]
    heights: tuple[tuple[float, ...], ...]
    knee: int


def objectives_record(source: ExplorationLike | Front) -> ObjectivesRecord:
    """The record of a front over each pair of its objectives, beside it the uniform widths of an exploration.

    FrontError when the front is empty or has more costs than a picture holds.
    """
    front = drawable_front("plot_pareto_front", source)
    if len(front.cost_names) > _MOST_COSTS:
        raise FrontError(
            f"plot_pareto_front: there is room for the panels of {_MOST_COSTS} costs, got {len(front.cost_names)}: "
            f"{', '.join(front.cost_names)}. Name one of them as cost=, or use plot_parallel_coordinates."
        )
    names = (front.metric_name, *front.cost_names)
    uniform, limits = uniform_records(source, front)
    return ObjectivesRecord(
        objectives=_objectives(front),
        pairs=tuple(
            PairRecord(x, y, tuple(map(bool, front.nondominated([names[x], names[y]]))))
            for y, x in combinations(range(len(names)), 2)
        ),
        knee=front.knee().index,
        verified=front.verified,
        uniform=uniform,
        float_accuracy=source.float_accuracy,
        min_accuracy=front.min_accuracy,
        accuracy_limits=limits,
    )


def parallel_coordinates_record(source: ExplorationLike | Front) -> ParallelCoordinatesRecord:
    """The record of a front as lines across its objectives. FrontError when the front is empty."""
    front = drawable_front("plot_parallel_coordinates", source)
    objectives = _objectives(front)
    limits = tuple(_worst_to_best(one) for one in objectives)
    heights = [
        (np.array(one.values) - worst) / (best - worst) for one, (worst, best) in zip(objectives, limits, strict=True)
    ]
    return ParallelCoordinatesRecord(
        objectives=objectives,
        limits=limits,
        heights=tuple(map(tuple, np.column_stack(heights).tolist())),
        knee=front.knee().index,
    )


def _objectives(front: Front) -> tuple[ObjectiveRecord, ...]:
    metric, accuracy = front.metric_name, tuple(front.accuracy.tolist())
    costs = zip(front.cost_names, front.costs.T.tolist(), strict=True)
    return (
        ObjectiveRecord(metric, "", metric, front.higher_is_better, accuracy),
        *(
            ObjectiveRecord(cost_words(name), cost_unit(name), cost_axis(name), False, tuple(cost))
            for name, cost in costs
        ),
    )


def _worst_to_best(objective: ObjectiveRecord) -> Interval:
    low, high = min(objective.values), max(objective.values)
    # An axis needs a length even when every value on it is the same; its lines then cross in the middle.
    margin = _MARGIN * (high - low) or max(abs(high), 1e-6) / 2
    ends = low - margin, high + margin
    return ends if objective.higher_is_better else ends[::-1]
