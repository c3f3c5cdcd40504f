"""What a front holds: its frozen arrays, checked when they are put together.

Shape letters: K front members, L quantization points, C costs, T further metrics, U uniform candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from qexplore._arguments import checked_switch
from qexplore._coverage import Coverage
from qexplore._direction import Directed
from qexplore._fingerprint import Fingerprint
from qexplore.errors import FrontError
from qexplore.front import checks

if TYPE_CHECKING:
    from qexplore.front.front import Front

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
StrArray = npt.NDArray[np.str_]
Arrays = TypeVar("Arrays", bound="FrontArrays")
_KINDS = (
    ("metric_name", str),
    ("higher_is_better", bool),
    ("verified", bool),
    ("empty_because", str),
    ("arithmetic", str),
    ("judge", str),
)


@dataclass(frozen=True)
class FurtherMetric(Directed):
    """A metric after the first: candidates only have to reach its minimum. FrontError where a field does not fit."""

    name: str
    higher_is_better: bool = True
    min_accuracy: float | None = None
    """The worst acceptable score: the largest one when lower is better."""
    float_accuracy: float | None = None
    """The float network's score on the search set."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise FrontError(f"FurtherMetric: name must be a name, got {self.name!r}.")
        checked_switch("FurtherMetric: higher_is_better", self.higher_is_better, FrontError)
        for name in ("min_accuracy", "float_accuracy"):
            value = checks.checked_score(name, getattr(self, name), owner="FurtherMetric")
            object.__setattr__(self, name, value)  # frozen for everyone but its own constructor


@dataclass(frozen=True, eq=False)
class FrontArrays(Directed):
    """The fields of a `Front`. Arrays are copied and read-only.

    Wrong shapes, types, infinite numbers and NaN outside the places named below raise FrontError.
    """

    num_bits: IntArray  # [K, L] codes: widths, 0 is off, 403 is E4M3
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
    further: tuple[FurtherMetric, ...] = ()  # T metrics after the first; a name that stands already gets a number
    further_scores: FloatArray | None = None  # [K, T] on the search set, NaN where unknown
    report_further_scores: FloatArray | None = None  # [K, T] on the report set, NaN where unknown
    report_float_accuracy: float | None = None  # the float network, on the report set
    report_from_float: FloatArray | None = None  # [K, 2] 95 % interval of report_change, paired by sample
    uniform: Front | None = None  # U rows: the uniform candidates, which savings are counted against
    report_from_uniform: FloatArray | None = None  # [K, U, 2] as report_from_float, less that of each uniform one
    report_between: FloatArray | None = None  # [K, K, 2] as report_from_float, less that of each member: uniform ones
    broken_limits: StrArray | None = None  # [K] names of the limits on costs that a row breaks, "" where it keeps them
    empty_because: str = ""  # why no candidate is on an empty front, and the way out
    arithmetic: str = ""  # what it was measured in, in words: full float32, or torch's settings; "" where unknown
    fingerprint: Fingerprint | None = None  # of the model that it was found on; None where unknown
    coverage: Coverage | None = None  # which share of that model the search has at points; None where unknown
    # What measured it; within a process only: a file, a pickle or a copy knows it by name.
    metric: Any = field(default=None, repr=False, compare=False)
    # What decided between points that the search set cannot tell apart, in words, as a study says it; in no file.
    judge: str = field(default="", repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("point_names", "cost_names"):
            self._set(name, checks.checked_names(name, getattr(self, name)))
        for name, wanted in _KINDS:
            if not isinstance(getattr(self, name), wanted):
                raise FrontError(f"Front: {name} must be a {wanted.__name__}, got {getattr(self, name)!r}.")
        self._set("fingerprint", checks.checked_fingerprint(self.fingerprint))
        self._set("coverage", checks.checked_coverage(self.coverage))
        for name in ("min_accuracy", "float_accuracy", "report_float_accuracy"):
            self._set(name, checks.checked_score(name, getattr(self, name)))
        self._set("num_bits", checks.checked_codes(self.num_bits, self.point_names))
        self._set("further", _with_own_names(self.further, {self.metric_name, *self.cost_names}))
        rows, further = len(self.num_bits), len(self.further)
        self._set("accuracy", checks.checked_array("accuracy", self.accuracy, (rows,)))
        self._set("costs", checks.checked_array("costs", self.costs, (rows, len(self.cost_names))))
        self._check_uniform()
        columns = 0 if self.uniform is None else len(self.uniform)
        for name, shape in (
            ("interval", (rows, 2)),
            ("report_interval", (rows, 2)),
            ("report_from_float", (rows, 2)),
            ("report_from_uniform", (rows, columns, 2)),
            ("report_between", (rows, rows, 2)),
        ):
            self._set(name, checks.checked_interval(name, getattr(self, name), shape))
        self._set("broken_limits", checks.checked_words("broken_limits", self.broken_limits, rows))
        self._set_known("report_accuracy", (rows,))
        self._set_known("further_scores", (rows, further))
        self._set_known("report_further_scores", (rows, further))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "metric": None}

    def __len__(self) -> int:
        return len(self.accuracy)

    def rows(self: Arrays, rows: npt.NDArray[Any]) -> Arrays:
        """The same with these rows only, in this order."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        kept = {name: value[rows] for name, value in values.items() if isinstance(value, np.ndarray)}
        if self.report_between is not None:
            kept["report_between"] = self.report_between[np.ix_(rows, rows)]
        return replace(self, **kept)

    def scores(self, prefix: str) -> Iterator[tuple[str, FloatArray, FloatArray | None]]:
        """Name, scores [K] and interval of every column of scores that is there, ``prefix`` before the report set's."""
        yield self.metric_name, self.accuracy, self.interval
        if self.report_accuracy is not None:
            yield f"{prefix}{self.metric_name}", self.report_accuracy, self.report_interval
        for start, known in (("", self.further_scores), (prefix, self.report_further_scores)):
            if known is not None:
                yield from ((f"{start}{one.name}", known[:, place], None) for place, one in enumerate(self.further))

    @property
    def report_change(self) -> FloatArray | None:
        """Report accuracy less the float network's there, [K], NaN where not known; None without a report set."""
        known = self.report_accuracy, self.report_float_accuracy
        return None if known[0] is None or known[1] is None else known[0] - known[1]

    @property
    def is_reported(self) -> bool:
        """Whether points and float network were measured on a report set, so that claims can be stated there."""
        return self.report_accuracy is not None and self.report_float_accuracy is not None

    def _check_uniform(self) -> None:
        if self.uniform is None:
            return
        if not isinstance(self.uniform, FrontArrays):
            raise FrontError(f"Front: uniform must be a Front, got {type(self.uniform).__name__}.")
        mine, its = _measured(self), _measured(self.uniform)
        if its != mine:
            raise FrontError(f"Front: uniform must have the front's points, costs and metric, {mine}, got {its}.")

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen for everyone but its own constructor

    def _set_known(self, name: str, shape: tuple[int, ...]) -> None:
        """An array that may be absent, or NaN where a value is not known."""
        if getattr(self, name) is not None:
            known = checks.checked_array(name, getattr(self, name), shape, unknown_allowed=True)
            self._set(name, known if known.size or 0 not in shape[1:] else None)


def _measured(front: FrontArrays) -> tuple[object, ...]:
    """What two fronts have to share to be compared."""
    return front.point_names, front.cost_names, front.metric_name, front.higher_is_better


def _with_own_names(further: Any, taken: set[str]) -> tuple[FurtherMetric, ...]:
    """Two heads may be measured by metrics of one name; a front tells its columns apart by theirs."""
    told: list[FurtherMetric] = []
    for metric in further:
        if not isinstance(metric, FurtherMetric):
            raise FrontError(f"Front: further must hold FurtherMetric only, got {metric!r}.")
        name, number = metric.name, 2
        while name in taken:
            name, number = f"{metric.name} ({number})", number + 1
        taken.add(name)
        told.append(metric if name == metric.name else replace(metric, name=name))
    return tuple(told)
