"""Several studies of the same measurements as one."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from qexplore._arguments import made_folder
from qexplore.errors import StudyError, StudyMismatchError, StudyWriteError
from qexplore.study import rows
from qexplore.study.database import append, create
from qexplore.study.fingerprint import difference_lines
from qexplore.study.packing import Cell, pack_json, pack_text
from qexplore.study.records import Event, RunRecord
from qexplore.study.store import Store
from qexplore.study.study import Study

_TOGETHER = 1000


def merge(*paths: str | os.PathLike[str], into: str | os.PathLike[str]) -> Study:
    """Put all runs and evaluations of several studies into a new one, and open it.

    Equal runs become one, which may go on as far as the farther of the two might, and an evaluation that two of them
    hold is there once, as the first one has it. The studies are left as they are; an exploration with ``study=`` goes
    on with the new one.

    Args:
        paths: of the studies, one at least.
        into: a file that is not there; its folder is made. It is whole or not there at all.

    Raises:
        StudyMismatchError: they were not measured alike; names what differs, file by file.
        MissingStudyError, StudyFileError: a path leads to no study, or a damaged one.
        ExistingStudyError: there is a file at ``into``.
        StudyWriteError: ``into`` cannot be written.
    """
    if not paths:
        raise StudyError('`merge` must be given one study at least, got none: merge("a.db", "b.db", into="c.db")')
    target = Path(into)
    made_folder(target, StudyWriteError)
    with ExitStack() as opened:
        stores = [opened.enter_context(Store.open(path, writes=False)) for path in paths]
        _require_alike(stores)
        create(target, lambda connection: _fill(connection, stores), share=False)
    return Study.open(target)


def _require_alike(stores: Sequence[Store]) -> None:
    first, lines = stores[0], []
    for store in stores[1:]:
        where = f"in '{first.path}'", f"in '{store.path}'"
        lines += difference_lines(first.fingerprint, store.fingerprint, where)
    if lines:
        raise StudyMismatchError(
            "\n".join(
                [
                    f"Studies must have been measured alike to be merged, got {len(lines)} difference"
                    f"{'s' if len(lines) > 1 else ''}:",
                    *lines,
                    "Merge only those that agree.",
                ]
            )
        )


@dataclass
class _Merged:
    """A run of the new study, and where it comes from: stores by place, with its number there."""

    record: RunRecord
    origins: dict[int, int]


def _fill(connection: sqlite3.Connection, stores: Sequence[Store]) -> None:
    texts = [(pack_text(name), pack_text(text)) for name, text in stores[0].fingerprint.items()]
    append(connection, "fingerprint", texts)
    runs = _runs(stores)
    append(connection, "runs", [_run_row(run.record) for run in runs])
    new = {(place, old): run.record.id for run in runs for place, old in run.origins.items()}
    for place, store in enumerate(stores):
        of_tables: dict[str, Iterator[tuple[Cell, ...]]] = {
            "evaluations": (rows.evaluation_row(replace(one, run=new[place, one.run])) for one in store.evaluations()),
            "parts": (rows.part_row(replace(one, run=new[place, one.run])) for one in store.parts()),
            "snapshots": (rows.snapshot_row(replace(one, run=new[place, one.run])) for one in store.snapshots()),
        }
        for table, cells in of_tables.items():
            while page := list(islice(cells, _TOGETHER)):
                append(connection, table, page)
    append(connection, "events", [rows.event_row(event) for run in runs for event in _events(stores, run)])


def _runs(stores: Sequence[Store]) -> list[_Merged]:
    found: dict[str, _Merged] = {}
    for place, store in enumerate(stores):
        for record in store.runs():
            key = pack_json("`settings` of a run", record.settings)
            if key not in found:
                found[key] = _Merged(replace(record, id=len(found) + 1), {})
            merged = found[key]
            merged.origins[place] = record.id
            merged.record = replace(
                merged.record,
                budget=_larger(merged.record.budget, record.budget),
                facts=merged.record.facts or record.facts,
            )
    return list(found.values())


def _larger(one: Any, other: Any) -> dict[str, Any]:
    """Of each limit the one that allows more; None sets none."""
    names = dict.fromkeys([*one, *other])
    pairs = {name: (one.get(name), other.get(name)) for name in names}
    return {name: None if None in pair else max(pair) for name, pair in pairs.items()}


def _run_row(record: RunRecord) -> tuple[Cell, ...]:
    return tuple(pack_json("a run", values) for values in (record.settings, record.budget, record.facts))


def _events(stores: Sequence[Store], run: _Merged) -> list[Event]:
    """Those of one origin after the other, last the one that came farthest: how it stands is how the run stands."""
    lists = [stores[place].events(old) for place, old in run.origins.items()]
    lists.sort(
        key=lambda events: (any(one.kind == "ended" for one in events), max((one.at for one in events), default=0))
    )
    written = dict.fromkeys((one.at, one.kind, one.text) for events in lists for one in events)
    return [Event(run.record.id, *one) for one in written]
