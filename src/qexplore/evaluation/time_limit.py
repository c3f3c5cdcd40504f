"""A candidate may take so long and no longer: what hangs is ended, and the search goes on."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from qexplore.errors import EvaluationError

Item = TypeVar("Item")

_PATIENCE = 10.0
"""So many times as long as expected may many candidates take together before they are taken for hanging."""


_LONGEST = 1e8
"""Seconds that an alarm is set to at most, three years: systems refuse much longer ones."""


class OutOfTime(BaseException):
    """Raised in whatever takes too long; no ``Exception``, which a metric or a loader may catch."""


class TimeLimit:
    """Ends what takes longer than a candidate may.

    In the main thread of a POSIX system an interval timer interrupts whatever Python runs: a loader that sleeps, a
    metric that loops. In other threads, and on Windows, the clock is looked at between batches and steps, and at the
    end. An operation of torch is waited for in any case. One thread at a time.

    Args:
        seconds: of one candidate; None limits nothing.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = seconds
        self._deadline = math.inf

    @property
    def error(self) -> EvaluationError:
        """What is said of a candidate that was ended."""
        return EvaluationError(f"took longer than {self.seconds:g} s (max_seconds_each)")

    def of_many(self, count: int, seconds_each: float) -> float | None:
        """Seconds for ``count`` candidates together, each expected to take so many: once these are up, one hangs.

        Or the expectation was wrong; whoever asks takes them apart.
        """
        if self.seconds is None:
            return None
        return min(count * self.seconds, self.seconds + _PATIENCE * count * seconds_each)

    def check(self) -> None:
        """Raise where time is up."""
        if time.perf_counter() > self._deadline:
            raise OutOfTime

    def watching(self, items: Iterable[Item]) -> Iterable[Item]:
        """``items``, the clock looked at before each."""
        return items if self._deadline == math.inf else self._watched(items)

    def _watched(self, items: Iterable[Item]) -> Iterator[Item]:
        for item in items:
            self.check()
            yield item

    def forgive(self) -> None:
        """Raise no more: whoever was to be ended is being cleared away."""
        self._deadline = math.inf

    @contextmanager
    def around(self, seconds: float | None) -> Iterator[None]:
        """Raise `OutOfTime` in the block, or at its end, once ``seconds`` are up; None lets it be."""
        if seconds is None:
            yield
            return
        end = time.perf_counter() + seconds
        before, self._deadline = self._deadline, end
        with _alarm(seconds, self._ring):
            try:
                yield
            finally:
                self._deadline = before
        if time.perf_counter() > end:
            raise OutOfTime

    def _ring(self, *_: Any) -> None:
        if self._deadline < math.inf:
            raise OutOfTime


@contextmanager
def _alarm(seconds: float, ring: Callable[..., None]) -> Iterator[None]:
    """Have ``ring`` called in the block after ``seconds``, where that can be had; the user's own timer waits."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or not hasattr(signal, "setitimer") or signal.getsignal(signal.SIGALRM) is None:
        yield
        return
    start, before = time.perf_counter(), signal.signal(signal.SIGALRM, ring)
    left, interval = signal.setitimer(signal.ITIMER_REAL, min(seconds, _LONGEST))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.perf_counter() - start), 1e-6), interval)
