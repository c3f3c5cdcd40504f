"""Drawings of fronts with three and more objectives: a panel for each pair, and parallel coordinates."""

from __future__ import annotations

import os
import textwrap
from typing import TYPE_CHECKING

import numpy as np

from qexplore.front import Front, score_text
from qexplore.report._canvas import (
    GREEN,
    GREY,
    ORANGE,
    finished,
    new_figure,
    new_picture,
    set_large_ticks,
    set_titles,
)
from qexplore.report._labels import label_points
from qexplore.report._wording import amount_text, tick_texts
from qexplore.report.objectives import (
    ObjectiveRecord,
    ObjectivesRecord,
    PairRecord,
    ParallelCoordinatesRecord,
    parallel_coordinates_record,
)
from qexplore.report.records import ExplorationLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

NBSP = "\N{NO-BREAK SPACE}"
_LEGEND_CHARACTERS = 110  # beside each other over the whole picture
_NARROW = 36
_LARGE_TRIANGLE = 4
_MOST_TICKS = 6
_MANY_LINES = 30
_AXIS_CHARACTERS = 100  # of the names of all axes beside each other


def plot_parallel_coordinates(source: ExplorationLike | Front, path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw every front member as a line across the score and all costs, better always up, coloured by its score.

    For any number of costs. `path` saves it, by its suffix as PNG, SVG or PDF. FrontError when the front is empty or
    the suffix is another.
    """
    return finished(draw_parallel_coordinates(parallel_coordinates_record(source)), path)


def draw_objectives(record: ObjectivesRecord) -> Figure:
    """A triangle of panels, costs to the right, their legend in its empty corner."""
    figure = new_figure()
    size = len(record.objectives) - 1
    grid = figure.add_gridspec(size, size)
    colours = _score_colours(record.objectives[0])
    panels: dict[tuple[int, int], Axes] = {}
    for pair in record.pairs:
        above, left = panels.get((0, pair.x)), panels.get((pair.y, pair.y + 1))
        panel = figure.add_subplot(grid[pair.y, pair.x - 1], sharex=above, sharey=left)
        panels[pair.y, pair.x] = panel
        _draw_pair(panel, record, pair, colours)
    for (y, x), panel in panels.items():
        _finish_panel(panel, record, x, y)
    # The corner without panels is a triangle; the largest rectangle in it holds the legend.
    wide = size >= _LARGE_TRIANGLE
    corner = figure.add_subplot(grid[2:, :2] if wide else grid[1:, 0])
    _draw_legend(corner, panels[0, 1], _LEGEND_CHARACTERS * (1 + wide) // size - 8)
    bar = figure.colorbar(colours, ax=list(panels.values()), fraction=0.04, pad=0.02)
    bar.ax.set_ylabel(_with_direction(record.objectives[0]), parse_math=False)
    names = [one.words for one in record.objectives]
    figure.suptitle(
        f"{names[0]} against {', '.join(names[1:-1])} and {names[-1]}",
        x=0.01,
        ha="left",
        fontsize=15,
        fontweight="bold",
        parse_math=False,
    )
    return figure


def draw_parallel_coordinates(record: ParallelCoordinatesRecord) -> Figure:
    """Lines across vertical axes."""
    figure, axes = new_picture()
    colours = _score_colours(record.objectives[0])
    places = range(len(record.objectives))
    faint = 0.9 if len(record.heights) <= _MANY_LINES else 0.55
    shades = colours.to_rgba(np.array(record.objectives[0].values))
    for shade, heights in zip(shades, record.heights, strict=True):
        axes.plot(places, heights, color=shade, linewidth=1.8, alpha=faint, zorder=3)
    knee, label = record.heights[record.knee], textwrap.fill(_knee_text(record), _LEGEND_CHARACTERS)
    axes.plot(places, knee, "o-", color="black", linewidth=3, markersize=8, label=label, zorder=4)
    for place, (objective, limits) in enumerate(zip(record.objectives, record.limits, strict=True)):
        _draw_axis(axes, place, objective, limits)
    axes.set_xlim(-0.35, places[-1] + 0.25)
    axes.set_ylim(-0.02, 1.02)
    width = _AXIS_CHARACTERS // len(places)
    names = [f"{textwrap.fill(_with_unit(one), width)}\n({_direction(one)})" for one in record.objectives]
    axes.set_xticks(places, names, fontsize=11, parse_math=False)
    axes.tick_params(length=0)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    set_titles(axes, "The front across its objectives", "a line is a member of the front; up is better on every axis")
    legend = figure.legend(loc="outside lower center", frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    bar = figure.colorbar(colours, ax=axes, fraction=0.04, pad=0.02)
    bar.ax.set_ylabel(_with_direction(record.objectives[0]), parse_math=False)
    return figure


def _score_colours(score: ObjectiveRecord) -> ScalarMappable:
    """Viridis without its palest end, dark where the score is bad."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    shades = colormaps["viridis"](np.linspace(0.0, 0.92, 256))
    low, high = min(score.values), max(score.values)
    least = 1e-6 * max(abs(high), 1.0)  # a scale needs a length
    return ScalarMappable(
        Normalize(low, max(high, low + least)), ListedColormap(shades if score.higher_is_better else shades[::-1])
    )


def _with_unit(objective: ObjectiveRecord) -> str:
    return f"{objective.words} ({objective.unit})" if objective.unit else objective.words


def _with_direction(objective: ObjectiveRecord) -> str:
    return f"{objective.axis} ({_direction(objective)})"


def _direction(objective: ObjectiveRecord) -> str:
    return f"{'higher' if objective.higher_is_better else 'lower'} is better"


def _draw_pair(panel: Axes, record: ObjectivesRecord, pair: PairRecord, colours: ScalarMappable) -> None:
    x, y = (np.array(record.objectives[place].values) for place in (pair.x, pair.y))
    scores = colours.to_rgba(np.array(record.objectives[0].values))
    best = np.array(pair.nondominated)
    if pair.y == 0:
        _draw_reference_lines(panel, record)
    _draw_uniform(panel, record, pair)
    panel.scatter(x[~best], y[~best], s=22, c=scores[~best], alpha=0.8, label=_members(record), zorder=3)
    order = np.flatnonzero(best)[np.argsort(x[best], kind="stable")]
    # A budget between two members buys the cheaper one: steps, not slopes.
    panel.plot(x[order], y[order], color=GREY, linewidth=1, drawstyle="steps-post", zorder=4)
    label = "not beaten by another one in these two objectives"
    panel.scatter(x[order], y[order], s=60, c=scores[order], edgecolors="black", linewidths=1.2, label=label, zorder=5)
    knee = x[record.knee], y[record.knee]
    panel.scatter(*knee, s=240, c="none", edgecolors="black", linewidths=1.8, label=_knee_text(record), zorder=6)


def _members(record: ObjectivesRecord) -> str:
    count = len(record.objectives[0].values)
    return f"front: {count} point{'' if count == 1 else 's'}{', verified' if record.verified else ''}"


def _knee_text(record: ObjectivesRecord | ParallelCoordinatesRecord) -> str:
    score, *costs = record.objectives
    parts = [f"{score.words} {score_text(score.values[record.knee])}"]
    amounts = [f"{amount_text(one.values[record.knee])} {one.unit}".rstrip().replace(" ", NBSP) for one in costs]
    parts += [f"{one.words} {amount}" for one, amount in zip(costs, amounts, strict=True)]
    return f"knee: {', '.join(parts)}"


def _draw_reference_lines(panel: Axes, record: ObjectivesRecord) -> None:
    if record.float_accuracy is not None:
        label = f"float network: {score_text(record.float_accuracy)}"
        panel.axhline(record.float_accuracy, color=GREEN, linestyle="--", linewidth=1.5, label=label)
    if record.min_accuracy is not None:
        label = f"min_accuracy: {score_text(record.min_accuracy)}"
        panel.axhline(record.min_accuracy, color=GREY, linestyle=":", linewidth=2, label=label)


def _draw_uniform(panel: Axes, record: ObjectivesRecord, pair: PairRecord) -> None:
    if not record.uniform:
        return
    hidden = [f"{one.label} {score_text(one.accuracy)}" for one in record.uniform if not one.shown]
    label = "uniform widths and formats" if any(one.is_format for one in record.uniform) else "uniform widths"
    # Blanks within an item are not to be broken when the legend is wrapped.
    label += f" (not shown: {', '.join(one.replace(' ', NBSP) for one in hidden)})" if hidden else ""
    points = _uniform_places(record, pair)
    xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]
    panel.plot(xs, ys, "s", color=ORANGE, markersize=7, markerfacecolor="white", label=label, zorder=2)


def _uniform_places(record: ObjectivesRecord, pair: PairRecord) -> list[tuple[float, float, str]]:
    shown = [((one.accuracy, *one.costs), one.label) for one in record.uniform if one.shown]
    return [(values[pair.x], values[pair.y], label) for values, label in shown]


def _finish_panel(panel: Axes, record: ObjectivesRecord, x: int, y: int) -> None:
    """Limits, ticks and labels, once every panel that shares its axes is drawn."""
    horizontal, vertical = record.objectives[x], record.objectives[y]
    size = 11 if len(record.objectives) < 4 else 9
    if y == 0:
        panel.set_ylim(record.accuracy_limits)
    else:
        set_large_ticks(panel.yaxis, max(vertical.values))
    set_large_ticks(panel.xaxis, max(horizontal.values))
    panel.tick_params(labelsize=size - 1, labelbottom=x == y + 1, labelleft=x == y + 1)
    if x == y + 1:
        panel.set_xlabel(horizontal.axis, fontsize=size, parse_math=False)
        panel.set_ylabel(vertical.axis, fontsize=size, parse_math=False)
    panel.grid(alpha=0.3)
    if y == 0 and len(record.objectives) <= _LARGE_TRIANGLE:  # with more, panels are too small for labels
        pair = next(one for one in record.pairs if (one.x, one.y) == (x, y))
        members = list(zip(horizontal.values, vertical.values, strict=True))
        below = vertical.higher_is_better
        label_points(panel, _uniform_places(record, pair), members, colour=ORANGE, size=9, below=below)


def _draw_legend(corner: Axes, panel: Axes, width: int) -> None:
    """The legend of ``panel``, in lines of so many letters."""
    corner.set_axis_off()
    handles, labels = panel.get_legend_handles_labels()
    wrapped = [textwrap.fill(label, width) for label in labels]
    font = 10 if width > _NARROW else 9
    legend = corner.legend(handles, wrapped, loc="center", frameon=False, fontsize=font, labelspacing=0.9)
    legend.set_in_layout(False)
    for text in legend.get_texts():
        text.set_parse_math(False)


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
