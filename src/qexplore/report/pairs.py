"""The picture of a front with several costs: a panel for each pair of objectives.

Shape letters: K front members, M objectives, the score first and then the costs in order.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from qexplore.errors import ReportError
from qexplore.report._canvas import GREY, ORANGE, figure_of, grid_of, plain_legend, set_large_ticks
from qexplore.report._drawing import draws
from qexplore.report._fronts import (
    Interval,
    UniformRecord,
    draw_references,
    front_words,
    shown_front,
    uniform_records,
)
from qexplore.report._labels import label_points
from qexplore.report._objectives import (
    LEGEND_CHARACTERS,
    NBSP,
    ObjectiveRecord,
    further_of,
    knee_text,
    objectives_of,
    score_colours,
    with_direction,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    from qexplore.report._sources import Source

_MOST_COSTS = 4  # whose panels are still large enough to be read
_NARROW = 36
BEST = "not beaten by another one in these two objectives"
_LARGE_TRIANGLE = 4


@dataclass(frozen=True)
class PairRecord:
    """Two objectives, by their places, and which of the K members no other one beats in these two."""

    x: int
    y: int
    nondominated: tuple[bool, ...]


@dataclass(frozen=True)
class ObjectivesRecord:
    """A front over each pair of its objectives; `knee` is the index of its knee, `accuracy_limits` are of its axis.

    `further` are scores that every member is known by beside them, `num_bits` the widths of each.
    """

    objectives: tuple[ObjectiveRecord, ...]
    further: tuple[ObjectiveRecord, ...]
    pairs: tuple[PairRecord, ...]
    knee: int
    verified: bool
    uniform: tuple[UniformRecord, ...]
    float_accuracy: float | None
    min_accuracy: float | None
    accuracy_limits: Interval
    set_name: str
    point_names: tuple[str, ...] = ()
    num_bits: tuple[tuple[int, ...], ...] = ()

    @property
    def title(self) -> str:
        """Above the picture."""
        names = [one.words for one in self.objectives]
        return f"{names[0]} against {', '.join(names[1:-1])} and {names[-1]}, on the {self.set_name}"

    @property
    def front_text(self) -> str:
        """Of the front, in a legend."""
        return front_words(len(self.objectives[0].values), self.verified)

    @property
    def knee_text(self) -> str:
        """Of the knee."""
        return knee_text((*self.objectives, *self.further), self.knee)

    @property
    def uniform_text(self) -> str:
        """Of the uniform candidates; those that are not shown are in it."""
        hidden = [one.text for one in self.uniform if not one.shown]
        label = "uniform widths and formats" if any(one.is_format for one in self.uniform) else "uniform widths"
        # Blanks within an item are not to be broken when the legend is wrapped.
        return label + (f" (not shown: {', '.join(one.replace(' ', NBSP) for one in hidden)})" if hidden else "")

    def uniform_places(self, pair: PairRecord) -> list[tuple[float, float, str]]:
        """Where the shown ones stand in a panel, and their names."""
        shown = [((one.accuracy, *one.costs), one.label) for one in self.uniform if one.shown]
        return [(values[pair.x], values[pair.y], label) for values, label in shown]


def objectives_record(source: Source) -> ObjectivesRecord:
    """The record of a front over each pair of its objectives, beside it the uniform widths of an exploration.

    ReportError when the front is empty or has more costs than a picture holds.
    """
    shown = shown_front("plot_pareto_front", source)
    front = shown.drawn
    if len(front.cost_names) > _MOST_COSTS:
        raise ReportError(
            f"plot_pareto_front: there is room for the panels of {_MOST_COSTS} costs, got {len(front.cost_names)}: "
            f"{', '.join(front.cost_names)}. Name one of them as cost=, or use plot_parallel_coordinates."
        )
    names = (front.metric_name, *front.cost_names)
    uniform, limits = uniform_records(shown)
    return ObjectivesRecord(
        objectives=objectives_of(front),
        further=further_of(front),
        pairs=tuple(
            PairRecord(x, y, tuple(map(bool, front.nondominated([names[x], names[y]]))))
            for y, x in combinations(range(len(names)), 2)
        ),
        knee=shown.knee,
        verified=front.verified,
        uniform=uniform,
        float_accuracy=shown.float_accuracy,
        min_accuracy=front.min_accuracy,
        accuracy_limits=limits,
        set_name=shown.set_name,
        point_names=front.point_names,
        num_bits=tuple(point.num_bits for point in front),
    )


@draws(ObjectivesRecord)
def draw_objectives(record: ObjectivesRecord, ax: Axes | None = None) -> Figure:
    """A triangle of panels, costs to the right, their legend in its empty corner."""
    size = len(record.objectives) - 1
    grid = grid_of(ax, size, size)
    figure, scale = grid.figure, grid.scale
    colours = score_colours(record.objectives[0])
    panels: dict[tuple[int, int], Axes] = {}
    for pair in record.pairs:
        above, left = panels.get((0, pair.x)), panels.get((pair.y, pair.y + 1))
        panel = figure.add_subplot(grid.cells[pair.y, pair.x - 1], sharex=above, sharey=left)
        panels[pair.y, pair.x] = panel
        _draw_pair(panel, record, pair, colours)
    for (y, x), panel in panels.items():
        _finish_panel(panel, record, x, y, scale)
    # The corner without panels is a triangle; the largest rectangle in it holds the legend.
    wide = size >= _LARGE_TRIANGLE
    corner = figure.add_subplot(grid.cells[2:, :2] if wide else grid.cells[1:, 0])
    _draw_legend(corner, panels[0, 1], LEGEND_CHARACTERS * (1 + wide) // size - 8, scale)
    bar = figure.colorbar(colours, ax=list(panels.values()), fraction=0.04, pad=0.02)
    bar.ax.set_ylabel(with_direction(record.objectives[0]), fontsize=10 * scale, parse_math=False)
    bar.ax.tick_params(labelsize=10 * scale)
    panels[0, 1].set_title(record.title, loc="left", pad=12, fontsize=15 * scale, fontweight="bold", parse_math=False)
    return figure_of(panels[0, 1])


def _draw_pair(panel: Axes, record: ObjectivesRecord, pair: PairRecord, colours: ScalarMappable) -> None:
    x, y = (np.array(record.objectives[place].values) for place in (pair.x, pair.y))
    scores = colours.to_rgba(np.array(record.objectives[0].values))
    best = np.array(pair.nondominated)
    if pair.y == 0:
        draw_references(panel, record.float_accuracy, record.min_accuracy)
    _draw_uniform(panel, record, pair)
    panel.scatter(x[~best], y[~best], s=22, c=scores[~best], alpha=0.8, label=record.front_text, zorder=3)
    order = np.flatnonzero(best)[np.argsort(x[best], kind="stable")]
    # A budget between two members buys the cheaper one: steps, not slopes.
    panel.plot(x[order], y[order], color=GREY, linewidth=1, drawstyle="steps-post", zorder=4)
    panel.scatter(x[order], y[order], s=60, c=scores[order], edgecolors="black", linewidths=1.2, label=BEST, zorder=5)
    knee = x[record.knee], y[record.knee]
    panel.scatter(
        *knee,
        s=240,
        c="none",
        edgecolors="black",
        linewidths=1.8,
        label=record.knee_text,
        zorder=6,
    )


def _draw_uniform(panel: Axes, record: ObjectivesRecord, pair: PairRecord) -> None:
    if not record.uniform:
        return
    points = record.uniform_places(pair)
    xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]
    panel.plot(xs, ys, "s", color=ORANGE, markersize=7, markerfacecolor="white", label=record.uniform_text, zorder=2)


def _finish_panel(panel: Axes, record: ObjectivesRecord, x: int, y: int, scale: float) -> None:
    """Limits, ticks and labels, once every panel that shares its axes is drawn."""
    horizontal, vertical = record.objectives[x], record.objectives[y]
    size = (11 if len(record.objectives) < 4 else 9) * scale
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
        label_points(
            panel,
            [(*place, ORANGE) for place in record.uniform_places(pair)],
            members,
            size=9 * scale,
            below=vertical.better == "higher",
        )


def _draw_legend(corner: Axes, panel: Axes, width: int, scale: float) -> None:
    """The legend of ``panel``, in lines of so many letters."""
    corner.set_axis_off()
    handles, labels = panel.get_legend_handles_labels()
    wrapped = [textwrap.fill(label, width) for label in labels]
    font = (10 if width > _NARROW else 9) * scale
    legend = plain_legend(corner, handles, wrapped, loc="center", fontsize=font, labelspacing=0.9)
    legend.set_in_layout(False)
