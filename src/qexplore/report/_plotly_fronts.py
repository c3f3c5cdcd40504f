"""Fronts in plotly: one over a cost, several of them, pairs of objectives, before and after fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qexplore._table import visible
from qexplore.front import score_text
from qexplore.report._canvas import BLUE, COLOURS, GREY, MARKERS, ORANGE, PURPLE
from qexplore.report._drawing import draws
from qexplore.report._fronts import Interval, UniformRecord, references_of, uniform_series
from qexplore.report._objectives import ObjectiveRecord, member_text, with_direction
from qexplore.report._plotly import (
    SYMBOLS,
    Panel,
    Sheet,
    axis,
    bar_of,
    bars,
    faint,
    hover,
    line,
    shades,
    widths_text,
)
from qexplore.report._wording import cost_amount, cost_axis
from qexplore.report.fine_tuning import FineTuningRecord
from qexplore.report.fronts import (
    LINE_STYLES,
    FrontLineRecord,
    FrontsRecord,
    baseline_colours,
    rims_of,
    shaded,
    shown_line,
)
from qexplore.report.pairs import BEST, ObjectivesRecord, PairRecord
from qexplore.report.pareto_front import ParetoFrontRecord

_GAP = 0.11  # between panels, of the whole picture
_MOST_NAMED = 4  # objectives whose panels are large enough for the names of uniform widths
Widths = Sequence[Sequence[int]]


def _marker(
    marker: str, colour: str, size: float | list[float] = 8, *, filled: bool = True, rim: float = 1.5
) -> dict[str, Any]:
    face = {"color": colour if filled else "white", "line": {"color": colour, "width": rim}}
    return {"symbol": SYMBOLS[marker], "size": size} | face


def _ring() -> dict[str, Any]:
    return {"symbol": "circle-open", "size": 19, "color": "black", "line": {"width": 2}}


def _draw_levels(panel: Panel, float_accuracy: float | None, min_accuracy: float | None) -> None:
    for one in references_of(float_accuracy, min_accuracy):
        panel.level(one.score, one.name, one.colour, one.style, one.width)


def _score_axis(title: str, limits: Interval) -> dict[str, Any]:
    return axis(title, range=list(limits))


def _score_words(metric_name: str, score: float, interval: Interval | None = None) -> str:
    ends = f" ({score_text(interval[0])} to {score_text(interval[1])})" if interval else ""
    return f"{metric_name} {score_text(score)}{ends}"


def _draw_uniform(
    panel: Panel,
    uniform: Sequence[UniformRecord],
    column: int,
    words: tuple[str, str],
    *,
    better: str,
    colour: str = ORANGE,
    whose: str = "",
    filled: bool = True,
    intervals: bool = True,
) -> None:
    """Uniform candidates with their names, on the worse side of the front; `words` are metric and cost."""
    metric_name, cost_name = words
    for series in uniform_series(uniform, whose):
        scores = [one.accuracy for one in series.records]
        ends = [one.interval if intervals else None for one in series.records]
        costs = [one.costs[column] for one in series.records]
        panel.add(
            costs,
            scores,
            name=series.name,
            mode="lines+markers+text" if series.line else "markers+text",
            line=line(colour, width=1, steps=False),
            marker=_marker(series.marker, colour, 9, filled=filled),
            textposition="bottom right" if better == "higher" else "top right",
            textfont={"color": colour, "size": 11},
            text=[
                hover(
                    f"uniform {one.label}{whose}", cost_amount(cost_name, cost), _score_words(metric_name, score, end)
                )
                for one, cost, score, end in zip(series.records, costs, scores, ends, strict=True)
            ],
            labels=[one.label for one in series.records],
            **bars(scores, ends, colour),
        )


@draws(ParetoFrontRecord, "plotly")
def sheet_of_front(record: ParetoFrontRecord) -> Sheet:
    """A front over one cost."""
    sheet = Sheet(record.title, record.subtitle)
    panel = sheet.panel(
        axis(cost_axis(record.cost_name), max(record.cost)), _score_axis(record.score_axis, record.accuracy_limits)
    )
    _draw_levels(panel, record.float_accuracy, record.min_accuracy)
    words = record.metric_name, record.cost_name
    _draw_uniform(panel, record.uniform, record.column, words, better=record.better)
    _draw_members(panel, record)
    for start, tip in record.arrows:
        panel.arrow(start, tip, "black")
    return sheet


def _draw_members(panel: Panel, record: ParetoFrontRecord) -> None:
    texts = [_member(record, place) for place in range(len(record.cost))]
    for on_line, name in ((True, record.front_text), (False, record.beaten_text)):
        places = [place for place, known in enumerate(record.on_line) if known == on_line]
        scores = [record.accuracy[place] for place in places]
        if places:
            panel.add(
                [record.cost[place] for place in places],
                scores,
                name=name,
                mode="lines+markers" if on_line else "markers",
                line=line(BLUE, width=1.6),
                marker=_marker("o", BLUE, filled=on_line),
                text=[texts[place] for place in places],
                **bars(scores, [record.intervals[place] for place in places], BLUE),
            )
    others = [place for place, score in enumerate(record.other_accuracy) if score is not None]
    if others:
        panel.add(
            [record.cost[place] for place in others],
            [record.other_accuracy[place] for place in others],
            name=record.other_text,
            mode="markers",
            marker=_marker("D", PURPLE, 7, filled=False),
            text=[texts[place] for place in others],
        )
    panel.add([record.knee[0]], [record.knee[1]], name=record.knee_text, mode="markers", marker=_ring())


def _member(record: ParetoFrontRecord, place: int) -> str:
    other = record.other_accuracy[place]
    return hover(
        cost_amount(record.cost_name, record.cost[place]),
        _score_words(record.metric_name, record.accuracy[place], record.intervals[place]),
        "" if other is None else f"{score_text(other)} on the {record.other_name}",
        _widths(record.point_names, record.num_bits, place),
    )


def _widths(point_names: Sequence[str], num_bits: Widths, place: int) -> str:
    return widths_text(point_names, num_bits[place]) if len(num_bits) > place else ""


@draws(FrontsRecord, "plotly")
def sheet_of_fronts(record: FrontsRecord) -> Sheet:
    """Several fronts over one cost."""
    sheet = Sheet(record.title, record.subtitle)
    panel = sheet.panel(
        axis(cost_axis(record.cost_name), record.end), _score_axis(record.score_axis, record.accuracy_limits)
    )
    _draw_levels(panel, record.float_accuracy, record.min_accuracy)
    words = record.metric_name, record.cost_name
    for baseline, colour in zip(record.baselines, baseline_colours(record), strict=True):
        look: dict[str, Any] = {"colour": colour, "whose": record.whose(baseline), "filled": colour == GREY}
        _draw_uniform(panel, baseline.uniform, 0, words, better=record.better, intervals=False, **look)
    for place, one in enumerate(record.lines):
        _draw_front_line(panel, record, one, place)
    return sheet


def _draw_front_line(panel: Panel, record: FrontsRecord, one: FrontLineRecord, place: int) -> None:
    colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
    group: dict[str, Any] = {"legendgroup": f"front {place}"}  # the shade goes with its line
    if one.num_runs > 1 and one.best:
        costs, worst, best = shaded(record, one)
        edge = line(colour, width=0)
        panel.add(costs.tolist(), worst.tolist(), mode="lines", line=edge, **group)
        shade: dict[str, Any] = {"fill": "tonexty", "fillcolor": faint(colour)}
        panel.add(costs.tolist(), best.tolist(), mode="lines", line=edge, **shade, **group)
    shown, rims = shown_line(record, one), rims_of(record, place)
    size = 8.0 + 3 * rims
    sizes = [size if is_marked else 0.0 for is_marked in one.marked] + [0.0] * (len(shown) - len(one.marked))
    panel.add(
        [cost for cost, _ in shown],
        [score for _, score in shown],
        name=visible(one.text),
        mode="lines+markers",
        line=line(colour, LINE_STYLES[place // len(COLOURS) % len(LINE_STYLES)], 1.8 + 2 * rims),
        marker=_marker(marker, colour, size if all(sizes) else sizes),
        text=[
            hover(
                one.label,
                cost_amount(record.cost_name, cost),
                _score_words(record.metric_name, score),
                _widths(one.point_names, one.num_bits, index),
            )
            for index, (cost, score) in enumerate(shown)
        ],
        **group,
    )


@draws(ObjectivesRecord, "plotly")
def sheet_of_objectives(record: ObjectivesRecord) -> Sheet:
    """A triangle of panels, costs to the right."""
    size = len(record.objectives) - 1
    sheet = Sheet(record.title, num_rows=20 * size)
    score = record.objectives[0]
    sheet.layout["coloraxis"] = score_scale(score) | {"colorbar": bar_of(with_direction(score))}
    everything = [*record.objectives, *record.further]
    texts = [
        hover(member_text(everything, place), _widths(record.point_names, record.num_bits, place))
        for place in range(len(score.values))
    ]
    for place, pair in enumerate(record.pairs):
        across, down = _cell(pair.x - 1, size), _cell(size - 1 - pair.y, size)
        _draw_pair(sheet, record, pair, (across, down), texts, is_named=place == 0)
    return sheet


def _cell(place: int, size: int) -> Interval:
    step = (1 + _GAP) / size
    return place * step, min(1.0, place * step + step - _GAP)


def score_scale(score: ObjectiveRecord) -> dict[str, Any]:
    """The colours of `score_colours`, as plotly takes them."""
    low, high = min(score.values), max(score.values)
    ends = {"cmin": low, "cmax": max(high, low + 1e-6 * max(abs(high), 1.0))}  # a scale needs a length
    return {"colorscale": shades("viridis", 0.0, 0.92), "reversescale": score.better == "lower"} | ends


def _draw_pair(
    sheet: Sheet,
    record: ObjectivesRecord,
    pair: PairRecord,
    place: tuple[Interval, Interval],
    texts: Sequence[str],
    *,
    is_named: bool,
) -> None:
    """One panel; those on the diagonal name the axes of those beside and above them."""
    right, up = record.objectives[pair.x], record.objectives[pair.y]
    ends = pair.x == pair.y + 1
    limits = {"range": list(record.accuracy_limits)} if pair.y == 0 else {}
    panel = sheet.panel(
        axis(right.axis if ends else "", max(right.values), showticklabels=ends),
        axis(up.axis if ends else "", max(up.values), showticklabels=ends, **limits),
        *place,
    )
    if pair.y == 0:
        for one in references_of(record.float_accuracy, record.min_accuracy):
            panel.level(one.score, one.name, one.colour, one.style, one.width, is_named=is_named)
    _draw_pair_points(panel, record, pair, texts, is_named)


def _draw_pair_points(
    panel: Panel, record: ObjectivesRecord, pair: PairRecord, texts: Sequence[str], is_named: bool
) -> None:
    x, y, scores = (np.array(record.objectives[place].values) for place in (pair.x, pair.y, 0))
    uniform = record.uniform_places(pair)
    legend: dict[str, Any] = {"is_named": is_named}
    if record.uniform:
        has_names = pair.y == 0 and len(record.objectives) <= _MOST_NAMED
        panel.add(
            [place[0] for place in uniform],
            [place[1] for place in uniform],
            name=record.uniform_text,
            mode="markers+text" if has_names else "markers",
            marker=_marker("s", ORANGE, 8, filled=False),
            labels=[label for *_, label in uniform],
            textposition="bottom right",
            textfont={"color": ORANGE, "size": 10},
            text=[hover(f"uniform {label}") for *_, label in uniform],
            **legend,
        )
    best = np.array(pair.nondominated)
    line_order = np.flatnonzero(best)[np.argsort(x[best], kind="stable")]
    rest = np.flatnonzero(~best)
    for order, name, size, rim in ((rest, record.front_text, 6, 0.0), (line_order, BEST, 9, 1.2)):
        colours = {"color": scores[order].tolist(), "coloraxis": "coloraxis", "line": {"color": "black", "width": rim}}
        panel.add(
            x[order].tolist(),
            y[order].tolist(),
            name=name,
            mode="lines+markers" if rim else "markers",
            line=line(GREY, width=1),
            marker=colours | {"size": size},
            text=[texts[place] for place in order],
            **legend,
        )
    knee = record.knee
    panel.add([x[knee].item()], [y[knee].item()], name=record.knee_text, mode="markers", marker=_ring(), **legend)


@draws(FineTuningRecord, "plotly")
def sheet_of_fine_tuning(record: FineTuningRecord) -> Sheet:
    """A front before and after fine-tuning."""
    sheet = Sheet(record.title, record.subtitle)
    largest = max(cost for cost, _ in record.before)
    panel = sheet.panel(
        axis(cost_axis(record.cost_name), largest), _score_axis(record.score_axis, record.accuracy_limits)
    )
    _draw_levels(panel, record.float_accuracy, None)
    before, after = record.names
    panel.add(
        *zip(*record.before, strict=True),
        mode="markers",
        marker=_marker("o", ORANGE, 7) | {"opacity": 0.5},
        text=[
            hover(_place(record, place), _widths(record.point_names, record.num_bits, index))
            for index, place in enumerate(record.before)
        ],
        legendgroup=before,
    )
    looks = (record.before_line, before, ORANGE, "s"), (record.after_line, after, BLUE, "o")
    for points, name, colour, marker in looks:
        panel.add(
            *zip(*points, strict=True),
            name=name,
            mode="lines+markers",
            line=line(colour, width=1.6),
            marker=_marker(marker, colour),
            text=[_tuned(record, place, name) for place in points],
        )
    for cost, start, end in record.moves:
        panel.arrow((cost, start), (cost, end), GREY)
    return sheet


def _place(record: FineTuningRecord, place: tuple[float, float]) -> str:
    return f"{cost_amount(record.cost_name, place[0])}\n{_score_words(record.metric_name, place[1])}"


def _tuned(record: FineTuningRecord, place: tuple[float, float], name: str) -> str:
    """What a point had before, beside what it has; and its widths, which training leaves."""
    costs = [cost for cost, _ in record.before]
    is_one = costs.count(place[0]) == 1
    moved = [start for cost, start, end in record.moves if (cost, end) == place and name == record.names[1]]
    return hover(
        _place(record, place),
        f"{score_text(moved[0])} before fine-tuning" if moved else "",
        _widths(record.point_names, record.num_bits, costs.index(place[0])) if is_one else "",
    )
