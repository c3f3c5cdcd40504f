"""Drawings of the records with matplotlib, 1200 x 800 pixels, on canvases of their own: pyplot is never touched."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from qexplore.front import Front
from qexplore.front.text import cost_text, score_text
from qexplore.report._canvas import (
    BLUE,
    GREEN,
    GREY,
    OFF_COLOUR,
    ORANGE,
    PURPLE,
    finished,
    label_rows,
    label_size,
    luminance,
    new_picture,
    set_titles,
    short_name,
    thinned,
    width_text,
)
from qexplore.report.records import (
    ExplorationLike,
    HypervolumeRecord,
    Interval,
    NumBitsRecord,
    ParetoFrontRecord,
    hypervolume_record,
    num_bits_record,
    pareto_front_record,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

# What fits into the heat map's part of the picture at its font sizes: column labels, numbers in cells.
_MOST_COLUMN_LABELS = 48
_MOST_TEXT_ROWS, _MOST_TEXT_COLUMNS = 48, 40
_MOST_MARKERS = 60  # on the curve of the hypervolume
_HEAD_ROOM = 0.05


def plot_pareto_front(source: ExplorationLike | Front, path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw the score over total bits: the front, and the uniform widths beside it when `source` is an exploration.

    Uniform widths that score far below the front are named in the legend and left off the picture. `path` saves it, by
    its suffix as PNG, SVG or PDF. FrontError when the front is empty or the suffix is another.
    """
    return finished(draw_pareto_front(pareto_front_record(source)), path)


def plot_num_bits(source: ExplorationLike | Front, path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw the width of every quantization point for every front member as a heat map.

    `path` saves it, by its suffix as PNG, SVG or PDF. FrontError when the front is empty or the suffix is another.
    """
    return finished(draw_num_bits(num_bits_record(source)), path)


def plot_hypervolume(exploration: ExplorationLike, path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw the hypervolume of the front over the evaluations that the search has spent.

    `path` saves it, by its suffix as PNG, SVG or PDF. FrontError when the front is empty or the suffix is another.
    """
    return finished(draw_hypervolume(hypervolume_record(exploration)), path)


def draw_pareto_front(record: ParetoFrontRecord) -> Figure:
    """The picture of a front."""
    figure, axes = new_picture()
    _draw_reference_lines(axes, record)
    _draw_uniform(axes, record)
    _draw_front(axes, record)
    _draw_savings(axes, record)
    axes.set_ylim(record.accuracy_limits)
    axes.margins(x=0.07)
    better = "higher" if record.higher_is_better else "lower"
    axes.set_xlabel("total bits over all quantization points (bits)")
    axes.set_ylabel(f"{record.metric_name} on the search set ({better} is better)", parse_math=False)
    title = f"{record.metric_name} against total bits"
    worse = "less" if record.higher_is_better else "more"
    savings = ", ".join(saving.text for saving in record.savings)
    set_titles(
        axes, title, f"Bits saved at no {worse} {record.metric_name}, uniform widths: {savings}" if savings else ""
    )
    axes.grid(alpha=0.3)
    # Below the axes, where no point can ever lie under it.
    legend = axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.09), ncols=2, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def draw_num_bits(record: NumBitsRecord) -> Figure:
    """The heat map of widths."""
    figure, axes = new_picture()
    image = _draw_cells(axes, record)
    if len(record.point_names) <= _MOST_TEXT_ROWS and len(record.total_bits) <= _MOST_TEXT_COLUMNS:
        _write_cells(axes, record)
    label_rows(axes, [short_name(name) for name in record.point_names])
    columns = thinned(len(record.total_bits), _MOST_COLUMN_LABELS)
    names = [f"{cost_text(record.total_bits[k])} | {score_text(record.accuracy[k])}" for k in columns]
    axes.set_xticks(columns, names, rotation=90, fontsize=label_size(len(columns)))
    axes.set_xlabel(f"front members from few to many bits: total bits | {record.metric_name}", parse_math=False)
    axes.set_ylabel("quantization points in order")
    set_titles(axes, "num_bits of each quantization point over the front", "")
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, ticks=range(len(record.levels)))
    bar.set_label("num_bits (bits)")
    bar.set_ticklabels([width_text(level) for level in record.levels])
    bar.ax.tick_params(length=0)
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
    axes.set_ylabel(f"hypervolume ({record.metric_name} x bits)", parse_math=False)
    reference = ", ".join(f"{name.replace('_', ' ')} {value:,.6g}" for name, value in record.reference_point)
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
    side = "below" if record.higher_is_better else "above"
    label = "uniform widths" + (f" ({side} the picture: {', '.join(hidden)})" if hidden else "")
    total_bits, accuracy = [one.total_bits for one in shown], [one.accuracy for one in shown]
    axes.plot(total_bits, accuracy, color=ORANGE, marker="s", markersize=8, linewidth=1, label=label, zorder=3)
    _draw_intervals(axes, total_bits, accuracy, [one.interval for one in shown], ORANGE)
    # Uniform widths lie on the worse side of the front, so that is where their labels find room.
    below = record.higher_is_better
    for one in shown:
        axes.annotate(
            one.label,
            (one.total_bits, one.accuracy),
            xytext=(8, -5 if below else 5),
            textcoords="offset points",
            va="top" if below else "bottom",
            color=ORANGE,
            fontsize=12,
        )


def _draw_front(axes: Axes, record: ParetoFrontRecord) -> None:
    count = len(record.accuracy)
    label = f"front: {count} point{'' if count == 1 else 's'}{', verified' if record.verified else ''}"
    if any(record.intervals):
        label += ", with 95 % intervals"
    axes.plot(
        record.total_bits,
        record.accuracy,
        color=BLUE,
        marker="o",
        markersize=7,
        # A budget between two members buys the cheaper one: steps, not slopes.
        drawstyle="steps-post",
        linestyle="-" if record.connected else "none",
        label=label,
        zorder=5,
    )
    _draw_intervals(axes, record.total_bits, record.accuracy, record.intervals, BLUE)
    _draw_report_accuracy(axes, record)
    axes.plot(
        *record.knee,
        color="black",
        marker="o",
        markersize=16,
        markerfacecolor="none",
        markeredgewidth=1.8,
        linestyle="none",
        label=f"knee: {cost_text(record.knee[0])} bits, {record.metric_name} {score_text(record.knee[1])}",
        zorder=7,
    )


def _draw_report_accuracy(axes: Axes, record: ParetoFrontRecord) -> None:
    pairs = zip(record.total_bits, record.report_accuracy, strict=True)
    known = [(bits, score) for bits, score in pairs if score is not None]
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
    total_bits: Sequence[float],
    accuracy: Sequence[float],
    intervals: Sequence[Interval | None],
    colour: str,
) -> None:
    known = [(x, y, *ends) for x, y, ends in zip(total_bits, accuracy, intervals, strict=True) if ends is not None]
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


def _draw_cells(axes: Axes, record: NumBitsRecord) -> AxesImage:
    from matplotlib.colors import ListedColormap

    position = {level: index for index, level in enumerate(record.levels)}
    cells = np.array([[position[width] for width in row] for row in record.num_bits])
    colours = ListedColormap(_level_colours(record.levels))
    image = axes.imshow(cells, cmap=colours, vmin=-0.5, vmax=len(record.levels) - 0.5, aspect="auto")
    # White lines between the cells instead of ticks.
    axes.set_xticks(np.arange(0.5, cells.shape[1] - 1), minor=True)
    axes.set_yticks(np.arange(0.5, cells.shape[0] - 1), minor=True)
    axes.grid(which="minor", color="white", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    return image


def _write_cells(axes: Axes, record: NumBitsRecord) -> None:
    colours = dict(zip(record.levels, _level_colours(record.levels), strict=True))
    size = label_size(max(len(record.point_names), len(record.total_bits)))
    for row, widths in enumerate(record.num_bits):
        for column, width in enumerate(widths):
            ink = "black" if luminance(colours[width]) > 0.4 else "white"
            axes.text(column, row, width_text(width), ha="center", va="center", color=ink, fontsize=size)


def _level_colours(levels: Sequence[int]) -> list[tuple[float, ...]]:
    """Viridis from dark (few bits) to light (many): even in grey and for the colour-blind; grey for off."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgba

    num_widths = sum(level > 0 for level in levels)
    shades = [tuple(map(float, shade)) for shade in colormaps["viridis"](np.linspace(0.05, 0.97, num_widths))]
    return shades + [to_rgba(OFF_COLOUR)] * (len(levels) - num_widths)
