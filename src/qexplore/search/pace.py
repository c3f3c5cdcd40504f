"""How long a table takes, told by a few of its choices: a clock is kept to, whatever a part of the set costs."""

from __future__ import annotations

import numpy as np

from qexplore._clock import now
from qexplore.errors import QExploreError
from qexplore.metrics import noise_to_signal
from qexplore.model import Candidates
from qexplore.search.problem import LayerwiseQuantizationProblem

_TRIED = 4


class Pace:
    """Seconds of one choice more, timed once for an evaluator, on ``count`` samples.

    A network that waits, or samples one by one, takes longer for a part of the set than its share of a pass; and what
    goes before the first choice, such as the float network's outputs, is not paid again for the others.

    Args:
        problem: what is searched.
        candidates: those of the table, shape ``[N, L]``; the first ones are tried.
        count: samples.
        directly: ask the direct evaluator.
    """

    def __init__(
        self, problem: LayerwiseQuantizationProblem, candidates: Candidates, count: int, *, directly: bool
    ) -> None:
        self.count = count
        self.num_samples = 0
        """Samples that were run for it, those of all candidates together."""
        self._problem, self._directly = problem, directly
        one, few = (self._timed(candidates[:tried]) for tried in (1, _TRIED))
        more = max(1, min(_TRIED, len(candidates)) - 1)
        self._first, self._each = one, max(0.0, few - one) / more

    def seconds(self, num_choices: int) -> float:
        """Of a table of so many choices on at most ``count`` samples."""
        return self._first + self._each * num_choices

    def _timed(self, candidates: Candidates) -> float:
        start = now()
        try:
            scores = self._problem.scores_on_subset(
                candidates, noise_to_signal, self.count, directly=self._directly, against_float=True
            )
            self.num_samples += int(np.size(scores))
        except QExploreError:
            pass  # the table says it
        return now() - start
