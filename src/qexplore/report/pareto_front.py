"""The picture of a front: the score over one cost, or a panel for each pair of objectives."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qexplore.front import OFF, Front, FrontPoint, claim_words, score_text, uniform_labels
from qexplore.report._canvas import (
    BLUE,
    ORANGE,
    PURPLE,
    figure_of,
    legend_below,
    panel_of,
    set_large_ticks,
    set_titles,
)
from qexplore.report._drawing import Backend, drawn, draws
from qexplore.report._fronts import (
    Interval,
    Shown,
    UniformRecord,
    by_cost,
    draw_intervals,
    draw_references,
    draw_uniform,
    front_words,
    known_further,
    label_uniform,
    shown_front,
    uniform_records,
)
from qexplore.report._objectives import NBSP
from qexplore.report._sources import are_several, resolved
from qexplore.report._wording import amount_text, cost_amount, cost_axis, cost_words, opening_words
from qexplore.report.fronts import fronts_record
from qexplore.report.pairs import objectives_record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from qexplore.exploration import Exploration
    from qexplore.report._sources import Source

_MOST_SAVINGS = 3  # for which there is room above the picture
_SUBTITLE_CHARACTERS = 126  # two savings beside each other


@dataclass(frozen=True)
class SavingRecord:
    """What is saved, as "17 (57%) against 6 bit, accuracy +0.0010", with the interval of that where it is known.

    Also (cost, accuracy) of both points on the set that is drawn.
    """

    text: str
    uniform: tuple[float, float]
    front: tuple[float, float]


@dataclass(frozen=True)
class ParetoFrontRecord:
    """The front over one of its costs (K values each), the uniform widths beside it, and the lines of reference.

    `on_line` says which members no other one beats in accuracy and this cost: all of them when there is no other cost.
    Scores are of the report set where `on_report_set`, as `Front.bits_saved` says, else of the search set;
    `other_accuracy` are those on the other one. `claim` says what a saving keeps.
    `column` is the cost's place among those of the front. `accuracy_limits` are the lower and upper end of the vertical
    axis, `float_accuracy` and `min_accuracy` are None where not known. `knee_further` are the knee's scores by further
    metrics, `num_bits` the widths of each member.
    """

    metric_name: str
    better: str
    cost_name: str
    column: int
    cost: tuple[float, ...]
    accuracy: tuple[float, ...]
    intervals: tuple[Interval | None, ...]
    on_report_set: bool
    other_accuracy: tuple[float | None, ...]
    other_name: str
    on_line: tuple[bool, ...]
    verified: bool
    uniform: tuple[UniformRecord, ...]
    float_accuracy: float | None
    min_accuracy: float | None
    knee: tuple[float, float]
    knee_further: tuple[tuple[str, float], ...]
    savings: tuple[SavingRecord, ...]
    claim: str
    accuracy_limits: Interval
    point_names: tuple[str, ...] = ()
    num_bits: tuple[tuple[int, ...], ...] = ()

    @property
    def title(self) -> str:
        """Above the picture."""
        return f"{self.metric_name} against {cost_words(self.cost_name)}"

    @property
    def subtitle(self) -> str:
        """Below the title: what is saved, if anything, and how sure that is."""
        if not self.savings:
            return ""
        # No line is broken within a saving, whose blanks are plain ones again at the end.
        savings = "; ".join(saving.text.replace(" ", NBSP) for saving in self.savings)
        lines = textwrap.fill(savings, _SUBTITLE_CHARACTERS).replace(NBSP, " ")
        return f"{opening_words(self.cost_name)} saved against uniform widths, {self.claim}:\n{lines}"

    @property
    def score_axis(self) -> str:
        """Beside the vertical axis."""
        set_name = "report set" if self.on_report_set else "search set"
        return f"{self.metric_name} on the {set_name} ({self.better} is better)"

    @property
    def front_text(self) -> str:
        """Of the front, in a legend."""
        intervals = ", with 95 % intervals" if any(self.intervals) else ""
        return f"{front_words(len(self.accuracy), self.verified)}{intervals}"

    @property
    def beaten_text(self) -> str:
        """Of members that are not on the line."""
        return "front, beaten on the report set" if self.on_report_set else "front, for the sake of another cost"

    @property
    def other_text(self) -> str:
        """Of the scores on the other set."""
        return f"front on the {self.other_name}"

    @property
    def knee_text(self) -> str:
        """Of the knee."""
        cost, score = self.knee
        known = (self.metric_name, score), *self.knee_further
        scores = ", ".join(f"{name} {score_text(value)}" for name, value in known)
        return f"knee: {cost_amount(self.cost_name, cost)}, {scores}"

    @property
    def arrows(self) -> list[tuple[tuple[float, float], tuple[float, float]]]:
        """From uniform widths that are shown to the members that save, at the accuracy that is kept."""
        shown = {(one.costs[self.column], one.accuracy) for one in self.uniform if one.shown}
        # Level at the uniform width's accuracy, which the point at the tip reaches or passes on the search set.
        return [
            (saving.uniform, saving.front if self.on_report_set else (saving.front[0], saving.uniform[1]))
            for saving in self.savings
            if saving.uniform in shown
        ]

    @property
    def report_accuracy(self) -> tuple[float | None, ...]:
        """On the report set, None where not known."""
        return self.accuracy if self.on_report_set else self.other_accuracy


def plot_pareto_front(
    source: Source | Sequence[Source],
    path: str | os.PathLike[str] | None = None,
    *,
    cost: str | None = None,
    labels: Sequence[str] | None = None,
    ax: Axes | None = None,
    backend: Backend = "matplotlib",
) -> Any:
    """Draw the front of an exploration or a study, or a front, and the uniform widths beside it where they are known.

    Several of them in a list are drawn in one picture over one cost, each with its name in `labels`. Those that share a
    label are runs of one search: drawn are what half of them attain, and from what all attain to what one does, with
    markers where one of their fronts has a point. What makes fronts unlike the first is written above them: other
    quantization points, network, weights, ranges, sets, uniform widths, or another cost of that name. Uniform widths
    are drawn of each, once where they are the same.

    One panel with the score over the cost; with several costs a panel for each pair of objectives, unless `cost` names
    the one to draw the score over. Uniform widths far below the front, or far off in cost, are named in the legend
    and left off the picture. `ax` is the panel to draw in, a new picture when None; of several panels the one in whose
    place they are drawn. `path` saves it, by its suffix as PNG, SVG or PDF. A path as `source` is that of a study, or
    of a front where it ends in ".json".

    `backend="plotly"` gives a figure of plotly instead (extra `report`): the mouse shows the widths of each point, the
    legend hides and shows, and `path` saves a page, HTML. It takes no `ax`.

    Raises:
        FrontError: a front has no such cost.
        ReportError: which is one: nothing to draw, too many costs for one picture, several metrics, or labels that are
            not one for each of several fronts; another suffix; an `ax` that is no panel, or with plotly.
        MissingPackageError: plotly is asked for and not installed.
    """
    if are_several(source):
        return drawn(fronts_record(source, labels, cost), path, backend, ax)
    if labels is not None:
        return drawn(fronts_record([source], labels, cost), path, backend, ax)
    source = resolved("plot_pareto_front", source)
    front = source if isinstance(source, Front) else source.front
    if cost is None and len(front.cost_names) > 1:
        return drawn(objectives_record(source), path, backend, ax)
    return drawn(pareto_front_record(source, cost), path, backend, ax)


def pareto_front_record(source: Source, cost: str | None = None) -> ParetoFrontRecord:
    """The record of a front over one cost, with the uniform widths beside it when `source` is an exploration.

    `cost` is the name of the cost, the first one when None. ReportError when the front is empty, FrontError when
    it has no such cost.
    """
    source = resolved("plot_pareto_front", source)
    shown = shown_front("plot_pareto_front", source)
    front = shown.drawn
    name = front.cost_names[0] if cost is None else cost
    front.cost(name)  # an unknown name is refused here
    points = by_cost(front, name)
    uniform, limits = uniform_records(shown)
    kept = front.nondominated([front.metric_name, name])
    knee = front[shown.knee]
    return ParetoFrontRecord(
        metric_name=front.metric_name,
        better=front.better,
        cost_name=name,
        column=front.cost_names.index(name),
        cost=tuple(point.costs[name] for point in points),
        accuracy=tuple(point.accuracy for point in points),
        intervals=tuple(point.interval for point in points),
        on_report_set=shown.on_report_set,
        other_accuracy=tuple(shown.others.get(point.num_bits) for point in points),
        other_name=shown.other_name,
        on_line=tuple(bool(kept[point.index]) for point in points),
        verified=front.verified,
        uniform=uniform,
        float_accuracy=shown.float_accuracy,
        min_accuracy=front.min_accuracy,
        knee=(knee.costs[name], knee.accuracy),
        knee_further=known_further(knee),
        savings=_savings(source, shown, name),
        claim=claim_words(shown.front),
        accuracy_limits=limits,
        point_names=front.point_names,
        num_bits=tuple(point.num_bits for point in points),
    )


def _savings(source: Exploration | Front, shown: Shown, cost: str) -> tuple[SavingRecord, ...]:
    uniform = source.uniform
    if uniform is None:
        return ()
    labels = uniform_labels(uniform.num_bits)
    savings = [one for one in shown.front.bits_saved(uniform, cost) if labels[one.other_point.index] != OFF]
    widest_first = sorted(savings, key=lambda saving: -saving.other_point.costs[cost])
    return tuple(
        SavingRecord(
            text=f"{amount_text(one.saved)} ({one.share:.0%}) against {labels[one.other_point.index]}, {one.change}",
            uniform=_place(one.other_point, cost, shown.on_report_set),
            front=_place(one.point, cost, shown.on_report_set),
        )
        for one in widest_first[:_MOST_SAVINGS]
    )


def _place(point: FrontPoint, cost: str, on_report_set: bool) -> tuple[float, float]:
    known = point.report_accuracy if on_report_set else None
    return point.costs[cost], point.accuracy if known is None else known


@draws(ParetoFrontRecord)
def draw_pareto_front(record: ParetoFrontRecord, ax: Axes | None = None) -> Figure:
    """The picture of a front."""
    axes = panel_of(ax)
    draw_references(axes, record.float_accuracy, record.min_accuracy)
    draw_uniform(axes, record.uniform, record.column)
    _draw_front(axes, record)
    _draw_savings(axes, record)
    axes.set_ylim(record.accuracy_limits)
    axes.margins(x=0.07)
    members = list(zip(record.cost, record.accuracy, strict=True))
    levels = record.float_accuracy, record.min_accuracy
    label_uniform(axes, [(record.uniform, ORANGE)], record.column, [members], levels, below=record.better == "higher")
    set_large_ticks(axes.xaxis, max(record.cost))
    axes.set_xlabel(cost_axis(record.cost_name), parse_math=False)
    axes.set_ylabel(record.score_axis, parse_math=False)
    set_titles(axes, record.title, record.subtitle)
    axes.grid(alpha=0.3)
    legend_below(axes, ncols=2)
    return figure_of(axes)


def _draw_front(axes: Axes, record: ParetoFrontRecord) -> None:
    label = record.front_text
    points = list(zip(record.cost, record.accuracy, record.on_line, strict=True))
    best = [(cost, score) for cost, score, on_line in points if on_line]
    others = [(cost, score) for cost, score, on_line in points if not on_line]
    # A budget between two members buys the cheaper one: steps, not slopes.
    axes.plot(*zip(*best, strict=True), "o-", color=BLUE, markersize=7, drawstyle="steps-post", label=label, zorder=5)
    if others:
        label = record.beaten_text
        axes.plot(*zip(*others, strict=True), "o", color=BLUE, markerfacecolor="white", label=label, zorder=4)
    draw_intervals(axes, record.cost, record.accuracy, record.intervals, BLUE)
    _draw_other_accuracy(axes, record)
    axes.plot(
        *record.knee,
        color="black",
        marker="o",
        markersize=16,
        markerfacecolor="none",
        markeredgewidth=1.8,
        linestyle="none",
        label=record.knee_text,
        zorder=7,
    )


def _draw_other_accuracy(axes: Axes, record: ParetoFrontRecord) -> None:
    pairs = zip(record.cost, record.other_accuracy, strict=True)
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
            label=record.other_text,
            zorder=4,
        )


def _draw_savings(axes: Axes, record: ParetoFrontRecord) -> None:
    arrow = {"arrowstyle": "-|>", "color": "black", "linewidth": 1.2, "shrinkA": 6, "shrinkB": 6}
    for start, tip in record.arrows:
        axes.annotate("", xy=tip, xytext=start, arrowprops=arrow, zorder=4)
