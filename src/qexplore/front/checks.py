"""Checks of what a front is built from. Each gives the value in its one stored form, or raises FrontError."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qexplore._arguments import is_number
from qexplore._choices import FLOAT_FORMATS, MAX_NUM_BITS
from qexplore._coverage import Coverage
from qexplore._fingerprint import Fingerprint
from qexplore._references import did_you_mean
from qexplore.errors import FrontError

_KNOWN_CODES = [*range(MAX_NUM_BITS + 1), *(known.code for known in FLOAT_FORMATS)]
_KINDS = {"iu": "whole numbers", "iuf": "numbers"}


def checked_array(
    name: str, value: Any, shape: tuple[int | None, ...], *, kinds: str = "iuf", unknown_allowed: bool = False
) -> npt.NDArray[Any]:
    """A read-only copy as int64 (`kinds="iu"`) or float64, of `shape`, where None fits any length.

    NaN is refused unless `unknown_allowed`; infinity always. An empty list fits every shape that may have no rows.
    """
    try:
        given = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise FrontError(f"Front: {name} must be an array of {_KINDS[kinds]}, got {_short(value)}: {error}.") from error
    if given.shape == (0,) and shape[0] in (0, None):
        given = np.zeros((0, *(length or 0 for length in shape[1:])), dtype=np.int64)
    if given.dtype.kind not in kinds:
        raise FrontError(f"Front: {name} must be an array of {_KINDS[kinds]}, got {given.dtype}: {_short(value)}.")
    if len(given.shape) != len(shape) or any(w not in (None, h) for h, w in zip(given.shape, shape, strict=True)):
        wanted = ", ".join("K" if length is None else str(length) for length in shape)
        raise FrontError(
            f"Front: {name} must have the shape [{wanted}], got {list(given.shape)}. Rows are members of the front; "
            f"num_bits has one column for each point name, costs one for each cost name, an interval low and high, "
            f"further scores one for each further metric."
        )
    stored = given.astype(np.int64 if kinds == "iu" else np.float64)  # astype copies
    bad = np.isinf(stored) if unknown_allowed else ~np.isfinite(stored)
    if bad.any():
        raise FrontError(
            f"Front: {name} must be finite, got {stored[bad][0]} in row {np.argwhere(bad)[0][0]}. "
            f"Leave out candidates whose evaluation failed."
        )
    stored.setflags(write=False)
    return stored


def checked_codes(value: Any, point_names: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """Codes of choices [K, L], read-only."""
    codes = checked_array("num_bits", value, (None, len(point_names)), kinds="iu")
    unknown = np.argwhere(~np.isin(codes, _KNOWN_CODES))
    if len(unknown):
        row, column = unknown[0]
        raise FrontError(
            f"Front: num_bits must be 0 (off), a width of 1 to {MAX_NUM_BITS} or the code of a float format, such as "
            f"403 for E4M3, got {codes[row, column]} at point {point_names[column]!r} in row {row}."
        )
    return codes


def checked_names(name: str, value: Any) -> tuple[str, ...]:
    """Distinct, non-empty names as a tuple; at least one."""
    names = () if isinstance(value, str) else tuple(value)
    if not names or not all(isinstance(one, str) and one for one in names) or len(set(names)) < len(names):
        raise FrontError(
            f"Front: {name} must be a sequence of at least one name, all different and not empty, got {value!r}."
        )
    return names


def checked_score(name: str, value: Any, owner: str = "Front") -> float | None:
    """A finite number as a float, or None."""
    if value is not None and not is_number(value):
        hint = ""
        if name == "min_accuracy" and isinstance(value, (list, tuple)):
            hint = " It is of the first metric; pick by a further one with front.further_scores."
        raise FrontError(f"{owner}: {name} must be a finite number or None, got {value!r}.{hint}")
    return None if value is None else float(value)


def checked_interval(name: str, value: Any, shape: tuple[int, ...]) -> npt.NDArray[np.float64] | None:
    """None, or `shape`, [K, ..., 2], with (low, high), low <= high, or NaN twice at each place."""
    if value is None:
        return None
    interval = checked_array(name, value, shape, unknown_allowed=True)
    low, high = interval.reshape(-1, 2).T
    wrong = np.flatnonzero(~((low <= high) | (np.isnan(low) & np.isnan(high))))
    if wrong.size:
        raise FrontError(
            f"Front: {name} must hold low and high, low first, or NaN for both, "
            f"got {interval.reshape(-1, 2)[wrong[0]].tolist()} in row {wrong[0] // math.prod(shape[1:-1])}."
        )
    return interval


def checked_words(name: str, value: Any, rows: int) -> npt.NDArray[np.str_] | None:
    """None, or a read-only array of ``rows`` texts."""
    if value is None:
        return None
    words = list(value) if isinstance(value, (list, tuple, np.ndarray)) else [None]
    if len(words) != rows or not all(isinstance(one, str) for one in words):
        raise FrontError(f"Front: {name} must be a text for each of the {rows} rows, got {_short(value)}.")
    stored = np.array(words, dtype=np.str_)
    stored.setflags(write=False)
    return stored


def checked_reference_point(value: Any, cost_names: tuple[str, ...]) -> npt.NDArray[np.float64]:
    """[1 + C] finite numbers: the accuracy, then each cost."""
    try:
        return checked_array("reference_point", value, (1 + len(cost_names),))
    except FrontError as error:
        raise FrontError(
            f"Front.hypervolume: reference_point must be {1 + len(cost_names)} finite numbers, the accuracy and then "
            f"{', '.join(cost_names)}, got {_short(value)}."
        ) from error


def check_known_names(owner: str, wanted: Sequence[str], known: Sequence[str]) -> None:
    """FrontError unless every one of `wanted`, at least one, is among `known`."""
    unknown = [name for name in wanted if name not in known]
    if not wanted or unknown:
        near = did_you_mean(str(unknown[0]), list(known)) if unknown else ""
        got = ", ".join(map(repr, wanted))
        raise FrontError(f"{owner} must be among {', '.join(map(repr, known))}, got {got}{near or '.'}")


def require_total_bits(owner: str, cost_names: Sequence[str]) -> None:
    """FrontError unless "total_bits" is one of the costs."""
    if "total_bits" not in cost_names:
        raise FrontError(f"{owner}: the costs must hold 'total_bits', got {list(cost_names)}. Read costs by name.")


def rows_within(
    owner: str, limits: Mapping[str, float] | None, costs: npt.NDArray[np.float64], cost_names: tuple[str, ...]
) -> npt.NDArray[np.int64]:
    """Rows of `costs` [K, C], K at least 1, that are within all `limits`, at least one."""
    if not limits:
        return np.arange(len(costs))
    check_known_names(f"{owner}: limits", list(limits), cost_names)
    within = np.ones(len(costs), dtype=bool)
    for name, limit in limits.items():
        upper = checked_score(f"the limit of {name}", limit)
        if upper is None:
            raise FrontError(f"{owner}: the limit of {name} must be a finite number, got None. Leave it out instead.")
        values = costs[:, cost_names.index(name)]
        if not (values <= upper).any():
            raise FrontError(
                f"{owner}: no point has {name} of {upper:g} or less; the least that this front offers is "
                f"{values.min():g} (point {values.argmin()}). Allow more."
            )
        within &= values <= upper
    if not within.any():
        asked = ", ".join(f"{name} {limit:g}" for name, limit in limits.items())
        raise FrontError(f"{owner}: no point is within all of {asked}, though each alone is met. Allow more of one.")
    return np.flatnonzero(within)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def checked_fingerprint(value: Any) -> Fingerprint | None:
    """Of a model, as it is or as a file holds it."""
    try:
        return Fingerprint.read(value)
    except TypeError as error:
        raise FrontError(f"Front: fingerprint must be that of a model, got {value!r}: {error}.") from error


def checked_coverage(value: Any) -> Coverage | None:
    """A coverage, from its record or from what a file holds; None where it is not known."""
    try:
        return Coverage.read(value)
    except TypeError as error:
        raise FrontError(f"Front: coverage must be that of a model, got {_short(value)}: {error}.") from error
