"""What a report set said of points, for the fronts that are asked for afterwards."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qexplore.front import Front
from qexplore.study.runs import StudyRun
from qexplore.study.store import Store

_REPORT = "report 0 on "
"""So begins the role of an evaluation on a report set; what the set holds stands behind."""
_UNKNOWN = (math.nan, math.nan)

Codes = tuple[int, ...]


def with_reports(front: Front, store: Store, runs: Sequence[StudyRun]) -> Front:
    """``front`` with what the report set of ``runs`` said of its points and of its uniform candidates.

    What was not measured there is not known, and nothing is claimed of it. Runs that had several report sets tell
    nothing: scores of two sets do not belong into one front.
    """
    is_one_set = sum(role.startswith(_REPORT) for role in store.roles()) == 1
    ended = [run.front for run in runs if run.front is not None] if is_one_set and len(front) else []
    known = [one for one in ended if one.is_reported and one.further == front.further]
    if not any(_row(one, codes) is not None for one in known for codes in _codes(front)):
        return front
    told = _with_scores(front, known)
    if front.uniform is None:
        return told
    pairs = [[_pair(known, codes, other) for other in _codes(front.uniform)] for codes in _codes(front)]
    uniform = _with_scores(front.uniform, known)
    # One that was never held against a point by sample is none that the point can be said to be as good as.
    is_apart = [any(pair is None for pair in column) for column in _held_against(told, pairs)]
    scores = np.where(is_apart, math.nan, _scores(uniform))
    between = [[_pair(known, codes, other) for other in _codes(front.uniform)] for codes in _codes(front.uniform)]
    uniform = replace(uniform, report_accuracy=scores, report_between=_array(between))
    return replace(told, uniform=uniform, report_from_uniform=_array(pairs))


def _with_scores(front: Front, known: Sequence[Front]) -> Front:
    """The scores, intervals and differences from the float network of what ``known`` fronts hold."""
    rows, count = [_found(known, codes) for codes in _codes(front)], len(front.further)
    further = [_value(row, "report_further_scores", (math.nan,) * count) for row in rows]
    return replace(
        front,
        report_accuracy=np.array([_value(row, "report_accuracy", math.nan) for row in rows], dtype=float),
        report_interval=np.array([_value(row, "report_interval", _UNKNOWN) for row in rows], dtype=float),
        report_from_float=np.array([_value(row, "report_from_float", _UNKNOWN) for row in rows], dtype=float),
        report_further_scores=np.array(further, dtype=float).reshape(len(front), count) if count else None,
        report_float_accuracy=known[-1].report_float_accuracy,
    )


def _found(known: Sequence[Front], codes: Codes) -> tuple[Front, int] | None:
    """The front, or its uniform candidates, in which these widths have a score on the report set, and their row."""
    for front in _each(known):
        row = _row(front, codes)
        if row is not None and not math.isnan(_scores(front)[row]):
            return front, row
    return None


def _pair(known: Sequence[Front], codes: Codes, other: Codes) -> Any:
    """The interval of what ``codes`` score there less ``other``, a uniform one; None where no run held the two."""
    for front in known:
        if front.uniform is None or (column := _row(front.uniform, other)) is None:
            continue
        for holder, name in ((front, "report_from_uniform"), (front.uniform, "report_between")):
            if (row := _row(holder, codes)) is not None:
                pairs = getattr(holder, name)
                return _UNKNOWN if pairs is None else pairs[row, column]
    return None


def _held_against(front: Front, pairs: Sequence[Sequence[Any]]) -> Iterator[list[Any]]:
    """Of each uniform candidate its pairs with the points that have a score."""
    told = [row for row, score in zip(pairs, _scores(front), strict=True) if not math.isnan(score)]
    return map(list, zip(*told, strict=True))


def _array(pairs: Sequence[Sequence[Any]]) -> NDArray[np.float64]:
    known = [[_UNKNOWN if pair is None else pair for pair in row] for row in pairs]
    return np.array(known, dtype=float).reshape(len(pairs), -1, 2)


def _each(fronts: Sequence[Front]) -> Iterator[Front]:
    for front in fronts:
        yield front
        if front.uniform is not None and front.uniform.report_accuracy is not None:
            yield front.uniform


def _scores(front: Front) -> NDArray[np.float64]:
    assert front.report_accuracy is not None
    return front.report_accuracy


def _value(found: tuple[Front, int] | None, name: str, unknown: Any) -> Any:
    values = None if found is None else getattr(found[0], name)
    return unknown if found is None or values is None else values[found[1]]


def _codes(front: Front) -> list[Codes]:
    return [tuple(row) for row in front.num_bits.tolist()]


def _row(front: Front, codes: Codes) -> int | None:
    rows = np.flatnonzero((front.num_bits == codes).all(axis=1))
    return int(rows[0]) if len(rows) else None
