"""How a run of a study went: its front at each moment, and what its time and its passes were spent on."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from qexplore.front import Front
from qexplore.study.recording import DIRECT, SEARCH
from qexplore.study.records import StoredSnapshot
from qexplore.study.runs import StudyRun, history_of
from qexplore.study.store import Store


@dataclass(frozen=True)
class Spent:
    """What one kind of work took.

    Attributes:
        what: ``"sensitivity table"``, ``"looks"`` at few outputs of whole candidates, ``"evaluations"``, or
            ``"verification"`` by the direct evaluator.
        count: candidates that were measured, or looked at.
        seconds: spent.
        num_passes: over the whole set.
    """

    what: str
    count: int
    seconds: float
    num_passes: float


@dataclass(frozen=True, eq=False)
class RunProgress:
    """How a run went.

    Attributes:
        snapshots: its front each time it grew and at the end of every generation.
        fronts: that front, of the search's own scores, for each of them.
        reference_point: (score, each cost) that hypervolumes are measured against; None before it was settled.
        spent: on what, in the order of the work; kinds of which there was none are left out.
        seconds: since it began, without the time between.
    """

    snapshots: tuple[StoredSnapshot, ...]
    fronts: tuple[Front, ...]
    reference_point: tuple[float, ...] | None
    spent: tuple[Spent, ...]
    seconds: float


def progress_of(store: Store, run: StudyRun, everything: Front) -> RunProgress:
    """The progress of ``run``; ``everything`` holds all that was measured completely, as a front that keeps all."""
    snapshots = tuple(history_of(store, run.id))
    rows = {candidate: row for row, candidate in enumerate(map(tuple, everything.num_bits.tolist()))}
    known = [[rows[one] for one in snapshot.candidates if one in rows] for snapshot in snapshots]
    told = [event.text for event in store.events(run.id) if event.kind == "reference point"]
    return RunProgress(
        snapshots,
        tuple(everything.rows(np.array(members, dtype=np.int64)) for members in known),
        ast.literal_eval(told[-1]) if told and "nan" not in told[-1] else None,
        tuple(one for one in _spent(store, run) if one.count),
        run.seconds,
    )


def _spent(store: Store, run: StudyRun) -> Iterator[Spent]:
    num_samples = run.facts["num_samples"]
    for what, is_alone in (("sensitivity table", True), ("looks", False)):
        parts = [one for one in store.parts(run=run.id) if (sum(map(bool, one.candidate)) <= 1) is is_alone]
        looked = sum(len(one.values) for one in parts)
        yield Spent(what, len(parts), sum(one.seconds for one in parts), looked / num_samples)
    further = [f"{SEARCH} {place}" for place in range(1, 1 + len(run.settings["further"]))]
    yield _measured(store, run, "evaluations", [SEARCH, *further], num_samples)
    yield _measured(store, run, "verification", [DIRECT], num_samples)


def _measured(store: Store, run: StudyRun, what: str, roles: Sequence[str], num_samples: int) -> Spent:
    columns = [store.columns(run=run.id, role=role, state=None) for role in roles]
    seconds = sum(float(np.nansum(one.seconds)) for one in columns)
    return Spent(what, len(columns[0]), seconds, sum(int(one.num_samples.sum()) for one in columns) / num_samples)
