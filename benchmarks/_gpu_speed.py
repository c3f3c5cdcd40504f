"""What a candidate and a search cost on a device, beside the plain recipe and the float network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from _gpu_contracts import HIGH, counts_row, posed, random_candidates, recorded
from _gpu_rows import Check, Clock, Timing, full_float32, medians, timed
from _gpu_subjects import Size, Subject
from _workloads import correct

import qexplore as qx
from qexplore.evaluation import PrefixEvaluator
from qexplore.search import Archive, LayerwiseQuantizationProblem

__all__ = ["Speed", "SearchTimes", "aims", "search_rows", "searched"]

MAX_DROP = 0.05
_RECORDED_BY = 16
"""Candidates after which the engine has recorded its graphs."""


class Speed:
    """One network's rows: the float pass, the plain recipe, and ours at four kinds of candidates."""

    def __init__(self, subject: Subject, size: Size, clock: Clock) -> None:
        self.subject, self.size, self.clock = subject, size, clock
        self.problem = posed(subject, min_accuracy=_minimum(subject))
        self.trace = recorded(self.problem, size.population, size.generations, clock.share(4))
        self.script = subject.script(self.problem.model)
        self.seed = 100
        self.seconds: dict[str, float] = {}

    @property
    def engine(self) -> str:
        """How ours is evaluated."""
        return str(self.problem.evaluator.description)

    def counts(self) -> Check:
        """Counts beside the plain recipe's."""
        return counts_row(self.subject, self.problem, self.trace)

    def rows(self) -> list[Timing]:
        """Every kind of work in turns in one process; medians."""
        subject, at_once = self.subject, self.subject.one_batch
        works = {
            "float pass": self._under_full(self._float(subject.batches)),
            "float pass, one batch": self._under_full(self._float(at_once)),
            "plain recipe": self._under_full(self._plain(subject.batches)),
            "plain recipe, one batch": self._under_full(self._plain(at_once)),
            "ours, recorded NSGA-II": self._recorded,
            "ours, recorded, stopped early": self._raced,
            "ours, random": lambda: self._lot(self._random()),
            "ours, shared prefix": lambda: self._lot(self._shared()),
        }
        if subject.device.type == "cuda":
            works["float pass, one batch, as torch is set"] = lambda: self._timed(self._float(at_once))
            works["plain recipe, one batch, as torch is set"] = lambda: self._timed(self._plain(at_once))
        self.seconds = medians(works, self.size.repeats, self.clock)
        plain, plain_at_once = self._of("plain recipe"), self._of("plain recipe, one batch")
        beside = (plain, plain_at_once, self._of("float pass, one batch"))
        return [Timing(subject.name, subject.shape, work, self._of(work), *beside) for work in works]

    def _of(self, work: str) -> float:
        return self.seconds.get(work, float("nan"))

    def _timed(self, work: Callable[[], Any]) -> float:
        return timed(work, self.subject.device)[0]

    def _under_full(self, work: Callable[[], Any]) -> Callable[[], float]:
        def seconds() -> float:
            with full_float32():
                return self._timed(work)

        return seconds

    def _float(self, batches: Any) -> Callable[[], int]:
        return lambda: correct(self.subject.network, batches)

    def _plain(self, batches: Any) -> Callable[[], int]:
        return lambda: self.script.correct(self._random(1)[0], batches)

    def _random(self, count: int = 0) -> np.ndarray:
        self.seed += 1
        return random_candidates(count or self.size.lot, self.problem.n_var, self.seed)

    def _shared(self) -> np.ndarray:
        """Random candidates that agree on the first three quarters of the points."""
        candidates = self._random()
        candidates[:, : 3 * self.problem.n_var // 4] = candidates[0, : 3 * self.problem.n_var // 4]
        return candidates

    def _warm(self) -> Any:
        """An evaluator that keeps nothing of the candidates to come, with its first launches and graphs behind it."""
        direct = self.problem.direct
        evaluator = PrefixEvaluator(direct) if self.engine.startswith("prefix") else direct
        list(evaluator.evaluate(self._random(8 if self.subject.device.type == "cpu" else _RECORDED_BY)))
        return evaluator

    def _lot(self, candidates: np.ndarray) -> float:
        evaluator = self._warm()
        return self._timed(lambda: list(evaluator.evaluate(candidates))) / len(candidates)

    def _recorded(self) -> float:
        evaluator, count = self._warm(), sum(map(len, self.trace))
        return self._timed(lambda: [list(evaluator.evaluate(candidates)) for candidates in self.trace]) / count

    def _raced(self) -> float:
        """The same generations, stopped early against what was measured before; the archive's time is counted."""
        evaluator, count = self._warm(), sum(map(len, self.trace))
        archive = Archive(self.problem, list(evaluator.evaluate(self.problem.space.uniform())))

        def race() -> None:
            for candidates in self.trace:
                for evaluation in evaluator.evaluate(candidates, must_beat=archive.must_beat(candidates)):
                    archive.add(evaluation)

        return self._timed(race) / count


def _minimum(subject: Subject) -> float | None:
    """Some points below the float network; a network that was not trained may lose all of them at 8 bits."""
    if not subject.is_trained:
        return None
    return correct(subject.network, subject.batches) / len(subject.labels) - MAX_DROP


def aims(speed: Speed) -> Iterator[Check]:
    """What must be shown of one network."""
    seconds, name = speed.seconds, f"{speed.subject.name}, {speed.subject.shape}"

    def ratio(above: str, below: str) -> float:
        return seconds.get(above, float("nan")) / seconds.get(below, float("nan"))

    def at_least(what: str, figure: float, aim: float) -> Check:
        return Check(f"{name}: {what}", f"{figure:.2f}", f">= {aim:g}", None if figure != figure else figure >= aim)

    def at_most(what: str, figure: float, aim: float) -> Check:
        return Check(f"{name}: {what}", f"{figure:.2f}", f"<= {aim:g}", None if figure != figure else figure <= aim)

    ours = "ours, recorded NSGA-II"
    if speed.subject.name == "ResNet-20":
        yield at_least("(a) plain recipe in batches over ours, recorded", ratio("plain recipe", ours), 25)
        yield at_least("(a) plain recipe in one batch over ours, recorded", ratio("plain recipe, one batch", ours), 6)
    if speed.subject.name == "ResNet-18":
        passes = ("float pass, one batch", "float pass")
        floats = min(passes, key=lambda work: seconds.get(work, float("inf")))
        yield at_most("(c) random candidates in float passes", ratio("ours, random", floats), 1.1)
        yield at_most("(c) with a shared prefix, in float passes", ratio("ours, shared prefix", floats), 0.4)
    plains = [seconds[work] for work in seconds if work.startswith("plain recipe") and "as torch" not in work]
    kinds = ("ours, recorded NSGA-II", "ours, random", "ours, shared prefix")
    slowest = max((seconds[work] for work in kinds if work in seconds), default=float("nan"))
    least = min(plains, default=float("nan")) / slowest
    yield at_least("(d) fastest plain recipe over our slowest kind", least, 1)


# ---------------------------------------------------------------------------------------------------------- search


class SearchTimes:
    """What `explore` took, and how much of it was spent on evaluations."""

    def __init__(self, problem: LayerwiseQuantizationProblem) -> None:
        self.evaluations = 0.0
        for evaluator in {id(one): one for one in (problem.evaluator, problem.direct)}.values():
            for name in ("evaluate", "scores_on_subset"):
                setattr(evaluator, name, self._watched(getattr(evaluator, name)))
        self._depth = 0

    def _watched(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            result = self._counted(lambda: work(*args, **kwargs))
            return self._steps(result) if isinstance(result, Iterator) else result

        return watched

    def _steps(self, results: Iterator[Any]) -> Iterator[Any]:
        done = object()
        while (result := self._counted(lambda: next(results, done))) is not done:
            yield result

    def _counted(self, work: Callable[[], Any]) -> Any:
        start, self._depth = time.perf_counter(), self._depth + 1
        try:
            return work()
        finally:
            self._depth -= 1
            if not self._depth:  # the engine asks the direct evaluator now and then
                self.evaluations += time.perf_counter() - start


def searched(subject: Subject, size: Size, clock: Clock) -> tuple[Any, float, float]:
    """The exploration, its seconds, and those of them that evaluations took; it ends when the time is over."""
    problem = posed(subject, min_accuracy=_minimum(subject))
    list(problem.evaluator.evaluate(np.full((1, problem.n_var), HIGH)))  # what is compiled once is not the search's
    times = SearchTimes(problem)

    def in_time(snapshot: Any) -> None:
        if clock.left < 0:
            raise qx.StopExploration

    seconds, result = timed(
        lambda: qx.explore(problem, max_evaluations=size.max_evaluations, seed=1, callbacks=(in_time,), progress=False),
        subject.device,
    )
    return result, seconds, times.evaluations


def search_rows(subject: Subject, size: Size, clock: Clock) -> Iterator[Check]:
    """The seconds of a search, the search's own share of them, and the same search on the CPU."""
    result, seconds, evaluations = searched(subject, size, clock)
    passes, own = size.max_evaluations, 1 - evaluations / seconds
    name = f"(b) explore, {passes} passes on {subject.name}"
    is_whole = result.stopped_by != "callback"
    figure = f"{seconds:.1f} s ({result.num_passes:.0f} passes, stopped by {result.stopped_by})"
    yield Check(name, figure, "<= 6 s", is_whole and seconds <= 6)
    own_figure = f"{seconds - evaluations:.1f} s, {100 * own:.0f} %"
    yield Check(f"{name}: the search's own time", own_figure, "<= 33 % of the whole", bool(own <= 1 / 3))
    name, aim = f"{name}: hypervolume beside the CPU's", "within 0.3 %"
    if subject.device.type == "cpu":
        yield Check(name, f"{result.history[-1].hypervolume:.4g} here", aim, None)
        return
    there, on_cpu, _ = searched(subject.to(torch.device("cpu")), size, clock)
    if there.stopped_by == "callback":
        yield Check(name, f"the CPU's search was not finished after {on_cpu:.0f} s", aim, None)
        return
    ours, theirs = (one.history[-1].hypervolume for one in (result, there))
    figure = f"{100 * (ours / theirs - 1):+.2f} % ({ours:.4g} and {theirs:.4g}; the CPU took {on_cpu:.1f} s)"
    yield Check(name, figure, aim, bool(abs(ours / theirs - 1) <= 0.003))
