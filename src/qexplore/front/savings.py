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
    on_report = _on_report(front, other, places)
    scores, known = (_stated(one, on_report) for one in (front, other))
    usable = _usable(front, other, known)
    better = front.gain(known) >= front.gain(scores)[:, None]
    beaten = (usable & better & (other.cost(name) <= front.cost(name)[:, None])).any(axis=1)
    searched = _is_searched(front, places) & ~beaten
    for row in _baselines(front, other, name, usable, places if on_report else None):
        intervals = _from_uniform(front, int(places[row])) if on_report and places is not None else None
        matches = np.flatnonzero(searched & _as_good(front, other, row, intervals))
        if not matches.size:
            continue
        best = int(matches[front.cost(name)[matches].argmin()])
        before = float(other.cost(name)[row])
        saved = before - float(front.cost(name)[best])
        if saved > 0:
            yield BitsSaved(
                saved,
                saved / before if before else math.nan,
                front[best],
                other[row],
                name,
                difference=float(scores[best] - known[row]),
                interval=None if intervals is None else pair(intervals[best]),
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
    """Which of the front's uniform candidates each row of ``other`` is, [N]; None unless all are."""
    if front.uniform is None or not len(other):
        return None
    same = (other.num_bits[:, None] == front.uniform.num_bits[None]).all(axis=2)
    return same.argmax(axis=1) if same.any(axis=1).all() else None


def _on_report(front: FrontArrays, other: FrontArrays, places: npt.NDArray[np.int64] | None) -> bool:
    """Whether a claim is on the report set: only the front's uniform candidates were compared there by sample."""
    uniform = front.uniform
    known = uniform is not None and uniform.report_accuracy is not None and other.report_accuracy is not None
    return places is not None and front.is_reported and known


def _is_searched(front: FrontArrays, places: npt.NDArray[np.int64] | None) -> Mask:
    """Which members a search alone could find, [K]: against uniform candidates none that is uniform itself."""
    if places is None or front.uniform is None:
        return np.ones(len(front), dtype=bool)
    rows = front.uniform.num_bits
    varied = np.ptp(rows, axis=0) > 0  # pinned points are no part of what is uniform
    widths = front.num_bits[:, varied] if varied.any() else front.num_bits
    known = (front.num_bits[:, None] == rows[None]).all(axis=2).any(axis=1)
    searched: Mask = ~(known | (widths == widths[:, :1]).all(axis=1))
    return searched


def _stated(front: FrontArrays, on_report: bool) -> FloatArray:
    """The scores that claims are of."""
    return front.report_accuracy if on_report and front.report_accuracy is not None else front.accuracy


def _usable(front: Front, other: Front, scores: FloatArray) -> Mask:
    """Which rows of ``other`` are what the front's own members have to be: known, within minima and limits."""
    kept: Mask = ~np.isnan(scores) & front.meets(other.accuracy, front.min_accuracy)
    kept &= other.meets_minima(other.accuracy, other.further_scores)
    return kept if other.broken_limits is None else kept & (other.broken_limits == "")


def _baselines(
    front: Front, other: Front, name: str, usable: Mask, places: npt.NDArray[np.int64] | None
) -> Iterator[int]:
    """Which rows of ``other`` are worth a comparison; ``places`` where that is on the report set.

    One that a cheaper row replaces by the rule for members is none: going down to that row is no merit of a search.
    """
    scores, cost, best = _stated(other, places is not None), other.cost(name), usable.copy()
    best[usable] &= picking.nondominated(np.column_stack([-other.gain(scores), cost])[usable])
    between = None if places is None or front.uniform is None else front.uniform.report_between
    for row in np.flatnonzero(best).tolist():
        cheaper = usable & (cost < cost[row])
        if between is None or places is None:
            yield row  # by the scores alone, which `best` has looked at
        elif not (cheaper & _is_no_worse(front, scores - scores[row], between[places, places[row]])).any():
            yield row


def _as_good(front: Front, other: Front, row: int, intervals: FloatArray | None) -> Mask:
    """Which members are at least as good as a row of ``other``, [K], see `Front.bits_saved`."""
    as_good: Mask = front.meets(front.accuracy, other.accuracy[row])
    if intervals is None or front.report_accuracy is None or other.report_accuracy is None:
        return as_good
    return as_good & _is_no_worse(front, front.report_accuracy - other.report_accuracy[row], intervals)


def _is_no_worse(front: FrontArrays, difference: FloatArray, intervals: FloatArray) -> Mask:
    """Where a difference of scores is not significantly a loss; the difference itself where no interval is known."""
    best = front.gain(intervals).max(axis=-1)
    kept: Mask = ~np.isnan(difference) & (np.where(np.isnan(best), front.gain(difference), best) >= 0)
    return kept


def _from_uniform(front: FrontArrays, place: int) -> FloatArray:
    unknown = np.full((len(front), 2), math.nan)
    return unknown if front.report_from_uniform is None else front.report_from_uniform[:, place]
