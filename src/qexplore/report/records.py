"""What the pictures show, as immutable records: everything is decided here, the drawings only draw.

Shape letters: K front members, N uniform candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from qexplore._choices import is_float_code
from qexplore.errors import FrontError
from qexplore.front import Front, FrontPoint
from qexplore.report._wording import OFF, amount_text, uniform_labels

Interval = tuple[float, float]

# Uniform widths that score worse than the rest of the picture by more than this share of its height are left out: one
# at chance level, 10 % beside a front from 88 to 93 %, would press everything else into a line.
_UNIFORM_REACH = 0.75
_MOST_SAVINGS = 3  # what one line above the picture holds
_MARGIN = 0.06  # of the height of the picture, above and below what is in it


class SnapshotLike(Protocol):
    """What a picture reads from a moment of a search."""

    @property
    def front(self) -> Front:
        """The front at that moment."""

    @property
    def num_passes(self) -> float:
        """Full passes over the search set so far."""

    @property
    def hypervolume(self) -> float:
        """Hypervolume of the front at that moment."""


class ExplorationLike(Protocol):
    """What the pictures read from an exploration."""

    @property
    def front(self) -> Front:
        """The answer."""

    @property
    def uniform(self) -> Front:
        """All uniform widths that were evaluated; neither feasible nor non-dominated by need."""

    @property
    def float_accuracy(self) -> float:
        """Score of the float network on the search set."""

    @property
    def history(self) -> Sequence[SnapshotLike]:
        """Snapshots in order of time."""

    @property
    def reference_point(self) -> tuple[float, ...]:
        """(accuracy, each cost)."""


@dataclass(frozen=True)
class UniformRecord:
    """One uniform candidate in the picture.

    `shown` is False where it scores too far below the rest, or is off: its score is that of the float network, and its
    cost so far off that the front would be pressed into a corner.
    `costs` are all its costs in the order of the front. `is_format` says that a float format stands somewhere in it.
    """

    label: str
    costs: tuple[float, ...]
    accuracy: float
    interval: Interval | None
    shown: bool
    is_format: bool


@dataclass(frozen=True)
class SavingRecord:
    """What is saved at no less accuracy, as "17 (57%) against 6 bit", and (cost, accuracy) of both points."""

    text: str
    uniform: tuple[float, float]
    front: tuple[float, float]


@dataclass(frozen=True)
class ParetoFrontRecord:
    """The front over one of its costs (K values each), the uniform widths beside it, and the lines of reference.

    `on_line` says which members no other one beats in accuracy and this cost: all of them when there is no other cost.
    `column` is the cost's place among those of the front. `accuracy_limits` are the lower and upper end of the vertical
    axis, `float_accuracy` and `min_accuracy` are None where not known.
    """

    metric_name: str
    higher_is_better: bool
    cost_name: str
    column: int
    cost: tuple[float, ...]
    accuracy: tuple[float, ...]
    intervals: tuple[Interval | None, ...]
    report_accuracy: tuple[float | None, ...]
    on_line: tuple[bool, ...]
    verified: bool
    uniform: tuple[UniformRecord, ...]
    float_accuracy: float | None
    min_accuracy: float | None
    knee: tuple[float, float]
    savings: tuple[SavingRecord, ...]
    accuracy_limits: Interval


@dataclass(frozen=True)
class HypervolumeRecord:
    """Hypervolume over the evaluations it took; `reference_point` names each value, as in (("accuracy", 0.88), ...)."""

    metric_name: str
    num_evaluations: tuple[float, ...]
    hypervolume: tuple[float, ...]
    reference_point: tuple[tuple[str, float], ...]


def pareto_front_record(source: ExplorationLike | Front, cost: str | None = None) -> ParetoFrontRecord:
    """The record of a front over one cost, with the uniform widths beside it when `source` is an exploration.

    `cost` is the name of the cost, the first one when None. FrontError when the front is empty or has no such cost.
    """
    front = drawable_front("plot_pareto_front", source)
    name = front.cost_names[0] if cost is None else cost
    front.cost(name)  # an unknown name is refused here
    points = by_cost(front, name)
    uniform, limits = uniform_records(source, front)
    kept = front.nondominated([front.metric_name, name])
    knee = front.knee()
    return ParetoFrontRecord(
        metric_name=front.metric_name,
        higher_is_better=front.higher_is_better,
        cost_name=name,
        column=front.cost_names.index(name),
        cost=tuple(point.costs[name] for point in points),
        accuracy=tuple(point.accuracy for point in points),
        intervals=tuple(point.interval for point in points),
        report_accuracy=tuple(point.report_accuracy for point in points),
        on_line=tuple(bool(kept[point.index]) for point in points),
        verified=front.verified,
        uniform=uniform,
        float_accuracy=source.float_accuracy,
        min_accuracy=front.min_accuracy,
        knee=(knee.costs[name], knee.accuracy),
        savings=() if isinstance(source, Front) else _savings(front, source.uniform, name),
        accuracy_limits=limits,
    )


def hypervolume_record(
    exploration: ExplorationLike, reference_point: Sequence[float] | None = None
) -> HypervolumeRecord:
    """The record of a search's progress, measured against `reference_point` instead of the search's own if given.

    FrontError when its front or its history is empty, or the reference point is not 1 + C finite numbers.
    """
    owner = "plot_hypervolume"
    if isinstance(exploration, Front):
        raise FrontError(
            f"{owner}: needs an Exploration, got a Front, which has no history. Give what explore returned."
        )
    front = drawable_front(owner, exploration)
    history = exploration.history
    if not history:
        raise FrontError(f"{owner}: there is nothing to draw, the history of this exploration is empty.")
    reference = exploration.reference_point if reference_point is None else tuple(reference_point)
    volumes = [
        snapshot.hypervolume if reference_point is None else snapshot.front.hypervolume(reference)
        for snapshot in history
    ]
    return HypervolumeRecord(
        metric_name=front.metric_name,
        num_evaluations=tuple(snapshot.num_passes for snapshot in history),
        hypervolume=tuple(map(float, volumes)),
        reference_point=tuple(zip((front.metric_name, *front.cost_names), map(float, reference), strict=True)),
    )


def drawable_front(owner: str, source: ExplorationLike | Front) -> Front:
    """The front of `source`. FrontError when it has none, or an empty one."""
    front = source if isinstance(source, Front) else getattr(source, "front", None)
    if not isinstance(front, Front):
        raise FrontError(f"{owner}: needs an Exploration or a Front, got {type(source).__name__}.")
    if not len(front):
        reason = (
            "no candidate met min_accuracy and the other limits"
            if front.min_accuracy is not None
            else "no candidate was evaluated"
        )
        raise FrontError(f"{owner}: there is nothing to draw, the front is empty: {reason}. Print the front for more.")
    return front


def by_cost(front: Front, name: str) -> list[FrontPoint]:
    """The front's points from cheap to costly."""
    return sorted(front, key=lambda point: point.costs[name])


def uniform_records(source: ExplorationLike | Front, front: Front) -> tuple[tuple[UniformRecord, ...], Interval]:
    """The uniform candidates of an exploration by the first cost, none for a front, and the limits of accuracy."""
    references = [value for value in (source.float_accuracy, front.min_accuracy) if value is not None]
    low, high = _extent(list(front), references)
    records: tuple[UniformRecord, ...] = ()
    if not isinstance(source, Front):
        records = _uniform_records(source.uniform, front.cost_names, low, high)
    shown = [value for one in records if one.shown for value in (one.accuracy, *(one.interval or ()))]
    low, high = min([low, *shown]), max([high, *shown])
    margin = _MARGIN * (high - low)
    return records, (low - margin, high + margin)


def _extent(points: list[FrontPoint], references: list[float]) -> Interval:
    """Lowest and highest score in the picture, uniform widths apart."""
    scores = [point.accuracy for point in points] + references
    scores += [point.report_accuracy for point in points if point.report_accuracy is not None]
    scores += [end for point in points if point.interval is not None for end in point.interval]
    low, high = min(scores), max(scores)
    # A picture needs a height even when every score in it is the same.
    least = max(0.02 * abs(high), 1e-6)
    return (low, high) if high - low >= least else (low - least / 2, high + least / 2)


def _uniform_records(uniform: Front, cost_names: tuple[str, ...], low: float, high: float) -> tuple[UniformRecord, ...]:
    reach = _UNIFORM_REACH * (high - low)
    worst = low - reach if uniform.higher_is_better else high + reach
    points = by_cost(uniform, cost_names[0])
    return tuple(
        UniformRecord(
            label=label,
            costs=tuple(point.costs[name] for name in cost_names),
            accuracy=point.accuracy,
            interval=point.interval,
            shown=label != OFF and (point.accuracy >= worst if uniform.higher_is_better else point.accuracy <= worst),
            is_format=any(map(is_float_code, point.num_bits)),
        )
        for point, label in zip(points, uniform_labels(points), strict=True)
    )


def _savings(front: Front, uniform: Front, cost: str) -> tuple[SavingRecord, ...]:
    labels = uniform_labels(list(uniform))
    savings = [one for one in front.bits_saved(uniform, cost) if labels[one.other_point.index] != OFF]
    widest_first = sorted(savings, key=lambda saving: -saving.other_point.costs[cost])
    return tuple(
        SavingRecord(
            text=f"{amount_text(one.saved)} ({one.share:.0%}) against {labels[one.other_point.index]}",
            uniform=(one.other_point.costs[cost], one.other_point.accuracy),
            front=(one.point.costs[cost], one.point.accuracy),
        )
        for one in widest_first[:_MOST_SAVINGS]
    )
