"""A front as a table that people read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from qexplore._choices import stored_bits
from qexplore._table import counted, text_table
from qexplore.front.arrays import FrontArrays, FurtherMetric
from qexplore.front.savings import claim_words
from qexplore.front.words import (
    OFF,
    bracketed,
    choices_cells,
    cost_text,
    difference_text,
    score_text,
    uniform_labels,
)

if TYPE_CHECKING:
    from qexplore.front.front import Front

_TABLE_WIDTH = 100
_LEAST_ROOM = 40  # for num_bits, when many costs fill the width


def why_empty(front: FrontArrays) -> str:
    """One sentence on why a front holds no point, and the way out."""
    if front.empty_because:
        return front.empty_because
    asked = [
        f"{one.name} of {'at least' if one.better == 'higher' else 'at most'} {score_text(one.min_accuracy)}"
        for one in _metrics(front)
        if one.min_accuracy is not None
    ]
    if not asked:
        return "The front is empty: no candidate was evaluated, or none kept to a limit, such as max_total_bits."
    return (
        f"The front is empty: no evaluated candidate has {' and '.join(asked)} (min_accuracy) and meets what else is "
        "asked, such as max_total_bits. Relax one of them, allow wider num_bits, or explore longer."
    )


def to_table(front: Front, most: int | None = None) -> str:
    """Header and, unless the front is empty, one aligned line a point; of more than ``most`` some, evenly spaced."""
    if not len(front):
        return f"{_header(front)}\n{why_empty(front)}"
    columns = [["#", *map(str, range(len(front)))]]
    for name, cost in zip(front.cost_names, front.costs.T.tolist(), strict=True):
        columns.append([name.replace("_", " "), *map(cost_text, cost)])
    for name, scores, interval in front.scores("report "):
        columns.append([name, *map(_known, scores)])
        # Beside a float network measured there, what counts is the difference from it, which is told more sharply.
        if interval is not None and not (front.is_reported and scores is front.report_accuracy):
            columns.append(["95 % interval", *(bracketed(pair).strip(" ()") or "-" for pair in interval.tolist())])
    columns += _from_float(front)
    if "mean_bits" not in front.cost_names:
        columns.append(["mean bits", *map(_mean_bits, front.num_bits)])
    room = max(_TABLE_WIDTH - sum(max(map(len, column)) + 2 for column in columns), _LEAST_ROOM)
    numeric = range(len(columns))
    columns.append(["num_bits", *choices_cells(front.num_bits.tolist(), room)])
    header, *rows = zip(*columns, strict=True)
    shown = _evenly(rows, most)
    left = [f"{len(shown)} of {len(rows):,} points are shown, evenly spaced"] * (len(shown) < len(rows))
    return "\n".join([_header(front), text_table(header, shown, numeric=numeric), *left, *_savings(front)])


def _evenly(rows: list[Any], most: int | None) -> list[Any]:
    if most is None or len(rows) <= most:
        return rows
    return [rows[place] for place in np.unique(np.linspace(0, len(rows) - 1, most).round().astype(int))]


def _metrics(front: FrontArrays) -> tuple[FurtherMetric, ...]:
    """All metrics, the first one too."""
    fields = front.metric_name, front.higher_is_better, front.min_accuracy, front.float_accuracy
    return FurtherMetric(*fields), *front.further


def _header(front: Front) -> str:
    first, *further = (_metric_words(metric, asked=front.broken_limits is None) for metric in _metrics(front))
    verified = (", verified" if front.verified else ", not verified") if len(front) else ""
    head = f"{_kind(front)}: {first}{verified}"
    floats = front.report_float_accuracy
    report = [] if floats is None else [_of_report(front, floats)]
    if floats is None and front.judge and len(front) and front.uniform is None:  # nobody says so below
        report = ["scores are of the search set, which chose the points"]
    judge = [f"judge: {front.judge}"] * bool(front.judge)
    coverage = [] if front.coverage is None else [f"{front.coverage.title}: {front.coverage.line}"]
    return "\n".join([head, *judge, *coverage, *report, *(f"further: {words}" for words in further)])


def _kind(front: Front) -> str:
    """What the rows are: members of a front, or candidates that were measured whatever came of it."""
    if front.broken_limits is None:
        return f"Front of {counted(len(front), 'point')}"
    return f"{counted(len(front), 'candidate')}, {int(front.nondominated().sum())} of them not beaten by another one"


def _of_report(front: FrontArrays, floats: float) -> str:
    unknown = 0 if front.report_accuracy is None else int(np.isnan(front.report_accuracy).sum())
    lacking = f"; not measured there: {unknown} of {counted(len(front), 'point')}" if unknown else ""
    return f"report set: float {score_text(floats)}, which differences are counted from{lacking}"


def _metric_words(metric: FurtherMetric, *, asked: bool) -> str:
    least = metric.min_accuracy
    parts = [f"{metric.name} ({metric.better} is better)"]
    if asked:
        parts.append("no min_accuracy" if least is None else f"min_accuracy {score_text(least)}")
    parts += [] if metric.float_accuracy is None else [f"float {score_text(metric.float_accuracy)}"]
    return ", ".join(parts)


def _from_float(front: FrontArrays) -> list[list[str]]:
    """The column of differences from the float network on the report set, where it was measured there."""
    change = front.report_change
    if change is None:
        return []
    unknown = np.full((len(front), 2), math.nan)
    intervals = unknown if front.report_from_float is None else front.report_from_float
    cells = [
        "-" if math.isnan(one) else difference_text(one, ends) for one, ends in zip(change, intervals, strict=True)
    ]
    return [["from float", *cells]]


def _savings(front: Front) -> list[str]:
    """What is saved against the front's uniform candidates, and on which set that is so."""
    if front.uniform is None:
        return []
    labels = dict(zip(map(tuple, front.uniform.num_bits.tolist()), uniform_labels(front.uniform.num_bits), strict=True))
    told = [(one, labels[one.other_point.num_bits]) for one in front.bits_saved()]
    lines = [f"  {one.text(label)}" for one, label in told if label != OFF]
    cost = front.cost_names[0].replace("_", " ")
    head = f"{cost} saved against uniform widths, {claim_words(front)}:{'' if lines else ' nothing'}"
    return [head, *lines, *_beyond_limits(front.uniform)]


def _beyond_limits(uniform: Front) -> list[str]:
    """Which uniform candidates break which limit: nothing is claimed against these."""
    broken: dict[str, list[str]] = {}
    if uniform.broken_limits is not None:
        for label, name in zip(uniform_labels(uniform.num_bits), uniform.broken_limits.tolist(), strict=True):
            broken.setdefault(name, []).append(label)
    return [f"  not compared: {', '.join(known)} (breaks the limit {name})" for name, known in broken.items() if name]


def _known(value: float) -> str:
    return "-" if math.isnan(value) else score_text(value)


def _mean_bits(codes: Any) -> str:
    on = codes[codes > 0]
    return f"{np.mean(stored_bits(on)):.2f}" if on.size else "-"
