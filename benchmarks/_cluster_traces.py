"""What a search asks of its evaluators, in its order: what a cluster would be given, and what the driver does alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

import qexplore as qx
from qexplore.evaluation import Evaluation, Evaluator
from qexplore.search import LayerwiseQuantizationProblem


class Step(NamedTuple):
    """One question to an evaluator: whoever asks waits for all answers.

    Candidates stand in the order of their prefixes, as they are divided among workers.

    Attributes:
        kind: ``"look"`` at a part of the set, ``"measure"`` or ``"verify"``.
        own: seconds of the driver's processor since the last answer.
        work: of each candidate, in passes over the whole set, when it shares nothing.
        fresh: of each candidate, the share of the network that it has not in common with the one before it.
    """

    kind: str
    own: float
    work: list[float]
    fresh: list[float]


class Trace(NamedTuple):
    """A search as it went.

    Attributes:
        steps: in their order.
        curve: steps begun, passes and hypervolume whenever the front grew, and at the end of a generation.
    """

    steps: list[Step]
    curve: list[tuple[int, float, float]]


def traced(problem: LayerwiseQuantizationProblem, budget: int, seed: int, generation: int) -> Trace:
    """A search whose generations hold ``generation`` candidates."""
    steps, curve, driver = list[Step](), list[tuple[int, float, float]](), Stopwatch()

    def note(snapshot: qx.Snapshot) -> None:
        curve.append((len(steps), snapshot.num_passes, snapshot.hypervolume))

    qx.explore(
        problem.recorded_by(lambda evaluator, role: Watched(evaluator, role, problem, steps, driver)),
        max_evaluations=budget,
        seed=seed,
        generation_size=generation,
        callbacks=[note],
        progress=False,
    )
    return Trace(steps, curve)


class Stopwatch:
    """Seconds of this thread's processor, but for those in which it is paused."""

    def __init__(self) -> None:
        self._since: float | None = time.thread_time()
        self._spent = 0.0

    def pause(self) -> None:
        """Stop until `go`."""
        if self._since is not None:
            self._spent, self._since = self._spent + time.thread_time() - self._since, None

    def go(self) -> None:
        """Run on."""
        self._since = time.thread_time() if self._since is None else self._since

    def taken(self) -> float:
        """What has run up since it was last asked; while it is paused."""
        spent, self._spent = self._spent, 0.0
        return spent


class Watched:
    """An evaluator, asked as ever; every question becomes a step.

    Args:
        evaluator: answers.
        role: ``"search"`` or ``"direct"``.
        problem: whose points and samples.
        steps: that grow.
        driver: runs while nobody waits for an answer.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        role: str,
        problem: LayerwiseQuantizationProblem,
        steps: list[Step],
        driver: Stopwatch,
    ) -> None:
        self._evaluator = evaluator
        self._kind = "measure" if role == "search" else "verify"
        self._order = list(problem.model.call_order)
        self._samples = problem.num_samples
        self._steps = steps
        self._driver = driver

    def __getattr__(self, name: str) -> Any:
        return getattr(self._evaluator, name)

    def evaluate(self, candidates: np.ndarray, **options: Any) -> Iterator[Evaluation]:
        """As the evaluator does; what is done with an answer is the driver's own."""
        if not len(candidates):
            return
        step, places = self._step(self._kind, candidates)
        try:
            for row, answer in enumerate(self._evaluator.evaluate(candidates, **options)):
                step.work[places[row]] = answer.num_samples / self._samples
                self._driver.go()
                yield answer
                self._driver.pause()
        finally:
            self._driver.go()

    def scores_on_subset(self, candidates: np.ndarray, metric: Any, num_samples: int, **options: Any) -> np.ndarray:
        """As the evaluator does."""
        step, _ = self._step("look", candidates)
        step.work[:] = [self._evaluator.subset_size(num_samples) / self._samples] * len(candidates)
        try:
            return self._evaluator.scores_on_subset(candidates, metric, num_samples, **options)
        finally:
            self._driver.go()

    def _step(self, kind: str, candidates: np.ndarray) -> tuple[Step, np.ndarray]:
        """A step begun, and where it has each of ``candidates``."""
        self._driver.pause()
        rows = candidates[:, self._order]
        order = np.lexsort(rows.T[::-1])
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        step = Step(kind, self._driver.taken(), [0.0] * len(rows), fresh(rows[order]))
        self._steps.append(step)
        return step, places


def fresh(rows: np.ndarray) -> list[float]:
    """The share of points of each row from the first on at which it differs from the row before."""
    same = np.cumprod(rows[1:] == rows[:-1], axis=1).sum(axis=1)
    return [1.0, *(1.0 - same / rows.shape[1]).tolist()][: len(rows)]
