"""The picture of several searches over time: what each had found after so many seconds and passes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qexplore._arguments import checked_number
from qexplore._table import visible
from qexplore.errors import ReportError
from qexplore.front import Front
from qexplore.report._alike import Compared, require_one_metric, unlike_lines
from qexplore.report._canvas import COLOURS, figure_of, grid_of, legend_below, set_large_ticks, set_titles
from qexplore.report._drawing import draws
from qexplore.report._progress import Progress, all_progress_of
from qexplore.report._sources import labels_of
from qexplore.report._wording import amount_text, cost_unit, cost_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from qexplore.report._sources import Source

_OWNER = "plot_timeline"
_HEAD_ROOM = 0.05
STYLES = ("-", "--", ":")
TIMES = "seconds since the start (s)", "full passes over the search set"


@dataclass(frozen=True)
class RunLineRecord:
    """What a search had found when: a value for each moment.

    `best` are, for each cost that is followed, the best scores at no more than it, None before there is any.
    """

    label: str
    seconds: tuple[float, ...]
    num_passes: tuple[float, ...]
    hypervolume: tuple[float, ...]
    best: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class TimelinesRecord:
    """Several searches over time; hypervolumes of all are against `reference_point`, the worst of their own.

    `at` are the costs that are followed, `unlike` as in `FrontsRecord`.
    """

    metric_name: str
    better: str
    cost_name: str
    hypervolume_words: str
    reference_point: tuple[float, ...]
    at: tuple[float, ...]
    lines: tuple[RunLineRecord, ...]
    unlike: tuple[str, ...]

    @property
    def title(self) -> str:
        """Above the picture."""
        return "What each search had found when"

    @property
    def subtitle(self) -> str:
        """Below the title: how the searches are unlike."""
        return "\n".join(map(visible, self.unlike))

    @property
    def axes(self) -> tuple[str, str]:
        """Beside the vertical axes."""
        return time_axes(self.hypervolume_words, self.metric_name, self.better)

    @property
    def colours(self) -> dict[str, str]:
        """A colour for each label."""
        return {label: COLOURS[place % len(COLOURS)] for place, label in enumerate(self._labels)}

    @property
    def _labels(self) -> list[str]:
        return list(dict.fromkeys(line.label for line in self.lines))

    def text(self, label: str) -> str:
        """Of the legend."""
        lines = [line for line in self.lines if line.label == label]
        named = f"{label}: {len(lines)} runs" if len(lines) > 1 else label
        none = [amount_text(cost) for place, cost in enumerate(self.at) if not _reached(lines, place)]
        return f"{named} (none at {', '.join(none)})" if none else named


def _reached(lines: Sequence[RunLineRecord], place: int) -> bool:
    """Whether one of them ever had a score within the cost at that place."""
    return any(score is not None for line in lines for score in line.best[place])


def time_axes(hypervolume_words: str, metric_name: str, better: str) -> tuple[str, str]:
    """Beside the axes of hypervolumes and of best scores."""
    score = f"best {metric_name} on the search set\n({better} is better)"
    return f"hypervolume on the search set\n({hypervolume_words})", score


def at_most_text(cost_name: str, cost: float) -> str:
    """The cost at which a best score is followed, in a legend."""
    return f"{cost_words(cost_name)} of at most {amount_text(cost)} {cost_unit(cost_name)}".rstrip()


def timelines_record(
    sources: Sequence[Source],
    labels: Sequence[str] | None = None,
    at: Sequence[float] | None = None,
    cost: str | None = None,
) -> TimelinesRecord:
    """The record of several searches over time; see `plot_timeline`."""
    if not sources:
        raise ReportError(f"{_OWNER}: there is nothing to draw, got no search. Give what explore returned, or studies.")
    named = zip(labels_of(_OWNER, sources, labels), sources, strict=True)
    found = [(label, run) for label, source in named for run in all_progress_of(_OWNER, source)]
    told, runs = [label for label, _ in found], [run for _, run in found]
    fronts = [run.fronts[-1] for run in runs]
    require_one_metric(_OWNER, fronts, told)
    _require_one_space(fronts, told)
    first = fronts[0]
    name = first.cost_names[0] if cost is None else cost
    first.cost(name)  # an unknown name is refused here
    reference = _reference(first, runs)
    costs = (
        [_middle(fronts, name)]
        if at is None
        else sorted(checked_number(f"{_OWNER}: at", one, ReportError) for one in at)
    )
    compared = [Compared(label, front, front.uniform) for label, front in zip(told, fronts, strict=True)]
    return TimelinesRecord(
        metric_name=first.metric_name,
        better=first.better,
        cost_name=name,
        hypervolume_words=" x ".join([first.metric_name, *map(cost_words, first.cost_names)]),
        reference_point=reference,
        at=tuple(costs),
        lines=tuple(_line(label, run, name, costs, reference) for label, run in zip(told, runs, strict=True)),
        unlike=unlike_lines(compared, name),
    )


def _require_one_space(fronts: Sequence[Front], labels: Sequence[str]) -> None:
    for front, label in zip(fronts, labels, strict=True):
        if front.cost_names != fronts[0].cost_names:
            raise ReportError(
                f"{_OWNER}: hypervolumes are compared over the same costs, got {', '.join(fronts[0].cost_names)} of "
                f"{labels[0]!r} and {', '.join(front.cost_names)} of {label!r}. Draw each in a picture of its own."
            )


def _reference(first: Front, runs: Sequence[Progress]) -> tuple[float, ...]:
    """The worst of the searches' own, so that every point of each counts; NaN where one is not known."""
    known = [run.reference_point for run in runs]
    if any(one is None or not all(map(math.isfinite, one)) for one in known):
        return (math.nan,) * (1 + len(first.cost_names))
    scores, *costs = zip(*(one for one in known if one is not None), strict=True)
    return (min(scores, key=first.gain), *map(max, costs))


def _middle(fronts: Sequence[Front], name: str) -> float:
    """The median cost of the points of all."""
    costs = sorted(cost for front in fronts for cost in front.cost(name).tolist())
    return float(costs[len(costs) // 2]) if costs else math.inf


def _line(label: str, run: Progress, name: str, costs: Sequence[float], reference: tuple[float, ...]) -> RunLineRecord:
    known = math.isfinite(reference[0])
    volumes = tuple(front.hypervolume(reference) for front in run.fronts) if known else run.hypervolume
    best = tuple(tuple(best_score(front, name, cost) for front in run.fronts) for cost in costs)
    return RunLineRecord(label, run.seconds_at, run.passes_at, volumes, best)


def best_score(front: Front, name: str, cost: float) -> float | None:
    """The best score at no more than `cost`; None where there is none."""
    scores = front.accuracy[front.cost(name) <= cost]
    return None if not scores.size else float(max(scores.tolist(), key=front.gain))


def draw_best(axes: Axes, times: Sequence[float], scores: Sequence[float | None], style: str, **look: Any) -> None:
    """The best scores over time, with a dot where they begin: at the last moment there is no more of the line."""
    known = [math.nan if score is None else score for score in scores]
    axes.step(times, known, style, where="post", linewidth=2, marker="o", markevery=first_of(scores), **look)


def first_of(scores: Sequence[float | None]) -> list[int]:
    """The place of the first score that there is, in a list; none where there is none."""
    return [place for place, score in enumerate(scores) if score is not None][:1]


@draws(TimelinesRecord)
def draw_timelines(record: TimelinesRecord, ax: Axes | None = None) -> Figure:
    """Hypervolume and best scores of each search, over seconds and over passes."""
    grid = grid_of(ax, 2, 2)
    panels: dict[tuple[int, int], Axes] = {}
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        shared = {"sharex": panels.get((0, column)), "sharey": panels.get((row, 0))}
        panels[row, column] = panel = grid.figure.add_subplot(grid.cells[row, column], **shared)
        panel.grid(alpha=0.3)
        panel.tick_params(labelbottom=row == 1, labelleft=column == 0, labelsize=10 * grid.scale)
    colours = record.colours
    for line in record.lines:
        for column, values in enumerate((line.seconds, line.num_passes)):
            panels[0, column].step(values, line.hypervolume, where="post", color=colours[line.label], linewidth=2)
            for place, best in enumerate(line.best):
                draw_best(panels[1, column], values, best, STYLES[place % len(STYLES)], color=colours[line.label])
    _finish(record, panels, grid.scale)
    _name(record, panels[1, 0], grid.scale)
    return figure_of(panels[0, 0])


def _finish(record: TimelinesRecord, panels: dict[tuple[int, int], Axes], scale: float) -> None:
    largest = max(max(line.hypervolume) for line in record.lines)
    for column, times in enumerate(zip(*((line.seconds, line.num_passes) for line in record.lines), strict=True)):
        panels[1, column].set_xlim(0, max(map(max, times)) * (1 + _HEAD_ROOM) or 1)
    panels[0, 0].set_ylim(0, largest * (1 + _HEAD_ROOM) or 1)
    set_large_ticks(panels[0, 0].yaxis, largest)
    size = 10 * scale
    for place in (0, 1):
        panels[1, place].set_xlabel(TIMES[place], fontsize=size)
        panels[place, 0].set_ylabel(record.axes[place], fontsize=size, parse_math=False)
    set_titles(panels[0, 0], record.title, record.subtitle, scale)


def _name(record: TimelinesRecord, axes: Axes, scale: float) -> None:
    """Colours are searches, and styles the costs at which the best score is followed."""
    for label, colour in record.colours.items():
        text = visible(record.text(label))
        axes.plot(
            [], [], color=colour, linewidth=2, label=f"\N{NO-BREAK SPACE}{text}" if text.startswith("_") else text
        )
    for place, cost in enumerate(record.at):
        words, style = at_most_text(record.cost_name, cost), STYLES[place % len(STYLES)]
        axes.plot([], [], style, color="black", linewidth=2, label=words)
    legend_below(axes, ncols=2, gap=40 * max(scale, 0.8), scale=scale)
