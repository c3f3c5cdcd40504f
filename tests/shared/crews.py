"""Workers in this process, each with evaluators of its own from the bytes that Ray would send; faults on demand."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import qexplore as qx
from qexplore.distributed import Lost, RayWorkers, Reply, Spread, Task
from qexplore.distributed.measurer import Measurer, Setup


def slowed(output: Any, target: Any) -> Any:
    """Top-1 accuracy that takes its time, for searches that are disturbed on their way."""
    time.sleep(0.02)
    return qx.top1_accuracy(output, target)


def spread_here(crew: Any, evaluators: dict[str, Any], **options: Any) -> dict[str, Any]:
    """``evaluators`` by role, asked through ``crew``."""
    spread = Spread(RayWorkers(num_workers=crew.num_workers, **options), evaluators, crew)
    spread.begin()
    return {role: spread(evaluator, role) for role, evaluator in evaluators.items()}


class CrewHere:
    """As `RayCrew`, one after the other; the clock goes on by what tasks take, or by what is said they take.

    Args:
        num_workers: that there are.
        fault: of a worker and a task: seconds that it takes, or a reason for which the worker is lost with it.
    """

    def __init__(self, num_workers: int = 2, fault: Callable[[int, Task], float | str] = lambda *_: 0.1) -> None:
        self.num_workers = num_workers
        self.events: list[str] = []
        self.differing: list[str] = []
        self.given: list[tuple[int, Task]] = []
        self.measurers: dict[int, Any] = {}
        self._fault = fault
        self._time = 0.0
        self._open: dict[int, tuple[float, Task]] = {}
        self._lost: set[int] = set()

    def begin(self, packets: Sequence[bytes]) -> None:
        self.packets = [*packets]
        for worker in range(self.num_workers):
            self._start(worker)

    def _start(self, worker: int) -> None:
        self.measurers[worker] = Measurer()
        self.present = self.measurers[worker].begin(Setup((), 1), *self.packets)
        assert self.present.error is None, self.present.error

    def add(self, packet: bytes) -> None:
        self.packets.append(packet)
        for measurer in self.measurers.values():
            assert measurer.add(packet).error is None

    def renew(self, packets: Sequence[bytes]) -> None:
        self._open.clear()
        self.begin(packets)

    def close(self) -> None:
        self.measurers.clear()

    def idle(self, role: str) -> list[int]:
        return [worker for worker in range(self.num_workers) if worker not in self._open]

    def num_able(self, role: str) -> int:
        return self.num_workers

    def share(self, order: Any) -> Any:
        return order

    def give(self, worker: int, task: Task) -> None:
        self.given.append((worker, task))
        what = self._fault(worker, task)
        self._open[worker] = self._time + (what if isinstance(what, float) else 0.05), task
        if isinstance(what, str):
            self._lost.add(worker)
            self.reason = what

    def wait(self, seconds: float | None) -> list[Reply]:
        worker, (until, task) = min(self._open.items(), key=lambda one: one[1][0])
        if seconds is not None and until > self._time + seconds:
            self._time += seconds + 1e-9
            return []
        self._time = until
        del self._open[worker]
        if worker in self._lost:
            self._lost.remove(worker)
            if self.measurers:
                self._start(worker)
            return [Reply(task, Lost(self.reason))]
        return [Reply(task, self._answer(worker, task))]

    def _answer(self, worker: int, task: Task) -> Any:
        return self.measurers[worker].answer(replace(task, order=None), task.order)

    def now(self) -> float:
        return self._time

    def tell(self, event: str) -> None:
        self.events.append(event)

    def records(self) -> tuple[Any, ...]:
        return ()
