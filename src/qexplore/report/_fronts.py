"""What pictures of fronts share: what they read, the uniform widths beside a front, and the lines of reference.

Shape letters: K front members, N uniform candidates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qexplore._choices import is_float_code
from qexplore.errors import ReportError
from qexplore.front import Front, FrontPoint, score_text
from qexplore.report._canvas import GREEN, GREY
from qexplore.report._wording import OFF, uniform_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from qexplore.exploration import Exploration

Interval = tuple[float, float]

# Uniform widths that score worse than the rest of the picture by more than this share of its height are left out: one
# at chance level, 10 % beside a front from 88 to 93 %, would press everything else into a line.
_UNIFORM_REACH = 0.75
_MARGIN = 0.06  # of the height of the picture, above and below what is in it


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


def drawable_front(owner: str, source: Exploration | Front) -> Front:
    """The front of `source`. ReportError when it has none, or an empty one."""
    front = source if isinstance(source, Front) else getattr(source, "front", None)
    if not isinstance(front, Front):
        raise ReportError(f"{owner}: needs an Exploration or a Front, got {type(source).__name__}.")
    if not len(front):
        reason = (
            "no candidate met min_accuracy and the other limits"
            if front.min_accuracy is not None
            else "no candidate was evaluated"
        )
        raise ReportError(f"{owner}: there is nothing to draw, the front is empty: {reason}. Print the front for more.")
    return front


def by_cost(front: Front, name: str) -> list[FrontPoint]:
    """The front's points from cheap to costly."""
    return sorted(front, key=lambda point: point.costs[name])


def uniform_records(source: Exploration | Front, front: Front) -> tuple[tuple[UniformRecord, ...], Interval]:
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
    gains = uniform.gain(low), uniform.gain(high)
    worst = uniform.gain(min(gains) - _UNIFORM_REACH * (high - low))
    points = by_cost(uniform, cost_names[0])
    return tuple(
        UniformRecord(
            label=label,
            costs=tuple(point.costs[name] for name in cost_names),
            accuracy=point.accuracy,
            interval=point.interval,
            shown=label != OFF and bool(uniform.meets(point.accuracy, worst)),
            is_format=any(map(is_float_code, point.num_bits)),
        )
        for point, label in zip(points, uniform_labels(points), strict=True)
    )


def known_further(point: FrontPoint) -> tuple[tuple[str, float], ...]:
    """Name and score of the further metrics that a point is known by."""
    return tuple((name, score) for name, score in point.further.items() if not math.isnan(score))


def draw_references(axes: Axes, float_accuracy: float | None, min_accuracy: float | None) -> None:
    """Level lines at the float network's score and at the minimum, where there are any."""
    if float_accuracy is not None:
        label = f"float network: {score_text(float_accuracy)}"
        axes.axhline(float_accuracy, color=GREEN, linestyle="--", linewidth=1.5, label=label)
    if min_accuracy is not None:
        label = f"min_accuracy: {score_text(min_accuracy)}"
        axes.axhline(min_accuracy, color=GREY, linestyle=":", linewidth=2, label=label)


def front_words(count: int, verified: bool) -> str:
    """How a legend names a front."""
    return f"front: {count} point{'' if count == 1 else 's'}{', verified' if verified else ''}"
