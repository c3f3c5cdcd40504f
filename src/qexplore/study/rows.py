"""Records to rows of the tables and back. A row is written without its id and checksum, and read with its id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from qexplore.errors import StudyError
from qexplore.evaluation import Evaluation
from qexplore.study.packing import (
    Cell,
    Read,
    pack_candidate,
    pack_candidate_list,
    pack_floats,
    pack_number,
    pack_scores,
    pack_text,
    unpack_candidate,
    unpack_candidate_list,
    unpack_candidates,
    unpack_floats,
    unpack_json,
    unpack_number,
    unpack_scores,
    unpack_text,
)
from qexplore.study.records import Columns, Event, Part, RunRecord, Stored, StoredSnapshot

_STATES = ("complete", "stopped", "failed")


def evaluation_row(stored: Stored) -> tuple[Cell, ...]:
    """The row of an evaluation."""
    one = stored.evaluation
    low, high = one.interval or (None, None)
    return (
        int(stored.run),
        pack_text(stored.role),
        pack_candidate(one.candidate),
        pack_number(stored.limit),
        pack_text(stored.order),
        pack_text(one.state),
        pack_number(one.score),
        pack_number(low),
        pack_number(high),
        pack_number(one.bound),
        pack_floats(one.further),
        pack_number(one.divergence),
        int(one.num_samples),
        pack_text(one.reason),
        pack_number(one.seconds),
        pack_number(stored.at),
        pack_scores(one.scores),
    )


def stored_evaluation(row: Sequence[Read]) -> Stored:
    """The evaluation of a row."""
    _, run, role, candidate, limit, order, state, score, low, high, bound, further, divergence, *rest = row
    num_samples, reason, seconds, at, scores = rest
    evaluation = Evaluation(
        candidate=unpack_candidate(candidate),
        state=cast(Any, _state(state)),
        score=_known(score),
        scores=unpack_scores(scores),
        interval=None if low is None else (_known(low), _known(high)),
        bound=unpack_number(bound),
        further=unpack_floats(further),
        divergence=unpack_number(divergence),
        num_samples=_whole(num_samples),
        reason=unpack_text(reason),
        seconds=_known(seconds),
    )
    return Stored(_whole(run), unpack_text(role), unpack_number(limit), unpack_text(order), _known(at), evaluation)


def part_row(part: Part) -> tuple[Cell, ...]:
    """The row of a part."""
    return (
        int(part.run),
        pack_text(part.role),
        pack_text(part.metric),
        int(part.num_samples),
        int(part.against_float),
        pack_candidate(part.candidate),
        pack_scores(part.values),
        pack_number(part.seconds),
        pack_number(part.at),
    )


def stored_part(row: Sequence[Read]) -> Part:
    """The part of a row."""
    _, run, role, metric, num_samples, against_float, candidate, scores, seconds, at = row
    values = unpack_scores(scores)
    assert values is not None
    return Part(
        run=_whole(run),
        role=unpack_text(role),
        metric=unpack_text(metric),
        num_samples=_whole(num_samples),
        against_float=bool(against_float),
        candidate=unpack_candidate(candidate),
        values=values,
        seconds=_known(seconds),
        at=_known(at),
    )


def snapshot_row(snapshot: StoredSnapshot) -> tuple[Cell, ...]:
    """The row of a snapshot."""
    return (
        int(snapshot.run),
        int(snapshot.num_evaluations),
        pack_number(snapshot.num_passes),
        pack_number(snapshot.seconds),
        pack_number(snapshot.hypervolume),
        int(snapshot.generation),
        pack_candidate_list(snapshot.candidates),
    )


def stored_snapshot(row: Sequence[Read]) -> StoredSnapshot:
    """The snapshot of a row."""
    _, run, num_evaluations, num_passes, seconds, hypervolume, generation, candidates = row
    return StoredSnapshot(
        run=_whole(run),
        num_evaluations=_whole(num_evaluations),
        num_passes=_known(num_passes),
        seconds=_known(seconds),
        hypervolume=_known(hypervolume),
        generation=_whole(generation),
        candidates=unpack_candidate_list(candidates),
    )


def event_row(event: Event) -> tuple[Cell, ...]:
    """The row of an event."""
    return int(event.run), pack_number(event.at), pack_text(event.kind), pack_text(event.text)


def stored_event(row: Sequence[Read]) -> Event:
    """The event of a row."""
    _, run, at, kind, text = row
    return Event(_whole(run), _known(at), unpack_text(kind), unpack_text(text))


def run_record(row: Sequence[Read]) -> RunRecord:
    """The run of a row."""
    id, *texts = row
    return RunRecord(_whole(id), *(unpack_json(text) for text in texts))


def evaluation_columns(rows: Sequence[Sequence[Any]]) -> Columns:
    """Rows of evaluations as arrays; their scores stay packed.

    Raises:
        ValueError: they are of networks with different numbers of points.
    """
    _, run, _, candidate, _, _, state, score, low, high, bound, _, divergence, num_samples, _, seconds, at, _ = (
        zip(*rows, strict=True) if rows else ((),) * 18
    )
    return Columns(
        candidates=unpack_candidates(candidate),
        run=np.array(run, np.int64),
        state=np.array(state, "S8").astype("U8"),
        score=_numbers(score),
        interval=np.stack([_numbers(low), _numbers(high)], axis=1),
        bound=_numbers(bound),
        divergence=_numbers(divergence),
        num_samples=np.array(num_samples, np.int64),
        seconds=_numbers(seconds),
        at=_numbers(at),
    )


def joined(pages: Sequence[Columns]) -> Columns:
    """Columns below each other.

    Raises:
        StudyError: they are of networks with different numbers of points.
    """
    if len(widths := {page.candidates.shape[1] for page in pages}) > 1:
        raise StudyError(f"Columns must be of candidates with one number of points, got {sorted(widths)}. Give a role")
    names = [field.name for field in fields(Columns)]
    every = pages or [evaluation_columns([])]
    return Columns(**{name: np.concatenate([getattr(page, name) for page in every]) for name in names})


def _numbers(cells: Sequence[Read]) -> NDArray[np.float64]:
    return np.array(cells, np.float64)  # None is NaN, and text is read as a number


def _known(cell: Read) -> float:
    if cell is None:
        raise TypeError("must be a number, got nothing")
    return float(cell)


def _whole(cell: Read) -> int:
    if not isinstance(cell, int):
        raise TypeError(f"must be a whole number, got {cell!r}")
    return cell


def _state(cell: Read) -> str:
    if (state := unpack_text(cell)) not in _STATES:
        raise ValueError(f"must be one of {_STATES}, got {state!r}")
    return state
