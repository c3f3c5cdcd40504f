"""How long a search takes on a cluster: its steps, given by the real dispatcher to workers that only wait.

What is simulated is the workers and the clock. How a population is divided, who gets what next and what is given twice
is the package's own code.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from _cluster_traces import Step

from qexplore.distributed import Answer, Dispatcher, Reply, Task, divided

ROLES = {"look": ("search", "scores_on_subset"), "measure": ("search", "evaluate"), "verify": ("direct", "evaluate")}


_TICK = 1e-6
"""What a clock goes on at least: a moment that is told apart from the one before."""


@dataclass(frozen=True)
class Costs:
    """Seconds.

    Attributes:
        per_task: of the driver, to give a task and to take its answers.
        per_answer: of the driver, for each candidate among them.
        per_open: of the driver, for each task that others are at, whenever it takes in answers.
        latency: from the driver to a worker and back, when neither has anything to do.
        begin: of a worker, before the first candidate of a task.
        verify: of a pass by the direct evaluator, as a multiple of one by the engine.
        start: until the workers are ready.
    """

    per_task: float = 0.0
    per_answer: float = 0.0
    per_open: float = 0.0
    latency: float = 0.0
    begin: float = 0.0
    verify: float = 1.0
    start: float = 0.0


@dataclass(frozen=True)
class Taken:
    """What a search took.

    Attributes:
        seconds: from the start to the end.
        worked: seconds that workers measured, all of them together.
        workers: how many there are.
        own: seconds in which the driver was busy with its own.
        handing: seconds in which it gave out tasks and took in answers.
        again: tasks that were given to a second worker.
    """

    seconds: float
    worked: float
    workers: int
    own: float
    handing: float
    again: int = 0

    @property
    def busy(self) -> float:
        """The share of the workers' time in which they measure."""
        return self.worked / (self.workers * self.seconds)


class SimulatedCrew:
    """As `qexplore.distributed.Crew`: workers whose answers come when a clock of its own says so.

    Args:
        workers: how many.
        costs: of whatever is not measuring.
    """

    def __init__(self, workers: int, costs: Costs) -> None:
        self.clock = costs.start
        self.worked = self.handing = 0.0
        self.again = 0
        self.lengths: dict[Task, float] = {}
        """Of the tasks that may be given."""
        self._costs = costs
        self._free = list(range(workers))
        self._under_way: list[tuple[float, int, Task, float]] = []

    def idle(self, role: str) -> Sequence[int]:
        """As `Crew.idle`."""
        return tuple(self._free)

    def give(self, worker: int, task: Task) -> None:
        """As `Crew.give`."""
        self._handle(self._costs.per_task / 2)
        length = self._costs.begin + self.lengths[task]
        self.worked += length
        self._free.remove(worker)
        heapq.heappush(self._under_way, (self.clock + self._costs.latency + length, worker, task, length))

    def wait(self, seconds: float | None) -> Sequence[Reply]:
        """As `Crew.wait`."""
        limit = np.inf if seconds is None else self.clock + seconds
        if self._under_way[0][0] > limit:
            self.clock = max(limit, self.clock + _TICK)
            return []
        self.clock = max(self.clock, self._under_way[0][0])
        self._handle(self._costs.per_open * len(self._under_way))
        replies = []
        while self._under_way and self._under_way[0][0] <= self.clock:
            _, worker, task, length = heapq.heappop(self._under_way)
            self._free.append(worker)
            self._handle(self._costs.per_task / 2 + self._costs.per_answer * len(task))
            replies.append(Reply(task, Answer(seconds=length)))
        return replies

    def now(self) -> float:
        """As `Crew.now`."""
        return self.clock

    def tell(self, event: str) -> None:
        """Count what is given twice; nobody is lost."""
        self.again += 1

    def _handle(self, seconds: float) -> None:
        self.clock += seconds
        self.handing += seconds


def simulated(steps: Sequence[Step], workers: int, pass_seconds: float, costs: Costs) -> Taken:
    """A search on ``workers``, each of which runs a candidate over the whole set in ``pass_seconds``.

    The driver thinks, asks, and waits for the last answer.
    """
    crew, took = SimulatedCrew(workers, costs), dict[str, float]()
    dispatcher = Dispatcher(crew, most_lost=1)
    for step in steps:
        crew.clock += step.own
        each = pass_seconds * (costs.verify if step.kind == "verify" else 1.0)
        guess = took.get(step.kind, each / 10 if step.kind == "look" else each)
        crew.lengths = {task: each * work_of(step, task.places) for task in tasks_of(step, workers, guess)}
        for task, answer in dispatcher.answered(list(crew.lengths)):
            took[step.kind] = answer.seconds / len(task)
    return Taken(crew.clock, crew.worked, workers, sum(step.own for step in steps), crew.handing, crew.again)


def tasks_of(step: Step, workers: int, seconds_each: float) -> list[Task]:
    """A step as it is divided; its candidates stand in the order of their prefixes already."""
    role, question = ROLES[step.kind]
    rows = np.arange(len(step.work))[:, None]
    return [Task(role, question, tuple(part.tolist()), rows[part]) for part in divided(rows, workers, seconds_each)]


def work_of(step: Step, places: Sequence[int]) -> float:
    """Passes of neighbours: the first runs through the whole network, the others share what they can.

    The direct evaluator shares nothing.
    """
    if step.kind == "verify":
        return sum(step.work[place] for place in places)
    first, *others = places
    return step.work[first] + sum(step.work[place] * step.fresh[place] for place in others)
