"""Pictures that look into a network, a row a quantization point: its quantization errors, and its sensitivity.

Shape letters: L quantization points, W widths.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qexplore._choices import choice_name
from qexplore.errors import ReportError
from qexplore.evaluation import LayerAnalysis
from qexplore.front import by_stored_bits, choice_words
from qexplore.report._canvas import (
    BLUE,
    GREEN,
    GREY,
    MOST_ROWS,
    OFF_COLOUR,
    ORANGE,
    PURPLE,
    figure_of,
    grid_of,
    label_rows,
    label_size,
    legend_below,
    luminance,
    panel_of,
    set_titles,
    short_names,
    tallness_of,
)
from qexplore.report._drawing import Backend, drawn, draws
from qexplore.report._fronts import Interval
from qexplore.report._wording import choices_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from qexplore.search import SensitivityTable

ALONE, ACCUMULATED, AT_THE_EDGE = "this point alone", "all points, errors accumulated", "at the edge: infinite"
_MARGIN = 0.05  # of an axis, beyond the outermost values
_LEAST_CLIPPED = 0.001  # the axis of clipped shares reaches this far when less is clipped
MOST_TEXT_COLUMNS = 16  # what fits as numbers into cells
_MOST_LARGE_MARKERS = 60


@dataclass(frozen=True)
class LayerAnalysisRecord:
    """Quantization errors by point, L values each.

    SQNRs are in dB: infinite ones are drawn at the edge of the picture, nan is left out. `clipped` and `range_used` are
    shares. `sqnr_limits` are the ends of the SQNR axis, the other two the upper ends of theirs, which begin at 0.
    """

    point_names: tuple[str, ...]
    num_bits: tuple[int, ...]
    sqnr: tuple[float, ...]
    sqnr_accumulated: tuple[float, ...]
    clipped: tuple[float, ...]
    range_used: tuple[float, ...]
    output_sqnr: float
    sqnr_limits: Interval
    clipped_limit: float
    range_used_limit: float

    @property
    def title(self) -> str:
        """Above the picture."""
        return "Quantization error layer by layer: more dB is better"

    @property
    def axes(self) -> tuple[str, str, str]:
        """Below its panels."""
        return "SQNR (dB)", "clipped\nvalues (%)", "range used\n(% of amax)"

    @property
    def output_text(self) -> str:
        """Of the network's output, in a legend; empty where that is not within the picture."""
        low, high = self.sqnr_limits
        return f"output of the network: {self.output_sqnr:.1f} dB" if low <= self.output_sqnr <= high else ""

    @property
    def has_infinite(self) -> bool:
        """Whether something stands at the edge of the picture."""
        return any(map(math.isinf, (*self.sqnr, *self.sqnr_accumulated)))


@dataclass(frozen=True)
class SensitivityRecord:
    """Sensitivities as a picture, `values[l][w]`: L rows, the most sensitive first, and a column for each width.

    A value is None where the point cannot have the width. `colour_limits` are the least and greatest positive value,
    the ends of the logarithmic colour scale; None where nothing is positive.
    """

    metric_name: str
    unit: str
    point_names: tuple[str, ...]
    num_bits: tuple[int, ...]
    values: tuple[tuple[float | None, ...], ...]
    colour_limits: Interval | None

    @property
    def title(self) -> str:
        """Above the picture."""
        return "Sensitivity of each quantization point to its width"

    @property
    def subtitle(self) -> str:
        """Below the title."""
        is_partial = any(value is None for row in self.values for value in row)
        return "grey: a width that the point cannot have" if is_partial else ""

    @property
    def axes(self) -> tuple[str, str]:
        """Beside the horizontal and the vertical axis."""
        return choices_axis(self.num_bits), "quantization points, the most sensitive first"

    @property
    def measure(self) -> str:
        """Beside the colours."""
        return f"{self.metric_name} ({self.unit})" if self.unit else self.metric_name

    @property
    def scale(self) -> Interval:
        """The ends of the colours, which have a length."""
        low, high = self.colour_limits or (1.0, 1.0)
        return low if low < high else high / 10, high


def plot_analysis(
    analysis: LayerAnalysis,
    path: str | os.PathLike[str] | None = None,
    *,
    ax: Axes | None = None,
    backend: Backend = "matplotlib",
) -> Any:
    """Draw what `qexplore.analyze` found: SQNR of every point, alone and accumulated, clipped values, use of the range.

    `ax` is the panel in whose place they are drawn, a new picture when None. `path` saves it, by its suffix as PNG, SVG
    or PDF.
    `backend="plotly"` gives a figure of plotly instead, to look
    into with the mouse (extra `report`), without `ax`, and saved as HTML.
    ReportError when there is no point or the suffix is another.
    """
    return drawn(layer_analysis_record(analysis), path, backend, ax)


def plot_sensitivity(
    table: SensitivityTable,
    path: str | os.PathLike[str] | None = None,
    *,
    ax: Axes | None = None,
    backend: Backend = "matplotlib",
) -> Any:
    """Draw the sensitivity of every point at every width as a heat map with a logarithmic colour scale.

    The most sensitive point is the first row; 0 is as pale as the least positive value, and a width that a point cannot
    have is grey. `ax` is the panel to draw in, a new picture when None. `path` saves it, by its suffix as PNG, SVG or
    PDF.
    `backend="plotly"` gives a figure of plotly instead, to look
    into with the mouse (extra `report`), without `ax`, and saved as HTML.
    ReportError when there is no point or the suffix is another.
    """
    return drawn(sensitivity_record(table), path, backend, ax)


def layer_analysis_record(analysis: LayerAnalysis) -> LayerAnalysisRecord:
    """The record of an analysis. ReportError when it has no point."""
    if not isinstance(analysis, LayerAnalysis):
        raise ReportError(
            f"plot_analysis: needs a LayerAnalysis, got {type(analysis).__name__}. Give what analyze gave."
        )
    points = analysis.points
    if not points:
        raise ReportError("plot_analysis: there is nothing to draw, the analysis has no point.")
    ratios = [ratio for point in points for ratio in (point.sqnr, point.sqnr_accumulated)]
    return LayerAnalysisRecord(
        point_names=tuple(point.name for point in points),
        num_bits=tuple(point.num_bits for point in points),
        sqnr=tuple(point.sqnr for point in points),
        sqnr_accumulated=tuple(point.sqnr_accumulated for point in points),
        clipped=tuple(point.clipped for point in points),
        range_used=tuple(point.range_used for point in points),
        output_sqnr=analysis.output_sqnr,
        sqnr_limits=_sqnr_limits([*ratios, analysis.output_sqnr]),
        clipped_limit=_upper_limit([point.clipped for point in points], least=_LEAST_CLIPPED),
        range_used_limit=_upper_limit([point.range_used for point in points], least=1.0),
    )


def _sqnr_limits(values: Sequence[float]) -> Interval:
    """From 0 dB, or below where something is worse, to beyond the best."""
    finite = [0.0, *filter(math.isfinite, values)]
    low, high = min(finite), max([*finite, 1.0])
    margin = _MARGIN * (high - low)
    return low - margin, high + margin


def _upper_limit(values: Sequence[float], least: float) -> float:
    return max([least, *filter(math.isfinite, values)]) * (1 + _MARGIN)


def sensitivity_record(table: SensitivityTable) -> SensitivityRecord:
    """The record of a table of sensitivities. ReportError when it has no point."""
    if not table.point_names:
        raise ReportError("plot_sensitivity: there is nothing to draw, the table has no point.")
    rows = {
        name: dict(zip(widths, map(float, values), strict=True))
        for name, widths, values in zip(table.point_names, table.num_bits, table.values, strict=True)
    }
    num_bits = tuple(by_stored_bits(width for row in rows.values() for width in row))
    names = tuple(table.rank())
    positive = [value for row in rows.values() for value in row.values() if 0 < value < math.inf]
    return SensitivityRecord(
        metric_name=table.metric_name,
        unit=table.unit,
        point_names=names,
        num_bits=num_bits,
        values=tuple(tuple(rows[name].get(width) for width in num_bits) for name in names),
        colour_limits=(min(positive), max(positive)) if positive else None,
    )


@draws(LayerAnalysisRecord)
def draw_analysis(record: LayerAnalysisRecord, ax: Axes | None = None) -> Figure:
    """Three panels side by side with the points as rows."""
    grid = grid_of(ax, 1, 3, tallness_of(len(record.point_names)), width_ratios=(4, 1.3, 1.3))
    panels: list[Axes] = []
    for place in range(3):
        panels.append(grid.figure.add_subplot(grid.cells[place], sharey=panels[0] if panels else None))
    _draw_sqnr(panels[0], record)
    _draw_share(panels[1], record.clipped, record.clipped_limit, PURPLE)
    _draw_share(panels[2], record.range_used, record.range_used_limit, GREY)
    panels[2].axvline(100, color="black", linewidth=1)
    for panel, label in zip(panels, record.axes, strict=True):
        panel.set_xlabel(label, fontsize=10 * grid.scale)
        panel.tick_params(labelsize=10 * grid.scale)
        panel.grid(axis="x", alpha=0.3)
        panel.set_axisbelow(True)
    panels[0].set_ylim(len(record.point_names) - 0.4, -0.6)
    named = zip(short_names(record.point_names), record.num_bits, strict=True)
    label_rows(panels[0], [f"{name}, {choice_words(width)}" for name, width in named])
    panels[0].set_ylabel("quantization points in order")
    set_titles(panels[0], record.title, "", grid.scale)
    legend_below(panels[0], ncols=2, scale=grid.scale)
    return figure_of(panels[0])


@draws(SensitivityRecord)
def draw_sensitivity(record: SensitivityRecord, ax: Axes | None = None) -> Figure:
    """The heat map of sensitivities."""
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm

    axes = panel_of(ax, tallness_of(len(record.point_names)))
    scale = LogNorm(*record.scale, clip=True)
    colours = colormaps["Blues"].with_extremes(bad=OFF_COLOUR)
    cells = cells_of(record)
    image = axes.imshow(cells, cmap=colours, norm=scale, aspect="auto")
    if len(record.point_names) <= MOST_ROWS and len(record.num_bits) <= MOST_TEXT_COLUMNS:
        shades = colours(scale(cells))
        _write_values(axes, record, shades)
    label_rows(axes, short_names(record.point_names))
    axes.set_xticks(range(len(record.num_bits)), list(map(choice_name, record.num_bits)))
    across, up = record.axes
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    set_titles(axes, record.title, record.subtitle)
    if record.colour_limits:
        bar = axes.figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
        bar.ax.set_ylabel(record.measure, parse_math=False)
    return figure_of(axes)


def _draw_sqnr(axes: Axes, record: LayerAnalysisRecord) -> None:
    low, high = record.sqnr_limits
    rows = range(len(record.point_names))
    size = 7 if len(rows) <= _MOST_LARGE_MARKERS else 4
    alone, accumulated = (np.clip(values, low, high) for values in (record.sqnr, record.sqnr_accumulated))
    axes.hlines(rows, accumulated, alone, color=GREY, linewidth=1, alpha=0.5)
    series = ((alone, BLUE, "o", ALONE), (accumulated, ORANGE, "s", ACCUMULATED))
    for values, colour, marker, label in series:
        # Markers at the edge, which stand for infinity, are not to be cut in half.
        axes.plot(values, rows, marker, color=colour, markersize=size, label=label, clip_on=False, zorder=3)
    if record.output_text:
        axes.axvline(record.output_sqnr, color=GREEN, linestyle="--", linewidth=1.5, label=record.output_text)
    if record.has_infinite:
        axes.plot([], [], " ", label=AT_THE_EDGE)
    axes.set_xlim(low, high)


def _draw_share(axes: Axes, values: Sequence[float], limit: float, colour: str) -> None:
    axes.barh(range(len(values)), 100 * np.minimum(values, limit), color=colour, height=0.7)
    axes.set_xlim(0, 100 * limit)
    axes.tick_params(axis="y", length=0, labelleft=False)


def cells_of(record: SensitivityRecord) -> NDArray[np.float64]:
    """Values for the colour scale, which knows no 0; nan where there is none."""
    least = (record.colour_limits or (1.0, 1.0))[0]
    cells = np.array(record.values, dtype=np.float64)  # None becomes nan
    return np.where(cells <= 0, least, cells)


def _write_values(axes: Axes, record: SensitivityRecord, shades: NDArray[np.float64]) -> None:
    size = label_size(max(len(record.point_names), 2 * len(record.num_bits)))
    for row, values in enumerate(record.values):
        for column, value in enumerate(values):
            if value is not None:
                ink = "black" if luminance(shades[row, column]) > 0.4 else "white"
                axes.text(column, row, f"{value:.2g}", ha="center", va="center", color=ink, fontsize=size)
