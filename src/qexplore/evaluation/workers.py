"""A few threads of our own instead of many inside every operation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


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

    def map(self, function: Callable[[int, Item], Result], items: Iterable[Item]) -> list[Result]:
        """``function(worker, item)`` of every item; ``worker`` counts from 0 and no two run at once with the same one.

        The first error is raised once all workers are at rest, an interrupt of the waiting thread too.
        """
        if self.count == 1:
            return [function(0, item) for item in items]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(
                self.count,
                thread_name_prefix="qexplore",
                initializer=torch.set_num_threads,
                initargs=(self._num_threads // self.count,),
            )
        idle = list(range(self.count))

        def work(item: Item) -> Result:
            worker = idle.pop()  # atomic, and never empty: the pool runs no more than this at once
            try:
                return function(worker, item)
            finally:
                idle.append(worker)

        futures: list[Future[Result]] = [self._pool.submit(work, item) for item in items]
        try:
            wait(futures, return_when="FIRST_EXCEPTION")
            return [future.result() for future in futures]
        finally:
            self._come_to_rest(futures)

    def check(self) -> None:
        """Raise in a worker whose work is no longer wanted."""
        if self._stop:
            raise Stopped

    def _come_to_rest(self, futures: list[Future[Result]]) -> None:
        self._stop = True
        for future in futures:
            future.cancel()
        wait(futures)
        self._stop = False
        torch.set_num_threads(self._num_threads)  # the workers' own setting is what new threads would begin with

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
            self._pool = None
