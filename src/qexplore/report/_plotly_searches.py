"""Searches over time in plotly: hypervolume, what was found when, and what time was spent on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from qexplore.report._canvas import BLUE, COLOURS
from qexplore.report._drawing import draws
from qexplore.report._plotly import Panel, Sheet, axis, finite, hover, line
from qexplore.report._wording import amount_text
from qexplore.report.hypervolume import HypervolumeRecord
from qexplore.report.timeline import TimelineRecord
from qexplore.report.timelines import STYLES, TIMES, RunLineRecord, TimelinesRecord, at_most_text, first_of

_MOST_MARKERS = 60
_DOT = 7
_HEAD_ROOM = 1.05
_LEFT, _RIGHT = (0.0, 0.485), (0.515, 1.0)  # columns of panels
_UNITS = "s", "passes"
_TALL = 30  # rows of names that a picture with bars is as high as


@draws(HypervolumeRecord, "plotly")
def sheet_of_hypervolume(record: HypervolumeRecord) -> Sheet:
    """The step curve of a search's progress."""
    across, up = record.axes
    sheet = Sheet(record.title, record.subtitle)
    largest = max(record.hypervolume)
    panel = sheet.panel(
        axis(across, range=_from_zero(record.num_evaluations)), axis(up, largest, range=_from_zero([largest]))
    )
    panel.add(
        record.num_evaluations,
        record.hypervolume,
        mode="lines+markers" if len(record.hypervolume) <= _MOST_MARKERS else "lines",
        line=line(BLUE),
        text=[
            hover(f"{passes:,.6g} passes", f"hypervolume {amount_text(volume)}")
            for passes, volume in zip(record.num_evaluations, record.hypervolume, strict=True)
        ],
    )
    return sheet


def _from_zero(values: Iterable[float]) -> list[float]:
    return [0, max(values) * _HEAD_ROOM or 1]


def _around(values: Iterable[float | None]) -> dict[str, Any]:
    """The limits of an axis, which has a length where all ``values`` are the same."""
    known = [value for value in finite(values) if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    margin = 0.05 * (high - low) or 0.01 * max(abs(high), 1e-6)
    return {"range": [low - margin, high + margin]}


def _panels(
    sheet: Sheet,
    titles: tuple[str, str],
    volumes: Sequence[float],
    scores: Iterable[float | None],
    ends: Sequence[Sequence[float]],
    bottom: float,
) -> list[list[Panel]]:
    """Hypervolumes above best scores, over seconds and over passes, from ``bottom`` up."""
    middle = bottom + (1 - bottom) / 2
    rows = (titles[0], (middle + 0.02, 1.0)), (titles[1], (bottom, middle - 0.02))
    limits = {"range": _from_zero(volumes)}, _around(scores)
    panels: list[list[Panel]] = []
    for row, (title, up) in enumerate(rows):
        panels.append([])
        for column, across in enumerate((_LEFT, _RIGHT)):
            x = axis(TIMES[column] if row else "", range=_from_zero(ends[column]), showticklabels=bool(row))
            y = axis("" if column else title, None if row else max(volumes), showticklabels=not column)
            beside = {"matches": panels[row][0].y} if column else {}
            above = {"matches": panels[0][column].x} if row else {}
            panels[row].append(sheet.panel(x | above, y | limits[row] | beside, across, up))
    return panels


def _draw_line(
    panel: Panel, times: Sequence[float], values: Sequence[Any], column: int, what: str, **look: Any
) -> None:
    known = finite(values)
    texts = [
        hover(what, f"{time:,.6g} {_UNITS[column]}", "" if value is None else f"{value:,.6g}")
        for time, value in zip(times, known, strict=True)
    ]
    first = first_of(known)  # a dot: of a line that begins at the last moment there is no more
    sizes = [_DOT if place in first else 0 for place in range(len(known))]
    panel.add(times, known, mode="lines+markers", marker={"size": sizes, "opacity": 1}, text=texts, **look)


@draws(TimelineRecord, "plotly")
def sheet_of_timeline(record: TimelineRecord) -> Sheet:
    """Hypervolume and best scores over seconds and over passes, and bars of what was spent."""
    sheet = Sheet(record.title, num_rows=_TALL)
    times = record.seconds, record.num_passes
    scores = [score for one in record.followed for score in one.accuracy]
    panels = _panels(sheet, record.axes, record.hypervolume, scores, times, 0.3)
    for column, moments in enumerate(times):
        _draw_line(panels[0][column], moments, record.hypervolume, column, "hypervolume", line=line(BLUE))
        for place, one in enumerate(record.followed):
            name = record.followed_text(one)
            look = line(COLOURS[place % len(COLOURS)], STYLES[place % len(STYLES)])
            _draw_line(
                panels[1][column], moments, one.accuracy, column, name, name=name, is_named=not column, line=look
            )
        _draw_spent(sheet, record, column)
    sheet.layout["barmode"] = "stack"
    return sheet


def _draw_spent(sheet: Sheet, record: TimelineRecord, column: int) -> None:
    """One bar of what was spent, piece by piece."""
    panel = sheet.panel(
        axis(showgrid=False), axis(showticklabels=False, showgrid=False), (_LEFT, _RIGHT)[column], (0.06, 0.13)
    )
    sheet.note(panel, record.spent_title(column))
    colours = {one.what: COLOURS[place % len(COLOURS)] for place, one in enumerate(record.spent)}
    named = {what for what, _ in record.amounts(0)} if column else set()
    for what, amount in record.amounts(column):
        panel.add(
            [amount],
            [0],
            name=what,
            is_named=what not in named,
            type="bar",
            orientation="h",
            marker={"color": colours[what]},
            text=[hover(f"{what}: {amount_text(round(amount, 2))} {_UNITS[column]}")],
        )


@draws(TimelinesRecord, "plotly")
def sheet_of_timelines(record: TimelinesRecord) -> Sheet:
    """Hypervolume and best scores of each search, over seconds and over passes."""
    sheet = Sheet(record.title, record.subtitle)
    ends = [[max(values) for values in times] for times in zip(*map(_times, record.lines), strict=True)]
    scores = [score for one in record.lines for best in one.best for score in best]
    panels = _panels(sheet, record.axes, [max(one.hypervolume) for one in record.lines], scores, ends, 0.0)
    named: set[str] = set()
    for one in record.lines:
        name, colour = record.text(one.label), record.colours[one.label]
        for column, moments in enumerate(_times(one)):
            look = {"name": name, "is_named": name not in named}
            named.add(name)
            _draw_line(panels[0][column], moments, one.hypervolume, column, one.label, line=line(colour), **look)
            for place, best in enumerate(one.best):
                what = f"{one.label}, {at_most_text(record.cost_name, record.at[place])}"
                style = line(colour, STYLES[place % len(STYLES)])
                _draw_line(panels[1][column], moments, best, column, what, name=name, is_named=False, line=style)
    for place, cost in enumerate(record.at):
        look = line("black", STYLES[place % len(STYLES)])
        panels[1][0].add([None], [None], name=at_most_text(record.cost_name, cost), mode="lines", line=look)
    return sheet


def _times(one: RunLineRecord) -> tuple[Sequence[float], Sequence[float]]:
    return one.seconds, one.num_passes
