"""The last word on a front: its points measured once more, on the search set and on data never searched on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qexplore._progress import Progress
from qexplore.evaluation import DirectEvaluator
from qexplore.front import Front
from qexplore.search import Archive, LayerwiseQuantizationProblem, intervals_of


def verify(problem: LayerwiseQuantizationProblem, archive: Archive, progress: bool | None = None) -> tuple[Front, int]:
    """Re-evaluate the archive's members with the direct evaluator; what it says replaces what was known.

    Returns:
        The front of the new measurements, marked ``verified``, and how many there were. An interrupt gives the old
        front back, not marked.
    """
    candidates = problem.candidates_of(archive.members)
    verified = Archive(problem)
    try:
        with Progress(len(candidates), description="verify the front", unit="evaluation", shown=progress) as bar:
            for evaluation in problem.direct.evaluate(candidates):
                verified.add(evaluation)
                bar.advance()
    except KeyboardInterrupt:
        return archive.front(), 0
    return replace(verified.front(), verified=True), len(candidates)


def report_on(front: Front, reporter: DirectEvaluator) -> Front:
    """``front`` with its accuracy on the report set; NaN where a point could not be measured there.

    An interrupt leaves the accuracy on the report set out.
    """
    try:
        evaluations = list(reporter.evaluate(front.num_bits))
    except KeyboardInterrupt:
        return front
    return replace(
        front,
        report_accuracy=np.array([evaluation.score for evaluation in evaluations]),
        report_interval=intervals_of(evaluations),
    )
