"""An exploration that writes down what it measures, and goes on where it was stopped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from qexplore._arguments import checked_name, checked_switch
from qexplore._clock import Clock
from qexplore._coverage import Coverage
from qexplore._random import stream
from qexplore._table import counted
from qexplore._version import __version__
from qexplore.cost import ADDITIVE_NAMES, AdditiveTable, Cost, SeparableCost, build_costs
from qexplore.distributed import Spread
from qexplore.errors import ProblemError, QExploreError, StudyError
from qexplore.evaluation import DirectEvaluator, Evaluator
from qexplore.exploration.budget import Budget
from qexplore.exploration.records import Exploration, Snapshot, clipping_notes
from qexplore.metrics import Metric, WholeSetMetric
from qexplore.model import Candidates, arithmetic
from qexplore.search import Goal, LayerwiseQuantizationProblem, SearchSettings, WholeFront
from qexplore.study import (
    NOTES,
    WAY,
    Recorder,
    Standing,
    Store,
    StoredSnapshot,
    contents_of,
    measured_by,
    opened_for,
    place_of,
)

ON_MISMATCH = ("refuse", "new")
_MUCH_LESS = 0.9
"""Seconds of two calls that ask for the same are not quite the same."""
_PROBED = 16
"""Random candidates whose costs tell one cost function from another of the same name."""


@dataclass(frozen=True)
class StudyFile:
    """Where an exploration is written down.

    Attributes:
        path: of the file; made where there is none.
        share: whether other processes that share it may write to it at the same time.
        on_mismatch: what to do with a study that was measured otherwise; one of `ON_MISMATCH`.

    Raises:
        StudyError: names the argument.
    """

    path: Path
    share: bool = False
    on_mismatch: str = "refuse"

    @classmethod
    def asked(cls, study: Any, share: bool, on_mismatch: str) -> StudyFile | None:
        """What `explore` was given; None for no study."""
        checked_switch("`share`", share, StudyError)
        checked_name("`on_mismatch`", on_mismatch, ON_MISMATCH, StudyError)
        if study is None:
            return None
        if not isinstance(study, (str, os.PathLike)):
            raise StudyError(f'`study` must be the path of a file, such as "runs/name.db", got {study!r}')
        return cls(Path(study), share, on_mismatch)


class Unrecorded:
    """An exploration without a study.

    Args:
        problem: what is searched.
        workers: measure in the place of this process, where there are any.

    Attributes:
        coverage: of the problem's model; None until it was asked for.
    """

    coverage: Coverage | None = None

    def __init__(self, problem: LayerwiseQuantizationProblem, workers: Spread | None = None) -> None:
        self._workers = workers
        self.problem = problem if workers is None else problem.recorded_by(self.around)

    def around(self, evaluator: Evaluator, role: str) -> Evaluator:
        """``evaluator``, asked through the workers, if any."""
        return evaluator if self._workers is None else self._workers(evaluator, role)

    def around_report(self, evaluator: DirectEvaluator, place: int) -> Evaluator:
        """Likewise that of the metric ``place`` on the report set."""
        return Unrecorded.around(self, evaluator, f"report {place}")

    def figures(self) -> dict[str, str]:
        """What is shown of the workers beside the progress of the search."""
        return {} if self._workers is None else self._workers.figures()

    def note(self, snapshot: Snapshot) -> None:
        """Nothing is written down."""

    def settled(self, name: str, value: Any) -> None:
        """Likewise."""

    def ended(self, exploration: Exploration) -> str:
        """Nothing is to be said."""
        return ""


class Recorded(Unrecorded):
    """An exploration whose evaluations are in a study before the search sees them.

    Args:
        problem: what is searched.
        recorder: of the run.
        workers: measure in the place of this process, where there are any.
        before: how far the run had come.
        is_part: whether it has gone further than it may now; then its history and its end stay as they are.
    """

    def __init__(
        self,
        problem: LayerwiseQuantizationProblem,
        recorder: Recorder,
        workers: Spread | None = None,
        *,
        before: Standing,
        is_part: bool = False,
    ) -> None:
        self._recorder = recorder
        self._before = before
        self._is_part = is_part
        self._workers = workers
        self.problem = problem.recorded_by(self.around)
        recorder.guard = self._require_same_model
        self._model = self.problem.fingerprint

    def around(self, evaluator: Evaluator, role: str) -> Evaluator:
        """``evaluator``, recorded as ``role``: this process alone writes."""
        return self._recorder.around(super().around(evaluator, role), role)

    def around_report(self, evaluator: DirectEvaluator, place: int) -> Evaluator:
        """``evaluator``, recorded as what it is on this report set: on another one it has other scores."""
        asked = super().around_report(evaluator, place)
        return self._recorder.around(asked, f"report {place} on {contents_of(evaluator)}")

    def note(self, snapshot: Snapshot) -> None:
        """Keep the front of ``snapshot``."""
        if self._is_part:
            return
        self._recorder.note(
            StoredSnapshot(
                self._recorder.run,
                snapshot.num_evaluations,
                snapshot.num_passes,
                self._recorder.seconds,  # by the clock of what was measured
                snapshot.hypervolume,
                snapshot.generation,
                tuple(map(tuple, snapshot.front.num_bits.tolist())),
            )
        )

    def settled(self, name: str, value: Any) -> None:
        """Write down what the search has settled, such as its reference point."""
        if not self._is_part:
            self._recorder.tell(name, repr(value))

    def ended(self, exploration: Exploration) -> str:
        """Write the end down, and say what is to be said of the study."""
        recorder, falls_short = self._recorder, self._falls_short(exploration)
        if falls_short:
            for kind, text in self._before.told.items():
                recorder.tell(kind, text)
            if "ended" not in self._before.told:
                recorder.tell("ended", exploration.stopped_by)
        elif not self._is_part:
            recorder.tell("front", exploration.front.to_json())
            recorder.tell("judge", exploration.judge)
            recorder.tell(WAY, json.dumps([place_of(one) for one in exploration.history]))
            recorder.tell(NOTES, json.dumps(exploration.notes))
            recorder.tell("ended", exploration.stopped_by)
        known = f", {recorder.num_known} were there already" if recorder.num_known else ""
        written = f"{counted(recorder.num_written, 'evaluation')} written, verification and report set included"
        told = f"{recorder.store.path}: {written}{known}; the same call goes on with it"
        further = ["its run had gone further before, and its history and end stay as they were"]
        return "; ".join([told, *(further if self._is_part or falls_short else []), *recorder.store.notes])

    def _falls_short(self, exploration: Exploration) -> bool:
        """Whether it was stopped before it came where the run had been: that keeps all that it had."""
        reached = max((one.num_passes for one in exploration.history), default=0.0)
        return not self._is_part and exploration.was_cut_short and reached < self._before.num_passes

    def _require_same_model(self) -> None:
        if self.problem.fingerprint != self._model:
            raise StudyError(
                f"the model of study '{self._recorder.store.path}' must stay as it is while it is explored, but "
                f"{self.problem.fingerprint.difference_text(self._model)} changed. What was measured before is kept; "
                "explore the changed model under another study"
            )


@contextmanager
def recorded(
    file: StudyFile | None,
    problem: LayerwiseQuantizationProblem,
    settings: SearchSettings,
    budget: Budget,
    clock: Clock,
    *,
    initial: Candidates | None,
    goal: Goal | None,
    workers: Spread | None = None,
) -> Iterator[Unrecorded]:
    """The problem to explore, and what writes it down, if that is asked for.

    Raises:
        StudyError: the file cannot be had, or was measured otherwise.
    """
    with arithmetic(problem.direct.precision):
        coverage = problem.model.coverage(choices=problem.plan)
    if file is None:
        recording = Unrecorded(problem, workers)
        recording.coverage = coverage
        try:
            yield recording
        finally:
            if workers is not None:
                problem.remember(recording.problem)
        return
    with opened_for(measured_by(problem), file.path, share=file.share, on_mismatch=file.on_mismatch) as store:
        identity = settings_of(problem, settings, initial, goal)
        further = _further_budget(store, identity, budget)
        limits = budget.limits if further is None else further
        run, was_there = store.begin_run(identity, limits, _facts(problem) | {"coverage": asdict(coverage)})
        recorder = Recorder(store, run.id, clock, _measured_costs(problem), is_shared=file.share)
        before = Standing.of(store, run.id)
        if further is None:
            recorder.tell("resumed" if was_there else "began", "")
            recorder.tell(NOTES, json.dumps(clipping_notes(problem.clipping)))
        recording = Recorded(problem, recorder, workers, before=before, is_part=further is not None)
        recording.coverage = coverage
        recorder.keep(recording.problem.evaluations)
        try:
            yield recording
        except QExploreError:
            # What is refused before it has measured anything, such as workers that cannot be had, is no run. Where
            # others write too, what they wrote after it counts on it.
            if not (was_there or recorder.has_measured or file.share):
                with suppress(StudyError):
                    store.take_back(run.id)
            raise
        finally:
            problem.remember(recording.problem)


def _further_budget(store: Store, identity: Mapping[str, Any], budget: Budget) -> Mapping[str, Any] | None:
    """The budget of the run of these settings, if it has gone further than it may now; None where it has not."""
    asked = json.loads(json.dumps(identity))
    for run in store.runs():
        snapshots = store.snapshots(run.id) if run.settings == asked else []
        for name, used in (
            ("max_evaluations", max((one.num_passes for one in snapshots), default=0.0)),
            ("max_seconds", _MUCH_LESS * max((one.seconds for one in snapshots), default=0.0)),
        ):
            now = budget.limits[name]
            # The same call again goes on: its last candidate may have gone a little beyond what it may.
            if now is not None and now < used and now != run.budget.get(name):
                return run.budget
    return None


def settings_of(
    problem: LayerwiseQuantizationProblem, settings: SearchSettings, initial: Candidates | None, goal: Goal | None
) -> dict[str, Any]:
    """What tells one run of a study from another: all that a search depends on beside what decides a measurement."""
    given = {field.name: getattr(settings, field.name) for field in fields(settings)}
    if settings.generation_size is None:  # studies of before it could be chosen do not have it
        del given["generation_size"]
    if not isinstance(settings.algorithm, str):
        given["algorithm"] = {"name": settings.algorithm_name, **_plain(vars(settings.algorithm))}
    return {
        **given,
        "initial": None if initial is None else initial.tolist(),
        "goal": {"name": type(goal or WholeFront()).__name__, **asdict(goal or WholeFront())},  # type: ignore[call-overload]
        "min_accuracy": problem.min_accuracy,
        "max_seconds_each": problem.direct.max_seconds_each,
        "further": [asdict(one) for one in problem.further.described],
        "costs": {cost.name: _digest(problem, cost.cost) for cost in problem.costs},
        "limits": dict(problem.limits.by_name),
        "limited": {cost.name: _digest(problem, cost.cost) for cost in problem.limits.costs},
    }


def _measured_costs(problem: LayerwiseQuantizationProblem) -> dict[str, Cost]:
    """Costs that no table by point and choice can tell, by the role under which they are written down."""
    costs = {cost.name: cost for cost in (*problem.costs, *problem.limits.costs)}
    others = [cost for cost in costs.values() if not isinstance(cost, SeparableCost)]
    return {f"cost {cost.name} {_digest(problem, cost.cost)}": cost for cost in others}


def _cost_tables(problem: LayerwiseQuantizationProblem) -> dict[str, Any]:
    """What every choice adds at every point to costs that are sums: of the problem, and those that have a name."""
    off = problem.effective(problem.space.widest)[0] == 0  # by hand, where it is no choice
    choices = tuple(
        codes if 0 in codes or not is_off else (*codes, 0)
        for codes, is_off in zip(problem.space.choices, off, strict=True)
    )
    tables: dict[str, Any] = {}
    for spec in (*problem.costs, *problem.limits.costs, *ADDITIVE_NAMES):
        with suppress(ProblemError):  # one that needs a forward, or has no row for a quantizer that is off by hand
            [cost] = build_costs([spec], problem.model)
            if isinstance(cost, SeparableCost) and cost.name not in tables:
                tables[cost.name] = AdditiveTable.of(cost, choices).described
    return tables


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Of an object's attributes those that a file can hold."""
    return {name: value for name, value in sorted(attributes.items()) if isinstance(value, (int, float, str, bool))}


def _digest(problem: LayerwiseQuantizationProblem, cost: Any) -> str:
    space = problem.space
    some = np.concatenate([space.widest, space.random(_PROBED, stream(0, "probed costs"))])
    return hashlib.blake2b(np.asarray(cost(some), dtype="<f8").tobytes(), digest_size=8).hexdigest()


def _facts(problem: LayerwiseQuantizationProblem) -> dict[str, Any]:
    """What the study can be read by without the problem."""
    metric = problem.metric
    return {
        "qexplore": __version__,
        "points": [asdict(point) for point in problem.model.points],
        "choices": [list(map(int, codes)) for codes in problem.space.choices],
        "ties": [list(group) for group in problem.space.groups],
        "costs": [cost.name for cost in problem.costs],
        "cost tables": _cost_tables(problem),
        "measured costs": {cost.name: role for role, cost in _measured_costs(problem).items()},
        "metric": {
            "name": metric.name,
            "higher_is_better": metric.higher_is_better,
            "range": list(metric.range),
            "kind": _kind(metric),
        },
        "float_accuracy": problem.float_accuracy,
        "num_samples": problem.num_samples,
        "min_accuracy": problem.min_accuracy,
        "arithmetic": problem.direct.arithmetic,
    }


def _kind(metric: Metric | WholeSetMetric) -> str:
    """How scores of samples make a score, as far as two candidates are compared by them."""
    if isinstance(metric, WholeSetMetric):
        return "whole set"
    return "mean" if metric.is_mean else "function of the mean"
