"""A study's file before SQLite sees it: what it is, where it lies, and how a new one comes into being."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from qexplore.errors import ExistingStudyError, MissingStudyError, StudyFileError, StudyWriteError
from qexplore.study.schema import APPLICATION_ID, SCHEMA_VERSION

MOUNTS = Path("/proc/mounts")
NETWORK = ("nfs", "cifs", "smb", "9p", "fuse.sshfs", "lustre", "ceph", "glusterfs", "beegfs", "gpfs", "afs", "davfs")


def check_file(path: Path, *, writes: bool) -> None:
    """Raise unless ``path`` is a file with something in it, to which one has the right.

    It is not opened: the system would take the locks of every other connection of this process to it.

    Raises:
        MissingStudyError: there is no file.
        StudyFileError: a folder, an empty file, or one that may not be read.
        StudyWriteError: it may only be read, and ``writes`` asks for more.
    """
    shown = f"The study '{path}'"
    try:
        size = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise MissingStudyError(f"{shown} does not exist. Give the path of a study, or make one first") from None
    if path.is_dir() or not _may(path, os.R_OK):
        what = "is a folder" if path.is_dir() else "may not be read"
        raise StudyFileError(f"{shown} must be a file that can be read, and it {what}. Give another path")
    if not size:
        raise StudyFileError(f"{shown} must be a study, got an empty file. Remove it, or give another path")
    if writes and not _may(path, os.W_OK):
        raise StudyWriteError(f"{shown} may only be read. Give the right to write, read it only, or give another path")


def _may(path: Path, right: int) -> bool:
    return os.access(path, right, effective_ids=os.access in os.supports_effective_ids)


def check_kind(path: Path, connection: sqlite3.Connection) -> None:
    """Raise unless the file of a connection is a study that this version can read.

    Raises:
        StudyFileError: something else, or a study of a newer version.
    """
    shown = f"The study '{path}'"
    try:
        [application] = connection.execute("PRAGMA application_id").fetchone()
        [version] = connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.DatabaseError as error:
        if "not a database" not in str(error):
            raise
        with open(path, "rb") as file:
            begins = file.read(16)
        raise StudyFileError(
            f"{shown} must be a study, got something else, which begins with {begins!r}. It is left as it is; give "
            f"another path"
        ) from error
    if application != APPLICATION_ID:
        raise StudyFileError(
            f"{shown} must be a study, got an SQLite file of something else (application id {application:#x}). It is "
            f"left as it is; give another path"
        )
    if version > SCHEMA_VERSION:
        raise StudyFileError(
            f"{shown} must be of schema {SCHEMA_VERSION} or older, got {version}: it was written by a newer qexplore. "
            f"Install that version, or a newer one"
        )


def network_file_system(path: Path) -> str | None:
    """The kind of network file system that ``path`` lies on; None on a disk of this machine, or where not known."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    folder = str(path.absolute().parent.resolve())
    kinds = {place.replace("\\040", " "): kind for _, place, kind, *_ in (line.split(" ") for line in lines)}
    above = [place for place in kinds if f"{folder}/".startswith(f"{place.rstrip('/')}/")]
    kind = kinds[max(above, key=len)] if above else ""
    return kind if kind.startswith(NETWORK) else None


def create_file(path: Path, fill: Callable[[Path], None]) -> None:
    """Make a study at ``path`` that is whole or not there at all, wherever the process ends.

    Raises:
        ExistingStudyError: there is a file already.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        fill(temporary)
        _give_name(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        Path(f"{temporary}-journal").unlink(missing_ok=True)
    _write_through(path.parent)


def _give_name(temporary: Path, path: Path) -> None:
    """Rename without replacing what is there."""
    try:
        os.rename(temporary, path) if os.name == "nt" else os.link(temporary, path)
    except FileExistsError as error:
        raise exists(path) from error
    except OSError:  # a file system without links
        if path.exists():
            raise exists(path) from None
        os.rename(temporary, path)


def exists(path: Path) -> ExistingStudyError:
    """The error of a path that is taken."""
    return ExistingStudyError(
        f"The study '{path}' cannot be made: there is a file or folder already, which is left as it is. Open it, or "
        f"give another path"
    )


def _write_through(folder: Path) -> None:
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection that waits for other writers, gives text as bytes, and leaves transactions to us."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=60, isolation_level=None, check_same_thread=False
    )
    connection.text_factory = bytes
    return connection
