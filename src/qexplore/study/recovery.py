"""What can be read of a damaged study, in a new file."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qexplore._arguments import made_folder
from qexplore.errors import StudyFileError, StudyWriteError
from qexplore.study.database import append, create
from qexplore.study.faults import SQLITE_ERRORS, as_study_errors
from qexplore.study.files import check_file, connect
from qexplore.study.packing import pack_json
from qexplore.study.pages import Text, rows_of_pages
from qexplore.study.schema import TABLES, checksum_of_read


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

    That is what SQLite still reads and, where it refuses, as with a file that was cut off, every row whose own pages
    are there. How many rows lay beyond the last that is whole cannot be known, and they are not counted.

    Rows get new numbers, in the old order. What was lost is measured again when an exploration goes on with the new
    file; where a part of the fingerprint was lost, that is refused as a mismatch.

    Args:
        path: a damaged study.
        into: a file that is not there; its folder is made.

    Raises:
        MissingStudyError: there is no file at ``path``.
        StudyFileError: a folder, an empty file, or nothing of it can be saved.
        ExistingStudyError: there is a file at ``into``.
        StudyWriteError: ``into`` cannot be written.
    """
    source, target = Path(path), Path(into)
    with as_study_errors(source):
        check_file(source, writes=False)
        rows = _rows_by_table(source)
    found = {table: [whole[1:-1] for _, whole in sorted(rows[table].whole.items())] for table in TABLES}
    runs = {id: row[1:-1] for id, row in rows["runs"].whole.items()}
    named = {row[0] for table in ("evaluations", "parts", "snapshots", "events") for row in found[table]}
    # A run whose row is lost keeps its place: what it measured is still true.
    found["runs"] = [runs.get(id) or _lost(id) for id in range(1, max([*runs, *named], default=0) + 1)]

    def fill(connection: sqlite3.Connection) -> None:
        for table in TABLES:
            append(connection, table, found[table])

    made_folder(target, StudyWriteError)
    create(target, fill, share=False)
    return Recovery(
        target,
        {table: len(rows[table].whole) for table in TABLES},
        {table: rows[table].left for table in TABLES},
    )


def _lost(id: int) -> tuple[str, str, str]:
    return pack_json("", {"lost": id}), "{}", "{}"


@dataclass
class _Rows:
    """Of one table, by id: whole ones, and the ids of all that were come across."""

    whole: dict[int, Any]
    seen: set[int]

    @property
    def left(self) -> int:
        known = self.seen.union(range(1, max(self.whole, default=0) + 1))
        return len(known - self.whole.keys() - {0})  # the first id is 1: nought is read from nothing


def _rows_by_table(path: Path) -> dict[str, _Rows]:
    """As SQLite reads them, who knows the log beside the file; what is missing then, from the pages themselves."""
    scans, reason = _by_sqlite(path)
    found = {name: _Rows(dict(_whole(name, scan.rows)), {row[0] for row in scan.rows}) for name, scan in scans.items()}
    if any(found[name].left or not scan.is_all for name, scan in scans.items()):
        for row in rows_of_pages(path):
            for name, rows in found.items():
                for id, whole in _whole(name, [row]):
                    rows.whole.setdefault(id, whole)
    if not any(rows.whole for rows in found.values()):
        said = f" (SQLite: {reason})" if reason else ""
        raise StudyFileError(
            f"Nothing of '{path}' can be saved: no row of a study that is whole was found in it{said}. It is left as "
            f"it is; look for another copy of it"
        )
    return found


def _whole(table: str, rows: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """Ids and rows, as they were written, of those whose checksum is right."""
    for row in rows:
        read = tuple(bytes(cell) if isinstance(cell, Text) else cell for cell in row)
        if checksum_of_read(table, read[:-1]) == read[-1]:
            yield row[0], tuple(map(_as_written, row))


def _as_written(cell: Any) -> Any:
    try:
        return cell.decode() if isinstance(cell, Text) else cell
    except UnicodeDecodeError:  # its bytes are whole, and they were none of a text
        return bytes(cell)


@dataclass
class _Scan:
    rows: list[Any]
    is_all: bool


def _by_sqlite(path: Path) -> tuple[dict[str, _Scan], str]:
    """Tables as far as SQLite reads them, and why not even their list."""
    reason = ""
    for mode in ("mode=ro", "immutable=1"):  # what lies beside it may be damaged too, or its folder only be read
        try:
            return _tables(path, mode), ""
        except SQLITE_ERRORS as error:
            reason = str(error)
    return {table: _Scan([], False) for table in TABLES}, reason


def _tables(path: Path, mode: str) -> dict[str, _Scan]:
    connection = connect(path, mode)
    try:
        connection.text_factory = Text
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
        return {table: _table(connection, table) for table in TABLES}
    finally:
        connection.close()


def _table(connection: sqlite3.Connection, table: str) -> _Scan:
    """From the first row on and, where that ends too soon, from the last back."""
    first = _scan(connection, table, "id > ? ORDER BY id", 0)
    if first.is_all:
        return first
    return _Scan(first.rows + _scan(connection, table, "id < ? ORDER BY id DESC", 2**63 - 1).rows, False)


def _scan(connection: sqlite3.Connection, table: str, beyond: str, place: int) -> _Scan:
    """One row at a time: SQLite's module may look at the next before it gives one, and fail at that."""
    rows: dict[int, Any] = {}
    try:
        while row := _one(connection, table, beyond, place):
            if row[0] in rows:  # a damaged page leads back
                return _Scan(list(rows.values()), False)
            place = row[0]
            rows[place] = row
    except SQLITE_ERRORS:
        return _Scan(list(rows.values()), False)
    return _Scan(list(rows.values()), True)


def _one(connection: sqlite3.Connection, table: str, beyond: str, place: int) -> Any:
    return connection.execute(f"SELECT * FROM {table} NOT INDEXED WHERE {beyond} LIMIT 1", (place,)).fetchone()
