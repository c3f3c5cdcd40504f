"""The trade-off between the score and its costs: what a search answers with.

Shape letters: K front members, L quantization points, C costs, N candidates.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, overload

import moocore
import numpy as np
import numpy.typing as npt

from qexplore._arguments import nearest_keyword
from qexplore._choices import choice_of
from qexplore._table import Framed, Rows
from qexplore.errors import FrontError, FrontFileError
from qexplore.front import checks, difference, file, picking, savings, table
from qexplore.front.arrays import FloatArray, FrontArrays
from qexplore.front.difference import FrontDifference
from qexplore.front.point import BitsSaved, FrontPoint
from qexplore.front.words import reached_text

_FIELDS = tuple(field.name for field in fields(FrontArrays))


@dataclass(frozen=True, eq=False)
class Front(Framed, FrontArrays):
    """Frozen arrays of candidates with their scores and costs. An empty front (K = 0) is an answer, not an error.

    The constructor takes any rows, as the fields of `FrontArrays`; `from_candidates` keeps the feasible, non-dominated
    ones. Arrays are copied and read-only. Wrong shapes, types, infinite numbers and NaN in places where a value has to
    be known raise FrontError.
    """

    @classmethod
    def from_candidates(
        cls, *, num_bits: Any, accuracy: Any, costs: Any, point_names: Sequence[str], **fields: Any
    ) -> Front:
        """The front of N candidates, given as the constructor's fields with N rows.

        Keeps rows whose accuracy meets `min_accuracy`, whose known further scores meet theirs, and which no other such
        row dominates; of rows with the same accuracy and costs, the first. Sorted by the first cost. Dominance is
        moocore's. FrontError as the constructor.
        """
        everything = cls(num_bits=num_bits, accuracy=accuracy, costs=costs, point_names=tuple(point_names), **fields)
        feasible = everything.rows(everything.meets_minima(everything.accuracy, everything.further_scores))
        kept = feasible.rows(picking.nondominated(feasible.minimised))
        return kept.rows(np.lexsort(kept.costs.T[::-1]))

    def __iter__(self) -> Iterator[FrontPoint]:
        return (self[index] for index in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> FrontPoint: ...

    @overload
    def __getitem__(self, index: slice) -> Front: ...

    def __getitem__(self, index: int | slice) -> FrontPoint | Front:
        """Point by position, from the end when negative; of a slice, a front of these rows. IndexError outside."""
        if isinstance(index, slice):
            return self.rows(np.arange(len(self))[index])
        wanted = operator.index(index)
        row = wanted + len(self) if wanted < 0 else wanted
        if not 0 <= row < len(self):
            holds = f"has the points 0 to {len(self) - 1}" if len(self) else "is empty"
            raise IndexError(f"Front: no point {wanted}, this front {holds}.")
        codes = tuple(int(code) for code in self.num_bits[row])
        report, floats = _known_number(self.report_accuracy, row), self.report_float_accuracy
        return FrontPoint(
            index=row,
            num_bits=codes,
            accuracy=float(self.accuracy[row]),
            costs=dict(zip(self.cost_names, self.costs[row].tolist(), strict=True)),
            widths=dict(zip(self.point_names, map(choice_of, codes), strict=True)),
            interval=_known_pair(self.interval, row),
            report_accuracy=report,
            report_interval=_known_pair(self.report_interval, row),
            report_from_float=None if report is None or floats is None else report - floats,
            report_from_float_interval=_known_pair(self.report_from_float, row),
            metric_name=self.metric_name,
            metric=self.metric,
            found_on=self.fingerprint,
            further=self._further(self.further_scores, row),
            report_further=self._further(self.report_further_scores, row),
        )

    def find(self, key: str) -> FrontPoint:
        """The point of that `FrontPoint.key`, at whatever place; FrontError when this front has no such point."""
        return self[picking.row_of(key, [point.key for point in self])]

    @property
    def total_bits(self) -> FloatArray:
        """Total bits [K], read-only. FrontError when "total_bits" is none of the costs."""
        checks.require_total_bits("Front.total_bits", self.cost_names)
        return self.costs[:, self.cost_names.index("total_bits")]

    def cost(self, name: str | None = None) -> FloatArray:
        """The cost of that name [K], read-only; without a name the first one. FrontError when there is none such."""
        return self.costs[:, self._column("Front.cost", name)]

    @nearest_keyword
    def cheapest(
        self, min_accuracy: float | None = None, cost: str | None = None, *, limits: Mapping[str, float] | None = None
    ) -> FrontPoint:
        """The point of the lowest `cost` that meets `min_accuracy` and `limits`; the most accurate of equals.

        Args:
            min_accuracy: the worst acceptable score: the largest one when lower is better.
            cost: name of a cost; the first one when None.
            limits: largest acceptable value by name of a cost.

        Raises:
            FrontError: an empty front, an unknown cost, or no point meets what is asked; the sentence names the best
                that there is.
        """
        self._require_points()
        min_accuracy = checks.checked_score("min_accuracy", min_accuracy, owner="Front.cheapest")
        column = self._column("Front.cheapest", cost)
        within = checks.rows_within("Front.cheapest", limits, self.costs, self.cost_names)
        rows = within[self.meets(self.accuracy[within], min_accuracy)]
        if not rows.size:
            best = self[within[self._gain[within].argmax()]]
            where = " within these limits" if limits else ""
            raise FrontError(
                f"Front.cheapest: no point meets min_accuracy={min_accuracy}; the best that this front offers{where} "
                f"is {self.metric_name} {reached_text(best.accuracy, self.higher_is_better)} (point "
                f"{best.index}). Ask for less, or explore with wider limits."
            )
        return self[picking.cheapest_row(self._gain[rows], self.costs[rows], column, rows)]

    @nearest_keyword
    def most_accurate(
        self, max_total_bits: float | None = None, *, limits: Mapping[str, float] | None = None
    ) -> FrontPoint:
        """The point of the best accuracy among those within `limits`; the cheapest of equals, by the first cost.

        Args:
            max_total_bits: the same as ``limits={"total_bits": max_total_bits}``; both together are the stricter one.
            limits: largest acceptable value by name of a cost.

        Raises:
            FrontError: an empty front, an unknown cost, or no point is within the limits; the sentence names the least
                that there is.
        """
        self._require_points()
        owner, wanted = "Front.most_accurate", dict(limits or {})
        if max_total_bits is not None:
            checks.require_total_bits(owner, self.cost_names)
            wanted["total_bits"] = min(max_total_bits, wanted.get("total_bits", max_total_bits))
        rows = checks.rows_within(owner, wanted, self.costs, self.cost_names)
        return self[picking.most_accurate_row(self._gain[rows], self.costs[rows], rows)]

    def knee(self) -> FrontPoint:
        """The point from which more accuracy begins to cost much.

        With one cost: the farthest beyond the line between the front's two ends, the cheapest and the most accurate
        point, both axes scaled to [0, 1] between them. Where no point lies beyond the line (one or two points, a front
        that bulges inward) the most accurate. Source: I. Das, "On characterizing the 'knee' of the Pareto curve based
        on Normal-Boundary Intersection", Structural Optimization 18, 1999.

        With several costs the hyperplane through the ends is often none, because one point is the cheapest in all of
        them. There it is the point nearest to the ideal one, which has the best accuracy and the least of every cost
        that the front holds, each axis scaled to [0, 1] over the front: the compromise solution for p = 2. Source:
        P. L. Yu, "A class of solutions for group decision problems", Management Science 19, 1973.

        A cost that is the same for all points does not count; of equals the cheapest by the first cost. FrontError when
        the front is empty.
        """
        self._require_points()
        return self[picking.knee_row(self._gain, self.costs)]

    def nondominated(self, objectives: Sequence[str] | None = None) -> npt.NDArray[np.bool_]:
        """Which rows no other row beats when only these objectives count, [K]; of equal rows the first.

        Objectives are names: the metric's or a cost's; all when None. FrontError when there is none such.
        """
        names = (self.metric_name, *self.cost_names)
        wanted = names if objectives is None else tuple(objectives)
        checks.check_known_names("Front.nondominated: objectives", wanted, names)
        return picking.nondominated(self.minimised[:, [names.index(name) for name in wanted]])

    def hypervolume(self, reference_point: Sequence[float]) -> float:
        """What this front dominates up to `reference_point` = (accuracy, cost of each), in metric times cost units.

        Points that do not strictly beat it in every value count nothing; an empty front has 0. Computed by moocore.
        FrontError when the reference point is not 1 + C finite numbers.
        """
        reference = checks.checked_reference_point(reference_point, self.cost_names)
        minimised = [-self.gain(reference[0]), *reference[1:]]
        return float(moocore.hypervolume(self.minimised, ref=np.array(minimised)))

    @nearest_keyword
    def bits_saved(self, other: Front | None = None, cost: str | None = None) -> tuple[BitsSaved, ...]:
        """What is saved of a cost against points of `other`, the front's own `uniform` when None.

        Each point of `other` is compared with the cheapest point of this front that is as good, in the order of
        `other`; those against which something is saved are given. Where front, float network and uniform widths were
        measured on a report set (`is_reported`), a point is as good as a uniform candidate when

        - it scores no worse on the search set, by which it was chosen, and
        - it is not significantly worse on the report set: the 95 % interval of the difference of their scores there,
          paired by sample, does not lie wholly on the worse side of 0. Metrics of a whole set have no such interval;
          for them the score itself must be no worse there.

        Else, and for an `other` that holds more than these candidates, only the first counts: then the claim is on the
        set that chose the points, and `BitsSaved.on_report_set` is False.

        No baseline are points of `other` that miss `min_accuracy` or a further minimum on the search set, that break a
        limit (`broken_limits`), that `other` itself beats on the set where the claim is stated, and those that a
        cheaper one replaces, because it is not significantly worse there by the same interval (`report_between`;
        without one by the scores): leaving them for the next uniform width is no merit of a search. For the same
        reason no point saves anything against uniform candidates that is uniform itself, or that a cheaper one of
        them beats. `cost` names the cost, the first one when None; the others do not count.

        Raises:
            FrontError: one of the fronts lacks the cost, the two hold different metrics, or there is no `other` and
                this front knows no uniform candidates.
        """
        owner = "Front.bits_saved"
        if other is None:
            other = self._own_uniform(owner)
        if not isinstance(other, Front):
            raise FrontError(f"{owner}: other must be a Front, such as `exploration.uniform`, got {other!r}.")
        if (other.metric_name, other.better) != (self.metric_name, self.better):
            raise FrontError(
                f"{owner}: both fronts must hold the same metric in the same direction, got "
                f"{self.metric_name!r} and {other.metric_name!r}. Compare fronts of one problem."
            )
        name = self.cost_names[self._column(owner, cost)]
        checks.check_known_names(f"{owner}: the other front's costs", [name], other.cost_names)
        return tuple(savings.bits_saved(self, other, name))

    @nearest_keyword
    def diff(
        self,
        other: Front,
        *,
        at: int | tuple[int, int] | None = None,
        cost: str | None = None,
        reference_point: Sequence[float] | None = None,
    ) -> FrontDifference:
        """How `other` differs from this front, point by point and layer by layer; ``print`` shows it.

        Each point is compared with the same candidate of `other`, else with the nearest by `cost`. Empty fronts are
        allowed. Scores are those of the search set.

        Args:
            other: a front of the same points, metric and costs.
            at: whose layers are compared: the index of a point of this front, with its pair, or one index of each
                front; the knees when None.
            cost: name of the cost that pairs points; the first one when None.
            reference_point: (score, each cost) for hypervolumes; when None the worst score that is there or allowed,
                and the most of each cost, uniform candidates included.

        Raises:
            FrontError: `other` is no front, or one of other points, costs or another metric; there is no such point or
                cost.
        """
        difference.require_comparable(self, other)
        name = self.cost_names[self._column("Front.diff", cost)]
        return difference.difference(self, other, at, name, reference_point)

    def on_report_set(self) -> Front:
        """What was measured on the report set as a front of its own: its scores are `accuracy` here.

        The points stay those that were chosen on the search set, so they may beat each other here; points that could
        not be measured there are left out. FrontError unless the front `is_reported`.
        """
        if self.report_accuracy is None or self.report_float_accuracy is None:
            raise FrontError(
                "Front.on_report_set: points and float network must have been measured on a report set, these were "
                "not. Give `explore` a report_loader."
            )
        known = self.rows(np.flatnonzero(~np.isnan(self.report_accuracy)))
        uniform = known.uniform if known.uniform is not None and known.uniform.is_reported else None
        gone: dict[str, Any] = dict.fromkeys(name for name in _FIELDS if name.startswith("report_"))
        stated: dict[str, Any] = {
            "accuracy": known.report_accuracy,
            "interval": known.report_interval,
            "further_scores": known.report_further_scores,
            "float_accuracy": self.report_float_accuracy,
            "uniform": None if uniform is None else uniform.on_report_set(),
        }
        return replace(known, **gone | stated)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write this front as JSON, all or nothing; makes the folder of `path`, but not that folder's parents."""
        file.write_text(path, self.to_json())

    def to_json(self) -> str:
        """What `save` writes."""
        return file.to_json(self)

    @classmethod
    def from_json(cls, text: str) -> Front:
        """The front that `to_json` wrote, equal to the last bit. FrontFileError when the text holds no front."""
        return cls._from_fields(file.fields_of("Front text", text), "Front text")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Front:
        """The front that `save` wrote, equal to the last bit. FrontFileError when the file is no readable front.

        A missing file is a MissingFrontFileError, which is a FileNotFoundError too.
        """
        return cls._from_fields(file.read_fields(path), f"Front file {os.fspath(path)!r}")

    @classmethod
    def _from_fields(cls, known: dict[str, Any], shown: str) -> Front:
        try:
            if isinstance(known.get("uniform"), dict):
                known["uniform"] = cls(**known["uniform"])
            return cls(**known)
        except FrontError as error:
            raise FrontFileError(f"{shown} is damaged. {error} Save the front again.") from error

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """The front as CSV text, one line a point and one column for each point name; also written to `path`.

        Widths are numbers, 0 is off, a float format is its name.
        """
        written = file.to_csv(self)
        if path is not None:
            file.write_text(path, written)
        return written

    def _frame_rows(self) -> Rows:
        return file.table_rows(self)

    def table(self, *, most: int | None = None) -> str:
        """The front as an aligned text table, about 100 columns wide.

        "mean bits" is over quantizers that are on, unless "mean_bits" is one of the costs. Of more than `most` points
        so many are shown, evenly spaced, the first and the last among them; None shows all.
        """
        return table.to_table(self, most)

    def __str__(self) -> str:
        return self.table()

    @property
    def best(self) -> tuple[float, ...]:
        """The best score and the least of each cost, of whatever points; NaN on an empty front."""
        if not len(self):
            return (math.nan,) * (1 + len(self.cost_names))
        return float(self.accuracy[self._gain.argmax()]), *self.costs.min(axis=0).tolist()

    @property
    def _gain(self) -> FloatArray:
        gain: FloatArray = self.gain(self.accuracy)
        return gain

    def meets_minima(self, accuracy: FloatArray, further_scores: FloatArray | None) -> npt.NDArray[np.bool_]:
        """Which rows of scores on some set, [K] and [K, T], miss no minimum; a score that is not known misses none."""
        meets: npt.NDArray[np.bool_] = self.meets(accuracy, self.min_accuracy) | np.isnan(accuracy)
        for metric, scores in () if further_scores is None else zip(self.further, further_scores.T, strict=True):
            meets &= metric.meets(scores, metric.min_accuracy) | np.isnan(scores)
        return meets

    def _own_uniform(self, owner: str) -> Front:
        if self.uniform is not None:
            return self.uniform
        raise FrontError(
            f"{owner}: this front knows no uniform candidates, so `other` must be given: such as `exploration.uniform`."
        )

    @property
    def minimised(self) -> FloatArray:
        """Objectives to be minimised, [K, 1 + C]: the score with its sign turned where higher is better, and costs."""
        return np.column_stack([-self._gain, self.costs])

    def _column(self, owner: str, cost: str | None) -> int:
        if cost is None:
            return 0
        checks.check_known_names(f"{owner}: cost", [cost], self.cost_names)
        return self.cost_names.index(cost)

    def _require_points(self) -> None:
        if not len(self):
            raise FrontError(f"Front: there is no point to pick. {table.why_empty(self)}")

    def _further(self, scores: FloatArray | None, row: int) -> dict[str, float]:
        known = [math.nan] * len(self.further) if scores is None else scores[row].tolist()
        return dict(zip((metric.name for metric in self.further), known, strict=True))


def _known_number(values: FloatArray | None, row: int) -> float | None:
    return None if values is None or np.isnan(values[row]) else float(values[row])


def _known_pair(pairs: FloatArray | None, row: int) -> tuple[float, float] | None:
    return None if pairs is None else savings.pair(pairs[row])
