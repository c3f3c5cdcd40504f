"""Tasks and workers: who gets what next, and what happens to the task of one that is lost or slow.

Knows no Ray and no clock but the crew's, so that it can be tested, and simulated, without either.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Protocol

import numpy as np

from qexplore.distributed.tasks import Answer, Task
from qexplore.errors import EvaluationError, WorkersError
from qexplore.evaluation import Evaluation

_LATE, _LEAST_LATE = 3.0, 1.0
"""A task is late after so many times what it should take, and so many seconds."""


class NobodyLeft(WorkersError):
    """No worker that may measure what is asked is there or to come."""


@dataclass(frozen=True)
class Lost:
    """A worker went away with its task: why."""

    reason: str


@dataclass(frozen=True, eq=False)
class Reply:
    """What came of a task that was given to a worker."""

    task: Task
    outcome: Answer | Lost


class Crew(Protocol):
    """Workers, one task each at a time."""

    def idle(self, role: str) -> Sequence[int]:
        """Workers that may measure ``role`` and have nothing to do."""
        ...

    def give(self, worker: int, task: Task) -> None:
        """Begin ``task``."""
        ...

    def wait(self, seconds: float | None) -> Sequence[Reply]:
        """What has come, once something has; nothing where a worker came instead, or ``seconds`` went by.

        Raises:
            NobodyLeft: nothing can come.
        """
        ...

    def now(self) -> float:
        """Seconds since some moment."""
        ...

    def tell(self, event: str) -> None:
        """Note what has happened."""
        ...


@dataclass(eq=False)
class _Given:
    """A task that somebody has."""

    task: Task
    since: float
    again: bool = False


@dataclass(eq=False)
class _Call:
    """One call's tasks: those that wait, those that are with workers, those that are answered, and what they took."""

    role: str
    waiting: deque[Task]
    expected: float | None
    given: dict[Task, _Given] = field(default_factory=dict)
    answered: deque[tuple[Task, Answer]] = field(default_factory=deque)
    took: list[float] = field(default_factory=list)

    @property
    def is_open(self) -> bool:
        return bool(self.waiting or self.given)

    def next_for_idle(self, now: float) -> tuple[Task, bool] | None:
        """What an idle worker should do, and whether somebody has it already; None for nothing."""
        if self.waiting:
            return self.waiting.popleft(), False
        late = [one for one in self.given.values() if not one.again and self._lateness(one, now) >= 0]
        return (max(late, key=lambda one: self._lateness(one, now)).task, True) if late else None

    def seconds_until_late(self, now: float) -> float:
        """Until a task becomes late that nobody else has; infinite where none will."""
        left = [-self._lateness(one, now) for one in self.given.values() if not one.again]
        return max(0.0, min(left, default=np.inf))

    def take(self, task: Task, answer: Answer) -> None:
        """The first answer to ``task``."""
        del self.given[task]
        self.took.append(answer.seconds / len(task))
        self.answered.append((task, answer))

    def _lateness(self, one: _Given, now: float) -> float:
        each = median(self.took) if self.took else self.expected
        if each is None:
            return -np.inf
        return now - one.since - max(_LEAST_LATE, _LATE * each * len(one.task))


class Dispatcher:
    """Gives tasks to a crew and brings answers back, of several calls at once: one may be asked inside another.

    A task whose worker is lost is given to another, the last time each candidate alone; one with which ``most_lost``
    workers were lost fails, with the reason. A task that is late is given to a second worker as well, once one has
    nothing else to do, and the first answer is taken.

    Args:
        crew: the workers.
        most_lost: workers that may be lost with a candidate.
    """

    def __init__(self, crew: Crew, most_lost: int) -> None:
        self._crew = crew
        self._most_lost = most_lost
        self._calls: list[_Call] = []

    def answered(self, tasks: Sequence[Task], seconds_each: float | None = None) -> Iterator[tuple[Task, Answer]]:
        """The answers to ``tasks``, all of one role, in the order in which they come.

        Args:
            tasks: none of them empty.
            seconds_each: what a candidate takes, where that is known before the first answer.
        """
        if not tasks:
            return
        call = _Call(tasks[0].role, deque(tasks), seconds_each)
        self._calls.insert(0, call)  # whoever asked last is waited for
        try:
            while call.is_open or call.answered:
                while call.answered:
                    yield call.answered.popleft()
                if call.is_open:
                    self._go_on()
        finally:
            self._calls.remove(call)

    def _go_on(self) -> None:
        """Hand out what can be, and take in what comes."""
        limit = min(self._hand_out(call) for call in self._calls)
        for reply in self._crew.wait(limit if np.isfinite(limit) else None):
            for call in self._calls:
                if reply.task in call.given:  # or another was faster, or its call was given up
                    self._receive(call, reply)

    def _hand_out(self, call: _Call) -> float:
        """Give tasks of ``call`` to idle workers; seconds until there may be more to give."""
        for worker in self._crew.idle(call.role):
            found = call.next_for_idle(self._crew.now())
            if found is None:
                return call.seconds_until_late(self._crew.now())
            task, again = found
            if again:
                self._crew.tell(f"{_counted(task)} late, and given to a second worker")
            call.given[task] = _Given(task, self._crew.now(), again)
            self._crew.give(worker, task)
        return np.inf

    def _receive(self, call: _Call, reply: Reply) -> None:
        if isinstance(reply.outcome, Answer):
            call.take(reply.task, reply.outcome)
        elif call.given[reply.task].again:  # somebody else still has it
            call.given[reply.task].again = False
        else:
            self._give_again(call, reply.task, reply.outcome.reason)

    def _give_again(self, call: _Call, task: Task, reason: str) -> None:
        """The task of a lost worker: once more, in parts for a last try, or not at all."""
        lost = replace(task, num_lost=task.num_lost + 1)
        if len(lost) > 1 or lost.num_lost < self._most_lost:
            del call.given[task]
            is_last_try = len(lost) > 1 and lost.num_lost >= self._most_lost - 1
            call.waiting.extendleft(_apart(lost, self._most_lost) if is_last_try else [lost])
            self._crew.tell(f"a worker was lost, and its {_counted(lost)} given to another: {reason}")
        else:
            call.take(task, _failed(lost, reason))


def _counted(task: Task) -> str:
    return f"{len(task)} candidates were" if len(task) > 1 else "candidate was"


def _apart(task: Task, most_lost: int) -> Iterator[Task]:
    """Each candidate alone, for a last try."""
    for row, place in enumerate(task.places):
        candidates = task.candidates[row : row + 1]
        yield replace(task, places=(place,), candidates=candidates, num_lost=most_lost - 1)


def _failed(task: Task, reason: str) -> Answer:
    candidate = tuple(task.candidates[0].tolist())
    told = f"{task.num_lost} worker{'s were' if task.num_lost > 1 else ' was'} lost with it, the last time: {reason}"
    if task.question != "evaluate":
        return Answer(error=EvaluationError(f"candidate {candidate} fails: {told}"))
    return Answer((Evaluation(candidate, "failed", reason=told),))
