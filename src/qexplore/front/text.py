"""A front as text that people read: its table, and one line for a point."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qexplore._choices import choice_name, stored_bits
from qexplore._table import text_table

if TYPE_CHECKING:
    from qexplore.front.front import Front, FrontPoint

_TABLE_WIDTH = 100
_LEAST_ROOM = 40  # for num_bits, when many costs fill the width
_NAMED_WIDTHS = 8  # a line names the choice at each point up to this many points


def score_text(value: float) -> str:
    """A score with four decimals; a small one, such as a squared error, with four significant digits."""
    return f"{value:.4f}" if value == 0 or abs(value) >= 0.01 else f"{value:.4g}"


def cost_text(value: float) -> str:
    """A cost: a whole number in full, any other with two decimals, a small one with four significant digits."""
    if float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:,.2f}" if abs(value) >= 1 else f"{value:.4g}"


def by_stored_bits(codes: Iterable[int]) -> list[int]:
    """Different codes of choices, from few stored bits to many, so that off, which keeps 32, is the last."""
    different = np.array(sorted(set(codes)), dtype=np.int64)
    order: list[int] = different[np.argsort(stored_bits(different), kind="stable")].tolist()
    return order


def point_line(point: FrontPoint) -> str:
    """One line: index, scores, costs, widths."""
    parts = [f"{point.metric_name} {score_text(point.accuracy)}{_bracketed(point.interval)}"]
    if point.report_accuracy is not None:
        report = f"{score_text(point.report_accuracy)}{_bracketed(point.report_interval)}"
        parts.append(f"on the report set {report}")
    parts += [f"{name} {cost_text(cost)}" for name, cost in point.costs.items()]
    named = ", ".join(f"{name} {choice or 'off'}" for name, choice in point.widths.items())
    widths = named if len(point.widths) <= _NAMED_WIDTHS else _short_widths(point.num_bits)
    return f"point {point.index}: {', '.join(parts)}; num_bits: {widths}"


def why_empty(front: Front) -> str:
    """One sentence on why a front holds no point, and the way out."""
    if front.min_accuracy is None:
        return "The front is empty: no candidate was evaluated."
    side = "at least" if front.higher_is_better else "at most"
    return (
        f"The front is empty: no evaluated candidate has {front.metric_name} of {side} "
        f"{score_text(front.min_accuracy)} (min_accuracy) and meets what else is asked, such as max_total_bits. Relax "
        "one of them, allow wider num_bits, or explore longer."
    )


def to_table(front: Front) -> str:
    """Header and, unless the front is empty, one aligned line a point."""
    if not len(front):
        return f"{_header(front)}\n{why_empty(front)}"
    columns = [["#", *map(str, range(len(front)))]]
    for name, cost in zip(front.cost_names, front.costs.T.tolist(), strict=True):
        columns.append([name.replace("_", " "), *map(cost_text, cost)])
    columns += _score_columns(front.metric_name, front.accuracy, front.interval)
    if front.report_accuracy is not None:
        columns += _score_columns(f"report {front.metric_name}", front.report_accuracy, front.report_interval)
    if "mean_bits" not in front.cost_names:
        columns.append(["mean bits", *map(_mean_bits, front.num_bits)])
    room = max(_TABLE_WIDTH - sum(max(map(len, column)) + 2 for column in columns), _LEAST_ROOM)
    numeric = range(len(columns))
    columns.append(["num_bits", *choices_cells(front.num_bits.tolist(), room)])
    header, *rows = zip(*columns, strict=True)
    return f"{_header(front)}\n{text_table(header, rows, numeric=numeric)}"


def _header(front: Front) -> str:
    parts = [f"{front.metric_name} ({'higher' if front.higher_is_better else 'lower'} is better)"]
    parts.append("no min_accuracy" if front.min_accuracy is None else f"min_accuracy {score_text(front.min_accuracy)}")
    if front.float_accuracy is not None:
        parts.append(f"float {score_text(front.float_accuracy)}")
    if len(front):
        parts.append("verified" if front.verified else "not verified")
    count = f"{len(front)} point" + ("" if len(front) == 1 else "s")
    return f"Front of {count}: {', '.join(parts)}"


def _score_columns(name: str, score: Any, interval: Any) -> list[list[str]]:
    columns = [[name, *(_known(value) for value in score)]]
    if interval is not None:
        columns.append(["95 % interval", *(_bracketed(pair).strip(" ()") or "-" for pair in interval.tolist())])
    return columns


def _known(value: float) -> str:
    return "-" if math.isnan(value) else score_text(value)


def _bracketed(interval: Sequence[float] | None) -> str:
    if interval is None or math.isnan(interval[0]):
        return ""
    return f" ({score_text(interval[0])} to {score_text(interval[1])})"


def _mean_bits(codes: Any) -> str:
    on = codes[codes > 0]
    return f"{np.mean(stored_bits(on)):.2f}" if on.size else "-"


def choices_cells(rows: list[list[int]], room: int) -> list[str]:
    """Vectors of choices, of ``room`` characters where that suffices.

    The same form for all rows, the fullest that fits, so that rows stay comparable column by column.
    """
    words = [[choice_name(code) for code in row] for row in rows]
    longest = max(len(word) for row in words for word in row)
    if len(words[0]) * (longest + 1) - 1 <= room:
        return [" ".join(word.rjust(longest) for word in row) for row in words]
    # One digit a point needs no blanks between; "-" is a quantizer that is off.
    if max(map(max, rows)) < 10 and len(rows[0]) <= room:
        return ["".join(str(code or "-") for code in row) for row in rows]
    short = [_short_widths(row) for row in rows]
    return short if max(map(len, short)) <= room else [_width_range(row) for row in rows]


def _short_widths(row: Sequence[int]) -> str:
    if len(row) <= _NAMED_WIDTHS:
        return " ".join(map(choice_name, row))
    first, last = " ".join(map(choice_name, row[:3])), " ".join(map(choice_name, row[-2:]))
    return f"{first} … {last} ({_width_range(row)})"


def _width_range(row: Sequence[int]) -> str:
    on = by_stored_bits(code for code in row if code) or [0]
    return f"{choice_name(on[0])}..{choice_name(on[-1])}"
