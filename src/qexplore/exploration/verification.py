"""The last word on a front: its points measured once more, on the search set and on data never searched on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from qexplore._progress import Progress
from qexplore.evaluation import DirectEvaluator, Evaluation, Evaluator, mean_difference, paired_interval, t_quantile
from qexplore.front import Front
from qexplore.metrics import Metric
from qexplore.model import Candidates, Loader, Unpack, reusable
from qexplore.search import (
    Archive,
    LayerwiseQuantizationProblem,
    contradiction_words,
    intervals_of,
    is_contradicted,
    judged,
    judged_words,
    reported_words,
)

FloatArray = npt.NDArray[np.float64]

_NOT_TOLD = "none is told"

_VERIFY = "verify the front (Ctrl-C leaves it unverified)"
_REPORT = "report (Ctrl-C leaves it out)"
_UNKNOWN = (math.nan, math.nan)


@dataclass(frozen=True)
class Verification:
    """What came of measuring the points of a front once more.

    Attributes:
        front: of the new measurements, marked ``verified``; the old one, not marked, where there are none.
        members: the measurements that it is of; none of the old one.
        num_points: how many points were measured again.
        num_moved: the most samples of one whose scores are other ones now; None where scores are not of samples.
        failures: of points that could not be measured again.
    """

    front: Front
    members: Sequence[Evaluation] = ()
    num_points: int = 0
    num_moved: int | None = None
    failures: tuple[Evaluation, ...] = ()


def verify(
    problem: LayerwiseQuantizationProblem, members: Sequence[Evaluation], progress: bool | None = None
) -> Verification:
    """Re-evaluate ``members`` of a front by the direct evaluators of all metrics; that replaces what was known.

    An interrupt gives the old front back. A point that cannot be measured again is left out; where none can be, that
    says nothing of the points, and they stay, not verified.
    """
    candidates = problem.candidates_of(members)
    verified, moved, failures = Archive(problem), None, list[Evaluation]()
    known = {one.candidate: one.scores for one in members}
    try:
        with Progress(len(candidates), description=_VERIFY, unit="evaluation", shown=progress) as bar:
            for evaluation in problem.measure_directly(candidates):
                failures += [evaluation] if evaluation.has_failed else []
                verified.add(evaluation)
                scores = known[evaluation.candidate]
                if scores is not None and evaluation.scores is not None:
                    moved = max(moved or 0, int((~np.isclose(scores, evaluation.scores, equal_nan=True)).sum()))
                bar.advance()
    except KeyboardInterrupt:
        return Verification(problem.front_of(members))
    if failures and len(failures) == len(candidates):
        return Verification(problem.front_of(members), failures=tuple(failures))
    front = replace(verified.front(), verified=True)
    return Verification(front, verified.members, len(candidates), moved, tuple(failures))


def chosen_by(
    problem: LayerwiseQuantizationProblem, judge: str, archive: Archive, complete: Sequence[Evaluation]
) -> tuple[Sequence[Evaluation], str]:
    """The members of the front that ``judge`` would have, of all ``complete`` evaluations, and what is said of it."""
    if judge == "accuracy":
        return archive.members, "accuracy"
    if any(one.divergence is None for one in archive.members):
        return archive.members, f"accuracy: no divergence decides, {problem.evaluator.divergence_gap or _NOT_TOLD}"
    try:
        contradicted = is_contradicted(problem, complete)
        if contradicted is not None:
            return archive.members, contradiction_words(*contradicted)
        members, gave_way = judged(problem, complete)
    except KeyboardInterrupt:
        return archive.members, "accuracy: the judging was interrupted"
    return members, judged_words(len(gave_way), problem.metric.name)


def why_empty(problem: LayerwiseQuantizationProblem) -> str:
    """Why nothing that a problem remembers is on its front, and the way out; empty where something is."""
    evaluations = problem.evaluations
    failed = [one for one in evaluations if one.has_failed]
    others = [one for one in evaluations if not one.has_failed]
    violated = problem.constraints(others) > 0
    if len(others) and not violated.any(axis=1).all():
        return ""
    scores = violated.shape[1] - len(problem.limits)
    parts = [f"{len(failed)} failed, the first with: {failed[0].reason}"] if failed else []
    for count, what in (
        (violated[:, :scores].any(axis=1).sum(), "missed min_accuracy"),
        (violated[:, scores:].any(axis=1).sum(), "went beyond a limit"),
    ):
        parts += [f"{count} {what}"] if count else []
    ways = ["look at what failed"] * bool(failed) + ["relax what is asked", "allow wider num_bits"] * bool(others)
    return (
        f"The front is empty: of {len(evaluations)} candidates that were measured {'; '.join(parts)}. "
        f"{', '.join([*ways, 'or explore longer']).capitalize()}."
    )


@dataclass(frozen=True)
class Report:
    """What the report set says of a front.

    Attributes:
        front: with its scores there, and those of its uniform candidates.
        num_passes: over the report set, that of the float network and those of further metrics included.
        optimism_interval: of `Exploration.optimism_gap`; None where it is not known.
    """

    front: Front
    num_passes: int
    optimism_interval: tuple[float, float] | None = None


Around = Callable[[DirectEvaluator, int], Evaluator]
"""Another evaluator that asks that of a metric, of which the number is given: 0 is the first."""


def _as_it_is(evaluator: DirectEvaluator, place: int) -> Evaluator:
    return evaluator


class Reporter:
    """Measures fronts on the report set, by all metrics of a problem; the evaluators are asked through ``around``.

    Raises:
        QExploreError: as `DirectEvaluator` says, for each metric.
    """

    def __init__(
        self, problem: LayerwiseQuantizationProblem, loader: Loader, unpack: Unpack | None, around: Around = _as_it_is
    ) -> None:
        metrics = (problem.metric, *problem.further.metrics)
        if len(metrics) > 1:
            loader = reusable(loader)
        self._searching = problem.direct
        self._searched_float = problem.direct.float_evaluation
        self._first, *self._further = (
            DirectEvaluator(
                problem.model, loader, metric, unpack=unpack or problem.unpack, precision=problem.direct.precision
            )
            for metric in metrics
        )
        self._asked = [around(evaluator, place) for place, evaluator in enumerate((self._first, *self._further))]

    @property
    def float_accuracy(self) -> float:
        """The float network's score."""
        return self._first.float_evaluation.score

    @property
    def shared_data(self) -> str:
        """A sentence on samples of the report set that were searched or calibrated on; empty where few or none were."""
        return reported_words(self._first, self._searching)

    @property
    def num_floats(self) -> int:
        """Passes over the report set that the float network took, one for each metric."""
        return 1 + len(self._further)

    @property
    def float_seconds(self) -> float:
        """What the float network took, by the first metric."""
        return self._first.float_evaluation.seconds

    def report_on(self, front: Front, searched: Sequence[Evaluation], progress: bool | None = None) -> Report:
        """``front`` and its uniform candidates with their scores on the report set.

        A score is NaN where a point could not be measured there; uniform candidates are measured by the first metric
        alone. An interrupt leaves all of it out.

        Args:
            front: verified.
            searched: the evaluations on the search set that it is of.
            progress: show a bar on stderr; None shows it on a terminal.
        """
        uniform = front.num_bits[:0] if front.uniform is None else front.uniform.num_bits
        rows = np.unique(np.concatenate([front.num_bits, uniform]), axis=0)
        num_points = len(front) * len(self._further)
        try:
            with Progress(len(rows) + num_points, description=_REPORT, unit="evaluation", shown=progress) as bar:
                known = {one.candidate: one for one in _measured(self._asked[0], rows, bar)}
                further = [[one.score for one in _measured(each, front.num_bits, bar)] for each in self._asked[1:]]
        except KeyboardInterrupt:
            return Report(front, self.num_floats)
        evaluations = [known[tuple(row)] for row in front.num_bits.tolist()]
        baseline = [known[tuple(row)] for row in uniform.tolist()]
        reported = replace(
            self._with_scores(front, evaluations),
            report_further_scores=np.array(further).T.reshape(len(front), len(further)) if further else None,
            uniform=None
            if front.uniform is None
            else replace(
                self._with_scores(front.uniform, baseline), report_between=self._all_paired(baseline, baseline)
            ),
            report_from_uniform=None if front.uniform is None else self._all_paired(evaluations, baseline),
        )
        return Report(
            reported, self.num_floats + len(rows) + num_points, self._optimism_interval(evaluations, searched)
        )

    def _with_scores(self, front: Front, evaluations: Sequence[Evaluation]) -> Front:
        floats = self._first.float_evaluation
        return replace(
            front,
            report_accuracy=np.array([evaluation.score for evaluation in evaluations]),
            report_interval=intervals_of(evaluations),
            report_float_accuracy=floats.score,
            report_from_float=_known_only([self._paired(evaluation, floats) for evaluation in evaluations]),
        )

    def _paired(self, one: Evaluation, other: Evaluation) -> tuple[float, float]:
        metric = self._first.metric
        if one.scores is None or other.scores is None or not isinstance(metric, Metric):
            return _UNKNOWN
        return paired_interval(one.scores, other.scores, metric) or _UNKNOWN

    def _all_paired(self, rows: Sequence[Evaluation], others: Sequence[Evaluation]) -> FloatArray:
        """Of each of ``rows`` less each of ``others``, [N, M, 2]."""
        return np.array([[self._paired(one, other) for other in others] for one in rows]).reshape(
            len(rows), len(others), 2
        )

    def _optimism_interval(
        self, reported: Sequence[Evaluation], searched: Sequence[Evaluation]
    ) -> tuple[float, float] | None:
        """The two sets hold different samples, so their errors add up as squares do."""
        metric = self._first.metric
        both = {one.candidate for one in reported if one.scores is not None} & {one.candidate for one in searched}
        floats = self._searched_float, self._first.float_evaluation
        differences = []
        for evaluations, at_float in zip((searched, reported), floats, strict=True):
            rows = [one.scores for one in evaluations if one.candidate in both and one.scores is not None]
            if not rows or at_float.scores is None or not isinstance(metric, Metric):
                return None
            found = mean_difference(rows, at_float.scores, metric)
            if found is None:
                return None
            differences.append(found)
        (search, search_error), (report, report_error) = differences
        gap = metric.gain(search - report)
        reach = t_quantile(min(floats[0].num_samples, floats[1].num_samples) - 1) * math.hypot(
            search_error, report_error
        )
        return gap - reach, gap + reach


def _measured(evaluator: Evaluator, candidates: Candidates, bar: Progress) -> Iterator[Evaluation]:
    for evaluation in evaluator.evaluate(candidates):
        bar.advance()
        yield evaluation


def _known_only(intervals: Sequence[tuple[float, float]]) -> FloatArray | None:
    """[K, 2], or None where none is known."""
    ends = np.array(intervals).reshape(-1, 2)
    return None if np.isnan(ends).all() else ends
