"""The last word on a front: its points measured once more, on the search set and on data never searched on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qexplore._progress import Progress
from qexplore.evaluation import DirectEvaluator
from qexplore.front import Front
from qexplore.model import Loader, Unpack, reusable
from qexplore.search import Archive, LayerwiseQuantizationProblem, intervals_of


def verify(problem: LayerwiseQuantizationProblem, archive: Archive, progress: bool | None = None) -> tuple[Front, int]:
    """Re-evaluate the archive's members by the direct evaluators of all metrics; what they say replaces what was known.

    Returns:
        The front of the new measurements, marked ``verified``, and how many points were measured. An interrupt gives
        the old front back, not marked.
    """
    candidates = problem.candidates_of(archive.members)
    verified = Archive(problem)
    try:
        with Progress(len(candidates), description="verify the front", unit="evaluation", shown=progress) as bar:
            for evaluation in problem.measure_directly(candidates):
                verified.add(evaluation)
                bar.advance()
    except KeyboardInterrupt:
        return archive.front(), 0
    return replace(verified.front(), verified=True), len(candidates)


class Reporter:
    """Measures fronts on the report set, by all metrics of a problem.

    Raises:
        QExploreError: as `DirectEvaluator` says, for each metric.
    """

    def __init__(self, problem: LayerwiseQuantizationProblem, loader: Loader, unpack: Unpack | None) -> None:
        metrics = (problem.metric, *problem.further.metrics)
        if len(metrics) > 1:
            loader = reusable(loader)
        self._first, *self._further = (
            DirectEvaluator(problem.model, loader, metric, unpack=unpack or problem.unpack) for metric in metrics
        )

    @property
    def float_accuracy(self) -> float:
        """The float network's score."""
        return self._first.float_evaluation.score

    def report_on(self, front: Front) -> Front:
        """``front`` with its scores on the report set; NaN where a point could not be measured there.

        An interrupt leaves them out.
        """
        try:
            evaluations = list(self._first.evaluate(front.num_bits))
            further = [[one.score for one in evaluator.evaluate(front.num_bits)] for evaluator in self._further]
        except KeyboardInterrupt:
            return front
        return replace(
            front,
            report_accuracy=np.array([evaluation.score for evaluation in evaluations]),
            report_interval=intervals_of(evaluations),
            report_further_scores=np.array(further).T.reshape(len(front), -1) if further else None,
        )
