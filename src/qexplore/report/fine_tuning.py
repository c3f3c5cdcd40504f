"""A front before and after fine-tuning, in one picture."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qexplore.errors import ReportError
from qexplore.front import Front, score_text
from qexplore.report._canvas import (
    BLUE,
    GREY,
    ORANGE,
    figure_of,
    legend_below,
    panel_of,
    set_large_ticks,
    set_titles,
)
from qexplore.report._drawing import Backend, drawn, draws
from qexplore.report._fronts import draw_references
from qexplore.report._wording import cost_axis, cost_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from qexplore.training import Refinement

_MARGIN = 0.06  # of the height of the picture, above and below what is in it
_LEAST_HEIGHT = 1e-6

CostAndScore = tuple[float, float]


@dataclass(frozen=True)
class FineTuningRecord:
    """A front over one cost before and after fine-tuning, as (cost, score) by rising cost.

    `before` holds every point, and `before_line` those that no other one beat; `after_line` those of the new front.
    `moves` are a fine-tuned point's cost, its score before, and its score afterwards. `float_accuracy` is None where
    not known. `most_won` is the largest gain in score, in the metric's direction. `num_bits` are the widths of the
    points in `before`.
    """

    metric_name: str
    better: str
    cost_name: str
    before: tuple[CostAndScore, ...]
    before_line: tuple[CostAndScore, ...]
    after_line: tuple[CostAndScore, ...]
    moves: tuple[tuple[float, float, float], ...]
    float_accuracy: float | None
    most_won: float
    accuracy_limits: tuple[float, float]
    point_names: tuple[str, ...] = ()
    num_bits: tuple[tuple[int, ...], ...] = ()

    @property
    def title(self) -> str:
        """Above the picture."""
        return f"{self.metric_name} against {cost_words(self.cost_name)}, before and after fine-tuning"

    @property
    def subtitle(self) -> str:
        """Below the title."""
        return f"most won at one point: {score_text(self.most_won)}" if self.most_won > 0 else ""

    @property
    def score_axis(self) -> str:
        """Beside the vertical axis."""
        return f"{self.metric_name} on the report set ({self.better} is better)"

    @property
    def names(self) -> tuple[str, str]:
        """Of both lines, in a legend."""
        return "before fine-tuning", f"after: {_points_text(len(self.moves))} fine-tuned"


def fine_tuning_record(refinement: Refinement, cost: str | None = None) -> FineTuningRecord:
    """The record of what `refine` gave, over the cost of that name, the first one when None.

    ReportError when it is no refinement or nothing was fine-tuned, FrontError when its fronts have no such cost.
    """
    before, after, refined = (getattr(refinement, name, None) for name in ("before", "after", "refined"))
    if not isinstance(before, Front) or not isinstance(after, Front) or refined is None:
        raise ReportError(f"plot_fine_tuning: needs what refine returned, got {type(refinement).__name__}.")
    if not refined:
        raise ReportError("plot_fine_tuning: there is nothing to draw, no point was fine-tuned.")
    name = before.cost_names[0] if cost is None else cost
    before.cost(name)  # an unknown name is refused here
    moves = tuple(sorted((one.costs[name], one.accuracy_before, one.accuracy_after) for one in refined))
    points = _points(before, name)
    scores = [score for _, score in points] + [score for move in moves for score in move[1:]]
    scores += [] if before.float_accuracy is None else [before.float_accuracy]
    return FineTuningRecord(
        metric_name=before.metric_name,
        better=before.better,
        cost_name=name,
        before=points,
        before_line=_line(before, name),
        after_line=_line(after, name),
        moves=moves,
        float_accuracy=before.float_accuracy,
        most_won=max(before.gain(score - score_before) for _, score_before, score in moves),
        accuracy_limits=_limits(scores),
        point_names=before.point_names,
        num_bits=tuple(point.num_bits for point in sorted(before, key=lambda one: (one.costs[name], one.accuracy))),
    )


def plot_fine_tuning(
    refinement: Refinement,
    path: str | os.PathLike[str] | None = None,
    *,
    cost: str | None = None,
    ax: Axes | None = None,
    backend: Backend = "matplotlib",
) -> Any:
    """Draw a front before and after fine-tuning, an arrow for each point that was trained.

    All scores are of the report set. `cost` names the cost to draw over, the first one when None. `ax` is the panel to
    draw in, a new picture when None. `path` saves the picture, by its suffix as PNG, SVG or PDF.
    `backend="plotly"` gives a figure of plotly instead, to look
    into with the mouse (extra `report`), without `ax`, and saved as HTML.
    ReportError when nothing was fine-tuned or the suffix is another, FrontError when there is no such cost.
    """
    return drawn(fine_tuning_record(refinement, cost), path, backend, ax)


@draws(FineTuningRecord)
def draw_fine_tuning(record: FineTuningRecord, ax: Axes | None = None) -> Figure:
    """The picture of a record."""
    axes = panel_of(ax)
    draw_references(axes, record.float_accuracy, min_accuracy=None)
    axes.plot(*zip(*record.before, strict=True), "o", color=ORANGE, markersize=6, alpha=0.5)
    _draw_line(axes, record.before_line, ORANGE, "s", record.names[0])
    _draw_line(axes, record.after_line, BLUE, "o", record.names[1])
    for cost, before, after in record.moves:
        arrow = {"arrowstyle": "->", "color": GREY, "linewidth": 1.2, "shrinkA": 4, "shrinkB": 4}
        axes.annotate("", (cost, after), xytext=(cost, before), arrowprops=arrow, zorder=4)
    axes.set_ylim(record.accuracy_limits)
    axes.margins(x=0.07)
    set_large_ticks(axes.xaxis, max(cost for cost, _ in record.before))
    axes.set_xlabel(cost_axis(record.cost_name), parse_math=False)
    axes.set_ylabel(record.score_axis, parse_math=False)
    set_titles(axes, record.title, record.subtitle)
    axes.grid(alpha=0.3)
    legend_below(axes, ncols=3)
    return figure_of(axes)


def _draw_line(axes: Axes, points: tuple[CostAndScore, ...], colour: str, marker: str, label: str) -> None:
    # A budget between two members buys the cheaper one: steps, not slopes.
    costs, scores = zip(*points, strict=True)
    axes.plot(costs, scores, marker=marker, color=colour, markersize=7, drawstyle="steps-post", label=label, zorder=5)


def _points_text(count: int) -> str:
    return f"{count} point{'' if count == 1 else 's'}"


def _points(front: Front, cost: str) -> tuple[CostAndScore, ...]:
    return tuple(sorted((point.costs[cost], point.accuracy) for point in front))


def _line(front: Front, cost: str) -> tuple[CostAndScore, ...]:
    kept = front.nondominated([front.metric_name, cost])
    return tuple(sorted((point.costs[cost], point.accuracy) for point in front if kept[point.index]))


def _limits(scores: list[float]) -> tuple[float, float]:
    low, high = min(scores), max(scores)
    margin = max(_MARGIN * (high - low), _LEAST_HEIGHT)
    return low - margin, high + margin
