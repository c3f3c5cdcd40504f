"""A question to a study, and the measurements that it is answered from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qexplore._arguments import checked_int, checked_name, checked_number, is_number
from qexplore.cost import Cost
from qexplore.errors import StudyError
from qexplore.search import JUDGES
from qexplore.study.known_costs import KnownCosts
from qexplore.study.recording import DIRECT, SEARCH
from qexplore.study.records import Columns, StoredSnapshot, row_keys
from qexplore.study.runs import StudyRun, history_of
from qexplore.study.store import Store

AS_ASKED: Any = "as asked"
"""What the runs themselves asked for."""


@dataclass(frozen=True, eq=False)
class Question:
    """What makes a front of measurements.

    Attributes:
        min_accuracy: the worst acceptable score; None accepts all.
        limits: costs with the most of each.
        judged_within: the same while the judge compares: of an axis, no tighter than the runs asked.
        costs: the axes beside the score.
        judge: ``"divergence"`` or ``"accuracy"``, as for `explore`.
        is_asked: whether it is left to the runs altogether.
        is_other: whether it is another than one of them asked, and so was not searched for.
    """

    min_accuracy: float | None
    limits: tuple[tuple[Cost, float], ...]
    judged_within: tuple[tuple[Cost, float], ...]
    costs: tuple[Cost, ...]
    judge: str
    is_asked: bool
    is_other: bool

    @classmethod
    def of(
        cls, store: Store, runs: Sequence[StudyRun], min_accuracy: Any, limits: Any, costs: Any, judge: str | None
    ) -> Question:
        """From what a user gave; what is left out is what ``runs`` asked.

        Raises:
            StudyError: runs asked for different things, an argument is no answer, or a cost cannot be told.
        """
        known = KnownCosts(store, runs)
        asked = {name: _agreed(runs, name) for name in ("min_accuracy", "limits", "judge")}
        is_other = costs is not None or limits is not AS_ASKED
        is_asked = not is_other and min_accuracy is AS_ASKED and judge is None
        if min_accuracy is AS_ASKED:
            min_accuracy = asked["min_accuracy"]("min_accuracy=")
        elif min_accuracy is not None:
            min_accuracy = _within_range(runs[-1].facts["metric"], min_accuracy)
        own = _own_limits(runs)
        limits = asked["limits"]("limits=") if limits is AS_ASKED else limits or {}
        if not isinstance(limits, Mapping):
            raise StudyError(f"`limits` must map costs, or their names, to numbers, got {limits!r}")
        if costs is None:
            costs = _same([run.facts["costs"] for run in runs], "costs", "costs=")
        axes = known.of(costs)
        names = {cost.name for cost in axes}
        uppers = tuple((known.of(cost)[0], _upper(cost, upper)) for cost, upper in limits.items())
        # A limit on an axis takes the dearer points away, and leaves the others as they are: it has no say in which of
        # them stand, as it has none in the run.
        loosened = ((cost, max(upper, own(cost.name)) if cost.name in names else upper) for cost, upper in uppers)
        return cls(
            min_accuracy,
            uppers,
            tuple(loosened),
            axes,
            checked_name("`judge`", asked["judge"]("judge=") if judge is None else judge, JUDGES, StudyError),
            is_asked,
            is_other or any(run.settings["min_accuracy"] != min_accuracy for run in runs),
        )

    def costs_of(self, candidates: NDArray[np.int64]) -> NDArray[np.float64]:
        """Shape ``[N, C]``, of ``candidates``, shape ``[N, L]``."""
        return np.stack([cost.cost(candidates) for cost in self.costs], axis=1)

    def broken(self, candidates: NDArray[np.int64]) -> NDArray[np.str_]:
        """The names of the limits that each of ``candidates`` breaks, joined by "and"; empty where it keeps all."""
        columns = [(cost.name, cost.cost(candidates) > upper) for cost, upper in self.limits]
        rows = [" and ".join(name for name, is_over in columns if is_over[row]) for row in range(len(candidates))]
        return np.array(rows, dtype=np.str_)

    def are_within(self, candidates: NDArray[np.int64], *, is_judged: bool = False) -> NDArray[np.bool_]:
        """Which of ``candidates``, shape ``[N, L]``, keep to all limits, or to those within which they are judged."""
        kept = np.ones(len(candidates), dtype=bool)
        for cost, upper in self.judged_within if is_judged else self.limits:
            kept &= cost.cost(candidates) <= upper
        return kept


def _own_limits(runs: Sequence[StudyRun]) -> Callable[[str], float]:
    """The loosest limit that one of ``runs`` set on a cost; infinite where one set none."""
    return lambda name: max(run.settings["limits"].get(name, np.inf) for run in runs)


def _agreed(runs: Sequence[StudyRun], name: str) -> Any:
    return lambda way: _same([run.settings[name] for run in runs], name, way)


def _same(values: Sequence[Any], name: str, way: str) -> Any:
    """What all runs asked."""
    if any(value != values[0] for value in values):
        raise StudyError(
            f"A front of several runs: they must have asked for one {name}, got {values}. Say which, {way}, or ask of "
            "one run, run="
        )
    return values[0]


def _within_range(metric: Mapping[str, Any], value: Any) -> float:
    low, high = metric["range"]
    if not is_number(value) or not low <= float(value) <= high:
        raise StudyError(
            f"`min_accuracy` must be a number within the range of the metric '{metric['name']}', [{low:g}, {high:g}], "
            f"got {value!r}"
        )
    return float(value)


def _upper(cost: Any, upper: Any) -> float:
    return checked_number(f"the limit of {getattr(cost, 'name', cost)!r}", upper, StudyError)


@dataclass(frozen=True, eq=False)
class Moment:
    """Which measurements count: of one run or of all, until now or an earlier moment.

    Attributes:
        run: its number; None for all.
        at: seconds since it began; None for now.
        first: so many evaluations, the first ones; None for all.

    Raises:
        StudyError: both, or seconds without the run whose they are.
    """

    run: int | None = None
    at: float | None = None
    first: int | None = None

    def __post_init__(self) -> None:
        if self.at is not None:
            checked_number("`at`", self.at, StudyError, low=0)
        if self.first is not None:
            checked_int("`first`", self.first, StudyError, low=1)
        if self.at is not None and (self.first is not None or self.run is None):
            raise StudyError(
                f"`at` must be seconds of one run, got at={self.at!r}, first={self.first!r}, run={self.run!r}. Name "
                "the run, run=, or give so many evaluations instead, first="
            )

    @property
    def is_past(self) -> bool:
        """Whether it is an earlier one."""
        return self.at is not None or self.first is not None

    def rows(self, columns: Columns, snapshots: Sequence[StoredSnapshot]) -> NDArray[np.bool_]:
        """Which rows count; of a run also what it took from other runs into its front, ``snapshots`` being all."""
        mine: NDArray[np.bool_] = np.ones(len(columns), dtype=bool) if self.run is None else columns.run == self.run
        if self.at is not None:
            mine &= columns.at <= self.at
        if self.first is not None:
            mine &= np.cumsum(mine) <= self.first
        if self.run is None:
            return mine
        taken = {row for one in snapshots if self._holds(one) for row in one.candidates}
        if taken and not mine.all():
            keys = set(row_keys(np.array(list(taken), dtype=np.int64)))
            mine |= np.array([key in keys for key in row_keys(columns.candidates)], dtype=bool)
        return mine

    def _holds(self, snapshot: StoredSnapshot) -> bool:
        late = self.at is not None and snapshot.seconds > self.at
        return snapshot.run == self.run and not late and (self.first is None or snapshot.num_evaluations <= self.first)


@dataclass(frozen=True, eq=False)
class Measured:
    """Complete measurements, one a candidate; NaN where a number is not known.

    Attributes:
        candidates: shape ``[N, L]``.
        score: shape ``[N]``.
        interval: shape ``[N, 2]``.
        divergence: shape ``[N]``.
        further: scores by further metrics, shape ``[N, T]``.
    """

    candidates: NDArray[np.int64]
    score: NDArray[np.float64]
    interval: NDArray[np.float64]
    divergence: NDArray[np.float64]
    further: NDArray[np.float64]

    @classmethod
    def of(cls, columns: Columns, rows: NDArray[np.bool_], further: Sequence[Columns]) -> Measured:
        """The first complete one of each candidate among ``rows``, and what further metrics say of it."""
        chosen = np.flatnonzero(rows & (columns.state == "complete"))[::-1]  # of a key twice, the later one stays
        first = dict(zip(row_keys(columns.candidates[chosen]), chosen.tolist(), strict=True))
        kept = np.sort(np.array(list(first.values()), dtype=np.int64))
        candidates = columns.candidates[kept]
        scores = np.full((len(kept), len(further)), np.nan)
        for place, each in enumerate(further):
            known = dict(zip(row_keys(each.candidates), each.score.tolist(), strict=True))
            scores[:, place] = [known.get(key, np.nan) for key in row_keys(candidates)]
        return cls(candidates, columns.score[kept], columns.interval[kept], columns.divergence[kept], scores)

    def rows(self, rows: NDArray[Any]) -> Measured:
        """These rows only."""
        return Measured(**{name: values[rows] for name, values in vars(self).items()})

    def replaced_by(self, others: Measured) -> tuple[Measured, NDArray[np.bool_]]:
        """With the scores of ``others`` where these know a candidate, and where they do."""
        place = {key: number for number, key in enumerate(row_keys(others.candidates))}
        found = np.array([place.get(key, -1) for key in row_keys(self.candidates)], dtype=np.int64)
        is_known = found >= 0
        names = ("score", "interval", "further")
        new = {name: getattr(self, name).copy() for name in names}
        for name in names:
            new[name][is_known] = getattr(others, name)[found[is_known]]
        return Measured(self.candidates, divergence=self.divergence, **new), is_known


def measured(store: Store, columns: Columns, moment: Moment, num_further: int) -> tuple[Measured, Measured]:
    """What the search measured until ``moment``, ``columns`` being all of it; and the direct evaluator."""
    snapshots = [] if moment.run is None else history_of(store, moment.run)
    further = [store.columns(role=f"{SEARCH} {place}") for place in range(1, num_further + 1)]
    searched = Measured.of(columns, moment.rows(columns, snapshots), further)
    direct = store.columns(role=DIRECT)
    further = [store.columns(role=f"{DIRECT} {place}") for place in range(1, num_further + 1)]
    # A front was not verified before its search ended.
    return searched, Measured.of(direct, np.full(len(direct), not moment.is_past), further)
