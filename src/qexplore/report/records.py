"""What the pictures show, as immutable records: everything is decided here, the drawings only draw.

Shape letters: K front members, L quantization points, N uniform widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from qexplore.errors import FrontError
from qexplore.front import Front, FrontPoint
from qexplore.front.text import cost_text

Interval = tuple[float, float]

# Uniform widths that score worse than the rest of the picture by more than this share of its height are left out: one
# at chance level, 10 % beside a front from 88 to 93 %, would press everything else into a line.
_UNIFORM_REACH = 0.75
_MOST_SAVINGS = 3  # what one line above the picture holds
_MARGIN = 0.06  # of the height of the picture, above and below what is in it


class SnapshotLike(Protocol):
    """What a picture reads from a moment of a search."""

    @property
    def num_passes(self) -> float:
        """Full passes over the search set so far."""

    @property
    def hypervolume(self) -> float:
        """Hypervolume of the front at that moment."""


class ExplorationLike(Protocol):
    """What the pictures read from an exploration."""

    @property
    def front(self) -> Front:
        """The answer."""

    @property
    def uniform(self) -> Front:
        """All uniform widths that were evaluated, by total bits; neither feasible nor non-dominated by need."""

    @property
    def float_accuracy(self) -> float:
        """Score of the float network on the search set."""

    @property
    def history(self) -> Sequence[SnapshotLike]:
        """Snapshots in order of time."""

    @property
    def reference_point(self) -> tuple[float, ...]:
        """(accuracy, each cost)."""


@dataclass(frozen=True)
class UniformRecord:
    """One uniform width in the picture; `shown` is False where it scores too far below the rest."""

    label: str
    total_bits: float
    accuracy: float
    interval: Interval | None
    shown: bool


@dataclass(frozen=True)
class SavingRecord:
    """Bits saved at no less accuracy, as "17 (57%) against 6 bit", and (total bits, accuracy) of both points."""

    text: str
    uniform: tuple[float, float]
    front: tuple[float, float]


@dataclass(frozen=True)
class ParetoFrontRecord:
    """The front over total bits (K values each), the uniform widths beside it, and the lines of reference.

    `connected` says whether the members form one line: with a second cost they need not. `accuracy_limits` are the
    lower and upper end of the vertical axis, `float_accuracy` and `min_accuracy` are None where not known.
    """

    metric_name: str
    higher_is_better: bool
    total_bits: tuple[float, ...]
    accuracy: tuple[float, ...]
    intervals: tuple[Interval | None, ...]
    report_accuracy: tuple[float | None, ...]
    connected: bool
    verified: bool
    uniform: tuple[UniformRecord, ...]
    float_accuracy: float | None
    min_accuracy: float | None
    knee: tuple[float, float]
    savings: tuple[SavingRecord, ...]
    accuracy_limits: Interval


@dataclass(frozen=True)
class NumBitsRecord:
    """Widths as a picture, `num_bits[l][k]`: L rows in the order of the points, K columns from few to many bits."""

    metric_name: str
    point_names: tuple[str, ...]
    total_bits: tuple[float, ...]
    accuracy: tuple[float, ...]
    num_bits: tuple[tuple[int, ...], ...]

    @property
    def levels(self) -> tuple[int, ...]:
        """The widths of the colour scale, without gaps, upwards; 0 (off) last, because off is the most precise."""
        present = {width for row in self.num_bits for width in row}
        on = present - {0}
        widths = tuple(range(min(on), max(on) + 1)) if on else ()
        return widths + ((0,) if 0 in present else ())


@dataclass(frozen=True)
class HypervolumeRecord:
    """Hypervolume over the evaluations it took; `reference_point` names each value, as in (("accuracy", 0.88), ...)."""

    metric_name: str
    num_evaluations: tuple[float, ...]
    hypervolume: tuple[float, ...]
    reference_point: tuple[tuple[str, float], ...]


def pareto_front_record(source: ExplorationLike | Front) -> ParetoFrontRecord:
    """The record of a front, with the uniform widths beside it when `source` is an exploration.

    FrontError when the front is empty or has no total bits.
    """
    owner = "plot_pareto_front"
    front = _drawable_front(owner, source)
    points = _by_total_bits(front)
    float_accuracy = front.float_accuracy if isinstance(source, Front) else source.float_accuracy
    references = [value for value in (float_accuracy, front.min_accuracy) if value is not None]
    low, high = _extent(points, references)
    uniform = () if isinstance(source, Front) else _uniform_records(source.uniform, low, high)
    shown = [value for one in uniform if one.shown for value in (one.accuracy, *(one.interval or ()))]
    low, high = min([low, *shown]), max([high, *shown])
    margin = _MARGIN * (high - low)
    knee = front.knee()
    return ParetoFrontRecord(
        metric_name=front.metric_name,
        higher_is_better=front.higher_is_better,
        total_bits=tuple(point.total_bits for point in points),
        accuracy=tuple(point.accuracy for point in points),
        intervals=tuple(point.interval for point in points),
        report_accuracy=tuple(point.report_accuracy for point in points),
        connected=len(front.cost_names) == 1,
        verified=front.verified,
        uniform=uniform,
        float_accuracy=float_accuracy,
        min_accuracy=front.min_accuracy,
        knee=(knee.total_bits, knee.accuracy),
        savings=() if isinstance(source, Front) else _savings(front, source.uniform),
        accuracy_limits=(low - margin, high + margin),
    )


def num_bits_record(source: ExplorationLike | Front) -> NumBitsRecord:
    """The record of the widths of each front member. FrontError when the front is empty or has no total bits."""
    front = _drawable_front("plot_num_bits", source)
    points = _by_total_bits(front)
    return NumBitsRecord(
        metric_name=front.metric_name,
        point_names=front.point_names,
        total_bits=tuple(point.total_bits for point in points),
        accuracy=tuple(point.accuracy for point in points),
        num_bits=tuple(zip(*(point.num_bits for point in points), strict=True)),
    )


def hypervolume_record(exploration: ExplorationLike) -> HypervolumeRecord:
    """The record of a search's progress. FrontError when its front or its history is empty."""
    owner = "plot_hypervolume"
    if isinstance(exploration, Front):
        raise FrontError(
            f"{owner}: needs an Exploration, got a Front, which has no history. Give what explore returned."
        )
    front = _drawable_front(owner, exploration)
    if not exploration.history:
        raise FrontError(f"{owner}: there is nothing to draw, the history of this exploration is empty.")
    names = (front.metric_name, *front.cost_names)
    return HypervolumeRecord(
        metric_name=front.metric_name,
        num_evaluations=tuple(snapshot.num_passes for snapshot in exploration.history),
        hypervolume=tuple(float(snapshot.hypervolume) for snapshot in exploration.history),
        reference_point=tuple(zip(names, map(float, exploration.reference_point), strict=True)),
    )


def _drawable_front(owner: str, source: ExplorationLike | Front) -> Front:
    front = source if isinstance(source, Front) else getattr(source, "front", None)
    if not isinstance(front, Front):
        raise FrontError(f"{owner}: needs an Exploration or a Front, got {type(source).__name__}.")
    if not len(front):
        reason = (
            "no candidate met min_accuracy and the other limits"
            if front.min_accuracy is not None
            else "no candidate was evaluated"
        )
        raise FrontError(f"{owner}: there is nothing to draw, the front is empty: {reason}. Print the front for more.")
    return front


def _by_total_bits(front: Front) -> list[FrontPoint]:
    return sorted(front, key=lambda point: point.total_bits)


def _extent(points: list[FrontPoint], references: list[float]) -> Interval:
    """Lowest and highest score in the picture, uniform widths apart."""
    scores = [point.accuracy for point in points] + references
    scores += [point.report_accuracy for point in points if point.report_accuracy is not None]
    scores += [end for point in points if point.interval is not None for end in point.interval]
    low, high = min(scores), max(scores)
    # A picture needs a height even when every score in it is the same.
    least = max(0.02 * abs(high), 1e-6)
    return (low, high) if high - low >= least else (low - least / 2, high + least / 2)


def _uniform_records(uniform: Front, low: float, high: float) -> tuple[UniformRecord, ...]:
    reach = _UNIFORM_REACH * (high - low)
    worst = low - reach if uniform.higher_is_better else high + reach
    return tuple(
        UniformRecord(
            label=_uniform_label(point.num_bits),
            total_bits=point.total_bits,
            accuracy=point.accuracy,
            interval=point.interval,
            shown=point.accuracy >= worst if uniform.higher_is_better else point.accuracy <= worst,
        )
        for point in _by_total_bits(uniform)
    )


def _uniform_label(num_bits: tuple[int, ...]) -> str:
    """Like "5 bit"; "4-6 bit" where points cannot all have the same width, "off" where all are off."""
    low, high = min(num_bits), max(num_bits)
    if high == 0:
        return "off"
    return f"{low} bit" if low == high else f"{low}-{high} bit"


def _savings(front: Front, uniform: Front) -> tuple[SavingRecord, ...]:
    widest_first = sorted(front.bits_saved(uniform), key=lambda saving: -saving.other_point.total_bits)
    return tuple(
        SavingRecord(
            text=f"{cost_text(one.saved)} ({one.share:.0%}) against {_uniform_label(one.other_point.num_bits)}",
            uniform=(one.other_point.total_bits, one.other_point.accuracy),
            front=(one.point.total_bits, one.point.accuracy),
        )
        for one in widest_first[:_MOST_SAVINGS]
    )
