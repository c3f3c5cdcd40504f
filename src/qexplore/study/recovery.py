"""What can be read of a damaged study, in a new file."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qexplore._arguments import made_folder
from qexplore.errors import MissingStudyError, StudyWriteError
from qexplore.study.database import append, create
from qexplore.study.faults import SQLITE_ERRORS, as_study_errors
from qexplore.study.files import connect
from qexplore.study.packing import pack_json
from qexplore.study.schema import TABLES, checksum_of_read

_FURTHER = 5000  # ids that are tried beyond the last that a scan could read


class _Text(bytes):
    """A cell that was text: it must be text again, for to SQLite the same bytes are another value."""


@dataclass(frozen=True)
class Recovery:
    """What was saved of a damaged study; its text says it.

    Attributes:
        path: the new file.
        saved: rows by table.
        left: rows by table that were damaged or could not be reached, as far as their number is known.
    """

    path: Path
    saved: Mapping[str, int]
    left: Mapping[str, int]

    def __str__(self) -> str:
        lines = [f"  {table}: {self.saved[table]} saved, {self.left[table]} left" for table in TABLES]
        return "\n".join([f"Saved in '{self.path}':", *lines])


def recover(path: str | os.PathLike[str], into: str | os.PathLike[str]) -> Recovery:
    """Copy every row whose checksum is right to a new study; the damaged one is left as it is.

    Rows get new numbers, in the old order. What was lost is measured again when an exploration goes on with the new
    file; where a part of the fingerprint was lost, that is refused as a mismatch.

    Args:
        path: a damaged study.
        into: a file that is not there; its folder is made.

    Raises:
        MissingStudyError: there is no file at ``path``.
        StudyFileError: not even the list of its tables can be read.
        ExistingStudyError: there is a file at ``into``.
        StudyWriteError: ``into`` cannot be written.
    """
    source, target = Path(path), Path(into)
    if not source.is_file():
        raise MissingStudyError(f"The study '{source}' does not exist. Give the path of a damaged study")
    made_folder(target, StudyWriteError)
    with as_study_errors(source):
        rows = _whole_rows(source)
    found = {table: [row[1:-1] for row in rows[table] if row] for table in TABLES}
    runs = {row[0]: row[1:-1] for row in rows["runs"] if row}
    named = {row[0] for table in ("evaluations", "parts", "snapshots", "events") for row in found[table]}
    # A run whose row is lost keeps its place: what it measured is still true.
    found["runs"] = [runs.get(id) or _lost(id) for id in range(1, max([*runs, *named], default=0) + 1)]

    def fill(connection: sqlite3.Connection) -> None:
        for table in TABLES:
            append(connection, table, found[table])

    create(target, fill, share=False)
    saved = {table: sum(row is not None for row in rows[table]) for table in TABLES}
    return Recovery(target, saved, {table: len(rows[table]) - saved[table] for table in TABLES})


def _lost(id: int) -> tuple[str, str, str]:
    return pack_json("", {"lost": id}), "{}", "{}"


def _whole_rows(path: Path) -> dict[str, list[Any]]:
    """Rows by table; None in the place of each that is not whole."""
    try:
        return _rows_by_table(path, "mode=ro")
    except sqlite3.OperationalError:  # what lies beside it may be damaged too, or its folder only be read
        return _rows_by_table(path, "immutable=1")


def _rows_by_table(path: Path, mode: str) -> dict[str, list[Any]]:
    connection = connect(path, mode)
    try:
        connection.text_factory = _Text
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
        return {table: list(_checked(table, _readable(connection, table))) for table in TABLES}
    finally:
        connection.close()


def _checked(table: str, rows: Mapping[int, Any]) -> Iterator[Any]:
    for id in range(1, max(rows, default=0) + 1):
        row = rows.get(id, ())
        read = tuple(bytes(cell) if isinstance(cell, _Text) else cell for cell in row)
        is_whole = bool(read) and checksum_of_read(table, read[:-1]) == read[-1]
        yield tuple(map(_as_written, row)) if is_whole else None


def _as_written(cell: Any) -> Any:
    try:
        return cell.decode() if isinstance(cell, _Text) else cell
    except UnicodeDecodeError:  # its bytes are whole, and they were none of a text
        return bytes(cell)


def _readable(connection: sqlite3.Connection, table: str) -> dict[int, Any]:
    """Rows by id: from the first on, from the last back, and one by one between, each as far as that goes."""
    first = _scan(connection, table, "WHERE id > 0 ORDER BY id")
    last = _scan(connection, table, "WHERE id > 0 ORDER BY id DESC") if not first.is_all else first
    begin = max(first.rows, default=0) + 1
    end = max([begin + _FURTHER, *last.rows]) if not first.is_all else begin
    known = first.rows | last.rows
    for id in range(begin, end):
        if id not in known:
            known |= _scan(connection, table, f"WHERE id = {id}").rows
    return known


@dataclass
class _Scan:
    rows: dict[int, Any]
    is_all: bool


def _scan(connection: sqlite3.Connection, table: str, which: str) -> _Scan:
    rows: dict[int, Any] = {}
    try:
        for row in connection.execute(f"SELECT * FROM {table} NOT INDEXED {which}"):
            rows[row[0]] = row
    except SQLITE_ERRORS:
        return _Scan(rows, False)
    return _Scan(rows, True)
