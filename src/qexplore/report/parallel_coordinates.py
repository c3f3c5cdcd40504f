"""The picture of a front as lines across its objectives.

Shape letters: K front members, M objectives, the score first, then the costs in order, then further metrics.
"""

from __future__ import annotations

import os
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qexplore.report._canvas import figure_of, legend_below, panel_of, plain_legend, scale_of, set_titles
from qexplore.report._drawing import Backend, drawn, draws
from qexplore.report._fronts import Interval, drawable_front
from qexplore.report._objectives import (
    LEGEND_CHARACTERS,
    ObjectiveRecord,
    further_of,
    knee_text,
    objectives_of,
    score_colours,
    with_direction,
    with_unit,
)
from qexplore.report._wording import tick_texts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from qexplore.report._sources import Source

_MARGIN = 0.04  # of an axis of parallel coordinates, beyond its outermost values
_MOST_TICKS = 6
_MANY_LINES = 30
_UNDER_NAMES = 52  # points from the panel to its legend, past three lines of names
_AXIS_CHARACTERS = 100  # of the names of all axes beside each other


@dataclass(frozen=True)
class ParallelCoordinatesRecord:
    """A front as K lines across M axes, on each of which better is up.

    `limits` are the values at the lower and the upper end of each axis, `heights[k][m]` where a line crosses it, from
    0 to 1. `knee` is the index of the front's knee, `num_bits` are the widths of each member.
    """

    objectives: tuple[ObjectiveRecord, ...]
    limits: tuple[Interval, ...]
    heights: tuple[tuple[float, ...], ...]
    knee: int
    point_names: tuple[str, ...] = ()
    num_bits: tuple[tuple[int, ...], ...] = ()

    @property
    def title(self) -> str:
        """Above the picture."""
        return "The front across its objectives"

    @property
    def subtitle(self) -> str:
        """Below the title."""
        return "a line is a member of the front; up is better on every axis; scores are of the search set"

    @property
    def names(self) -> tuple[str, ...]:
        """Of the axes, each in lines so short that all stand beside each other."""
        width = _AXIS_CHARACTERS // len(self.objectives)
        return tuple(f"{textwrap.fill(with_unit(one), width)}\n({one.better} is better)" for one in self.objectives)

    @property
    def knee_text(self) -> str:
        """Of the legend."""
        return knee_text(self.objectives, self.knee)


def plot_parallel_coordinates(
    source: Source,
    path: str | os.PathLike[str] | None = None,
    *,
    ax: Axes | None = None,
    backend: Backend = "matplotlib",
) -> Any:
    """Draw every front member as a line across the score and all costs, better always up, coloured by its score.

    Further metrics that all members are known by have an axis each.

    For any number of costs. `ax` is the panel to draw in, a new picture when None. `path` saves it, by its suffix
    as PNG, SVG or PDF.
    `backend="plotly"` gives a figure of plotly instead, to look
    into with the mouse (extra `report`), without `ax`, and saved as HTML.
    ReportError when the front is empty or the suffix is another.
    """
    return drawn(parallel_coordinates_record(source), path, backend, ax)


def parallel_coordinates_record(source: Source) -> ParallelCoordinatesRecord:
    """The record of a front as lines across its objectives. ReportError when the front is empty."""
    front = drawable_front("plot_parallel_coordinates", source)
    objectives = *objectives_of(front), *further_of(front)
    limits = tuple(_worst_to_best(one) for one in objectives)
    heights = [
        (np.array(one.values) - worst) / (best - worst) for one, (worst, best) in zip(objectives, limits, strict=True)
    ]
    return ParallelCoordinatesRecord(
        objectives=objectives,
        limits=limits,
        heights=tuple(map(tuple, np.column_stack(heights).tolist())),
        knee=front.knee().index,
        point_names=front.point_names,
        num_bits=tuple(point.num_bits for point in front),
    )


def _worst_to_best(objective: ObjectiveRecord) -> Interval:
    low, high = min(objective.values), max(objective.values)
    # An axis needs a length even when every value on it is the same; its lines then cross in the middle.
    margin = _MARGIN * (high - low) or max(abs(high), 1e-6) / 2
    ends = low - margin, high + margin
    return ends if objective.better == "higher" else ends[::-1]


@draws(ParallelCoordinatesRecord)
def draw_parallel_coordinates(record: ParallelCoordinatesRecord, ax: Axes | None = None) -> Figure:
    """Lines across vertical axes."""
    axes = panel_of(ax)
    colours = score_colours(record.objectives[0])
    places = range(len(record.objectives))
    faint = 0.9 if len(record.heights) <= _MANY_LINES else 0.55
    shades = colours.to_rgba(np.array(record.objectives[0].values))
    for shade, heights in zip(shades, record.heights, strict=True):
        axes.plot(places, heights, color=shade, linewidth=1.8, alpha=faint, zorder=3)
    knee, label = record.heights[record.knee], textwrap.fill(record.knee_text, LEGEND_CHARACTERS)
    axes.plot(places, knee, "o-", color="black", linewidth=3, markersize=8, label=label, zorder=4)
    for place, (objective, limits) in enumerate(zip(record.objectives, record.limits, strict=True)):
        _draw_axis(axes, place, objective, limits)
    axes.set_xlim(-0.35, places[-1] + 0.25)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xticks(places, record.names, fontsize=11 * scale_of(axes), parse_math=False)
    axes.tick_params(length=0)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    set_titles(axes, record.title, record.subtitle)
    if ax is None:
        plain_legend(figure_of(axes), loc="outside lower center")
    else:
        legend_below(axes, ncols=1, gap=_UNDER_NAMES)
    bar = axes.figure.colorbar(colours, ax=axes, fraction=0.04, pad=0.02)
    bar.ax.set_ylabel(with_direction(record.objectives[0]), parse_math=False)
    return figure_of(axes)


def _draw_axis(axes: Axes, place: int, objective: ObjectiveRecord, limits: tuple[float, float]) -> None:
    axes.axvline(place, color="black", linewidth=1, zorder=2)
    for height, text in ticks_of(objective, limits):
        axes.plot([place - 0.012, place], [height, height], color="black", linewidth=1, zorder=2)
        axes.annotate(
            text,
            (place, height),
            xytext=(-7, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=10,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1},
            zorder=5,
        )


def ticks_of(objective: ObjectiveRecord, limits: Interval) -> list[tuple[float, str]]:
    """The heights of an axis at which a value is written, and the value."""
    from matplotlib.ticker import MaxNLocator

    worst, best = limits
    low, high = min(limits), max(limits)
    is_constant = min(objective.values) == max(objective.values)
    ticks = objective.values[:1] if is_constant else MaxNLocator(_MOST_TICKS).tick_values(low, high)
    within = [float(tick) for tick in ticks if low <= tick <= high]
    return [((tick - worst) / (best - worst), text) for tick, text in zip(within, tick_texts(within), strict=True)]
