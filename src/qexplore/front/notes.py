"""What a front itself says of how far it can be trusted.

Shape letters: K front members.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qexplore._table import counted
from qexplore.front.words import difference_text, score_text

if TYPE_CHECKING:
    from qexplore.front.front import Front


def optimism_gap(front: Front) -> float | None:
    """As `Exploration.optimism_gap`: mean over the points that are known; None where none is."""
    change, floats = front.report_change, front.float_accuracy
    if change is None or floats is None:
        return None
    gaps = front.gain(front.accuracy - floats - change)
    known = gaps[~np.isnan(gaps)]
    return float(known.mean()) if len(known) else None


def num_report_violations(front: Front) -> int | None:
    """Points that miss the minimum of some metric on the report set; None without one."""
    accuracy, further = front.report_accuracy, front.report_further_scores
    return None if accuracy is None else int((~front.meets_minima(accuracy, further)).sum())


def missing_words(violations: int, num_points: int) -> str:
    """How many of a front's points miss something."""
    return f"{violations} of {counted(num_points, 'point')} {'misses' if 1 in (violations, num_points) else 'miss'}"


def float_misses(front: Front) -> str:
    """Words for a minimum that no width is to blame for missing: the report set is that much harder."""
    floats = front.report_float_accuracy
    if floats is None or front.further or front.meets(np.array([floats]), front.min_accuracy).all():
        return ""
    return f" (so does the float network, with {score_text(floats)})"


def front_notes(front: Front, optimism_interval: tuple[float, float] | None = None) -> tuple[str, ...]:
    """Sentences for its reader: that it is not verified, and what the report set says of the search set's scores."""
    told, violations, gap = [], num_report_violations(front), optimism_gap(front)
    if len(front) and not front.verified:
        told.append("The front is not verified: its points were not all measured again by the direct evaluator.")
    if violations:
        told.append(f"{missing_words(violations, len(front))} a minimum on the report set{float_misses(front)}.")
    if gap is not None:
        by = difference_text(gap, optimism_interval)
        told.append(f"Counted from float, the front looks better on the search set than on the report set by {by}.")
    return tuple(told)
