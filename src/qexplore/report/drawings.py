"""Drawings of the records with matplotlib, 1200 x 800 pixels, on canvases of their own: pyplot is never touched."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from qexplore.front import Front, score_text
from qexplore.report._canvas import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    finished,
    new_picture,
    set_large_ticks,
    set_titles,
)
from qexplore.report._labels import label_points
from qexplore.report._wording import cost_amount, cost_axis, cost_words, opening_words
from qexplore.report.objectives import objectives_record
from qexplore.report.panels import draw_objectives
from qexplore.report.records import (
    ExplorationLike,
    HypervolumeRecord,
    Interval,
    ParetoFrontRecord,
    hypervolume_record,
    pareto_front_record,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_MARKERS = 60  # on the curve of the hypervolume
_HEAD_ROOM = 0.05


def plot_pareto_front(
    source: ExplorationLike | Front, path: str | os.PathLike[str] | None = None, *, cost: str | None = None
) -> Figure:
    """Draw the front, and the uniform widths beside it when `source` is an exploration.

    One panel with the score over the cost; with several costs a panel for each pair of objectives, unless `cost` names
    the one to draw the score over. Uniform widths that score far below the front are named in the legend and left off
    the picture. `path` saves it, by its suffix as PNG, SVG or PDF. FrontError when the front is empty, has no such
    cost or too many for one picture, or when the suffix is another.
    """
    front = source if isinstance(source, Front) else getattr(source, "front", None)
    if cost is None and isinstance(front, Front) and len(front.cost_names) > 1:
        return finished(draw_objectives(objectives_record(source)), path)
    return finished(draw_pareto_front(pareto_front_record(source, cost)), path)


def plot_hypervolume(
    exploration: ExplorationLike,
    path: str | os.PathLike[str] | None = None,
    *,
    reference_point: Sequence[float] | None = None,
) -> Figure:
    """Draw the hypervolume of the front over the evaluations that the search has spent.

    It is measured against `reference_point` = (accuracy, cost of each), the search's own when None. `path` saves it, by
    its suffix as PNG, SVG or PDF. FrontError when the front is empty, the reference point is not 1 + C finite numbers,
    or the suffix is another.
    """
    return finished(draw_hypervolume(hypervolume_record(exploration, reference_point)), path)


def draw_pareto_front(record: ParetoFrontRecord) -> Figure:
    """The picture of a front."""
    figure, axes = new_picture()
    _draw_reference_lines(axes, record)
    _draw_uniform(axes, record)
    _draw_front(axes, record)
    _draw_savings(axes, record)
    axes.set_ylim(record.accuracy_limits)
    axes.margins(x=0.07)
    _label_uniform(axes, record)
    set_large_ticks(axes.xaxis, max(record.cost))
    better = "higher" if record.higher_is_better else "lower"
    axes.set_xlabel(cost_axis(record.cost_name), parse_math=False)
    axes.set_ylabel(f"{record.metric_name} on the search set ({better} is better)", parse_math=False)
    words = cost_words(record.cost_name)
    title = f"{record.metric_name} against {words}"
    worse = "less" if record.higher_is_better else "more"
    savings = ", ".join(saving.text for saving in record.savings)
    saved = f"{opening_words(record.cost_name)} saved at no {worse} {record.metric_name}, uniform widths: {savings}"
    set_titles(axes, title, saved if savings else "")
    axes.grid(alpha=0.3)
    # Below the axes, where no point can ever lie under it.
    legend = axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.09), ncols=2, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def draw_hypervolume(record: HypervolumeRecord) -> Figure:
    """The step curve of a search's progress."""
    figure, axes = new_picture()
    marker = "o" if len(record.hypervolume) <= _MOST_MARKERS else ""
    axes.step(
        record.num_evaluations,
        record.hypervolume,
        where="post",
        color=BLUE,
        linewidth=2,
        marker=marker,
        markersize=5,
    )
    axes.set_xlim(left=0)
    axes.set_ylim(0, max(record.hypervolume) * (1 + _HEAD_ROOM) or 1)
    axes.set_xlabel("evaluations (full passes over the search set)")
    units = " x ".join([record.metric_name, *(cost_words(name) for name, _ in record.reference_point[1:])])
    axes.set_ylabel(f"hypervolume ({units})", parse_math=False)
    reference = ", ".join(f"{name.replace('_', ' ')} {value:,.6g}" for name, value in record.reference_point)
    set_large_ticks(axes.yaxis, max(record.hypervolume))
    set_titles(axes, "Hypervolume of the front over the search", f"reference point: {reference}")
    axes.grid(alpha=0.3)
    return figure


def _draw_reference_lines(axes: Axes, record: ParetoFrontRecord) -> None:
    if record.float_accuracy is not None:
        label = f"float network: {score_text(record.float_accuracy)}"
        axes.axhline(record.float_accuracy, color=GREEN, linestyle="--", linewidth=1.5, label=label)
    if record.min_accuracy is not None:
        label = f"min_accuracy: {score_text(record.min_accuracy)}"
        axes.axhline(record.min_accuracy, color=GREY, linestyle=":", linewidth=2, label=label)


def _draw_uniform(axes: Axes, record: ParetoFrontRecord) -> None:
    if not record.uniform:
        return
    shown = [one for one in record.uniform if one.shown]
    hidden = [f"{one.label} {score_text(one.accuracy)}" for one in record.uniform if not one.shown]
    note = f" (not shown: {', '.join(hidden)})" if hidden else ""
    # Formats of one width cost the same, so a line through them would go up and down.
    for is_format, marker, line, label in ((False, "s", 1, "uniform widths"), (True, "^", 0, "uniform formats")):
        drawn = [one for one in shown if one.is_format == is_format]
        if drawn or not is_format:
            axes.plot(
                [one.costs[record.column] for one in drawn],
                [one.accuracy for one in drawn],
                color=ORANGE,
                marker=marker,
                markersize=8,
                linewidth=line,
                label=label + ("" if is_format else note),
                zorder=3,
            )
    costs, accuracy = [one.costs[record.column] for one in shown], [one.accuracy for one in shown]
    _draw_intervals(axes, costs, accuracy, [one.interval for one in shown], ORANGE)


def _label_uniform(axes: Axes, record: ParetoFrontRecord) -> None:
    labels = [(one.costs[record.column], one.accuracy, one.label) for one in record.uniform if one.shown]
    # Uniform widths lie on the worse side of the front, so that is where their labels find room.
    others = list(zip(record.cost, record.accuracy, strict=True))
    label_points(axes, labels, others, colour=ORANGE, size=12, below=record.higher_is_better)


def _draw_front(axes: Axes, record: ParetoFrontRecord) -> None:
    count = len(record.accuracy)
    label = f"front: {count} point{'' if count == 1 else 's'}{', verified' if record.verified else ''}"
    if any(record.intervals):
        label += ", with 95 % intervals"
    points = list(zip(record.cost, record.accuracy, record.on_line, strict=True))
    best = [(cost, score) for cost, score, on_line in points if on_line]
    others = [(cost, score) for cost, score, on_line in points if not on_line]
    # A budget between two members buys the cheaper one: steps, not slopes.
    axes.plot(*zip(*best, strict=True), "o-", color=BLUE, markersize=7, drawstyle="steps-post", label=label, zorder=5)
    if others:
        label = "front, for the sake of another cost"
        axes.plot(*zip(*others, strict=True), "o", color=BLUE, markerfacecolor="white", label=label, zorder=4)
    _draw_intervals(axes, record.cost, record.accuracy, record.intervals, BLUE)
    _draw_report_accuracy(axes, record)
    cost, score = record.knee
    label = f"knee: {cost_amount(record.cost_name, cost)}, {record.metric_name} {score_text(score)}"
    axes.plot(
        *record.knee,
        color="black",
        marker="o",
        markersize=16,
        markerfacecolor="none",
        markeredgewidth=1.8,
        linestyle="none",
        label=label,
        zorder=7,
    )


def _draw_report_accuracy(axes: Axes, record: ParetoFrontRecord) -> None:
    pairs = zip(record.cost, record.report_accuracy, strict=True)
    known = [(cost, score) for cost, score in pairs if score is not None]
    if known:
        axes.plot(
            *zip(*known, strict=True),
            color=PURPLE,
            marker="D",
            markersize=6,
            markerfacecolor="white",
            markeredgewidth=1.5,
            linestyle="none",
            label="front on the report set",
            zorder=4,
        )


def _draw_intervals(
    axes: Axes,
    costs: Sequence[float],
    accuracy: Sequence[float],
    intervals: Sequence[Interval | None],
    colour: str,
) -> None:
    known = [(x, y, *ends) for x, y, ends in zip(costs, accuracy, intervals, strict=True) if ends is not None]
    if known:
        x, y, low, high = (np.array(column) for column in zip(*known, strict=True))
        # An interval need not hold its score (a bootstrap's may not); a negative length is no bar.
        lengths = np.maximum([y - low, high - y], 0)
        axes.errorbar(x, y, yerr=lengths, fmt="none", ecolor=colour, elinewidth=1, capsize=3, alpha=0.45, zorder=2)


def _draw_savings(axes: Axes, record: ParetoFrontRecord) -> None:
    arrow = {"arrowstyle": "-|>", "color": "black", "linewidth": 1.2, "shrinkA": 6, "shrinkB": 6}
    for saving in record.savings:
        # Level at the uniform width's accuracy, which the point at the tip reaches or passes.
        tip = (saving.front[0], saving.uniform[1])
        axes.annotate("", xy=tip, xytext=saving.uniform, arrowprops=arrow, zorder=4)
