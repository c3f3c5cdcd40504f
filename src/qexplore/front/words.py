"""Scores, costs and choices as people read them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from qexplore._choices import choice_name, stored_bits

_NAMED_WIDTHS = 8  # a line names the choice at each point up to this many points


def score_text(value: float) -> str:
    """A score with four decimals; a small one, such as a squared error, with four significant digits."""
    return f"{value:.4f}" if value == 0 or abs(value) >= 0.01 else f"{value:.4g}"


def cost_text(value: float) -> str:
    """A cost: a whole number in full, any other with two decimals, a small one with four significant digits."""
    if float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:,.2f}" if abs(value) >= 1 else f"{value:.4g}"


def bracketed(interval: Sequence[float] | None) -> str:
    """An interval behind its score; nothing where it is not known."""
    if interval is None or math.isnan(interval[0]):
        return ""
    return f" ({score_text(interval[0])} to {score_text(interval[1])})"


def by_stored_bits(codes: Iterable[int]) -> list[int]:
    """Different codes of choices, from few stored bits to many; an integer before a float format, off (32) last."""
    different = np.array(sorted(set(codes)), dtype=np.int64)
    order: list[int] = different[np.argsort(stored_bits(different), kind="stable")].tolist()
    return order


def widths_words(row: Sequence[int], names: Sequence[str]) -> str:
    """A vector of choices in one line: each by the name of its point while there are few."""
    if len(row) > _NAMED_WIDTHS:
        return _short_widths(row)
    return ", ".join(f"{name} {choice_name(code)}" for name, code in zip(names, row, strict=True))


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
