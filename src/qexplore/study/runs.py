"""A run of a study as users see it: what it asked for, how far it came, how it ended."""

from __future__ import annotations

import functools
import json
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from qexplore._coverage import Coverage
from qexplore.errors import StudyError
from qexplore.front import Front
from qexplore.study.locking import writers
from qexplore.study.records import Columns, Event, RunRecord, StoredSnapshot
from qexplore.study.store import Store

STATES = ("complete", "stopped", "failed")
WAY = "way"
"""Kind of the event that says which snapshots a run had that has ended: a JSON list of their places."""
NOTES = "notes"
"""Kind of the event that says what limits a run, as far as it is known by then: a JSON list of sentences."""
_TURNS = ("began", "resumed", "ended")
_END = ("front", "judge")
"""Kinds of the events that say what an exploration ended with."""


@dataclass(frozen=True, eq=False)
class StudyRun(RunRecord):
    """One exploration in a study.

    Attributes:
        id: its number in the file, from 1.
        settings: what identifies it: seed, algorithm, limits, ...
        budget: how far it may go.
        facts: names of points and costs, the metric, ...
        state: ``"running"``, ``"interrupted"`` or ``"ended"``.
        stopped_by: what ended it, as `Exploration.stopped_by`; empty before.
        seconds: since it began, without the time between.
        num_evaluations: candidates that it measured, by ``"complete"``, ``"stopped"`` and ``"failed"``; what an earlier
            run of the study had measured is not among them.
        hypervolume: the largest; NaN before the first.
        notes: what limits it, as `Exploration.notes`; before its end what is known by then: clipping. None where it was
            written by a version that did not write them down.
    """

    state: str
    stopped_by: str
    seconds: float
    num_evaluations: Mapping[str, int]
    hypervolume: float
    notes: tuple[str, ...] | None = None
    _front: str = field(repr=False, default="")
    _judge: str = field(repr=False, default="")

    @functools.cached_property
    def front(self) -> Front | None:
        """What it ended with, verified and with what the report set says; None before its end.

        Raises:
            FrontFileError: what was written is no front.
        """
        return replace(Front.from_json(self._front), judge=self._judge) if self._front else None

    @property
    def coverage(self) -> Coverage | None:
        """Which share of the network is at its points; None where it was begun by a version that did not say so.

        Raises:
            StudyError: what was written is no coverage.
        """
        try:
            return Coverage.read(self.facts.get("coverage"))
        except TypeError as error:
            raise StudyError(f"the coverage of run {self.id} must be one, as explore writes it: {error}") from error

    @property
    def algorithm(self) -> str:
        """The name of its algorithm; empty where that is lost."""
        algorithm = self.settings.get("algorithm", "")
        return str(algorithm["name"]) if isinstance(algorithm, Mapping) else str(algorithm)

    @property
    def words(self) -> str:
        """How it stands: "running", "interrupted", "ended by max_evaluations"."""
        return f"ended by {self.stopped_by}" if self.state == "ended" else self.state


def runs_of(store: Store, columns: Columns) -> tuple[StudyRun, ...]:
    """The runs of a study, ``columns`` being all that was searched."""
    events = store.events()
    running = _running(store, events)
    return tuple(_run(store, record, events, columns, record.id in running) for record in store.runs())


def chosen(runs: Sequence[StudyRun], run: int | None) -> tuple[StudyRun, ...]:
    """The run of that number, or all of which it is known what they are.

    Raises:
        StudyError: there is none.
    """
    told = tuple(one for one in runs if one.facts.get("points"))
    mine = tuple(one for one in told if run in (None, one.id))
    if not told:
        raise StudyError(
            "A study that is asked: it must hold a run that says the names of its points, and holds none. Explore with "
            "study= first"
        )
    if not mine:
        numbers = [one.id for one in told]
        is_row = len(numbers) > 1 and numbers == list(range(numbers[0], numbers[-1] + 1))
        known = f"{numbers[0]} to {numbers[-1]}" if is_row else ", ".join(map(str, numbers))
        raise StudyError(f"`run` must be the number of a run of the study: {known}, got {run!r}")
    return mine


def history_of(store: Store, run: int | None) -> list[StoredSnapshot]:
    """The snapshots of a run, or of one run after the other: of the way that it went last.

    A run that goes on with another budget may take another way from some point on, and what both ways share is not
    written again. The end of a run says which snapshots its way had.
    """
    known: dict[int, list[StoredSnapshot]] = {}
    for one in store.snapshots(run):
        known.setdefault(one.run, []).append(one)
    return [one for number, found in known.items() for one in _last_way(found, store.events(number))]


def _last_way(snapshots: Sequence[StoredSnapshot], events: Sequence[Event]) -> list[StoredSnapshot]:
    told = [event.text for event in events if event.kind == WAY]
    turn = _turn(events)
    if told and turn is not None and turn.kind == "ended":
        places = set(map(tuple, json.loads(told[-1])))
        return sorted((one for one in snapshots if place_of(one) in places), key=place_of)
    # On one way nothing that is counted goes back: where it does, what counted more before is of a way that was left.
    way: list[StoredSnapshot] = []
    for one in snapshots:
        while way and any(map(operator.gt, place_of(way[-1]), place_of(one))):
            way.pop()
        way.append(one)
    return way


@dataclass(frozen=True)
class Standing:
    """How far a run has come, to be written again by whoever goes on with it and is stopped before that.

    Attributes:
        num_passes: of the way that it went last.
        told: kinds and texts of the events that say so, and how it ended if it has.
    """

    num_passes: float
    told: Mapping[str, str]

    @classmethod
    def of(cls, store: Store, run: int) -> Standing:
        """That of a run as the study has it now."""
        events, way = store.events(run), history_of(store, run)
        turn = _turn(events)
        has_ended = turn is not None and turn.kind == "ended"
        kept = (*_END, NOTES, "ended") if has_ended else (NOTES,)
        told = {event.kind: event.text for event in events if event.kind in kept}
        ended = {kind: told[kind] for kind in kept if kind in told}  # whether it has ended is told last
        return cls(
            max((one.num_passes for one in way), default=0.0),
            {WAY: json.dumps([place_of(one) for one in way]), **ended},
        )


def place_of(snapshot: Any) -> tuple[float, int, int]:
    """Where a snapshot, of a study or of an exploration, stands on its way."""
    return snapshot.num_passes, snapshot.num_evaluations, snapshot.generation


def _turn(events: Sequence[Event]) -> Event | None:
    return next((event for event in reversed(events) if event.kind in _TURNS), None)


def _run(store: Store, record: RunRecord, events: Sequence[Event], columns: Columns, is_running: bool) -> StudyRun:
    mine = [event for event in events if event.run == record.id]
    turn = _turn(mine)
    has_ended = turn is not None and turn.kind == "ended"
    began = max((place for place, event in enumerate(mine) if event.kind in ("began", "resumed")), default=0)
    fronts, judges = ([event.text for event in mine[began:] if event.kind == kind] for kind in _END)
    notes = [event.text for event in mine if event.kind == NOTES]
    snapshots = history_of(store, record.id)
    rows = columns.run == record.id
    latest = columns.at[rows].max(initial=0.0) if rows.any() else 0.0
    ends = [float(latest), *(event.at for event in mine), *(one.seconds for one in snapshots)]
    hypervolumes = [one.hypervolume for one in snapshots if not math.isnan(one.hypervolume)]
    return StudyRun(
        **vars(record),
        state="ended" if has_ended else "running" if is_running else "interrupted",
        stopped_by=turn.text if turn is not None and has_ended else "",
        seconds=max([end for end in ends if not math.isnan(end)], default=0.0),
        num_evaluations={state: int((columns.state[rows] == state).sum()) for state in STATES},
        hypervolume=max(hypervolumes, default=math.nan),
        notes=tuple(json.loads(notes[-1])) if notes else None,
        _front=fronts[-1] if fronts and has_ended else "",
        _judge=judges[-1] if judges else "",
    )


def _running(store: Store, events: Sequence[Event]) -> set[int]:
    """Runs that may be under way: the last that turned where one process writes, any that has not ended where many."""
    turns = [event for event in events if event.kind in _TURNS]
    who = writers(store.path) if turns else ""
    if who == "one":
        return {turns[-1].run}
    return {event.run for event in turns} if who == "several" else set()
