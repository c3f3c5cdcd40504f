"""An evaluator whose candidates are measured by workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qexplore._clock import now
from qexplore.distributed.census import census
from qexplore.distributed.dispatch import Crew, Dispatcher, NobodyLeft
from qexplore.distributed.division import divided
from qexplore.distributed.measurer import key_of
from qexplore.distributed.ray_crew import RayCrew
from qexplore.distributed.ray_workers import RayWorkers
from qexplore.distributed.records import WorkerRecord, WorkersReport
from qexplore.distributed.shipping import direct_of, evaluators_by_role, packed
from qexplore.distributed.tasks import Answer, Task
from qexplore.errors import WorkersError
from qexplore.evaluation import Evaluation, Evaluator, EvaluatorAround, Order, Told
from qexplore.metrics import Metric, Scores
from qexplore.model import Candidate, Candidates
from qexplore.search import LayerwiseQuantizationProblem


class Staff(Crew, Protocol):
    """A crew that can be sent evaluators."""

    num_workers: int
    events: list[str]
    differing: list[str]

    def begin(self, packets: Sequence[bytes]) -> None:
        """Start workers with what `packed` gave; none is waited for."""
        ...

    def add(self, packet: bytes) -> None:
        """Send evaluators of further roles, to workers that come later too."""
        ...

    def renew(self, packets: Sequence[bytes]) -> None:
        """Put other evaluators in the place of all that were sent."""
        ...

    def num_able(self, role: str) -> int:
        """Workers that measure ``role``, or may once they are ready."""
        ...

    def share(self, order: Order | None) -> Any:
        """``order`` as several tasks should have it."""
        ...

    def records(self) -> tuple[WorkerRecord, ...]:
        """A record of every worker that there was."""
        ...

    def close(self) -> None:
        """End the workers."""
        ...


class Spread:
    """Puts workers around evaluators, by their roles.

    Args:
        workers: what was asked for.
        evaluators: by role; that of ``"search"`` says which network is measured.
        crew: other workers than those of Ray.
    """

    def __init__(self, workers: RayWorkers, evaluators: Mapping[str, Evaluator], crew: Any = None) -> None:
        self._asked = workers
        self._known = dict(evaluators)
        self._model = direct_of(evaluators["search"]).model
        self._version = self._model.version()
        self._later: list[str] = []
        self._has_begun = False
        self.crew: Staff = crew or RayCrew(workers, census(self._known))
        self._dispatcher = Dispatcher(self.crew, workers.most_lost)
        self.measured_by: dict[Candidate, str] = {}
        self.asked_seconds = 0.0
        self.metrics: dict[int, Metric] = {}
        self.took: dict[str, float] = {}
        """Seconds that a candidate took last, by role and question."""

    def begin(self) -> None:
        """Start workers, unless that was done; none is waited for."""
        if self._has_begun:
            return
        self._has_begun = True
        if not self._asked.factory:
            self._version = self._model.version()
        self.crew.begin(() if self._asked.factory else (packed(self._known),))
        for role in self._later if self._asked.factory else ():
            self._send(role)

    def _send(self, role: str) -> None:
        """Send all workers the evaluator of a role that they have not been told of."""
        self.crew.add(packed({role: self._known[role]}, without=self._model))

    def __call__(self, evaluator: Evaluator, role: str) -> Evaluator:
        """``evaluator``, asked through workers."""
        if role not in self._known:
            self._known[role] = evaluator
            self._later.append(role)
            if self._has_begun:
                self._send(role)
        return DistributedEvaluator(evaluator, role, self)

    def answers(self, tasks: Sequence[Task], seconds_each: float | None) -> Iterator[tuple[Task, Answer]]:
        """Tasks with their answers, as they come."""
        self._require_same_model()
        start = now()
        try:
            for task, answer in self._dispatcher.answered(tasks, seconds_each):
                if answer.error is not None:
                    raise answer.error
                self.asked_seconds += now() - start
                self.took[task.role + task.question] = answer.seconds / len(task)
                yield task, answer
                start = now()
        finally:
            self.asked_seconds += now() - start

    def _require_same_model(self) -> None:
        """Send the network anew where it has changed since."""
        version = self._model.version()
        if version == self._version or not self._has_begun:
            return
        if self._asked.factory:
            raise WorkersError(
                f"the network must stay what `factory` {self._asked.factory!r} builds while it is explored, but it was "
                "changed"
            )
        self._version = version
        self.crew.renew([packed(self._known)])

    def figures(self) -> dict[str, str]:
        """How many workers are there of those that were asked for, what they do together, and how idle they are."""
        if not self._has_begun:
            return {}
        report = self.report()
        told = {"workers": f"{report.num_ready} of {self.crew.num_workers}", "idle": f"{report.idle_share:.0%}"}
        count = sum(one.num_candidates for one in report.workers)
        return told | ({"measured": f"{count / self.asked_seconds:.3g}/s"} if self.asked_seconds else {})

    def report(self) -> WorkersReport:
        """Who did what until now."""
        crew = self.crew
        return WorkersReport(
            crew.records(), dict(self.measured_by), tuple(crew.events), self.asked_seconds, tuple(crew.differing)
        )


class DistributedEvaluator(EvaluatorAround):
    """An `Evaluator` whose candidates are measured by workers.

    Args:
        evaluator: the same here: it describes, and has the last word where no worker is like this process.
        role: whose evaluations these are.
        spread: knows the workers.
    """

    def __init__(self, evaluator: Evaluator, role: str, spread: Spread) -> None:
        super().__init__(evaluator)
        self._role = role
        self._spread = spread

    def evaluate(
        self, candidates: Candidates, *, must_beat: Sequence[float] | None = None, order: Order | None = None
    ) -> Iterator[Evaluation]:
        """As `Evaluator.evaluate`; answers come in order, whoever is faster.

        What a candidate took counts as the part of the time that it kept all workers from others.
        """
        rows = np.asarray(candidates, dtype=np.int64)
        if not len(rows):
            return
        limits = None if must_beat is None else np.asarray(must_beat, dtype=np.float64)
        num_told = 0
        try:
            for evaluation in self._by_workers(rows, limits, order):
                num_told += 1
                yield evaluation
        except NobodyLeft:  # that they are all unlike this process may be found out only now
            left = None if limits is None else limits[num_told:].tolist()
            yield from self._evaluator.evaluate(rows[num_told:], must_beat=left, order=order)

    def _by_workers(
        self, rows: Candidates, limits: NDArray[np.float64] | None, order: Order | None
    ) -> Iterator[Evaluation]:
        self._spread.begin()
        if not self._spread.crew.num_able(self._role):
            raise NobodyLeft(f"no worker measures as this process does, which '{self._role}' needs")
        seconds = self._spread.took.get(f"{self._role}evaluate", direct_of(self._evaluator).float_evaluation.seconds)
        shared = self._spread.crew.share(order)

        def task(places: NDArray[np.int64]) -> Task:
            options = {} if limits is None else {"must_beat": limits[places]}
            return Task(self._role, "evaluate", tuple(places.tolist()), rows[places], options, shared)

        found: dict[int, Evaluation] = {}
        num_told = 0
        for done, answer in self._spread.answers([task(part) for part in self._parts(rows, seconds)], None):
            self._note(answer)
            share = 1 / max(1, self._spread.crew.num_able(self._role))
            values = (replace(one, seconds=share * one.seconds) for one in answer.values)
            found.update(zip(done.places, values, strict=True))
            while num_told in found:
                yield found.pop(num_told)
                num_told += 1

    def scores_on_subset(
        self,
        candidates: Candidates,
        metric: Metric,
        num_samples: int,
        *,
        against_float: bool = False,
        told: Told = lambda part: None,
    ) -> Scores:
        """As `Evaluator.scores_on_subset`."""
        rows = np.asarray(candidates, dtype=np.int64)
        if len(rows):
            self._spread.begin()
        told_as = key_of(direct_of(self._evaluator), metric, self._spread.metrics)
        options = {"metric": told_as, "num_samples": num_samples, "against_float": against_float}
        seconds = self._spread.took.get(f"{self._role}scores_on_subset")
        guess = direct_of(self._evaluator).float_evaluation.seconds / 10 if seconds is None else seconds
        tasks = [
            Task(self._role, "scores_on_subset", tuple(part.tolist()), rows[part], options)
            for part in self._parts(rows, guess)
        ]
        found: dict[int, Any] = {}
        for done, answer in self._spread.answers(tasks, seconds):
            found.update(zip(done.places, answer.values, strict=True))
            told(len(done))
        ordered: list[Scores] = [found[place] for place in range(len(rows))]
        return np.stack(ordered) if ordered else np.zeros((0, 0), dtype=np.float32)

    def _parts(self, rows: Candidates, seconds: float) -> list[NDArray[np.int64]]:
        passed = np.array(direct_of(self._evaluator).model.call_order)
        return divided(rows, self._spread.crew.num_workers, seconds, passed)

    def _note(self, answer: Answer) -> None:
        if self._role == "search" and answer.worker:  # nobody measured one with which workers were lost
            self._spread.measured_by |= {one.candidate: answer.worker for one in answer.values}


@contextmanager
def spread(workers: RayWorkers | None, problem: LayerwiseQuantizationProblem) -> Iterator[Spread | None]:
    """What asks the evaluators of ``problem`` through ``workers``, which are ended afterwards; None without any.

    Workers start with the first question: what a study answers by itself needs none.

    Raises:
        WorkersError: they cannot be had, or do not measure as this process does.
    """
    if workers is None:
        yield None
        return
    if not isinstance(workers, RayWorkers):
        raise WorkersError(f"`workers` must be RayWorkers(...) or None, got {workers!r}")
    around = Spread(workers, evaluators_by_role(problem))
    try:
        yield around
    finally:
        around.crew.close()
