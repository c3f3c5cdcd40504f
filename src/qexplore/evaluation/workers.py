"""A few threads of our own instead of many inside every operation."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from qexplore.evaluation.time_limit import TimeLimit

Item = TypeVar("Item")
Result = TypeVar("Result")

_SECONDS_TO_REST = 1.0
"""Until a thread that does not stop by itself is interrupted."""


class Stopped(BaseException):
    """Raised inside a worker that is to give up its work."""


class Workers:
    """Runs a function over items, results in the order of the items.

    Small operations gain little from several threads inside them; whole batches side by side gain all of it. Each
    worker gets its share of the threads that torch has now.

    Args:
        limit: most workers that are of use; one runs in the calling thread.
    """

    def __init__(self, limit: int) -> None:
        self._num_threads = torch.get_num_threads()
        self.count = max(1, min(limit, self._num_threads))
        self._stop = False
        self._pool: ThreadPoolExecutor | None = None
        self._at_work: set[int] = set()
        self.clock: TimeLimit | None = None
        """Looked at between steps, where there is a limit."""

    def map(self, function: Callable[[int, Item], Result], items: Iterable[Item]) -> list[Result]:
        """``function(worker, item)`` of every item; ``worker`` counts from 0 and no two run at once with the same one.

        The first error is raised once all workers are at rest, an interrupt of the waiting thread too.
        """
        if self.count == 1:
            return [function(0, item) for item in items]
        if self._pool is None:
            self._pool = self._started()
        idle = list(range(self.count))

        def work(item: Item) -> Result:
            worker = idle.pop()  # atomic, and never empty: the pool runs no more than this at once
            self._at_work.add(threading.get_ident())
            try:
                return function(worker, item)
            finally:
                self._at_work.discard(threading.get_ident())
                idle.append(worker)

        futures: list[Future[Result]] = [self._pool.submit(work, item) for item in items]
        try:
            wait(futures, return_when="FIRST_EXCEPTION")
            return [future.result() for future in futures]
        finally:
            self._come_to_rest(futures)

    def _started(self) -> ThreadPoolExecutor:
        """Threads that have their share of torch's; whatever other threads begin from now on has what this one has."""
        all_there = threading.Barrier(self.count + 1)

        def begin() -> None:
            torch.get_num_threads()  # a thread takes what was set last when it first asks: now, and not once more
            torch.set_num_threads(self._num_threads // self.count)  # its own, and what new threads begin with
            all_there.wait()

        pool = ThreadPoolExecutor(self.count, thread_name_prefix="qexplore", initializer=begin)
        try:
            for _ in range(self.count):
                pool.submit(int)  # each begins a thread, for none is idle yet
            all_there.wait()
        except BaseException:
            all_there.abort()  # an interrupt leaves none waiting
            raise
        finally:
            torch.set_num_threads(self._num_threads)
        return pool

    def check(self) -> None:
        """Raise in a worker whose work is no longer wanted, or takes too long."""
        if self._stop:
            raise Stopped
        if self.clock is not None:
            self.clock.check()

    def _come_to_rest(self, futures: list[Future[Result]]) -> None:
        self._stop = True
        if self.clock is not None:
            self.clock.forgive()  # or its alarm would ring in here
        for future in futures:
            future.cancel()
        while wait(futures, timeout=_SECONDS_TO_REST).not_done:
            self._end_work()
        self._stop = False

    def _end_work(self) -> None:
        """Have `Stopped` raised in threads that do not look, inside a metric that loops, as soon as they run Python."""
        for thread in tuple(self._at_work):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(Stopped))
        self.close()  # one that had come to its end meanwhile is broken now

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
            self._pool = None
