"""One writer at a time: a lock of the operating system, which lets go of it when the process dies, however it dies."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import weakref
from io import FileIO
from pathlib import Path

from qexplore.errors import StudyLockedError

_HELD: weakref.WeakSet[WriteLock] = weakref.WeakSet()
_NUM_SHARERS = 64  # Windows only: how many processes can share
_FAR = 1 << 40  # Windows locks bytes, and locked ones cannot be read; the note of who holds it lies before


class WriteLock:
    """The right to write to a study, alone or shared with others that share.

    The lock is on a file beside the study, which stays: to remove it would let two processes lock two different ones.
    A process forked from this one, such as a worker of a data loader, does not hold it.

    Args:
        path: the study.
        share: whether others that share may write too.

    Raises:
        StudyLockedError: somebody else holds it.
        OSError: the file beside the study cannot be made.
    """

    def __init__(self, path: Path, *, share: bool) -> None:
        self.is_held = True
        self._file = open(lock_path(path), "a+b", buffering=0)  # noqa: SIM115
        try:
            self.is_held = _lock(self._file, share)
        except BlockingIOError as error:
            holder = _holder(self._file)
            self._file.close()
            raise StudyLockedError(_refusal(path, share, holder)) from error
        _HELD.add(self)
        with contextlib.suppress(OSError):  # only a courtesy to who is refused, and there may be no room
            self._file.truncate(0)
            self._file.write(str(os.getpid()).encode())

    def release(self) -> None:
        """Let go of it; a second time does nothing."""
        _HELD.discard(self)
        self._file.close()


def lock_path(path: Path) -> Path:
    """The file beside a study on which the lock lies, the same for every name that leads there."""
    return Path(f"{path.resolve()}.lock")


def writers(path: Path) -> str:
    """Who writes to a study now: ``"one"`` process, ``"several"`` that share it (or one that would), or nobody: empty.

    Nobody also where the system does not tell.
    """
    try:
        file = open(lock_path(path), "rb", buffering=0)  # noqa: SIM115
    except OSError:
        return ""
    with file:
        for share, who in ((True, "one"), (False, "several")):
            try:
                _lock(file, share)
            except BlockingIOError:
                return who
            except OSError:
                return ""
    return ""


def _refusal(path: Path, share: bool, holder: str) -> str:
    ways = "wait until it has ended, read the study only, write to another file"
    if share:
        return (
            f"The study '{path}' can be shared only when all who write share it, and {holder} writes to it alone. "
            f"Give it share=True as well, or {ways}"
        )
    return (
        f"The study '{path}' must have one writer, and {holder} is writing to it. Either {ways}, or give share=True to "
        f"all who write"
    )


def _holder(file: FileIO) -> str:
    try:
        file.seek(0)
        number = file.read(32).decode(errors="replace").strip()
    except OSError:
        number = ""
    if number == str(os.getpid()):
        return "something else in this process"
    return f"process {number}" if number.isdigit() else "another process"


if sys.platform == "win32":
    import msvcrt

    def _lock(file: FileIO, share: bool) -> bool:
        """Sharers lock one of many bytes, a single writer all of them."""
        places = [(_FAR + place, 1) for place in range(_NUM_SHARERS)] if share else [(_FAR, _NUM_SHARERS)]
        for place, size in places:
            file.seek(place)
            try:
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, size)
            except OSError:
                continue
            return True
        raise BlockingIOError(errno.EAGAIN, "locked")

else:
    import fcntl

    def _lock(file: FileIO, share: bool) -> bool:
        """Whether there are locks at all: some network file systems have none."""
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if share else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                return False
            raise
        return True

    def _leave_to_the_parent() -> None:
        for lock in list(_HELD):
            lock.release()

    os.register_at_fork(after_in_child=_leave_to_the_parent)
