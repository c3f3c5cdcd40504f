"""The picture of where time went: what a search had found after so many seconds and passes, and what they were for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qexplore._arguments import checked_number
from qexplore.errors import ReportError
from qexplore.front import Front
from qexplore.report._canvas import (
    BLUE,
    COLOURS,
    Grid,
    figure_of,
    grid_of,
    legend_below,
    set_large_ticks,
    set_titles,
)
from qexplore.report._drawing import Backend, drawn, draws
from qexplore.report._progress import Progress, SpentRecord, progress_of
from qexplore.report._sources import are_several
from qexplore.report._wording import amount_text, cost_words
from qexplore.report.timelines import STYLES, TIMES, at_most_text, best_score, draw_best, time_axes, timelines_record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from qexplore.report._sources import Source

_OWNER = "plot_timeline"
_SHARES = (0.0, 0.33, 0.67)  # of the last front's members, from cheap to costly: whose costs are followed
_HEAD_ROOM = 0.05


@dataclass(frozen=True)
class FollowedRecord:
    """The best score at no more than `cost`, moment by moment; None before there is any."""

    cost: float
    accuracy: tuple[float | None, ...]


@dataclass(frozen=True)
class TimelineRecord:
    """What a search had found when; a value for each moment, the search's own scores.

    `spent` is what all of it was for, where known, `total_seconds` with what came after the search.
    """

    metric_name: str
    better: str
    cost_name: str
    hypervolume_words: str
    seconds: tuple[float, ...]
    num_passes: tuple[float, ...]
    hypervolume: tuple[float, ...]
    followed: tuple[FollowedRecord, ...]
    spent: tuple[SpentRecord, ...]
    total_seconds: float
    run: str = ""

    @property
    def title(self) -> str:
        """Above the picture; which run of a study it is, where there are several."""
        return "What the search had found when" + (f" ({self.run})" if self.run else "")

    @property
    def axes(self) -> tuple[str, str]:
        """Beside the vertical axes."""
        return time_axes(self.hypervolume_words, self.metric_name, self.better)

    def followed_text(self, one: FollowedRecord) -> str:
        """Of the legend."""
        return at_most_text(self.cost_name, one.cost)

    def amounts(self, column: int) -> list[tuple[str, float]]:
        """What was spent on what: seconds in the first column, passes in the second."""
        spent = [(one.what, one.num_passes if column else one.seconds) for one in self.spent]
        return [(what, amount) for what, amount in spent if amount]

    def spent_title(self, column: int) -> str:
        """Over what was spent."""
        total = sum(amount for _, amount in self.amounts(column))
        return f"{'passes' if column else 'seconds'} spent: {amount_text(round(total, 2))}"


def plot_timeline(
    source: Source | Sequence[Source],
    path: str | os.PathLike[str] | None = None,
    *,
    labels: Sequence[str] | None = None,
    at: Sequence[float] | None = None,
    cost: str | None = None,
    ax: Axes | None = None,
    backend: Backend = "matplotlib",
) -> Any:
    """Draw what a search had found after so many seconds and so many passes, and what these were spent on.

    Several searches in a list are drawn in one picture, without what they were spent on; their hypervolumes are all
    against the worst of their reference points. What makes them unlike is written above, as by `plot_pareto_front`.

    Args:
        source: an exploration, or a study or the path of one, whose last run is drawn, and named above where there
            are others; a study knows more of what was spent. Or several of them, of a study all its runs, in one
            colour.
        path: saves the picture, by its suffix as PNG, SVG or PDF.
        labels: a name for each of several; those that share one have one colour.
        at: costs at which the best score is followed; None takes three from the cheap to the costly end of the front,
            of several searches the median of all their points.
        cost: the name of that cost; the first one when None.
        ax: the panel in whose place it is drawn; a new picture when None.
        backend: "plotly" gives a figure of plotly instead, to look into with the mouse (extra `report`), without `ax`,
            and saved as HTML.

    Raises:
        ReportError: nothing to draw, or a cost that is no number; another suffix; an `ax` that is no panel; several
            searches of different metrics or costs; labels that are not one each.
        FrontError: there is no such cost.
    """
    if are_several(source) or labels is not None:
        sources = source if are_several(source) else [source]
        return drawn(timelines_record(sources, labels, at, cost), path, backend, ax)
    return drawn(timeline_record(source, at, cost), path, backend, ax)


def timeline_record(source: Source, at: Sequence[float] | None = None, cost: str | None = None) -> TimelineRecord:
    """The record of what a search had found when; see `plot_timeline`."""
    progress = progress_of(_OWNER, source)
    last = progress.fronts[-1]
    name = last.cost_names[0] if cost is None else cost
    last.cost(name)  # an unknown name is refused here
    given = [checked_number(f"{_OWNER}: at", one, ReportError) for one in at or ()]
    costs = _costs(last, name) if at is None else sorted(given)
    return TimelineRecord(
        metric_name=last.metric_name,
        better=last.better,
        cost_name=name,
        hypervolume_words=" x ".join([last.metric_name, *map(cost_words, last.cost_names)]),
        seconds=progress.seconds_at,
        num_passes=progress.passes_at,
        hypervolume=progress.hypervolume,
        followed=tuple(_followed(progress, name, one) for one in costs),
        spent=progress.spent,
        total_seconds=progress.seconds,
        run=progress.run,
    )


def _costs(front: Front, name: str) -> list[float]:
    """Costs of members along the front."""
    known = np.sort(front.cost(name))
    return sorted({float(known[int(share * (len(known) - 1))]) for share in _SHARES}) if len(known) else []


def _followed(progress: Progress, name: str, cost: float) -> FollowedRecord:
    return FollowedRecord(cost, tuple(best_score(front, name, cost) for front in progress.fronts))


@draws(TimelineRecord)
def draw_timeline(record: TimelineRecord, ax: Axes | None = None) -> Figure:
    """Hypervolume and best scores over seconds and over passes, and bars of what was spent."""
    grid = grid_of(ax, 3, 2, height_ratios=(4, 4, 1))
    panels: dict[tuple[int, int], Axes] = {}
    for column, values in enumerate((record.seconds, record.num_passes)):
        for row in (0, 1):
            beside, above = panels.get((row, 0)), panels.get((0, column))
            panels[row, column] = grid.figure.add_subplot(grid.cells[row, column], sharex=above, sharey=beside)
        _draw_hypervolume(panels[0, column], record, values)
        _draw_followed(panels[1, column], record, values)
    for (row, column), panel in panels.items():
        panel.grid(alpha=0.3)
        panel.tick_params(labelbottom=row == 1, labelleft=column == 0, labelsize=10 * grid.scale)
    size = 10 * grid.scale
    for place in (0, 1):
        panels[1, place].set_xlabel(TIMES[place], fontsize=size)
        panels[place, 0].set_ylabel(record.axes[place], fontsize=size, parse_math=False)
    set_titles(panels[0, 0], record.title, "", grid.scale)
    legend_below(panels[1, 0], ncols=1, gap=40 * max(grid.scale, 0.8), scale=grid.scale)
    for column in (0, 1):
        _draw_spent(grid, record, column)
    return figure_of(panels[0, 0])


def _draw_hypervolume(axes: Axes, record: TimelineRecord, values: Sequence[float]) -> None:
    axes.step(values, record.hypervolume, where="post", color=BLUE, linewidth=2)
    axes.set_xlim(0, max(values) * (1 + _HEAD_ROOM) or 1)
    axes.set_ylim(0, max(record.hypervolume) * (1 + _HEAD_ROOM) or 1)
    set_large_ticks(axes.yaxis, max(record.hypervolume))


def _draw_followed(axes: Axes, record: TimelineRecord, values: Sequence[float]) -> None:
    for place, one in enumerate(record.followed):
        style, colour = STYLES[place % len(STYLES)], COLOURS[place % len(COLOURS)]
        draw_best(axes, values, one.accuracy, style, color=colour, label=record.followed_text(one))


def _draw_spent(grid: Grid, record: TimelineRecord, column: int) -> None:
    """One bar of what was spent, piece by piece, named in the legend."""
    axes = grid.figure.add_subplot(grid.cells[2, column])
    left = 0.0
    for place, (what, amount) in enumerate(record.amounts(column)):
        colour: Any = COLOURS[place % len(COLOURS)]
        axes.barh(0, amount, left=left, color=colour, height=0.9, label=f"{what} {amount_text(round(amount, 2))}")
        left += amount
    axes.set_xlim(0, left or 1)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(labelsize=9 * grid.scale)
    axes.set_title(record.spent_title(column), loc="left", fontsize=10 * grid.scale)
    legend_below(axes, ncols=2, gap=22 * grid.scale, scale=grid.scale)
