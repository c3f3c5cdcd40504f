"""The connection to a study's file: transactions, and rows that are checked whenever they are read."""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from qexplore.errors import StudyError
from qexplore.study.faults import as_study_errors, damaged
from qexplore.study.files import check_file, check_kind, connect, create_file, exists, network_file_system
from qexplore.study.locking import WriteLock
from qexplore.study.packing import Cell, Read, pack_text
from qexplore.study.schema import (
    APPLICATION_ID,
    OF_RUNS,
    SCHEMA_VERSION,
    STATEMENTS,
    TABLES,
    checksum,
    checksum_of_read,
)

Record = TypeVar("Record")
Row = tuple[Any, ...]
Given = TypeVar("Given", Row, list[Row])

_LIMITS = {"until": "at <=", "upto": "id <="}
_PAGE = 2000  # rows read at a time: a reader never keeps a writer from tidying up
_LASTING = ("synchronous = FULL", "fullfsync = ON")  # the second for macOS, whose fsync does not reach the disk
_NOT_A_VALUE = (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError, zlib.error)


class Database:
    """An open study's file; may be used from several threads.

    Args:
        path: the file.
        writes: whether to write to it.
        share: whether others that share may write too.

    Raises:
        StudyError: see `Store.open`.
    """

    def __init__(self, path: Path, *, writes: bool, share: bool) -> None:
        self.path = path
        self._process, self._thread = os.getpid(), threading.RLock()
        with as_study_errors(path), ExitStack() as undo:
            check_file(path, writes=writes)
            network = network_file_system(path) if writes else None
            lock = right_to_write(path, share, network) if writes else None
            if lock:
                undo.callback(lock.release)
            self._connection = _connection(path, writes, "DELETE" if network else "WAL")
            undo.callback(self._connection.close)
            self._check()
            self._closing = undo.pop_all()
        self.notes = tuple(_notes(path, network, lock))
        _OPEN.add(self)

    def close(self) -> None:
        """Close the file and let others write; a second time does nothing."""
        with self._thread:
            if self._process == os.getpid():
                self._closing.close()

    def rows(self, table: str, **wanted: Any) -> Iterator[Row]:
        """The rows of all `pages`."""
        return chain.from_iterable(self.pages(table, **wanted))

    def last(self, table: str) -> int:
        """The id of the last row, which is the number of rows."""
        with self._connected() as connection:
            return int(connection.execute(f"SELECT ifnull(max(id), 0) FROM {table}").fetchone()[0])

    def pages(self, table: str, *, after: int = 0, **wanted: Any) -> Iterator[list[Row]]:
        """Whole rows without their checksums, in the order they were written, many at a time.

        ``wanted`` are values of columns; None for any. ``until`` is the last ``at``, ``after`` and ``upto`` are ids.
        """
        given = {name: value for name, value in wanted.items() if value is not None}
        where = "".join(f" AND {_LIMITS.get(name, f'{name} =')} ?" for name in given)
        values = [pack_text(value) if isinstance(value, str) else value for value in given.values()]
        last = after
        while page := self.select(table, f"id > ?{where} ORDER BY id LIMIT {_PAGE}", (last, *values)):
            yield page
            last = page[-1][0]

    def select(self, table: str, where: str, values: Sequence[Cell]) -> list[Row]:
        """Whole rows without their checksums.

        Raises:
            StudyFileError: a row is damaged.
        """
        with self._connected() as connection:
            found = connection.execute(f"SELECT * FROM {table} WHERE {where}", values).fetchall()
        cells = [row[:-1] for row in found]
        for row, whole in zip(found, cells, strict=True):
            if checksum_of_read(table, whole) != row[-1]:
                raise damaged(self.path, f"row {row[0]} of table '{table}'", "its checksum is that of something else")
        return cells

    def candidates(self, table: str, role: Cell) -> list[bytes]:
        """Column ``candidate`` of the rows of a role, for what is there and what is not; whole rows say the rest."""
        with self._connected() as connection:
            found = connection.execute(f"SELECT DISTINCT candidate FROM {table} WHERE role = ?", (role,))
            return [candidate for (candidate,) in found]

    def roles(self) -> list[Read]:
        """Whose evaluations there are."""
        with self._connected() as connection:
            return [role for (role,) in connection.execute("SELECT DISTINCT role FROM evaluations ORDER BY role")]

    def record(self, table: str, row: Given, make: Callable[[Given], Record]) -> Record:
        """What ``make`` makes of a row, or of a page of them.

        Raises:
            StudyFileError: it is none, though its checksum is right.
        """
        try:
            return make(row)
        except _NOT_A_VALUE as error:
            where = f"row {row[0]}" if isinstance(row, tuple) else f"one of the rows {row[0][0]} to {row[-1][0]}"
            raise damaged(self.path, f"{where} of table '{table}'", error) from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written inside, or nothing."""
        with self._connected() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # SQLite may have undone it by itself
                    connection.execute("ROLLBACK")
                raise

    def append(self, table: str, rows: Sequence[Sequence[Cell]]) -> None:
        """Write rows, ids and checksums apart, but those whose key is there; inside a transaction."""
        append(self._connection, table, rows)

    def replace(self, table: str, id: int, cells: Mapping[str, Cell]) -> None:
        """Write some cells of a row anew; inside a transaction."""
        [row] = self.select(table, "id = ?", (id,))
        names = self._columns(table)
        new = {**dict(zip(names, row, strict=True)), **cells}
        sealed = checksum(table, tuple(new.values()))
        places = ", ".join(f"{name} = ?" for name in (*cells, "checksum"))
        self._connection.execute(f"UPDATE {table} SET {places} WHERE id = ?", (*cells.values(), sealed, id))

    def take_back(self, run: int) -> None:
        """Remove a run that nothing was written after, and all that is of it; inside a transaction."""
        for table, key in (*((table, "run") for table in OF_RUNS), ("runs", "id")):
            self._connection.execute(f"DELETE FROM {table} WHERE {key} = ?", (run,))

    def _columns(self, table: str) -> list[str]:
        return [row[1].decode() for row in self._connection.execute(f"PRAGMA table_info({table})")][:-1]

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        if self._process != os.getpid():
            raise StudyError(
                f"The study '{self.path}' was opened by process {self._process} and must be used there, this is "
                f"process {os.getpid()}. Open it again here, with share=True on both sides to write"
            )
        with self._thread, as_study_errors(self.path):
            yield self._connection

    def _check(self) -> None:
        """Whether the file holds the tables of its version, nothing else that would run, and no row is missing."""
        made = "SELECT sql FROM sqlite_master WHERE name NOT LIKE 'sqlite^_%' ESCAPE '^'"
        if sorted(sql.decode() for (sql,) in self._connection.execute(made)) != sorted(STATEMENTS):
            raise damaged(self.path, "its tables", f"they are not those of schema {SCHEMA_VERSION}")
        [said] = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if said != b"ok":
            raise damaged(self.path, "SQLite's check of its pages", said.decode(errors="replace"))
        for table in TABLES:
            count, last = self._connection.execute(f"SELECT count(*), max(id) FROM {table} NOT INDEXED").fetchone()
            if count != (last or 0):
                raise damaged(self.path, f"table '{table}'", f"{count} rows are there of {last} that were written")


def _notes(path: Path, network: str | None, lock: WriteLock | None) -> Iterator[str]:
    if network:
        yield (
            f"'{path}' lies on a network file system ({network}), where SQLite cannot keep a log beside the file: "
            f"writing takes longer, readers and the writer wait for each other, and only one process may write"
        )
    if lock and not lock.is_held:
        yield f"'{path}' lies where the system has no locks: nothing keeps a second process from writing to it"


def right_to_write(path: Path, share: bool, network: str | None) -> WriteLock:
    """The lock.

    Raises:
        StudyError: ``share`` on a network file system.
    """
    if network and share:
        raise StudyError(
            f"The study '{path}' must lie on a disk of this machine to be shared, got a network file system "
            f"({network}), whose locks SQLite cannot rely on. Move it, or let one process write at a time"
        )
    return WriteLock(path, share=share)


def create(path: Path, fill: Callable[[sqlite3.Connection], None], *, share: bool) -> None:
    """Make a study at ``path`` and write its first rows; it is whole or not there at all."""
    if os.path.lexists(path):
        raise exists(path)
    with as_study_errors(path):
        lock = right_to_write(path, share, network_file_system(path))
        try:
            create_file(path, lambda temporary: _make(temporary, fill))
        finally:
            lock.release()


def _make(path: Path, fill: Callable[[sqlite3.Connection], None]) -> None:
    connection = connect(path, "mode=rwc")
    try:
        for setting in _LASTING:
            connection.execute(f"PRAGMA {setting}")
        for statement in ("BEGIN", *STATEMENTS):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        fill(connection)
        connection.execute("COMMIT")
    finally:
        connection.close()


def append(connection: sqlite3.Connection, table: str, rows: Sequence[Sequence[Cell]]) -> None:
    """Write rows, ids and checksums apart, but those whose key is there."""
    [last] = connection.execute(f"SELECT ifnull(max(id), 0) FROM {table}").fetchone()
    for row in rows:
        cells = (last + 1, *row)
        places = ", ".join("?" * (len(cells) + 1))
        statement = f"INSERT INTO {table} VALUES ({places}) ON CONFLICT DO NOTHING"
        last += connection.execute(statement, (*cells, checksum(table, cells))).rowcount


def _connection(path: Path, writes: bool, journal: str) -> sqlite3.Connection:
    connection = connect(path, "mode=rw") if writes else _connection_to_read(path)
    try:
        check_kind(path, connection)
        # The file may come from anybody: nothing in it is run, and its pages are looked at before they are used.
        for setting in ("trusted_schema = OFF", "cell_size_check = ON", "foreign_keys = ON", *_LASTING):
            connection.execute(f"PRAGMA {setting}")
        if writes:
            connection.execute(f"PRAGMA journal_mode = {journal}")
    except BaseException:
        connection.close()
        raise
    return connection


def _connection_to_read(path: Path) -> sqlite3.Connection:
    """SQLite wants to make files beside the one it reads; where it may not, and nothing lies there, it need not."""
    connection = connect(path, "mode=ro")
    try:
        connection.execute("PRAGMA application_id")
    except sqlite3.OperationalError as error:
        connection.close()
        beside = [Path(f"{path}{end}") for end in ("-wal", "-journal")]
        may_not = "unable to open" in str(error) or "readonly" in str(error)
        if not may_not or any(file.exists() and file.stat().st_size for file in beside):
            raise
        return connect(path, "immutable=1")
    except sqlite3.DatabaseError:
        pass  # `check_kind` says what it is
    return connection


_OPEN: weakref.WeakSet[Database] = weakref.WeakSet()
_OF_PARENTS: list[sqlite3.Connection] = []


def _leave_to_the_parent() -> None:
    """A forked process must not even close what it inherited: SQLite would tidy up under its parent's feet."""
    _OF_PARENTS.extend(database._connection for database in _OPEN)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_parent)
