"""Maps of layers in plotly, a row a quantization point: widths, sensitivity, errors; and parallel axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from qexplore._choices import choice_name
from qexplore.front import choice_words, score_text
from qexplore.report._canvas import BLUE, GREEN, GREY, MOST_ROWS, OFF_COLOUR, ORANGE, PURPLE, thinned
from qexplore.report._drawing import draws
from qexplore.report._fronts import Interval
from qexplore.report._objectives import member_text, with_direction
from qexplore.report._plotly import (
    SYMBOLS,
    Panel,
    Sheet,
    Trace,
    axis,
    bar_of,
    finite,
    hover,
    line,
    plain,
    rows_axis,
    shades,
    short_row_names,
    widths_text,
)
from qexplore.report._plotly_fronts import score_scale
from qexplore.report._wording import choices_axis, cost_amount
from qexplore.report.layers import (
    ACCUMULATED,
    ALONE,
    AT_THE_EDGE,
    MOST_TEXT_COLUMNS,
    LayerAnalysisRecord,
    SensitivityRecord,
    cells_of,
)
from qexplore.report.num_bits import MOST_COLUMN_LABELS, NumBitsRecord, level_colours, text_size
from qexplore.report.parallel_coordinates import ParallelCoordinatesRecord, ticks_of

_MANY_LINES = 30


@draws(NumBitsRecord, "plotly")
def sheet_of_num_bits(record: NumBitsRecord) -> Sheet:
    """The heat map of choices."""
    from matplotlib.colors import to_hex

    across, up = record.axes
    columns = thinned(len(record.cost), MOST_COLUMN_LABELS)
    ticks: Trace = {
        "tickvals": list(columns),
        "ticktext": [plain(record.columns[k]) for k in columns],
        "tickangle": -90,
    }
    sheet = Sheet(record.title, num_rows=len(record.point_names))
    panel = sheet.panel(
        axis(across, **ticks, showgrid=False, automargin=True), rows_axis(short_row_names(record.point_names), up)
    )
    position = {level: index for index, level in enumerate(record.levels)}
    count, names = len(record.levels), list(map(choice_name, record.levels))
    colours = [to_hex((red, green, blue)) for red, green, blue, *_ in level_colours(record.levels)]
    scale = [[(index + side) / count, colour] for index, colour in enumerate(colours) for side in (0, 1)]
    bar = bar_of(choices_axis(record.levels), tickvals=list(range(count)), ticktext=names)
    panel.map(
        [[position[code] for code in row] for row in record.num_bits],
        [
            [_cell_text(record, name, column, code) for column, code in enumerate(row)]
            for name, row in zip(record.point_names, record.num_bits, strict=True)
        ],
        [[choice_name(code) for code in row] for row in record.num_bits] if text_size(record) else [],
        {"colorscale": scale, "zmin": -0.5, "zmax": count - 0.5, "colorbar": bar},
    )
    return sheet


def _cell_text(record: NumBitsRecord, name: str, column: int, code: int) -> str:
    return hover(
        f"{name}: {choice_words(code)}",
        cost_amount(record.cost_name, record.cost[column]),
        f"{record.metric_name} {score_text(record.accuracy[column])}",
    )


@draws(SensitivityRecord, "plotly")
def sheet_of_sensitivity(record: SensitivityRecord) -> Sheet:
    """The heat map of sensitivities, whose colours go by their logarithms."""
    across, up = record.axes
    widths = list(map(choice_name, record.num_bits))
    sheet = Sheet(record.title, record.subtitle, num_rows=len(record.point_names))
    sheet.layout["plot_bgcolor"] = OFF_COLOUR  # where there is no cell
    panel = sheet.panel(
        axis(across, tickvals=list(range(len(widths))), ticktext=widths, showgrid=False),
        rows_axis(short_row_names(record.point_names), up),
    )
    low, high = map(math.log10, record.scale)
    cells = np.log10(np.clip(cells_of(record), *record.scale))
    ticks = _log_ticks(low, high)
    bar = bar_of(record.measure, tickvals=ticks, ticktext=[f"{10**tick:.3g}" for tick in ticks])
    panel.map(
        [finite(row) for row in cells.tolist()],
        [
            [
                hover(f"{name}: {choice_words(code)}", f"{record.measure} {_value_text(value)}")
                for code, value in zip(record.num_bits, row, strict=True)
            ]
            for name, row in zip(record.point_names, record.values, strict=True)
        ],
        [["" if value is None else f"{value:.2g}" for value in row] for row in record.values]
        if len(record.point_names) <= MOST_ROWS and len(widths) <= MOST_TEXT_COLUMNS
        else [],
        {"colorscale": shades("Blues"), "zmin": low, "zmax": high, "showscale": bool(record.colour_limits)}
        | {"colorbar": bar},
    )
    return sheet


def _value_text(value: float | None) -> str:
    return "not known" if value is None else f"{value:.6g}"


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between two logarithms; both ends where there are fewer than two."""
    within = [float(tick) for tick in range(math.ceil(low), math.floor(high) + 1)]
    return within if len(within) > 1 else [low, high]


@draws(LayerAnalysisRecord, "plotly")
def sheet_of_analysis(record: LayerAnalysisRecord) -> Sheet:
    """Three panels side by side with the points as rows."""
    names = short_row_names(record.point_names)
    rows = [f"{name}, {choice_words(width)}" for name, width in zip(names, record.num_bits, strict=True)]
    sheet = Sheet(record.title, num_rows=len(rows))
    sqnr, clipped, used = record.axes
    up = rows_axis(rows, "quantization points in order")
    beside = {"showticklabels": False, "matches": "y", "title": {}}
    limits = list(record.sqnr_limits)
    first = sheet.panel(axis(sqnr, range=limits), up, (0, 0.58))
    _draw_ratios(first, record)
    shares = (
        (clipped, record.clipped, record.clipped_limit, PURPLE, (0.62, 0.79)),
        (used, record.range_used, record.range_used_limit, GREY, (0.83, 1.0)),
    )
    for label, values, limit, colour, place in shares:
        panel = sheet.panel(axis(label, range=[0, 100 * limit]), up | beside, place)
        panel.add(
            [100 * min(value, limit) for value in values],
            range(len(values)),
            type="bar",
            orientation="h",
            marker={"color": colour},
            text=[
                hover(name, f"{' '.join(label.split())} {100 * value:.3g}")
                for name, value in zip(record.point_names, values, strict=True)
            ],
        )
    panel.level(100, "", "black", "-", 1, upright=True)
    return sheet


def _draw_ratios(panel: Panel, record: LayerAnalysisRecord) -> None:
    rows = range(len(record.point_names))
    alone, accumulated = (
        [_within(value, record.sqnr_limits) for value in values] for values in (record.sqnr, record.sqnr_accumulated)
    )
    joined = [
        (value, row)
        for start, end, row in zip(accumulated, alone, rows, strict=True)
        for value, row in ((start, row), (end, row), (None, row))
    ]
    panel.add(*zip(*joined, strict=True), mode="lines", line=line("rgba(85,85,85,0.5)", width=1, steps=False))
    series = (alone, record.sqnr, BLUE, "o", ALONE), (accumulated, record.sqnr_accumulated, ORANGE, "s", ACCUMULATED)
    for values, told, colour, marker, name in series:
        panel.add(
            values,
            rows,
            name=name,
            mode="markers",
            marker={"color": colour, "symbol": SYMBOLS[marker], "size": 8},
            cliponaxis=False,  # markers at the edge, which stand for infinity
            text=[
                hover(f"{point}, {choice_words(width)}", f"{name}: SQNR {value:.4g} dB")
                for point, width, value in zip(record.point_names, record.num_bits, told, strict=True)
            ],
        )
    if record.output_text:
        panel.level(record.output_sqnr, record.output_text, GREEN, "--", upright=True)
    if record.has_infinite:
        panel.add([None], [None], name=AT_THE_EDGE, mode="markers", marker={"color": "white"})


def _within(value: float, limits: Interval) -> float | None:
    """Infinite ones stand at the edge; nan is left out."""
    return None if math.isnan(value) else min(max(value, limits[0]), limits[1])


@draws(ParallelCoordinatesRecord, "plotly")
def sheet_of_parallel_coordinates(record: ParallelCoordinatesRecord) -> Sheet:
    """Lines across vertical axes."""
    sheet = Sheet(record.title, record.subtitle)
    places = list(range(len(record.objectives)))
    names: Trace = {"tickvals": places, "ticktext": list(map(plain, record.names)), "automargin": True}
    panel = sheet.panel(
        axis(range=[-0.35, places[-1] + 0.25], showgrid=False, **names),
        axis(range=[-0.03, 1.03], showgrid=False, showticklabels=False),
    )
    score = record.objectives[0]
    scale = score_scale(score)
    shown = _shades_of(score.values, scale["cmin"], scale["cmax"], turned=scale["reversescale"])
    faint = 0.9 if len(record.heights) <= _MANY_LINES else 0.55
    texts = [_member(record, place) for place in range(len(record.heights))]
    for colour, heights, text in zip(shown, record.heights, texts, strict=True):
        look: Trace = {"mode": "lines+markers", "marker": {"size": 5, "color": colour}, "opacity": faint}
        panel.add(places, heights, line=line(colour, width=1.8, steps=False), text=[text] * len(places), **look)
    panel.add(
        places,
        record.heights[record.knee],
        name=record.knee_text,
        mode="lines+markers",
        line=line("black", width=3, steps=False),
        marker={"size": 9, "color": "black"},
        text=[texts[record.knee]] * len(places),
    )
    for place, (objective, limits) in enumerate(zip(record.objectives, record.limits, strict=True)):
        panel.level(place, "", "black", "-", 1, upright=True)
        for height, text in ticks_of(objective, limits):
            panel.write(f"{text} –", (place, height))
    bar = {"showscale": True, "colorbar": bar_of(with_direction(score)), "color": [scale["cmin"]]}
    panel.add([None], [None], mode="markers", marker=scale | bar)
    return sheet


def _member(record: ParallelCoordinatesRecord, place: int) -> str:
    widths = record.num_bits[place] if record.num_bits else ()
    return hover(member_text(record.objectives, place), widths_text(record.point_names, widths) if widths else "")


def _shades_of(values: Sequence[float], low: float, high: float, *, turned: bool) -> list[str]:
    scale = [colour for _, colour in shades("viridis", 0.0, 0.92)]
    places = [(value - low) / (high - low) for value in values]
    return [scale[round((1 - place if turned else place) * (len(scale) - 1))] for place in places]
