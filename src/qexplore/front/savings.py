"""What a front saves against other candidates, and on which set that is so.

Shape letters: K front members, N candidates compared with, U uniform candidates of the front.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from qexplore.front import picking
from qexplore.front.arrays import FloatArray, FrontArrays
from qexplore.front.point import BitsSaved

if TYPE_CHECKING:
    from qexplore.front.front import Front

Mask = npt.NDArray[np.bool_]


def bits_saved(front: Front, other: Front, name: str) -> Iterator[BitsSaved]:
    """As `Front.bits_saved`, of the cost ``name`` that both have."""
    places = _places(front, other)
    on_report = places is not None
    for row in np.flatnonzero(_baseline(front, other, name, on_report)):
        place = None if places is None else int(places[row])
        matches = np.flatnonzero(_as_good(front, other, int(row), place))
        if not matches.size:
            continue
        best = int(matches[front.cost(name)[matches].argmin()])
        before = float(other.cost(name)[row])
        saved = before - float(front.cost(name)[best])
        if saved > 0:
            scores = [one.report_accuracy if on_report else one.accuracy for one in (front, other)]
            yield BitsSaved(
                saved,
                saved / before if before else math.nan,
                front[best],
                other[int(row)],
                name,
                difference=float(scores[0][best] - scores[1][row]),  # type: ignore[index]
                interval=None if place is None else pair(_from_uniform(front, place)[best]),
                on_report_set=on_report,
            )


def claim_words(front: FrontArrays) -> str:
    """What a saving against the front's own uniform candidates keeps, and on which set."""
    worse = f"{'lower' if front.better == 'higher' else 'higher'} {front.metric_name}"
    if not front.is_reported or front.uniform is None or front.uniform.report_accuracy is None:
        return f"at no {worse} on the search set, which chose the points"
    if front.report_from_uniform is None or np.isnan(front.report_from_uniform).all():
        return f"at no {worse} on the report set (no interval known)"
    return f"at no significantly {worse} on the report set (95 %, paired)"


def pair(ends: FloatArray) -> tuple[float, float] | None:
    """An interval's (low, high); None where it is not known."""
    return None if np.isnan(ends[0]) else (float(ends[0]), float(ends[1]))


def _places(front: FrontArrays, other: FrontArrays) -> npt.NDArray[np.int64] | None:
    """Which of the front's uniform candidates each row of ``other`` is, [N]; None unless all were measured on its set.

    Only these were compared with the front sample by sample.
    """
    uniform = front.uniform
    if not front.is_reported or uniform is None or uniform.report_accuracy is None or not len(other):
        return None
    same = (other.num_bits[:, None] == uniform.num_bits[None]).all(axis=2)
    return same.argmax(axis=1) if same.any(axis=1).all() and other.report_accuracy is not None else None


def _baseline(front: Front, other: Front, name: str, on_report: bool) -> Mask:
    """Which rows of ``other`` are worth a comparison, [N]."""
    scores = other.report_accuracy if on_report and other.report_accuracy is not None else other.accuracy
    known = ~np.isnan(scores)
    kept: Mask = known & front.meets(other.accuracy, front.min_accuracy)
    kept[known] &= picking.nondominated(np.column_stack([-other.gain(scores), other.cost(name)])[known])
    return kept


def _as_good(front: Front, other: Front, row: int, place: int | None) -> Mask:
    """Which members are at least as good as a row of ``other``, [K], see `Front.bits_saved`."""
    as_good: Mask = front.meets(front.accuracy, other.accuracy[row])
    if place is None or front.report_accuracy is None or other.report_accuracy is None:
        return as_good
    difference = front.gain(front.report_accuracy - other.report_accuracy[row])
    best = front.gain(_from_uniform(front, place)).max(axis=1)
    kept: Mask = as_good & ~np.isnan(difference) & (np.where(np.isnan(best), difference, best) >= 0)
    return kept


def _from_uniform(front: FrontArrays, place: int) -> FloatArray:
    unknown = np.full((len(front), 2), math.nan)
    return unknown if front.report_from_uniform is None else front.report_from_uniform[:, place]
