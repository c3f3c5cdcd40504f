"""The trade-off between the score and its costs: what a search answers with.

Shape letters: K front members, L quantization points, C costs, N candidates.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import moocore
import numpy as np
import numpy.typing as npt

from qexplore.errors import FrontError, FrontFileError
from qexplore.front import checks, file, text

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

_ROW_FIELDS = ("num_bits", "accuracy", "costs", "interval", "report_accuracy", "report_interval")


@dataclass(frozen=True)
class FrontPoint:
    """One member of a front: its widths in order (0 is off) and by point name, its scores and its costs by name.

    Intervals are (low, high) at 95 %. An interval or a report accuracy that is not known is None.
    """

    index: int
    num_bits: tuple[int, ...]
    accuracy: float
    costs: dict[str, float] = field(hash=False)
    widths: dict[str, int] = field(hash=False, repr=False)
    interval: tuple[float, float] | None = None
    report_accuracy: float | None = None
    report_interval: tuple[float, float] | None = None
    metric_name: str = field(default="accuracy", repr=False)

    @property
    def total_bits(self) -> float:
        """Total bits of this point. FrontError when "total_bits" is none of the costs."""
        _require_total_bits("FrontPoint.total_bits", tuple(self.costs))
        return self.costs["total_bits"]

    def __str__(self) -> str:
        return text.point_line(self)


@dataclass(frozen=True)
class BitsSaved:
    """Bits that `point` needs less than `other_point` at no less accuracy; `share` is of `other_point`'s bits."""

    saved: float
    share: float
    point: FrontPoint
    other_point: FrontPoint


@dataclass(frozen=True, eq=False)
class Front:
    """Frozen arrays of candidates with their scores and costs. An empty front (K = 0) is an answer, not an error.

    The constructor takes any rows; `from_candidates` keeps the feasible, non-dominated ones. Arrays are copied and
    read-only. Wrong shapes, types, infinite numbers and NaN outside the places named below raise FrontError.
    """

    num_bits: IntArray  # [K, L] widths, 0 is off
    accuracy: FloatArray  # [K] score on the search set, in the user's direction
    costs: FloatArray  # [K, C]
    point_names: tuple[str, ...]  # L names
    cost_names: tuple[str, ...] = ("total_bits",)  # C names
    metric_name: str = "accuracy"
    higher_is_better: bool = True
    interval: FloatArray | None = None  # [K, 2] 95 % interval of accuracy, NaN where unknown
    report_accuracy: FloatArray | None = None  # [K] on the report set, NaN where unknown
    report_interval: FloatArray | None = None  # [K, 2] NaN where unknown
    min_accuracy: float | None = None  # the worst acceptable score: the largest one when lower is better
    float_accuracy: float | None = None  # the float network, on the search set
    verified: bool = False  # every row was re-evaluated by the direct evaluator

    def __post_init__(self) -> None:
        for name in ("point_names", "cost_names"):
            self._set(name, checks.checked_names(name, getattr(self, name)))
        for name, wanted in (("metric_name", str), ("higher_is_better", bool), ("verified", bool)):
            if not isinstance(getattr(self, name), wanted):
                raise FrontError(f"Front: {name} must be a {wanted.__name__}, got {getattr(self, name)!r}.")
        for name in ("min_accuracy", "float_accuracy"):
            self._set(name, checks.checked_score(name, getattr(self, name)))
        num_points, num_costs = len(self.point_names), len(self.cost_names)
        self._set("num_bits", checks.checked_array("num_bits", self.num_bits, (None, num_points), kinds="iu"))
        if (self.num_bits < 0).any():
            raise FrontError(f"Front: num_bits must be 0 (off) or more, got {self.num_bits.min()}.")
        rows = len(self.num_bits)
        self._set("accuracy", checks.checked_array("accuracy", self.accuracy, (rows,)))
        self._set("costs", checks.checked_array("costs", self.costs, (rows, num_costs)))
        for name in ("interval", "report_interval"):
            self._set(name, checks.checked_interval(name, getattr(self, name), rows))
        if self.report_accuracy is not None:
            known = checks.checked_array("report_accuracy", self.report_accuracy, (rows,), unknown_allowed=True)
            self._set("report_accuracy", known)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen for everyone but its own constructor

    @classmethod
    def from_candidates(
        cls, *, num_bits: Any, accuracy: Any, costs: Any, point_names: Sequence[str], **fields: Any
    ) -> Front:
        """The front of N candidates, given as the constructor's fields with N rows.

        Keeps rows whose accuracy meets `min_accuracy` and which no other such row dominates; of rows with the same
        accuracy and costs, the first. Sorted by the first cost. Dominance is moocore's. FrontError as the constructor.
        """
        everything = cls(num_bits=num_bits, accuracy=accuracy, costs=costs, point_names=tuple(point_names), **fields)
        feasible = everything._rows(everything._meets(everything.min_accuracy))
        kept = feasible._rows(feasible._nondominated())
        return kept._rows(np.lexsort(kept.costs.T[::-1]))

    def __len__(self) -> int:
        return len(self.accuracy)

    def __iter__(self) -> Iterator[FrontPoint]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> FrontPoint:
        """Point by position, from the end when negative. IndexError outside the front."""
        wanted = operator.index(index)
        row = wanted + len(self) if wanted < 0 else wanted
        if not 0 <= row < len(self):
            holds = f"has the points 0 to {len(self) - 1}" if len(self) else "is empty"
            raise IndexError(f"Front: no point {wanted}, this front {holds}.")
        widths = tuple(int(width) for width in self.num_bits[row])
        return FrontPoint(
            index=row,
            num_bits=widths,
            accuracy=float(self.accuracy[row]),
            costs=dict(zip(self.cost_names, self.costs[row].tolist(), strict=True)),
            widths=dict(zip(self.point_names, widths, strict=True)),
            interval=_known_pair(self.interval, row),
            report_accuracy=_known_number(self.report_accuracy, row),
            report_interval=_known_pair(self.report_interval, row),
            metric_name=self.metric_name,
        )

    @property
    def total_bits(self) -> FloatArray:
        """Total bits [K], read-only. FrontError when "total_bits" is none of the costs."""
        _require_total_bits("Front.total_bits", self.cost_names)
        return self.costs[:, self.cost_names.index("total_bits")]

    def cheapest(self, min_accuracy: float | None = None) -> FrontPoint:
        """The point of the lowest first cost among those that meet `min_accuracy`; the most accurate of equals.

        FrontError when the front is empty or no point meets it; the sentence names the best that there is.
        """
        best = self.most_accurate()
        rows = np.flatnonzero(self._meets(min_accuracy))
        if not rows.size:
            raise FrontError(
                f"Front.cheapest: no point meets min_accuracy={min_accuracy}; the best that this front offers is "
                f"{self.metric_name} {best.accuracy} (point {best.index}). Ask for less, or explore with wider limits."
            )
        return self[rows[np.lexsort((-self._gain[rows], self.costs[rows, 0]))[0]]]

    def most_accurate(self, max_total_bits: float | None = None) -> FrontPoint:
        """The point of the best accuracy among those of at most `max_total_bits`; the cheapest of equals.

        FrontError when the front is empty or every point needs more bits; the sentence names the fewest.
        """
        if not len(self):
            raise FrontError(f"Front: there is no point to pick. {text.why_empty(self)}")
        rows = np.arange(len(self)) if max_total_bits is None else np.flatnonzero(self.total_bits <= max_total_bits)
        if not rows.size:
            fewest = self.total_bits.argmin()
            raise FrontError(
                f"Front.most_accurate: no point has max_total_bits={max_total_bits} or less; the fewest that this "
                f"front offers is {self.total_bits[fewest]:g} bits (point {fewest}). Allow more bits."
            )
        return self[rows[np.lexsort((self.costs[rows, 0], -self._gain[rows]))[0]]]

    def knee(self) -> FrontPoint:
        """The point where more bits begin to buy little: the farthest beyond the line between the front's two ends.

        Ends are `cheapest()` and `most_accurate()`; both axes (accuracy, first cost) are scaled to [0, 1] between
        them; of equals the cheapest. Where no point lies beyond the line (one or two points, a front that bulges
        inward) it is `most_accurate()`. FrontError when the front is empty.
        Source: I. Das, "On characterizing the 'knee' of the Pareto curve based on Normal-Boundary Intersection",
        Structural Optimization 18, 1999.
        """
        first, last = self.cheapest().index, self.most_accurate().index
        spread = self.costs[last, 0] - self.costs[first, 0]
        gained = self._gain[last] - self._gain[first]
        if spread <= 0 or gained <= 0:
            return self[last]
        beyond = (self._gain - self._gain[first]) / gained - (self.costs[:, 0] - self.costs[first, 0]) / spread
        # Rounding leaves about 1e-16 on points that lie exactly on the line; those are no knee.
        beyond = beyond.round(12)
        rows = np.flatnonzero(beyond == beyond.max())
        return self[rows[self.costs[rows, 0].argmin()]] if beyond.max() > 0 else self[last]

    def hypervolume(self, reference_point: Sequence[float]) -> float:
        """What this front dominates up to `reference_point` = (accuracy, cost of each), in metric times cost units.

        Points that do not strictly beat it in every value count nothing; an empty front has 0. Computed by moocore.
        FrontError when the reference point is not 1 + C finite numbers.
        """
        reference = checks.checked_reference_point(reference_point, self.cost_names)
        direction = np.ones_like(reference)
        direction[0] = -1.0 if self.higher_is_better else 1.0
        return float(moocore.hypervolume(self._minimised, ref=reference * direction))

    def bits_saved(self, other: Front) -> tuple[BitsSaved, ...]:
        """Total bits saved against points of `other`, usually the uniform widths, at no less accuracy.

        Each point of `other` is compared with the cheapest point of this front that is at least as accurate; in the
        order of `other`, where bits are saved. Points that do not meet this front's `min_accuracy`, or that `other`
        itself beats, are no baseline: leaving one for the next uniform width is no merit of a search. FrontError when
        the two fronts hold different metrics.
        """
        if other.higher_is_better != self.higher_is_better or other.metric_name != self.metric_name:
            raise FrontError(
                f"Front.bits_saved: both fronts must hold the same metric in the same direction, got "
                f"{self.metric_name!r} and {other.metric_name!r}. Compare fronts of one problem."
            )
        baseline = other._nondominated() & other._meets(self.min_accuracy)
        savings = (self._saving(other[int(row)]) for row in np.flatnonzero(baseline))
        return tuple(saving for saving in savings if saving is not None)

    def _saving(self, other_point: FrontPoint) -> BitsSaved | None:
        matches = np.flatnonzero(self._meets(other_point.accuracy))
        if not matches.size:
            return None
        point = self[int(matches[self.total_bits[matches].argmin()])]
        saved = other_point.total_bits - point.total_bits
        return BitsSaved(saved, saved / other_point.total_bits, point, other_point) if saved > 0 else None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write this front as JSON, all or nothing; makes the folder of `path`, but not that folder's parents."""
        file.write_text(path, file.to_json(self))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Front:
        """The front that `save` wrote, equal to the last bit. FrontFileError when the file is no readable front."""
        fields = file.read_fields(path)
        try:
            return cls(**fields)
        except FrontError as error:
            raise FrontFileError(f"Front file {os.fspath(path)!r} is damaged. {error} Save the front again.") from error

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """The front as CSV text, one line a point and one column for each point name; also written to `path`."""
        written = file.to_csv(self)
        if path is not None:
            file.write_text(path, written)
        return written

    def table(self) -> str:
        """The front as an aligned text table, about 100 columns wide; "mean bits" is over quantizers that are on."""
        return text.to_table(self)

    def __str__(self) -> str:
        return self.table()

    @property
    def _gain(self) -> FloatArray:
        return self.accuracy if self.higher_is_better else -self.accuracy

    @property
    def _minimised(self) -> FloatArray:
        return np.column_stack([-self._gain, self.costs])

    def _nondominated(self) -> npt.NDArray[np.bool_]:
        return np.asarray(moocore.is_nondominated(self._minimised), dtype=bool)

    def _meets(self, bound: float | None) -> npt.NDArray[np.bool_]:
        if bound is None:
            return np.ones(len(self), dtype=bool)
        return self.accuracy >= bound if self.higher_is_better else self.accuracy <= bound

    def _rows(self, rows: npt.NDArray[Any]) -> Front:
        parts = {name: getattr(self, name) for name in _ROW_FIELDS}
        return replace(self, **{name: part[rows] for name, part in parts.items() if part is not None})


def _require_total_bits(owner: str, cost_names: tuple[str, ...]) -> None:
    if "total_bits" not in cost_names:
        raise FrontError(f"{owner}: the costs must hold 'total_bits', got {list(cost_names)}. Read costs by name.")


def _known_number(values: FloatArray | None, row: int) -> float | None:
    return None if values is None or np.isnan(values[row]) else float(values[row])


def _known_pair(pairs: FloatArray | None, row: int) -> tuple[float, float] | None:
    return None if pairs is None or np.isnan(pairs[row, 0]) else (float(pairs[row, 0]), float(pairs[row, 1]))
