"""NSGA-II on a problem, with what a user wants around it: progress, callbacks, an interrupt that loses nothing."""

from __future__ import annotations

import math
import numbers
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from qexplore._progress import Progress
from qexplore._random import isolated
from qexplore.errors import EvaluationError, ProblemError
from qexplore.evaluation import DirectEvaluator, Evaluation
from qexplore.exploration.records import Exploration, Snapshot, StopExploration
from qexplore.exploration.verification import report_on, verify
from qexplore.front import Front
from qexplore.model import Loader, Placement, Unpack
from qexplore.search import ALGORITHMS, Archive, Generation, LayerwiseQuantizationProblem, generations

Callback = Callable[[Snapshot], object]
_ROUNDING = 1e-9


def explore(
    problem: LayerwiseQuantizationProblem,
    *,
    max_evaluations: int,
    seed: int,
    algorithm: str = "nsga2",
    population_size: int = 40,
    racing: bool = True,
    report_loader: Loader | None = None,
    unpack: Unpack | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
) -> Exploration:
    """Search the widths of ``problem`` for the trade-off between its metric and total bits.

    Ctrl-C ends the search and returns the front so far; pressed again during verification it returns the front
    unverified. The same seed gives the same result to the last bit, times apart; no global random state is changed.

    Args:
        problem: what to search.
        max_evaluations: budget in full passes over the search set; a candidate that is stopped early costs the share of
            the samples that it has seen. The search also ends when every candidate has been measured.
        seed: of the search.
        algorithm: ``"nsga2"``, with every uniform width in its first population and no candidate proposed twice, or
            ``"nsga2-plain"``, pymoo's own from a random start (the uniform widths are then measured beside the search,
            for comparison, and not counted).
        population_size: of NSGA-II.
        racing: stop a candidate as soon as its errors prove that it is infeasible, or no better than a known point with
            no more bits. No front point can be lost by it. Off for ``"nsga2-plain"``, and where ``problem.describe()``
            gives another reason.
        report_loader: data that neither calibration nor search has seen; the front's accuracy on it is reported.
        unpack: for ``report_loader``, where its batches differ from the problem's.
        callbacks: called with a `Snapshot` whenever the front grows and at the end of a generation. `StopExploration`
            raised in one ends the search; any other exception passes through, and the problem remembers what it has
            measured.
        progress: show a bar on stderr; None shows it on a terminal.

    Raises:
        ProblemError: an argument is not what it must be.
        DataError, MetricError, EvaluationError: the report set cannot be measured; said before the search.
        EvaluationError: every candidate failed.
        ModelError: the model is detached from its network.
    """
    _check_arguments(problem, max_evaluations, seed, algorithm, population_size, racing, callbacks)
    device = Placement.of(problem.model.model).device
    start = time.perf_counter()
    with isolated(device):
        # Built before the search, so that a report set that does not work is not found out at its end.
        reporter = (
            None
            if report_loader is None
            else DirectEvaluator(problem.model, report_loader, problem.metric, unpack=unpack or problem.unpack)
        )
        run = _Run(
            problem,
            algorithm=algorithm,
            max_evaluations=max_evaluations,
            racing=racing and algorithm != "nsga2-plain",
            start=start,
            callbacks=callbacks,
            progress=progress,
        )
        stopped_by = run.search(population_size, seed)
        run.require_success()
        front, num_verifications = verify(problem, run.archive, progress)
        if reporter is not None and front.verified:  # whoever interrupted the verification wants no more of it
            front = report_on(front, reporter)
    return Exploration(
        front=front,
        uniform=run.uniform,
        history=tuple(run.history),
        float_accuracy=problem.float_accuracy,
        report_float_accuracy=None if reporter is None else reporter.float_evaluation.score,
        reference_point=run.reference_point,
        num_evaluations=run.num_evaluations,
        num_passes=run.num_passes,
        num_verifications=num_verifications,
        seconds=time.perf_counter() - start,
        failures=tuple(run.failures),
        stopped_by=stopped_by,
        algorithm=algorithm,
        seed=seed,
        engine=problem.evaluator.description,
        early_stop=run.early_stop,
    )


def _check_arguments(
    problem: object,
    max_evaluations: object,
    seed: object,
    algorithm: object,
    population_size: object,
    racing: object,
    callbacks: Any,
) -> None:
    if not isinstance(problem, LayerwiseQuantizationProblem):
        raise ProblemError(f"explore takes a LayerwiseQuantizationProblem, got {type(problem).__name__}")
    for name, value, least in (
        ("max_evaluations", max_evaluations, 1),
        ("seed", seed, 0),
        ("population_size", population_size, 2),
    ):
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
            raise ProblemError(f"`{name}` must be an int of at least {least}, got {value!r}")
    if algorithm not in ALGORITHMS:
        raise ProblemError(f"`algorithm` must be one of {', '.join(map(repr, ALGORITHMS))}, got {algorithm!r}")
    if not isinstance(racing, bool):
        raise ProblemError(f"`racing` must be True or False, got {racing!r}")
    if not isinstance(callbacks, Sequence) or not all(map(callable, callbacks)):
        raise ProblemError(f"`callbacks` must be a sequence of functions of a Snapshot, got {callbacks!r}")


class _Run:
    """One search under way: its archive, its history, its budget."""

    def __init__(
        self,
        problem: LayerwiseQuantizationProblem,
        *,
        algorithm: str,
        max_evaluations: int,
        racing: bool,
        start: float,
        callbacks: Iterable[Callback],
        progress: bool | None,
    ) -> None:
        self._problem = problem
        self._algorithm = algorithm
        self._max_evaluations = max_evaluations
        self._racing = racing
        self._start = start
        self._callbacks = tuple(callbacks)
        self._progress = progress
        self._uniform: list[Evaluation] = []
        self.archive = Archive(problem)
        self.history: list[Snapshot] = []
        self.failures: list[Evaluation] = []
        self.num_evaluations = 0
        self.num_passes = 0.0
        self.reference_point = (math.nan, math.nan)

    def search(self, population_size: int, seed: int) -> str:
        """Run to the end and say what ended it."""
        try:
            self._measure_uniform()
            self._search(population_size, seed)
        except KeyboardInterrupt:
            return "interrupt"
        except StopExploration:
            return "callback"
        return "exhausted" if self._num_affordable else "max_evaluations"

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

    def _measure_uniform(self) -> None:
        """The uniform widths: the beginning of NSGA-II's first population, beside the search of the plain recipe."""
        widths = self._problem.space.uniform()
        within = widths if self._algorithm == "nsga2-plain" else widths[: self._max_evaluations]
        try:
            for evaluation in self._problem.measure(within):
                self._uniform.append(evaluation)
        except KeyboardInterrupt:
            # NSGA-II would have begun with these; the plain recipe does not know them.
            for evaluation in self._uniform if self._algorithm != "nsga2-plain" else ():
                self._take(evaluation)
            raise
        finally:
            self.reference_point = self._reference()

    def _reference(self) -> tuple[float, float]:
        problem = self._problem
        scores = [evaluation.score for evaluation in self._uniform if evaluation.is_complete]
        scores = scores or [problem.float_accuracy]  # no uniform width could be measured
        worst = min(scores) if problem.metric.higher_is_better else max(scores)
        accuracy = worst if problem.min_accuracy is None else problem.min_accuracy
        return accuracy, float(problem.cost.cost(problem.space.widest)[0])

    @property
    def early_stop(self) -> str:
        """``"on"``, or why it is off."""
        if self._racing:
            return self._problem.evaluator.early_stop
        return "off: pymoo's own NSGA-II needs every score" if self._algorithm == "nsga2-plain" else "off: racing=False"

    @property
    def _num_affordable(self) -> int:
        """How many candidates the budget allows should none of them be stopped."""
        return math.floor(self._max_evaluations - self.num_passes + _ROUNDING)

    def _search(self, population_size: int, seed: int) -> None:
        proposals = generations(self._problem, algorithm=self._algorithm, population_size=population_size, seed=seed)
        total = min(self._max_evaluations, self._problem.space.size)
        with Progress(total, description="explore", unit="evaluation", shown=self._progress) as bar:
            for generation in proposals:
                self._measure(generation, bar)
                self._note(generation.index)
                if not self._num_affordable:
                    return

    def _measure(self, generation: Generation, bar: Progress) -> None:
        candidates = generation.candidates
        # Settled before the generation, so that what its first members find decides nothing about its last.
        limits = self.archive.must_beat(candidates) if self._racing else None
        done = 0
        while done < len(candidates) and self._num_affordable:
            part = slice(done, done + self._num_affordable)
            for evaluation in self._problem.measure(
                candidates[part], must_beat=None if limits is None else limits[part]
            ):
                grew = self._take(evaluation)
                hypervolume = self.archive.hypervolume(self.reference_point)
                bar.advance(self._share(evaluation), front=len(self.archive.members), hypervolume=f"{hypervolume:.4g}")
                if grew:
                    self._note(generation.index)
            done = part.stop

    def _share(self, evaluation: Evaluation) -> float:
        """What ``evaluation`` cost, in passes over the search set."""
        return evaluation.num_samples / self._problem.num_samples if evaluation.state == "stopped" else 1.0

    def _take(self, evaluation: Evaluation) -> bool:
        self.num_evaluations += 1
        self.num_passes += self._share(evaluation)
        if evaluation.state == "failed":
            self.failures.append(evaluation)
        return self.archive.add(evaluation)

    def _note(self, generation: int) -> None:
        snapshot = Snapshot(
            front=self.archive.front(),
            num_evaluations=self.num_evaluations,
            num_passes=self.num_passes,
            seconds=time.perf_counter() - self._start,
            hypervolume=self.archive.hypervolume(self.reference_point),
            generation=generation,
        )
        self.history.append(snapshot)
        for callback in self._callbacks:
            callback(snapshot)
