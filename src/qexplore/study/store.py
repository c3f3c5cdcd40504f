"""The file of a study: what was measured, there for good once `write` has returned."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qexplore._arguments import made_folder
from qexplore.errors import StudyWriteError
from qexplore.study import rows
from qexplore.study.database import Database, append, create
from qexplore.study.packing import pack_candidate, pack_json, pack_number, pack_text, unpack_candidate, unpack_text
from qexplore.study.records import Columns, Event, Part, RunRecord, Stored, StoredSnapshot


class Store:
    """One SQLite file that holds the runs of a study. Make it with `create` or `open`; it is a context manager.

    It may be used from several threads, but not in a process forked from the one that opened it.

    Attributes:
        path: the file.
        fingerprint: what decides a measurement, name to text.
        notes: what is to be said of it.
    """

    path: Path
    fingerprint: Mapping[str, str]
    notes: tuple[str, ...]

    def __init__(self, database: Database) -> None:
        self.path, self.notes, self._database = database.path, database.notes, database
        self.fingerprint = {unpack_text(name): unpack_text(text) for _, name, text in database.rows("fingerprint")}

    @classmethod
    def create(cls, path: str | os.PathLike[str], fingerprint: Mapping[str, str], *, share: bool = False) -> Store:
        """Make a new study.

        Args:
            path: a file that is not there; its folder is made.
            fingerprint: what decides a measurement, name to text.
            share: whether other processes that share may write to it too.

        Raises:
            ExistingStudyError: there is a file already.
            StudyLockedError: somebody else is making it.
            StudyWriteError: nothing can be written there.
            StudyError: `share` on a network file system.
        """
        file = Path(path)
        made_folder(file, StudyWriteError)
        texts = [(pack_text(name), pack_text(text)) for name, text in fingerprint.items()]
        create(file, lambda connection: append(connection, "fingerprint", texts), share=share)
        return cls.open(file, writes=True, share=share)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, writes: bool, share: bool = False) -> Store:
        """Open a study that is there.

        Args:
            path: the file.
            writes: whether to write to it; else it is only read, which nobody who writes hinders.
            share: whether other processes that share may write to it too.

        Raises:
            MissingStudyError: there is no file.
            StudyFileError: it holds no study, is damaged, or was written by a newer version.
            StudyLockedError: somebody else is writing to it.
            StudyWriteError: it may only be read, or the disk is full.
            StudyError: `share` on a network file system.
        """
        database = Database(Path(path), writes=writes, share=share)
        try:
            return cls(database)
        except BaseException:
            database.close()
            raise

    def close(self) -> None:
        """Close the file and let others write; a second time does nothing."""
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin_run(
        self, settings: Mapping[str, Any], budget: Mapping[str, Any], facts: Mapping[str, Any]
    ) -> tuple[RunRecord, bool]:
        """The run with equal settings, its budget and facts brought up to date, or a new one.

        Returns:
            The run, and whether it was there.

        Raises:
            StudyError: one of them holds what JSON cannot.
        """
        given = {"settings": settings, "budget": budget, "facts": facts}
        texts = {name: pack_json(f"`{name}` of a run", value) for name, value in given.items()}
        key = texts["settings"].encode()
        with self._database.transaction():
            known = [id for id, found, *_ in self._database.rows("runs") if found == key]
            if known:
                self._database.replace("runs", known[0], texts)
            else:
                self._database.append("runs", [tuple(texts.values())])
            [row] = [row for row in self._database.rows("runs") if row[1] == key]
        return self._database.record("runs", row, rows.run_record), bool(known)

    def take_back(self, run: int) -> None:
        """Forget a run that has measured nothing, and that nobody has written after.

        Raises:
            StudyWriteError: the disk is full, or the store was opened to be read.
        """
        with self._database.transaction():
            self._database.take_back(run)

    def runs(self) -> list[RunRecord]:
        """The runs, in the order they began."""
        return [self._database.record("runs", row, rows.run_record) for row in self._database.rows("runs")]

    def evaluation(self, role: str, candidate: Sequence[int], limit: float | None, order: str) -> Stored | None:
        """What is known of a candidate: under that very key, else any complete evaluation of it; None if nothing."""
        key = (pack_number(limit), pack_text(order))
        found = self._database.select(
            "evaluations",
            "candidate = ? AND role = ? AND (state = 'complete' OR (must_beat IS ? AND sample_order = ?)) "
            "ORDER BY (must_beat IS ? AND sample_order = ?) DESC, id LIMIT 1",
            (pack_candidate(candidate), pack_text(role), *key, *key),
        )
        return self._database.record("evaluations", found[0], rows.stored_evaluation) if found else None

    def roles(self) -> list[str]:
        """Under which there are evaluations."""
        return [unpack_text(role) for role in self._database.roles()]

    def candidates(self, table: str, role: str) -> set[tuple[int, ...]]:
        """Of whom there is something in a table, ``"evaluations"`` or ``"parts"``, under a role."""
        return set(map(unpack_candidate, self._database.candidates(table, pack_text(role))))

    def part(
        self, role: str, metric: str, num_samples: int, against_float: bool, candidate: Sequence[int]
    ) -> Part | None:
        """Scores of a candidate on a part of the set; None if they were not measured."""
        key = (pack_candidate(candidate), pack_text(role), pack_text(metric), int(num_samples), int(against_float))
        where = "candidate = ? AND role = ? AND metric = ? AND num_samples = ? AND against_float = ?"
        found = self._database.select("parts", where, key)
        return self._database.record("parts", found[0], rows.stored_part) if found else None

    def write(
        self,
        evaluations: Sequence[Stored] = (),
        parts: Sequence[Part] = (),
        snapshots: Sequence[StoredSnapshot] = (),
        events: Sequence[Event] = (),
    ) -> None:
        """Write all of these or, if anything is in the way, nothing; what is there already is left as it is.

        When it returns, they survive the process, the system and the loss of power.

        Raises:
            StudyWriteError: the disk is full, or the store was opened to be read.
            StudyError: one is of a run that is not there.
        """
        new = {
            "evaluations": [rows.evaluation_row(one) for one in evaluations],
            "parts": [rows.part_row(one) for one in parts],
            "snapshots": [rows.snapshot_row(one) for one in snapshots],
            "events": [rows.event_row(one) for one in events],
        }
        with self._database.transaction():
            for table, cells in new.items():
                self._database.append(table, cells)

    def evaluations(
        self,
        *,
        run: int | None = None,
        role: str | None = None,
        until: float | None = None,
        state: str | None = None,
    ) -> Iterator[Stored]:
        """Evaluations in the order they were written, of one run, role or state, or until so many seconds, if given."""
        for row in self._database.rows("evaluations", run=run, role=role, until=until, state=state):
            yield self._database.record("evaluations", row, rows.stored_evaluation)

    def columns(
        self,
        *,
        run: int | None = None,
        role: str | None = "search",
        until: float | None = None,
        state: str | None = "complete",
        after: int = 0,
        upto: int | None = None,
    ) -> Columns:
        """The same as arrays, without scores by sample; None for any role or state.

        ``after`` so many of all evaluations, and ``upto`` so many; see `num_evaluations`.
        """
        wanted = {"run": run, "role": role, "until": until, "state": state, "upto": upto}
        pages = self._database.pages("evaluations", after=after, **wanted)
        return rows.joined([self._database.record("evaluations", page, rows.evaluation_columns) for page in pages])

    @property
    def num_evaluations(self) -> int:
        """How many there are, of any role and state."""
        return self._database.last("evaluations")

    def parts(self, *, run: int | None = None, role: str | None = None) -> Iterator[Part]:
        """Parts in the order they were written."""
        for row in self._database.rows("parts", run=run, role=role):
            yield self._database.record("parts", row, rows.stored_part)

    def snapshots(self, run: int | None = None) -> list[StoredSnapshot]:
        """Snapshots in the order they were written."""
        found = self._database.rows("snapshots", run=run)
        return [self._database.record("snapshots", row, rows.stored_snapshot) for row in found]

    def events(self, run: int | None = None) -> list[Event]:
        """Events in the order they were written."""
        return [
            self._database.record("events", row, rows.stored_event) for row in self._database.rows("events", run=run)
        ]
