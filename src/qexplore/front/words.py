"""Scores, costs and choices as people read them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

import numpy as np

from qexplore._choices import choice_name, is_float_code, stored_bits
from qexplore._table import visible

OFF = choice_name(0)
_LEAST_IN_DECIMALS = 0.001  # below it four decimals say little
_ROUNDING = 1e-12
_NAMED_WIDTHS = 8  # a line names the choice at each point up to this many points


def score_text(value: float) -> str:
    """A score with four decimals; a small one, such as a squared error, with four significant digits."""
    return f"{value:.4f}" if value == 0 or abs(value) >= 0.01 else f"{value:.4g}"


def reached_text(value: float, higher_is_better: bool) -> str:
    """A score that can be asked for: as `score_text`, rounded to the side on which ``value`` meets it."""
    exact = Decimal(repr(float(value)))
    places = 4 if value == 0 or abs(value) >= 0.01 else 3 - exact.adjusted()
    return f"{exact.quantize(Decimal(1).scaleb(-places), ROUND_FLOOR if higher_is_better else ROUND_CEILING):f}"


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


def difference_text(difference: float, interval: Sequence[float] | None = None) -> str:
    """A difference of scores with its sign, and its interval where one is known: "-0.0111 (-0.0284 to +0.0062)"."""
    values = [difference, *(() if interval is None or math.isnan(interval[0]) else interval)]
    is_small = _ROUNDING < max(map(abs, values)) < _LEAST_IN_DECIMALS
    told = [f"{value:+.3g}" if is_small else f"{value:+.4f}" for value in values]
    return told[0] if len(told) == 1 else f"{told[0]} ({told[1]} to {told[2]})"


def by_stored_bits(codes: Iterable[int]) -> list[int]:
    """Different codes of choices, from few stored bits to many; an integer before a float format, off (32) last."""
    different = np.array(sorted(set(codes)), dtype=np.int64)
    order: list[int] = different[np.argsort(stored_bits(different), kind="stable")].tolist()
    return order


def widths_words(row: Sequence[int], names: Sequence[str]) -> str:
    """A vector of choices in one line: each by the name of its point while there are few."""
    if len(row) > _NAMED_WIDTHS:
        return _short_widths(row)
    return ", ".join(f"{visible(name)} {choice_name(code)}" for name, code in zip(names, row, strict=True))


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


def choice_words(code: int) -> str:
    """A choice as a label of its own: "5 bit", "E4M3", "off"."""
    return f"{code} bit" if code and not is_float_code(code) else choice_name(code)


def choices_words(codes: Sequence[int]) -> str:
    """What stands at several points together: "5 bit", "4-6 bit", "5 bit to E4M3", "off" where all are off."""
    on = by_stored_bits(code for code in codes if code)
    if len(on) < 2:
        return choice_words(on[0] if on else 0)
    if any(map(is_float_code, on)):
        return f"{choice_words(on[0])} to {choice_words(on[-1])}"
    return f"{on[0]}-{on[-1]} bit"


def uniform_labels(num_bits: Any) -> list[str]:
    """A label for each candidate of a baseline, codes [N, L]: what stands at the points at which candidates differ.

    A point where all candidates agree is pinned, and says nothing about any of them.
    """
    codes = np.array(num_bits)
    if not len(codes):
        return []
    differs = (codes != codes[0]).any(axis=0)
    told = codes[:, differs] if differs.any() else codes
    return [choices_words(row) for row in told.tolist()]


def _short_widths(row: Sequence[int]) -> str:
    if len(row) <= _NAMED_WIDTHS:
        return " ".join(map(choice_name, row))
    first, last = " ".join(map(choice_name, row[:3])), " ".join(map(choice_name, row[-2:]))
    return f"{first} … {last} ({_width_range(row)})"


def _width_range(row: Sequence[int]) -> str:
    on = by_stored_bits(code for code in row if code) or [0]
    return f"{choice_name(on[0])}..{choice_name(on[-1])}"
