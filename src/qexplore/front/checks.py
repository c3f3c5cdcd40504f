"""Checks of what a front is built from. Each gives the value in its one stored form, or raises FrontError."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qexplore.errors import FrontError

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
            f"num_bits has one column for each point name, costs one for each cost name, an interval low and high."
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


def checked_names(name: str, value: Any) -> tuple[str, ...]:
    """Distinct, non-empty names as a tuple; at least one."""
    names = () if isinstance(value, str) else tuple(value)
    if not names or not all(isinstance(one, str) and one for one in names) or len(set(names)) < len(names):
        raise FrontError(
            f"Front: {name} must be a sequence of at least one name, all different and not empty, got {value!r}."
        )
    return names


def checked_score(name: str, value: Any) -> float | None:
    """A finite number as a float, or None."""
    if value is None:
        return None
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not is_number or not np.isfinite(value):
        raise FrontError(f"Front: {name} must be a finite number or None, got {value!r}.")
    return float(value)


def checked_interval(name: str, value: Any, rows: int) -> npt.NDArray[np.float64] | None:
    """None, or [K, 2] with (low, high), low <= high, or NaN twice in each row."""
    if value is None:
        return None
    interval = checked_array(name, value, (rows, 2), unknown_allowed=True)
    low, high = interval.T
    wrong = np.flatnonzero(~((low <= high) | (np.isnan(low) & np.isnan(high))))
    if wrong.size:
        raise FrontError(
            f"Front: {name} must hold low and high, low first, or NaN for both, "
            f"got {interval[wrong[0]].tolist()} in row {wrong[0]}."
        )
    return interval


def checked_reference_point(value: Any, cost_names: tuple[str, ...]) -> npt.NDArray[np.float64]:
    """[1 + C] finite numbers: the accuracy, then each cost."""
    try:
        return checked_array("reference_point", value, (1 + len(cost_names),))
    except FrontError as error:
        raise FrontError(
            f"Front.hypervolume: reference_point must be {1 + len(cost_names)} finite numbers, the accuracy and then "
            f"{', '.join(cost_names)}, got {_short(value)}."
        ) from error


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
