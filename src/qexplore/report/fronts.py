"""The picture of several fronts over one cost; of several seeds of one search, what they attain.

Shape letters: K members of a front.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import moocore
import numpy as np
from numpy.typing import NDArray

from qexplore._table import counted, visible
from qexplore.errors import ReportError
from qexplore.front import Front
from qexplore.report._alike import Compared, require_one_metric, unlike_lines
from qexplore.report._canvas import (
    COLOURS,
    GREY,
    MARKERS,
    figure_of,
    legend_below,
    panel_of,
    set_large_ticks,
    set_titles,
)
from qexplore.report._drawing import draws
from qexplore.report._fronts import (
    Interval,
    UniformRecord,
    draw_references,
    draw_uniform,
    label_uniform,
    shown_front,
    uniform_records,
)
from qexplore.report._sources import labels_of, resolved
from qexplore.report._wording import cost_axis, cost_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from qexplore.exploration import Exploration
    from qexplore.report._sources import Source

_OWNER = "plot_pareto_front"
_PERCENTILES = (0, 50, 100)  # of runs that attain a point: any, half, all
LINE_STYLES = ("-", "--", "-.", ":")
_MOST_MARKERS = 200
_MOST_RIMS = 3
_LINE_CHARACTERS = 110  # above the picture

Line = tuple[tuple[float, float], ...]
"""(cost, score) by rising cost; from one to the next the score stays."""


@dataclass(frozen=True)
class FrontLineRecord:
    """One search of the picture.

    `line` is what its front attains at each cost; of several runs what half of them attain, between `best`, which at
    least one does, and `worst`, which all do. `marked` says where on the line a front has a point: what runs attain
    turns elsewhere too. `num_points` are those of all its fronts, of which `num_beaten` are not on the line of a single
    run: others of it beat them by what is drawn. `num_empty` of its runs found none. `best` and `worst` are empty of a
    single run, `num_bits`, the widths of the points on the line, of several.
    """

    label: str
    num_runs: int
    num_points: int
    num_beaten: int
    num_empty: int
    line: Line
    marked: tuple[bool, ...]
    best: Line
    worst: Line
    num_bits: tuple[tuple[int, ...], ...] = ()
    point_names: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Of the legend."""
        empty = f", {self.num_empty} without a point" if self.num_empty else ""
        if self.num_runs > 1:
            return f"{self.label}: attained by half of {self.num_runs} runs, shaded from all to one{empty}"
        beaten = f", {self.num_beaten} more beaten by these" if self.num_beaten else ""
        shown = self.num_points - self.num_beaten
        return f"{self.label}: {counted(shown, 'point') if shown else 'no point'}{beaten}"


@dataclass(frozen=True)
class BaselineRecord:
    """Uniform candidates, and whose they are: the labels of the fronts that know them, all of one score and cost."""

    labels: tuple[str, ...]
    uniform: tuple[UniformRecord, ...]


@dataclass(frozen=True)
class FrontsRecord:
    """Several fronts over one cost, on the set that all of them were measured on.

    `baselines` are the uniform candidates that the fronts know, once where several know the same, with the cost alone.
    `unlike` says which fronts are not of the same points, networks, sets or costs as the first, and how.
    `float_accuracy` and `min_accuracy` are those that all share, else None. `end` is the largest cost of any front.
    """

    metric_name: str
    better: str
    cost_name: str
    set_name: str
    lines: tuple[FrontLineRecord, ...]
    baselines: tuple[BaselineRecord, ...]
    unlike: tuple[str, ...]
    float_accuracy: float | None
    min_accuracy: float | None
    end: float
    accuracy_limits: Interval

    @property
    def title(self) -> str:
        """Above the picture."""
        return f"{self.metric_name} against {cost_words(self.cost_name)}"

    @property
    def subtitle(self) -> str:
        """Below the title: how the fronts are unlike."""
        return "\n".join(map(visible, self.unlike))

    @property
    def score_axis(self) -> str:
        """Beside the vertical axis."""
        return f"{self.metric_name} on the {self.set_name} ({self.better} is better)"

    def whose(self, baseline: BaselineRecord) -> str:
        """Which fronts know these uniform candidates, where not all of them do."""
        return f" of {', '.join(map(visible, baseline.labels))}" if len(self.baselines) > 1 else ""

    @property
    def uniform(self) -> tuple[UniformRecord, ...]:
        """Of the first front that knows some."""
        return self.baselines[0].uniform if self.baselines else ()


def fronts_record(
    sources: Sequence[Source], labels: Sequence[str] | None = None, cost: str | None = None
) -> FrontsRecord:
    """The record of several fronts; those that share a label are runs of one search.

    `cost` is the name of the cost, the first one of the first front when None. ReportError when there is none, all are
    empty, metrics differ, or labels are not one each; FrontError when one has no such cost.
    """
    known = [resolved(_OWNER, source) for source in sources]
    fronts, told = [_front(source) for source in known], labels_of(_OWNER, sources, labels)
    filled = [source for source, front in zip(known, fronts, strict=True) if len(front)]
    if not filled:
        raise ReportError(f"{_OWNER}: there is nothing to draw, none of {len(fronts)} fronts has a point.")
    require_one_metric(_OWNER, fronts, told)
    name = fronts[0].cost_names[0] if cost is None else cost
    for front in fronts:
        front.cost(name)  # an unknown name is refused here
    reported = [shown_front(_OWNER, source).on_report_set for source in filled]
    shown = [shown_front(_OWNER, source, on_report_set=all(reported)) for source in filled]
    drawn = iter(shown)
    groups: dict[str, list[Front | None]] = {}
    for front, label in zip(fronts, told, strict=True):
        groups.setdefault(label, []).append(next(drawn).drawn if len(front) else None)
    drawn_labels = [label for label, front in zip(told, fronts, strict=True) if len(front)]
    uniform, limits = zip(*map(uniform_records, shown), strict=True)
    unlike = unlike_lines(
        [Compared(label, one.front, one.uniform) for label, one in zip(drawn_labels, shown, strict=True)], name
    )
    return FrontsRecord(
        metric_name=fronts[0].metric_name,
        better=fronts[0].better,
        cost_name=name,
        set_name=shown[0].set_name,
        lines=tuple(_line(label, runs, name) for label, runs in groups.items()),
        baselines=_baselines(
            (label, [replace(known, costs=(known.costs[one.drawn.cost_names.index(name)],)) for known in records])
            for label, one, records in zip(drawn_labels, shown, uniform, strict=True)
        ),
        unlike=(*unlike, *_unreported(drawn_labels, reported)),
        float_accuracy=_shared([one.float_accuracy for one in shown]),
        min_accuracy=_shared([one.drawn.min_accuracy for one in shown]),
        end=max(float(front.cost(name).max()) for front in fronts if len(front)),
        accuracy_limits=(min(low for low, _ in limits), max(high for _, high in limits)),
    )


def _baselines(known: Iterable[tuple[str, list[UniformRecord]]]) -> tuple[BaselineRecord, ...]:
    """Those that agree in every candidate that both have are one."""
    found: list[tuple[dict[str, None], dict[str, UniformRecord]]] = []
    for label, records in known:
        mine = {one.label: one for one in records}
        for labels, others in found:
            if all(_agree(mine[name], others[name]) for name in mine.keys() & others.keys()):
                labels[label] = None
                others.update({name: one for name, one in mine.items() if name not in others or one.shown})
                break
        else:
            found += [({label: None}, mine)] if mine else []
    by_cost = [(labels, sorted(others.values(), key=lambda one: one.costs)) for labels, others in found]
    return tuple(BaselineRecord(tuple(labels), tuple(records)) for labels, records in by_cost)


def _agree(one: UniformRecord, other: UniformRecord) -> bool:
    return math.isclose(one.costs[0], other.costs[0]) and math.isclose(one.accuracy, other.accuracy, abs_tol=1e-9)


def _unreported(labels: Sequence[str], reported: Sequence[bool]) -> tuple[str, ...]:
    """Why all are drawn on the search set, where some were measured on a report set."""
    lacking = dict.fromkeys(label for label, is_reported in zip(labels, reported, strict=True) if not is_reported)
    if not lacking or not any(reported):
        return ()
    return (f"On the search set, which chose the points: {', '.join(lacking)} not measured on a report set",)


def _front(source: Exploration | Front) -> Front:
    return source if isinstance(source, Front) else source.front


def _shared(values: Sequence[float | None]) -> float | None:
    return values[0] if len(set(values)) == 1 else None


def _line(label: str, runs: Sequence[Front | None], cost: str) -> FrontLineRecord:
    filled = [front for front in runs if front is not None]
    best, half, worst = _attained(runs, cost) if filled else ((), (), ())
    alone, points = len(runs) == 1, {place for front in filled for place in _places(front, cost)}
    return FrontLineRecord(
        label=label,
        num_runs=len(runs),
        num_points=sum(map(len, filled)),
        num_beaten=_num_beaten(filled[0], half, cost) if alone and filled else 0,
        num_empty=len(runs) - len(filled),
        line=half,
        marked=tuple(place in points for place in half),
        best=() if alone else best,
        worst=() if alone else worst,
        num_bits=_widths(filled[0], half, cost) if alone and filled else (),
        point_names=filled[0].point_names if filled else (),
    )


def _places(front: Front, cost: str) -> list[tuple[float, float]]:
    return [(point.costs[cost], point.accuracy) for point in front]


def _widths(front: Front, line: Line, cost: str) -> tuple[tuple[int, ...], ...]:
    known = dict(zip(_places(front, cost), (point.num_bits for point in front), strict=True))
    return tuple(known[place] for place in line)


def _num_beaten(front: Front, line: Line, cost: str) -> int:
    drawn = set(line)
    return sum(place not in drawn for place in _places(front, cost))


def _attained(runs: Sequence[Front | None], cost: str) -> tuple[Line, Line, Line]:
    """What any, half and all of the runs attain: levels of the empirical attainment function (Fonseca, 2001)."""
    known = [None if front is None else np.column_stack([front.cost(cost), front.minimised[:, 0]]) for front in runs]
    end = np.max([points.max(axis=0) for points in known if points is not None], axis=0)
    # A run without a point attains nothing within the picture; the function counts runs by their points.
    points = [end[None] + 1 if one is None else one for one in known]
    sets = np.repeat(np.arange(len(points)), [len(one) for one in points])
    surfaces = moocore.eaf(np.concatenate(points), sets=sets, percentiles=_PERCENTILES)
    sign = next(front for front in runs if front is not None).gain(-1.0)
    best, half, worst = (_by_cost(surfaces[surfaces[:, 2] == level], end[0], sign) for level in _PERCENTILES)
    return best, half, worst


def _by_cost(surface: NDArray[np.float64], end: float, sign: float) -> Line:
    rows = surface[surface[:, 0] <= end]
    return tuple((cost, sign * score) for cost, score in rows[np.argsort(rows[:, 0]), :2].tolist())


@draws(FrontsRecord)
def draw_fronts(record: FrontsRecord, ax: Axes | None = None) -> Figure:
    """The picture of several fronts."""
    axes = panel_of(ax)
    draw_references(axes, record.float_accuracy, record.min_accuracy)
    colours = baseline_colours(record)
    for baseline, colour in zip(record.baselines, colours, strict=True):
        # Without intervals: there is colour enough beside several fronts.
        plain = [replace(one, interval=None) for one in baseline.uniform]
        draw_uniform(axes, plain, 0, colour, record.whose(baseline), "" if colour == GREY else "white")
    for place, line in enumerate(record.lines):
        _draw_line(axes, record, line, place)
    axes.set_ylim(record.accuracy_limits)
    axes.margins(x=0.07)
    label_uniform(
        axes,
        [(one.uniform, colour) for one, colour in zip(record.baselines, colours, strict=True)],
        0,
        [line.line for line in record.lines],
        (record.float_accuracy, record.min_accuracy),
        below=record.better == "higher",
    )
    set_large_ticks(axes.xaxis, record.end)
    axes.set_xlabel(cost_axis(record.cost_name), parse_math=False)
    axes.set_ylabel(record.score_axis, parse_math=False)
    unlike = "\n".join(textwrap.fill(line, _LINE_CHARACTERS) for line in record.subtitle.split("\n"))
    set_titles(axes, record.title, unlike)
    axes.grid(alpha=0.3)
    legend_below(axes, ncols=2)
    return figure_of(axes)


def baseline_colours(record: FrontsRecord) -> list[str]:
    """Grey where all fronts share the uniform candidates, else that of the first front that has them."""
    if len(record.baselines) < 2:
        return [GREY] * len(record.baselines)
    places = {line.label: place for place, line in enumerate(record.lines)}
    return [COLOURS[places[one.labels[0]] % len(COLOURS)] for one in record.baselines]


def _draw_line(axes: Axes, record: FrontsRecord, line: FrontLineRecord, place: int) -> None:
    colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
    if line.num_runs > 1 and line.best:
        _shade(axes, record, line, colour)
    rims = rims_of(record, place)
    shown = shown_line(record, line)
    axes.plot(
        *(zip(*shown, strict=True) if shown else ((), ())),
        color=colour,
        marker=marker if len(shown) <= _MOST_MARKERS else "",
        markevery=np.flatnonzero(line.marked).tolist(),
        markersize=6 + 2.5 * rims,
        linewidth=1.6 + 1.4 * rims,
        linestyle=LINE_STYLES[place // len(COLOURS) % len(LINE_STYLES)],
        drawstyle="steps-post",
        label=visible(line.text).replace("_", "\N{NO-BREAK SPACE}_", line.text.startswith("_")),
        zorder=5,
    )


def _shade(axes: Axes, record: FrontsRecord, line: FrontLineRecord, colour: str) -> None:
    """Between what all runs attain and what one does; where not all attain anything, from the edge of the picture."""
    costs, worst, best = shaded(record, line)
    axes.fill_between(costs, worst, best, step="post", color=colour, alpha=0.18, linewidth=0, zorder=2)


def shaded(record: FrontsRecord, line: FrontLineRecord) -> tuple[NDArray[np.float64], ...]:
    """Costs, and what all runs and what one attains at each."""
    edge = record.accuracy_limits[0 if record.better == "higher" else 1]
    costs = np.unique([cost for cost, _ in (*line.best, *line.worst)] + [record.end])
    return costs, _at(costs, line.worst, edge), _at(costs, line.best, edge)


def _at(costs: NDArray[np.float64], line: Line, before: float) -> NDArray[np.float64]:
    """Scores of a line at ``costs``."""
    known = np.array([before, *(score for _, score in line)])
    scores: NDArray[np.float64] = known[np.searchsorted([cost for cost, _ in line], costs, side="right")]
    return scores


def rims_of(record: FrontsRecord, place: int) -> int:
    """How much wider than the last a line is: one on top of another leaves a rim of it to be seen."""
    return min(len(record.lines) - 1 - place, _MOST_RIMS)


def shown_line(record: FrontsRecord, line: FrontLineRecord) -> Line:
    """A line as it is drawn; what runs attain goes to the end, unmarked: a larger budget buys what a smaller does."""
    known = line.line
    is_short = bool(known) and line.num_runs > 1 and known[-1][0] < record.end
    return (*known, (record.end, known[-1][1])) if is_short else known
