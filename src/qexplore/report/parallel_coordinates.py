"""The picture of a front as lines across its objectives.

Shape letters: K front members, M objectives, the score first, then the costs in order, then further metrics.
"""

from __future__ import annotations

import os
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qexplore.report._canvas import figure_of, finished, legend_below, panel_of, plain_legend, scale_of, set_titles
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
    0 to 1. `knee` is the index of the front's knee.
    """

    objectives: tuple[ObjectiveRecord, ...]
    limits: tuple[Interval, ...]
    heights: tuple[tuple[float, ...], ...]
    knee: int


def plot_parallel_coordinates(
    source: Source, path: str | os.PathLike[str] | None = None, *, ax: Axes | None = None
) -> Figure:
    """Draw every front member as a line across the score and all costs, better always up, coloured by its score.

    Further metrics that all members are known by have an axis each.

    For any number of costs. `ax` is the panel to draw in, a new picture when None. `path` saves it, by its suffix
    as PNG, SVG or PDF. ReportError when the front is empty or the suffix is another.
    """
    return finished(draw_parallel_coordinates(parallel_coordinates_record(source), ax), path)


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
    )


def _worst_to_best(objective: ObjectiveRecord) -> Interval:
    low, high = min(objective.values), max(objective.values)
    # An axis needs a length even when every value on it is the same; its lines then cross in the middle.
    margin = _MARGIN * (high - low) or max(abs(high), 1e-6) / 2
    ends = low - margin, high + margin
    return ends if objective.better == "higher" else ends[::-1]


def draw_parallel_coordinates(record: ParallelCoordinatesRecord, ax: Axes | None = None) -> Figure:
    """Lines across vertical axes."""
    axes = panel_of(ax)
    colours = score_colours(record.objectives[0])
    places = range(len(record.objectives))
    faint = 0.9 if len(record.heights) <= _MANY_LINES else 0.55
    shades = colours.to_rgba(np.array(record.objectives[0].values))
    for shade, heights in zip(shades, record.heights, strict=True):
        axes.plot(places, heights, color=shade, linewidth=1.8, alpha=faint, zorder=3)
    knee, label = (
        record.heights[record.knee],
        textwrap.fill(knee_text(record.objectives, record.knee), LEGEND_CHARACTERS),
    )
    axes.plot(places, knee, "o-", color="black", linewidth=3, markersize=8, label=label, zorder=4)
    for place, (objective, limits) in enumerate(zip(record.objectives, record.limits, strict=True)):
        _draw_axis(axes, place, objective, limits)
    axes.set_xlim(-0.35, places[-1] + 0.25)
    axes.set_ylim(-0.02, 1.02)
    width = _AXIS_CHARACTERS // len(places)
    names = [f"{textwrap.fill(with_unit(one), width)}\n({one.better} is better)" for one in record.objectives]
    axes.set_xticks(places, names, fontsize=11 * scale_of(axes), parse_math=False)
    axes.tick_params(length=0)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    set_titles(axes, "The front across its objectives", "a line is a member of the front; up is better on every axis")
    if ax is None:
        plain_legend(figure_of(axes), loc="outside lower center")
    else:
        legend_below(axes, ncols=1, gap=_UNDER_NAMES)
    bar = axes.figure.colorbar(colours, ax=axes, fraction=0.04, pad=0.02)
    bar.ax.set_ylabel(with_direction(record.objectives[0]), parse_math=False)
    return figure_of(axes)


def _draw_axis(axes: Axes, place: int, objective: ObjectiveRecord, limits: tuple[float, float]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.axvline(place, color="black", linewidth=1, zorder=2)
    worst, best = limits
    low, high = min(limits), max(limits)
    is_constant = min(objective.values) == max(objective.values)
    ticks = objective.values[:1] if is_constant else MaxNLocator(_MOST_TICKS).tick_values(low, high)
    within = [float(tick) for tick in ticks if low <= tick <= high]
    for tick, text in zip(within, tick_texts(within), strict=True):
        height = (tick - worst) / (best - worst)
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
