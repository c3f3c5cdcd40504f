"""A search under way: its archive, its history, its budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from qexplore._clock import now
from qexplore._progress import Progress
from qexplore.errors import EvaluationError
from qexplore.evaluation import Evaluation, Screen
from qexplore.exploration.budget import Budget
from qexplore.exploration.records import Snapshot, StopExploration
from qexplore.exploration.termination import Termination
from qexplore.front import Front, uniform_labels
from qexplore.model import Candidate, Candidates
from qexplore.search import (
    Archive,
    Generation,
    Generations,
    Goal,
    Lacking,
    LayerwiseQuantizationProblem,
    SearchSettings,
    reference_point,
    warn_of_direction,
)

_TABLE_SHARE = 0.5
"""Of the passes, and of the seconds, that are left, what a sensitivity table may cost; the rest makes use of it."""

_LEAST_FOR_GUESSES, _FOR_GUESSES = 3, 6
"""So many times the uniform choices, and what guesses and their table cost, must be affordable for guesses to come
first; else nothing may be left for what comes after them."""

_MORE_MEMBERS = {"accuracy": 1.0, "divergence": 1.2}
"""About how many members a front has for each of the archive's, by what judges."""

Callback = Callable[[Snapshot], object]


class Run:
    """One search under way: its archive, its history, its budget.

    ``seconds_afterwards`` are those that a member of the front will take to be measured again, and a uniform candidate;
    ``figures`` gives what is shown beside its progress.
    """

    def __init__(
        self,
        problem: LayerwiseQuantizationProblem,
        settings: SearchSettings,
        budget: Budget,
        *,
        goal: Goal | None,
        callbacks: Iterable[Callback],
        progress: bool | None,
        seconds_afterwards: tuple[float, float] = (0.0, 0.0),
        termination: Termination | None = None,
        figures: Callable[[], dict[str, str]] = dict,
    ) -> None:
        self._problem = problem
        self._settings = settings
        self._races = settings.racing and not settings.is_plain
        self._screens = settings.screening and self._races
        screen = Screen.of(problem.metric, problem.num_samples, problem.evaluator) if self._screens else None
        budget.most_for_one = 1.0 + len(problem.further)
        if screen is not None:
            budget.most_for_one += screen.num_run / problem.num_samples
        self._budget = budget
        self._goal = goal
        self._callbacks = tuple(callbacks)
        self._termination = termination or Termination()
        self._progress = progress
        self._figures = figures
        # Where passes are not limited, nobody knows how many the time or the patience will be.
        total = min(budget.num_affordable, problem.space.size) if budget.limits_passes else None
        self._bar = Progress(total, description="explore", unit="evaluation", shown=progress)
        self._uniform: list[Evaluation] = []
        self.archive = Archive(problem)
        self.history: list[Snapshot] = []
        self.failures: list[Evaluation] = []
        self.complete: list[Evaluation] = []
        self._guessed: dict[Candidate, Evaluation] = {}
        self.num_evaluations = 0
        self.num_prepared_passes = self.num_look_passes = 0.0
        self.reference_point: tuple[float, ...] = (math.nan, math.nan)
        self._lacking = self._uniform_lacking = ""
        self._seconds_each = max(known.seconds for known in (*problem.evaluations, problem.direct.float_evaluation))
        self._seconds_afterwards = seconds_afterwards
        self._ended_by = "exhausted"

    def search(self, initial: Candidates | None) -> str:
        """Run to the end and say what ended it."""
        try:
            with self._termination.interrupting(), self._bar:
                generations = self._guess(initial) if self._guesses_first else None
                self._begin()
                if not self._budget.is_failing:
                    self._go_on(generations or self._generations(initial))
        except KeyboardInterrupt:
            return "SIGTERM" if self._termination.received else "interrupt"
        except StopExploration:
            return "callback"
        return self._budget.spent_by or self._ended_by

    def require_success(self) -> None:
        """Raise when candidates were measured and every one of them failed."""
        if self.failures and len(self.failures) == self.num_evaluations:
            raise EvaluationError(
                f"all {len(self.failures)} candidates failed, the first, {self.failures[0].candidate}, with: "
                f"{self.failures[0].reason}"
            )

    @property
    def uniform(self) -> Front:
        """The uniform choices that were measured, the cheapest first."""
        return self._problem.points_of(self._uniform[::-1])

    @property
    def left_out(self) -> str:
        """What was done without for want of budget; empty for nothing."""
        return "; ".join(filter(None, (self._uniform_lacking, self._lacking)))

    @property
    def early_stop(self) -> str:
        """``"on"``, or why it is off."""
        if self._races:
            return self._problem.evaluator.early_stop
        return "off: a plain algorithm needs every score" if self._settings.is_plain else "off: racing=False"

    @property
    def _guesses_first(self) -> bool:
        """Whether a few good guesses come before uniform choices: where the reference point needs none of these."""
        count = _LEAST_FOR_GUESSES * len(self._problem.space.uniform()) + _FOR_GUESSES
        in_time = count * self._seconds_each < self._budget.seconds_left
        is_known = self._problem.min_accuracy is not None
        return self._settings.is_guided and is_known and self._budget.num_affordable >= count and in_time

    def _guess(self, initial: Candidates | None) -> Generations:
        """Measure what sensitivities alone say: a front worth having before anything is compared with it."""
        self.reference_point = reference_point(self._problem, ())
        generations = self._generations(initial)
        for widest in self._problem.measure(self._problem.space.widest):  # it was measured when the problem was posed
            self._guessed[widest.candidate] = widest
            if self._take(widest):
                self._note(1)
        generations.know(list(self._guessed.values()))
        generation = generations.guess()
        if generation is not None:
            self._prepare(generation)
            guessed = self._measure(generation)
            self._guessed |= {evaluation.candidate: evaluation for evaluation in guessed}
            generations.know(guessed)
        return generations

    def _begin(self) -> None:
        """Measure the uniform choices, which settle the reference point.

        A search begins with them, as the first of its first generation; a plain one does not know of them, and they
        stand beside it, not counted.
        """
        uniform, interrupt, budget = self._problem.space.uniform(), None, self._budget
        measure = self._problem.measure if self._settings.is_plain else self._answers
        known = sum(key in self._guessed for key in map(tuple, uniform.tolist()))
        within = uniform if self._settings.is_plain else uniform[: budget.num_affordable + known]
        try:
            while len(self._uniform) < len(within) and not (budget.is_failing or (self._uniform and budget.is_late)):
                part = self._part(within, len(self._uniform))
                with self._timed(len(part)):
                    for evaluation in measure(part):
                        self._uniform.append(evaluation)
                        self._bar.advance(0, uniform=len(self._uniform))
        except KeyboardInterrupt as error:
            interrupt = error
        missing = uniform_labels(uniform)[len(self._uniform) :]
        if missing and not budget.is_failing and interrupt is None:
            self._uniform_lacking = f"uniform candidates at {', '.join(missing)}, which a larger budget has"
        warn_of_direction(self._problem, self._uniform)
        self.reference_point = reference_point(self._problem, self._uniform)
        # A plain one whose seconds are up has measured nothing else.
        new = [evaluation for evaluation in self._uniform if evaluation.candidate not in self._guessed]
        for evaluation in () if self._settings.is_plain and not budget.is_late else new:
            if self._take(evaluation) and interrupt is None:
                self._note(1)
        if interrupt is not None:
            raise interrupt

    def _generations(self, initial: Candidates | None) -> Generations:
        return Generations(
            self._problem,
            self._settings,
            self.reference_point,
            initial=initial,
            goal=self._goal,
            allowance=self._allowed_for_a_table,
            seconds=lambda: _TABLE_SHARE * max(0.0, self._budget.seconds_left),
            progress=self._progress,
        )

    def _go_on(self, generations: Generations) -> None:
        if not self._settings.is_plain:
            generations.know(self._uniform)
        thought = 0.0
        while thought < self._budget.seconds_left or not self.num_evaluations:
            start = now()
            generation = generations.ask()
            self.num_look_passes = generations.num_look_passes
            thought = now() - start
            self._lacking = self._described(generations.lacking)
            if generation is None:
                self._ended_by = generations.ended_by
                return
            self._prepare(generation)
            evaluations = self._measure(generation)
            self._note(generation.index)
            if self._budget.spent_by:
                return
            generations.tell(evaluations)
        self._ended_by = "max_seconds"

    def _prepare(self, generation: Generation) -> None:
        """Count what it took to find the candidates of a generation."""
        self.num_prepared_passes += generation.num_passes
        self._budget.prepare(generation.num_passes)
        self._bar.advance(generation.num_passes)

    def _allowed_for_a_table(self) -> float:
        """Passes."""
        in_time = self._budget.seconds_left / self._seconds_each if self._seconds_each else math.inf
        return _TABLE_SHARE * max(0.0, min(self._budget.num_left, in_time))

    def _described(self, lacking: Lacking | None) -> str:
        """What the table left out, and the budget that would have it."""
        if lacking is None or self._lacking:
            return self._lacking
        if lacking.num_passes is None:
            return lacking.text
        if lacking.num_passes <= _TABLE_SHARE * self._budget.num_left:
            return f"{lacking.text}: more max_seconds have it"
        budget = math.ceil(self._budget.num_passes + lacking.num_passes / _TABLE_SHARE)
        return f"{lacking.text}: max_evaluations={budget} has it"

    def _part(self, candidates: Candidates, start: int) -> Candidates:
        """Those from ``start`` on that may be measured before passes and clock are looked at again."""
        most = min(max(1, self._budget.num_affordable), self._budget.num_in_time(self._seconds_each))
        return candidates[start : start + most]

    @contextmanager
    def _timed(self, count: int) -> Iterator[None]:
        """Learn what one of ``count`` candidates takes; what comes from memory tells nothing."""
        start = now()
        yield
        self._seconds_each = max(self._seconds_each / 2, (now() - start) / count)

    def _measure(self, generation: Generation) -> list[Evaluation]:
        """The evaluations of a generation, or of its first ones as far as the budget goes."""
        candidates, evaluations = generation.candidates, list[Evaluation]()
        # Settled before the generation, so that what its first members find decides nothing about its last; uniform
        # choices are of the first one.
        known = self.archive if generation.index > 1 else Archive(self._problem)
        limits = known.must_beat(candidates) if self._races else None
        while len(evaluations) < len(candidates) and not (self.num_evaluations and self._budget.spent_by):
            part, start = self._part(candidates, len(evaluations)), len(evaluations)
            must_beat = None if limits is None else limits[start : start + len(part)]
            with self._timed(len(part)):
                for evaluation in self._answers(part, must_beat=must_beat, screened=self._screens):
                    evaluations.append(evaluation)
                    if self._take(evaluation):
                        self._note(generation.index)
        return evaluations

    def _answers(self, candidates: Candidates, **options: Any) -> Iterator[Evaluation]:
        """Evaluations of ``candidates`` as far as they do not fail one after the other."""
        for evaluation in self._problem.measure(candidates, **options):
            self._budget.note(has_failed=evaluation.has_failed)
            yield evaluation
            self._termination.check_interrupts()
            if self._budget.is_failing:
                return

    def _take(self, evaluation: Evaluation) -> bool:
        """Count ``evaluation``, and say whether the front grew by it."""
        self.num_evaluations += 1
        if evaluation.has_failed:
            self.failures.append(evaluation)
        self.complete += [evaluation] if evaluation.is_complete else []
        grew = self.archive.add(evaluation)
        num_passes, hypervolume = self._problem.num_passes(evaluation), self.archive.hypervolume(self.reference_point)
        self._budget.spend(num_passes, hypervolume)
        of_member, of_uniform = self._seconds_afterwards
        num_members = _MORE_MEMBERS[self._settings.judge] * len(self.archive.members)
        self._budget.reserved = of_member * num_members + of_uniform * len(self._uniform)
        self._bar.advance(
            num_passes, front=len(self.archive.members), hypervolume=f"{hypervolume:.4g}", **self._figures()
        )
        return grew

    def _note(self, generation: int) -> None:
        snapshot = Snapshot(
            front=self.archive.front(),
            num_evaluations=self.num_evaluations,
            num_passes=self._budget.num_passes,
            seconds=self._budget.seconds,
            hypervolume=self.archive.hypervolume(self.reference_point),
            generation=generation,
        )
        self.history.append(snapshot)
        for callback in self._callbacks:
            callback(snapshot)
