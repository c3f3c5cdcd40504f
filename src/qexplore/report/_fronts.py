"""What pictures of fronts share: what they read, the uniform widths beside a front, and the lines of reference.

Shape letters: K front members, N uniform candidates.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qexplore._choices import is_float_code
from qexplore._table import counted
from qexplore.errors import ReportError
from qexplore.front import OFF, Front, FrontPoint, score_text, uniform_labels
from qexplore.report._canvas import GREEN, GREY, ORANGE, scale_of
from qexplore.report._labels import label_points
from qexplore.report._sources import resolved

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from qexplore.report._sources import Source

Interval = tuple[float, float]

# Uniform widths that score worse than the rest of the picture by more than this share of its height are left out: one
# at chance level, 10 % beside a front from 88 to 93 %, would press everything else into a line.
_UNIFORM_REACH = 0.75
# Those that cost less or more than the front by more than this many times its width are left out too: a front from 100
# to 120 bits beside 8-bit widths at 1,000 would be a line. A narrow front counts as wide as this share of its cost.
_COST_REACH, _LEAST_WIDTH = 1.5, 0.25
_LEGEND_CHARACTERS = 70  # of a column
_MARGIN = 0.06  # of the height of the picture, above and below what is in it


@dataclass(frozen=True)
class UniformRecord:
    """One uniform candidate in the picture.

    `shown` is False where it scores too far below the rest, costs so much less or more than the front that this would
    be pressed into a corner, or is off: its score is that of the float network.
    One that breaks limits, named in `broken_limits`, is not shown either.
    `costs` are all its costs in the order of the front. `is_format` says that a float format stands somewhere in it.
    """

    label: str
    costs: tuple[float, ...]
    accuracy: float
    interval: Interval | None
    shown: bool
    is_format: bool
    broken_limits: str = ""

    @property
    def text(self) -> str:
        """Of the legend, where it is not shown."""
        broken = f" breaks the limit {self.broken_limits}" if self.broken_limits else ""
        return f"{self.label} {score_text(self.accuracy)}{broken}"


def drawable_front(owner: str, source: Source) -> Front:
    """The front of `source`. ReportError when it has none, or an empty one."""
    known = resolved(owner, source)
    front = known if isinstance(known, Front) else known.front
    if not len(front):
        reason = (
            "no candidate met min_accuracy and the other limits"
            if front.min_accuracy is not None
            else "no candidate was evaluated"
        )
        why = front.empty_because or f"The front is empty: {reason}. Print the front for more."
        raise ReportError(f"{owner}: there is nothing to draw. {why}")
    return front


def by_cost(front: Front, name: str) -> list[FrontPoint]:
    """The front's points from cheap to costly."""
    return sorted(front, key=lambda point: point.costs[name])


@dataclass(frozen=True, eq=False)
class Shown:
    """What a picture draws of `front`: the scores on the set where its claims are stated.

    That is the report set where front, float network and uniform widths were measured there, else the search set.
    `drawn` are the points with these scores, `others` their scores on the other set, where known, `knee` is the place
    in `drawn` of the knee, which is chosen on the search set in either case.
    """

    front: Front
    drawn: Front
    uniform: Front | None
    float_accuracy: float | None
    others: dict[tuple[int, ...], float]
    on_report_set: bool
    knee: int

    @property
    def set_name(self) -> str:
        """Of the scores that are drawn."""
        return "report set" if self.on_report_set else "search set"

    @property
    def other_name(self) -> str:
        """Of the other set."""
        return "search set, which chose it" if self.on_report_set else "report set"


def shown_front(owner: str, source: Source, *, on_report_set: bool = True) -> Shown:
    """What is drawn of `source`, by its scores on the report set if these are wanted and known.

    ReportError when it has no front, or an empty one.
    """
    source = resolved(owner, source)
    front = drawable_front(owner, source)
    uniform = front.uniform if isinstance(source, Front) else source.uniform
    is_reported = front.is_reported and uniform is not None and uniform.is_reported
    if on_report_set and is_reported and len(front.on_report_set()):
        drawn = front.on_report_set()
        assert uniform is not None
        others = {point.num_bits: point.accuracy for point in front}
        floats = front.report_float_accuracy
        uniform = uniform.on_report_set()
    else:
        drawn, floats, on_report_set = front, source.float_accuracy, False
        others = {point.num_bits: score for point in front if (score := point.report_accuracy) is not None}
    rows = {point.num_bits: point.index for point in drawn}
    knee = rows.get(front.knee().num_bits, drawn.knee().index)
    return Shown(front, drawn, uniform, floats, others, on_report_set, knee)


def uniform_records(shown: Shown) -> tuple[tuple[UniformRecord, ...], Interval]:
    """The uniform candidates by the first cost, and the limits of accuracy."""
    front = shown.drawn
    references = [value for value in (shown.float_accuracy, front.min_accuracy) if value is not None]
    low, high = _extent(list(front), [*references, *shown.others.values()])
    records: tuple[UniformRecord, ...] = ()
    if shown.uniform is not None:
        records = _uniform_records(shown.uniform, front, low, high)
    inside = [value for one in records if one.shown for value in (one.accuracy, *(one.interval or ()))]
    low, high = min([low, *inside]), max([high, *inside])
    margin = _MARGIN * (high - low)
    return records, (low - margin, high + margin)


def _extent(points: list[FrontPoint], references: list[float]) -> Interval:
    """Lowest and highest score in the picture, uniform widths apart."""
    scores = [point.accuracy for point in points] + references
    scores += [end for point in points if point.interval is not None for end in point.interval]
    low, high = min(scores), max(scores)
    # A picture needs a height even when every score in it is the same.
    least = max(0.02 * abs(high), 1e-6)
    return (low, high) if high - low >= least else (low - least / 2, high + least / 2)


def _uniform_records(uniform: Front, front: Front, low: float, high: float) -> tuple[UniformRecord, ...]:
    cost_names = front.cost_names
    near = [_near([point.costs[name] for point in front]) for name in cost_names]
    gains = uniform.gain(low), uniform.gain(high)
    worst = uniform.gain(min(gains) - _UNIFORM_REACH * (high - low))
    points = by_cost(uniform, cost_names[0])
    broken = [""] * len(uniform) if uniform.broken_limits is None else uniform.broken_limits.tolist()
    return tuple(
        UniformRecord(
            label=label,
            costs=tuple(point.costs[name] for name in cost_names),
            accuracy=point.accuracy,
            interval=point.interval,
            shown=label != OFF
            and not broken[point.index]
            and bool(uniform.meets(point.accuracy, worst))
            and all(lower <= point.costs[name] <= upper for name, (lower, upper) in zip(cost_names, near, strict=True)),
            is_format=any(map(is_float_code, point.num_bits)),
            broken_limits=broken[point.index],
        )
        for point, label in zip(points, uniform_labels([point.num_bits for point in points]), strict=True)
    )


def _near(costs: list[float]) -> Interval:
    """Between which costs uniform widths are drawn."""
    low, high = min(costs), max(costs)
    if low == high:
        return -math.inf, math.inf  # a single point is pressed into nothing
    reach = _COST_REACH * max(high - low, _LEAST_WIDTH * high)
    return low - reach, high + reach


def known_further(point: FrontPoint) -> tuple[tuple[str, float], ...]:
    """Name and score of the further metrics that a point is known by."""
    return tuple((name, score) for name, score in point.further.items() if not math.isnan(score))


class Reference(NamedTuple):
    """A level line: its score, its name in a legend, and its look."""

    score: float
    name: str
    colour: str
    style: str
    width: float


def references_of(float_accuracy: float | None, min_accuracy: float | None) -> list[Reference]:
    """Level lines at the float network's score and at the minimum, where there are any."""
    known = (
        (float_accuracy, "float network", GREEN, "--", 1.5),
        (min_accuracy, "min_accuracy", GREY, ":", 2.0),
    )
    return [
        Reference(score, f"{name}: {score_text(score)}", colour, style, width)
        for score, name, colour, style, width in known
        if score is not None
    ]


def draw_references(axes: Axes, float_accuracy: float | None, min_accuracy: float | None) -> None:
    """The level lines of `references_of`."""
    for one in references_of(float_accuracy, min_accuracy):
        axes.axhline(one.score, color=one.colour, linestyle=one.style, linewidth=one.width, label=one.name)


class UniformSeries(NamedTuple):
    """Uniform candidates of one look, and their name in a legend."""

    records: list[UniformRecord]
    name: str
    marker: str
    line: int


def uniform_series(uniform: Sequence[UniformRecord], whose: str = "") -> Iterator[UniformSeries]:
    """Uniform candidates as they are drawn, widths and formats apart; those that are not shown are in the name."""
    if not uniform:
        return
    hidden = [one.text for one in uniform if not one.shown]
    note = f" (not shown: {', '.join(hidden)})" if hidden else ""
    # Formats of one width cost the same, so a line through them would go up and down.
    for is_format, marker, line, label in ((False, "s", 1, "uniform widths"), (True, "^", 0, "uniform formats")):
        drawn = [one for one in uniform if one.shown and one.is_format == is_format]
        if drawn or not is_format:
            yield UniformSeries(drawn, f"{label}{whose}{'' if is_format else note}", marker, line)


def draw_uniform(
    axes: Axes, uniform: Sequence[UniformRecord], column: int, colour: str = ORANGE, whose: str = "", face: str = ""
) -> None:
    """Uniform candidates over the cost in that place of theirs; those that are not shown are in the legend."""
    for series in uniform_series(uniform, whose):
        axes.plot(
            [one.costs[column] for one in series.records],
            [one.accuracy for one in series.records],
            color=colour,
            marker=series.marker,
            markersize=8,
            markerfacecolor=face or colour,
            linewidth=series.line,
            label=textwrap.fill(series.name, _LEGEND_CHARACTERS),
            zorder=3,
        )
    shown = [one for one in uniform if one.shown]
    costs, accuracy = [one.costs[column] for one in shown], [one.accuracy for one in shown]
    draw_intervals(axes, costs, accuracy, [one.interval for one in shown], colour)


def label_uniform(
    axes: Axes,
    uniform: Sequence[tuple[Sequence[UniformRecord], str]],
    column: int,
    lines: Sequence[Sequence[tuple[float, float]]],
    levels: Sequence[float | None],
    *,
    below: bool,
) -> None:
    """Name the uniform candidates that are shown, each set in its colour, on the worse side of the front.

    `lines` are the fronts, `levels` the lines of reference, none of which is to strike a name through.
    """
    labels = [
        (one.costs[column], one.accuracy, one.label, colour) for known, colour in uniform for one in known if one.shown
    ]
    label_points(
        axes,
        labels,
        [point for line in lines for point in line],
        size=12 * scale_of(axes),
        below=below,
        lines=[*map(_corners, lines), *(_joined(known, column) for known, _ in uniform)],
        levels=[level for level in levels if level is not None],
    )


def _corners(line: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of steps that go level to the place of the next point, and there up or down."""
    between = [(far, y) for (_, y), (far, _) in zip(line, line[1:], strict=False)]
    return [point for pair in zip_longest(line, between) for point in pair if point is not None]


def _joined(uniform: Sequence[UniformRecord], column: int) -> list[tuple[float, float]]:
    """The line through uniform widths; formats have none."""
    return [(one.costs[column], one.accuracy) for one in uniform if one.shown and not one.is_format]


def draw_intervals(
    axes: Axes,
    costs: Sequence[float],
    accuracy: Sequence[float],
    intervals: Sequence[Interval | None],
    colour: str,
) -> None:
    """Bars of the intervals that are known."""
    known = [(x, y, *ends) for x, y, ends in zip(costs, accuracy, intervals, strict=True) if ends is not None]
    if known:
        x, y, low, high = (np.array(column) for column in zip(*known, strict=True))
        # An interval need not hold its score (a bootstrap's may not); a negative length is no bar.
        lengths = np.maximum([y - low, high - y], 0)
        axes.errorbar(x, y, yerr=lengths, fmt="none", ecolor=colour, elinewidth=1, capsize=3, alpha=0.45, zorder=2)


def front_words(count: int, verified: bool) -> str:
    """How a legend names a front."""
    return f"front: {counted(count, 'point')}{', verified' if verified else ''}"
