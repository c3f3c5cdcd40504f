"""A clock that can be put forward: time that was spent before, and is answered from a record, counts once more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Clock:
    """Seconds since some moment, as `time.perf_counter` tells them, and those that were skipped."""

    def __init__(self) -> None:
        self._skipped = 0.0

    def now(self) -> float:
        """Seconds."""
        return time.perf_counter() + self._skipped

    def skip(self, seconds: float) -> None:
        """Put it forward."""
        self._skipped += seconds


_CURRENT = ContextVar("qexplore clock", default=Clock())  # noqa: B039 - nobody puts that one forward


def now() -> float:
    """What the present clock says."""
    return _CURRENT.get().now()


@contextmanager
def own_clock() -> Iterator[Clock]:
    """A clock for what runs inside, in this thread."""
    clock = Clock()
    token = _CURRENT.set(clock)
    try:
        yield clock
    finally:
        _CURRENT.reset(token)
