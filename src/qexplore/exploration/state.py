"""A search under way: its archive, its history, its budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from qexplore._progress import Progress
from qexplore.errors import EvaluationError
from qexplore.evaluation import Evaluation, Screen
from qexplore.exploration.budget import Budget
from qexplore.exploration.records import Snapshot, StopExploration
from qexplore.front import Front
from qexplore.model import Candidates
from qexplore.search import (
    PLAIN,
    Archive,
    Generation,
    Goal,
    LayerwiseQuantizationProblem,
    generations,
    reference_point,
)

_TABLE_SHARE = 0.5
"""Of the passes that are left, what a sensitivity table may cost; the rest makes use of it."""

Callback = Callable[[Snapshot], object]


class Run:
    """One search under way: its archive, its history, its budget."""

    def __init__(
        self,
        problem: LayerwiseQuantizationProblem,
        *,
        algorithm: Any,
        budget: Budget,
        racing: bool,
        screening: bool,
        goal: Goal | None,
        callbacks: Iterable[Callback],
        progress: bool | None,
    ) -> None:
        self._problem = problem
        self._algorithm = algorithm
        self._is_plain = not isinstance(algorithm, str) or algorithm in PLAIN
        self._racing = racing and not self._is_plain
        self._screening = screening and self._racing
        screen = Screen.of(problem.metric, problem.num_samples) if self._screening else None
        budget.most_for_one = 1.0 + len(problem.further)
        if screen is not None:
            budget.most_for_one += screen.num_samples / problem.num_samples
        self._goal = goal
        self._callbacks = tuple(callbacks)
        self._progress = progress
        self._uniform: list[Evaluation] = []
        self.budget = budget
        self.archive = Archive(problem)
        self.history: list[Snapshot] = []
        self.failures: list[Evaluation] = []
        self.num_evaluations = 0
        self.reference_point: tuple[float, ...] = (math.nan, math.nan)

    def search(self, population_size: int, seed: int, initial: Candidates | None) -> str:
        """Run to the end and say what ended it."""
        try:
            self._measure_uniform()
            self._search(population_size, seed, initial)
        except KeyboardInterrupt:
            return "interrupt"
        except StopExploration:
            return "callback"
        return self.budget.spent_by or "exhausted"

    def require_success(self) -> None:
        """Raise when candidates were measured and every one of them failed."""
        if self.failures and len(self.failures) == self.num_evaluations:
            raise EvaluationError(
                f"all {len(self.failures)} candidates failed, the first, {self.failures[0].candidate}, with: "
                f"{self.failures[0].reason}"
            )

    @property
    def uniform(self) -> Front:
        """The uniform widths that were measured, by rising width."""
        return self._problem.points_of(self._uniform[::-1])

    @property
    def early_stop(self) -> str:
        """``"on"``, or why it is off."""
        if self._racing:
            return self._problem.evaluator.early_stop
        return "off: a plain algorithm needs every score" if self._is_plain else "off: racing=False"

    def _measure_uniform(self) -> None:
        """The uniform widths: the beginning of the first population, beside the search of a plain algorithm."""
        widths = self._problem.space.uniform()
        within = widths if self._is_plain else widths[: self.budget.num_affordable]
        try:
            for evaluation in self._problem.measure(within):
                self._uniform.append(evaluation)
        except KeyboardInterrupt:
            # A search would have begun with these; a plain one does not know them.
            for evaluation in () if self._is_plain else self._uniform:
                self._take(evaluation)
            raise
        finally:
            self.reference_point = reference_point(self._problem, self._uniform)

    def _search(self, population_size: int, seed: int, initial: Candidates | None) -> None:
        proposals = generations(
            self._problem,
            algorithm=self._algorithm,
            population_size=population_size,
            seed=seed,
            initial=initial,
            goal=self._goal,
            allowance=lambda: _TABLE_SHARE * self.budget.num_left,
        )
        total = min(self.budget.num_affordable, self._problem.space.size)
        with Progress(total, description="explore", unit="evaluation", shown=self._progress) as bar:
            for generation in proposals:
                self.budget.prepare(generation.num_passes)
                bar.advance(generation.num_passes)
                self._measure(generation, bar)
                self._note(generation.index)
                if self.budget.spent_by:
                    return

    def _measure(self, generation: Generation, bar: Progress) -> None:
        candidates = generation.candidates
        # Settled before the generation, so that what its first members find decides nothing about its last.
        limits = self.archive.must_beat(candidates) if self._racing else None
        done = 0
        while done < len(candidates) and not (self.num_evaluations and self.budget.spent_by):
            part = slice(done, done + self.budget.num_affordable)
            for evaluation in self._problem.measure(
                candidates[part], must_beat=None if limits is None else limits[part], screened=self._screening
            ):
                if self._take(evaluation):
                    self._note(generation.index)
                bar.advance(
                    self._share(evaluation),
                    front=len(self.archive.members),
                    hypervolume=f"{self.archive.hypervolume(self.reference_point):.4g}",
                )
                if self.budget.is_late:
                    return
            done = part.stop

    def _share(self, evaluation: Evaluation) -> float:
        """What ``evaluation`` cost, in passes over the search set."""
        if evaluation.state == "failed" or not evaluation.num_samples:
            return 1.0
        return evaluation.num_samples / self._problem.num_samples

    def _take(self, evaluation: Evaluation) -> bool:
        self.num_evaluations += 1
        if evaluation.state == "failed":
            self.failures.append(evaluation)
        before = self._problem.further.num_passes
        grew = self.archive.add(evaluation)
        further = self._problem.further.num_passes - before
        self.budget.spend(self._share(evaluation) + further, self.archive.hypervolume(self.reference_point))
        return grew

    def _note(self, generation: int) -> None:
        snapshot = Snapshot(
            front=self.archive.front(),
            num_evaluations=self.num_evaluations,
            num_passes=self.budget.num_passes,
            seconds=self.budget.seconds,
            hypervolume=self.archive.hypervolume(self.reference_point),
            generation=generation,
        )
        self.history.append(snapshot)
        for callback in self._callbacks:
            callback(snapshot)
