"""What the page shows of a front: its candidates, their scores and costs, what it saves.

Shape letters: K front members, U uniform candidates, N candidates, L quantization points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qexplore._choices import choice_name, stored_bits
from qexplore._coverage import Coverage, percent
from qexplore._coverage import amount_text as count_text
from qexplore.front import (
    OFF,
    BitsSaved,
    Front,
    FurtherMetric,
    by_stored_bits,
    claim_words,
    cost_text,
    score_text,
    uniform_labels,
)
from qexplore.report._page_record import CandidatesRecord, ChoiceRecord, CostColumn, Facts, ScoreColumn
from qexplore.report._wording import amount_text, cost_axis, cost_unit, cost_words
from qexplore.report.num_bits import level_colours

Parts = Mapping[str, tuple[Mapping[int, float], ...]]


@dataclass(frozen=True, eq=False)
class Measured:
    """Candidates beside the front and the uniform ones: codes [M, L], scores [M], costs [M, C]."""

    num_bits: NDArray[np.int64]
    score: NDArray[np.float64]
    costs: NDArray[np.float64]

    @classmethod
    def none(cls, front: Front) -> Measured:
        """No candidate."""
        widths, costs = len(front.point_names), len(front.cost_names)
        return cls(np.zeros((0, widths), dtype=np.int64), np.zeros(0), np.zeros((0, costs)))


def candidates_record(front: Front, uniform: Front | None, measured: Measured) -> CandidatesRecord:
    """The front's points, the uniform candidates, and what else was measured."""
    labels = [] if uniform is None else uniform_labels(uniform.num_bits)
    fixed = np.zeros((0, len(front.point_names)), dtype=np.int64) if uniform is None else uniform.num_bits
    count = len(measured.score)
    return CandidatesRecord(
        kinds=("front",) * len(front) + ("uniform",) * len(labels) + ("measured",) * count,
        labels=(*(f"point {index}" for index in range(len(front))), *labels, *("measured",) * count),
        num_bits=tuple(map(tuple, np.concatenate([front.num_bits, fixed, measured.num_bits]).tolist())),
    )


def score_columns(front: Front, uniform: Front | None, measured: Measured) -> tuple[ScoreColumn, ...]:
    """Every metric on every set where it is known, the search's own first."""
    first = FurtherMetric(front.metric_name, front.higher_is_better, front.min_accuracy, front.float_accuracy)
    fronts = [front, *([] if uniform is None else [uniform])]
    rest = len(measured.score)
    columns = [
        _column(first, "search set", [one.accuracy for one in fronts], [one.interval for one in fronts], measured.score)
    ]
    if front.report_accuracy is not None:
        on_report = FurtherMetric(
            front.metric_name, front.higher_is_better, front.min_accuracy, front.report_float_accuracy
        )
        scores, intervals = [one.report_accuracy for one in fronts], [one.report_interval for one in fronts]
        columns.append(_column(on_report, "report set", _known(scores, fronts), intervals, np.full(rest, np.nan)))
    for field, set_name in (("further_scores", "search set"), ("report_further_scores", "report set")):
        known = [getattr(one, field) for one in fronts]
        for place, metric in enumerate(front.further if known[0] is not None else ()):
            told = [None if one is None else one[:, place] for one in known]
            columns.append(_column(metric, set_name, _known(told, fronts), [None] * len(fronts), np.full(rest, np.nan)))
    return tuple(columns)


def _known(scores: Sequence[NDArray[np.float64] | None], fronts: Sequence[Front]) -> list[NDArray[np.float64]]:
    return [np.full(len(one), np.nan) if row is None else row for row, one in zip(scores, fronts, strict=True)]


def _column(
    metric: FurtherMetric,
    set_name: str,
    scores: Sequence[NDArray[np.float64]],
    intervals: Sequence[NDArray[np.float64] | None],
    rest: NDArray[np.float64],
) -> ScoreColumn:
    pairs = [
        np.full((len(row), 2), np.nan) if ends is None else ends for row, ends in zip(scores, intervals, strict=True)
    ]
    told = np.concatenate([*pairs, np.full((len(rest), 2), np.nan)])
    return ScoreColumn(
        name=metric.name,
        set_name=set_name,
        higher_is_better=metric.higher_is_better,
        values=tuple(map(number, np.concatenate([*scores, rest]).tolist())),
        intervals=tuple(None if math.isnan(low) else (low, high) for low, high in told.tolist()),
        float_score=metric.float_accuracy,
        min_score=metric.min_accuracy,
    )


def number(value: float) -> float | None:
    """``value`` where it is one, None for NaN and infinities, which JSON has not."""
    return value if math.isfinite(value) else None


def cost_columns(front: Front, uniform: Front | None, measured: Measured, parts: Parts) -> tuple[CostColumn, ...]:
    """Every cost, with what each choice adds at each point where ``parts`` or the codes alone tell it."""
    tables = [front.costs, *([] if uniform is None else [uniform.costs]), measured.costs]
    values = np.concatenate(tables).T.tolist()
    return tuple(
        CostColumn(
            name=name,
            words=cost_words(name),
            axis=cost_axis(name),
            unit=cost_unit(name),
            values=tuple(column),
            parts=parts.get(name),
        )
        for name, column in zip(front.cost_names, values, strict=True)
    )


def choice_records(*codes: Any) -> tuple[ChoiceRecord, ...]:
    """The choices among all ``codes``, from few stored bits to many, off last."""
    levels = by_stored_bits({int(code) for some in codes for code in np.unique(some)})
    bits = stored_bits(np.array(levels, dtype=np.int64)).tolist()
    shades = level_colours(levels)
    return tuple(
        ChoiceRecord(code, choice_name(code), size, "#" + "".join(f"{round(255 * part):02x}" for part in shade[:3]))
        for code, size, shade in zip(levels, bits, shades, strict=True)
    )


def saving_lines(front: Front, uniform: Front | None) -> tuple[str, Facts]:
    """What is kept, and what is saved of each cost against each uniform width."""
    if uniform is None or not len(front):
        return "", ()
    labels = uniform_labels(uniform.num_bits)
    lines = [
        (
            name,
            f"{_saved(one, name)} less than {labels[one.other_point.index]}, by point {one.point.index}, {one.change}",
        )
        for name in front.cost_names
        for one in front.bits_saved(uniform, name)
        if labels[one.other_point.index] != OFF
    ]
    return claim_words(front), tuple(lines)


def _saved(one: BitsSaved, cost: str) -> str:
    return f"{amount_text(one.saved)} {cost_words(cost)} ({one.share:.0%})"


def front_facts(front: Front) -> Facts:
    """What a front says of itself."""
    facts = [("points of the front", f"{len(front)}{', verified' if front.verified else ', not verified'}")]
    facts += [("metric", f"{front.metric_name} ({front.better} is better)")]
    facts += [] if front.float_accuracy is None else [("float network", score_text(front.float_accuracy))]
    facts += [] if front.min_accuracy is None else [("min_accuracy", score_text(front.min_accuracy))]
    if len(front):
        best, least = front.most_accurate(), front.cheapest()
        facts += [
            (f"best {front.metric_name}", f"{score_text(best.accuracy)} (point {best.index})"),
            (
                f"least {cost_words(front.cost_names[0])}",
                f"{cost_text(least.costs[front.cost_names[0]])} (point {least.index})",
            ),
        ]
    facts += [] if not front.arithmetic else [("arithmetic", front.arithmetic)]
    if front.fingerprint is not None:
        facts += [("network", front.fingerprint.network), ("weights", front.fingerprint.weights)]
    return tuple(facts)


def coverage_facts(coverage: Coverage | None) -> tuple[tuple[str, Facts], ...]:
    """Which share of the network is at points, kind by kind, and what stays float; nothing where it is not known."""
    if coverage is None:
        return ()
    shares = [
        (words, f"{percent(one)} ({count_text(one.quantized)} of {count_text(one.total)})", one.float_text)
        for words, one in coverage.shares.items()
    ]
    told = [(words, f"{share}; left float: {left}" if left else share) for words, share, left in shares]
    further = ("points off", coverage.may_be_off), ("not counted", coverage.not_counted)
    return ((coverage.title.capitalize(), (*told, *((words, text) for words, text in further if text))),)


def row_fields(front: Front) -> tuple[str, ...]:
    """The names of the fields with a row for each point."""
    return tuple(one.name for one in fields(front) if isinstance(getattr(front, one.name), np.ndarray))
