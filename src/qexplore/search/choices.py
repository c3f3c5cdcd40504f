"""Sets of choices: from any form into ordered codes, and as text."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from qexplore._choices import FloatFormat, choice_name, is_float_code
from qexplore.errors import NumBitsError, ProblemError
from qexplore.front import by_stored_bits
from qexplore.quant import check_choice

Codes = tuple[int, ...]
"""Codes of choices, each once, from few stored bits to many; an integer before a float format, off last."""

_LEAST_RUN = 3
"""Widths that follow each other are shown as a range from so many on."""


def parsed_choices(value: Any, rule: str) -> Codes:
    """A collection of choices in any form, as ordered codes.

    Raises:
        ProblemError: no collection, an empty one, or something that is a choice for no quantizer; ``rule`` is how the
            message calls it.
    """
    if isinstance(value, (str, Mapping, FloatFormat)) or not isinstance(value, Iterable):
        raise ProblemError(f"{rule} must be a sequence of choices, got {value!r}: write ({value!r},) for one")
    codes = tuple(by_stored_bits(parsed_choice(choice, rule) for choice in value))
    if not codes:
        raise ProblemError(f"{rule} must hold at least one choice, got none")
    return codes


def parsed_choice(value: Any, rule: str) -> int:
    """The code of one choice in any form. Whether a signed quantizer can have it is not looked at.

    Raises:
        ProblemError: something that is a choice for no quantizer; ``rule`` is how the message calls it.
    """
    try:
        return check_choice(value, unsigned=True, owner=rule)
    except NumBitsError as error:
        raise ProblemError(str(error)) from error


def choices_text(codes: Collection[int]) -> str:
    """Short: ``2-8``, ``2,4,8,E4M3``, ``2-4,8,off``; widths first."""
    widths = sorted(code for code in codes if code and not is_float_code(code))
    runs: list[list[int]] = []
    for width in widths:
        if runs and width == runs[-1][-1] + 1:
            runs[-1].append(width)
        else:
            runs.append([width])
    parts = [f"{run[0]}-{run[-1]}" if len(run) >= _LEAST_RUN else ",".join(map(str, run)) for run in runs]
    formats = [choice_name(code) for code in by_stored_bits(codes) if is_float_code(code)]
    return ",".join([*parts, *formats, *(["off"] if 0 in codes else [])])
