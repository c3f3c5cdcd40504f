"""What SQLite and the operating system say, in the words of the package."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qexplore.errors import QExploreError, StudyError, StudyFileError, StudyLockedError, StudyWriteError

SQLITE_ERRORS = (sqlite3.Error, UnicodeDecodeError)  # the second where a sentence quotes bytes of a damaged file
_SAVE = "Take a copy of it, or save the rows that are whole with qexplore.study.recover(path, into)"
_KEPT = "what was written before stays"
# Found by SQLite's own sentence: Python tells its number from 3.11 on only.
_SENTENCES: tuple[tuple[tuple[str, ...], type[StudyError], str], ...] = (
    (
        ("database or disk is full", "disk I/O error"),
        StudyWriteError,
        f"cannot be written, the disk may be full; {_KEPT}. Make room and go on",
    ),
    (
        ("readonly database",),
        StudyWriteError,
        f"cannot be written, it may only be read; {_KEPT}. Give the right to write, or copy it to another folder",
    ),
    (
        ("unable to open database file",),
        StudyWriteError,
        "cannot be opened: SQLite makes files beside it and may not. Give the right to write to its folder, or copy it "
        "to another one, with the files beside it that begin with its name",
    ),
    (
        ("database is locked", "database table is locked"),
        StudyLockedError,
        f"is being written by another process that does not let go of it; {_KEPT}. Go on when that one has ended",
    ),
    (("FOREIGN KEY",), StudyError, "has no such run; begin_run comes first"),
    (("closed database",), StudyError, "is closed; open it again"),
)


@contextmanager
def as_study_errors(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and of the operating system into errors of the study at ``path``.

    Raises:
        StudyWriteError: no room, or no right to write.
        StudyLockedError: another process does not let go of it.
        StudyFileError: the file is damaged.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _of_sqlite(path, error) from error
    except UnicodeDecodeError as error:
        raise damaged(path, "SQLite cannot read it", error.object) from error
    except OSError as error:
        if isinstance(error, QExploreError):
            raise
        raise StudyWriteError(
            f"The study '{path}' cannot be written ({error.strerror or error}: '{error.filename or path}'); {_KEPT}. "
            f"Give the right to write and room, or another path"
        ) from error


def damaged(path: Path, where: str, reason: object) -> StudyFileError:
    """The error of a file whose bytes are not those that were written; ``where`` names the table and row."""
    return StudyFileError(f"The study '{path}' is damaged: {where}, {reason}. {_SAVE}")


def _of_sqlite(path: Path, error: sqlite3.Error) -> StudyError:
    said = str(error)
    for parts, kind, sentence in _SENTENCES:
        if any(part in said for part in parts):
            return kind(f"The study '{path}' {sentence} (SQLite: {said})")
    return damaged(path, "SQLite cannot read it", said)
