"""The record of one measured candidate, what every evaluator promises, and what one has of another that it asks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from qexplore._arguments import checked_rows
from qexplore.errors import EvaluationError, QExploreError
from qexplore.metrics import Metric, Scores
from qexplore.model import Candidates

State = Literal["complete", "stopped", "failed"]
Order = NDArray[np.int64]
"""Places of all samples in the evaluation set as the loader gave it; those that are to be run first in front."""
Told = Callable[[float], object]
"""Called with parts of a candidate as they are done, from any thread."""


def untold(part: float) -> None:
    """Nobody looks at the work."""


def checked_candidates(candidates: Any, num_points: int, error: type[QExploreError] = EvaluationError) -> Candidates:
    """``candidates`` as codes, shape ``[N, num_points]``; a single one may do without its first axis.

    Raises:
        QExploreError: ``error``, where they are of another shape or no whole numbers.
    """
    rows = checked_rows("candidates", candidates, num_points, error)
    if (rows != np.rint(rows)).any():
        raise error(f"candidates must hold whole numbers, the codes of choices, got {rows.tolist()!r}")
    return rows.astype(np.int64)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What is known of one candidate.

    Attributes:
        candidate: codes by point, 0 where a quantizer is off.
        state: ``"complete"``; ``"stopped"`` early by proof; or ``"failed"``.
        score: the metric in the user's direction; NaN unless complete.
        scores: score per sample that counts, at most ``num_samples`` of them: a sample whose labels the metric ignores
            is left out. None for metrics of a whole set, or when not complete.
        interval: 95 % interval of the score over samples; None where it is not known.
        bound: for a stopped candidate, what its score cannot beat.
        further: scores by a problem's further metrics, NaN where one failed, and ``reason`` says why; empty where they
            were not measured. Each took a pass over the whole set.
        divergence: how far the outputs are from the float network's, mean over the samples that count; None unless
            complete, and where none is told: see ``divergence_gap`` of the evaluator.
        num_samples: samples that were run for ``score``.
        reason: why it failed or was stopped.
        seconds: time spent.
    """

    candidate: tuple[int, ...]
    state: State
    score: float = math.nan
    scores: Scores | None = None
    interval: tuple[float, float] | None = None
    bound: float | None = None
    further: tuple[float, ...] = ()
    divergence: float | None = None
    num_samples: int = 0
    reason: str = ""
    seconds: float = 0.0

    @property
    def is_complete(self) -> bool:
        """Whether the score is a real, whole measurement."""
        return self.state == "complete"

    @property
    def has_failed(self) -> bool:
        """Whether something that was asked of the candidate could not be measured, be it a further metric alone."""
        return self.state == "failed" or any(map(math.isnan, self.further))


class Evaluator(Protocol):
    """Measures candidates.

    Promises: the same candidate gets the same score, whatever else is in the call; every candidate is answered once, in
    order, also duplicates and none at all; answers come one by one, so that a stop loses no finished one; the model
    comes back as it was (choices, hooks, train/eval flags, random state), also after an error; a NaN score or an
    exception makes that candidate ``"failed"`` with its reason.
    """

    def evaluate(
        self, candidates: Candidates, *, must_beat: Sequence[float] | None = None, order: Order | None = None
    ) -> Iterator[Evaluation]:
        """Measure ``candidates``, shape ``[N, L]``.

        Args:
            candidates: codes; 0 switches a quantizer off.
            must_beat: one score per candidate; an evaluator may stop a candidate that it has proved not to beat it.
            order: of the samples, where that can be chosen; it says after how many of them a candidate is stopped. None
                takes them as the loader gave them.
        """
        ...

    def scores_on_subset(
        self,
        candidates: Candidates,
        metric: Metric,
        num_samples: int,
        *,
        against_float: bool = False,
        told: Told = untold,
    ) -> Scores:
        """Scores of ``candidates``, shape ``[N, L]``, on a part of the set: shape ``[N, samples]``.

        Rows lie one behind the other in memory (C order): numpy adds up in the order in which numbers lie, and a mean
        over samples has to be the same to the last bit whoever measured, and in whatever parts.

        Args:
            candidates: codes; 0 switches a quantizer off.
            metric: per sample; need not be the evaluator's own. One with a fit is fitted to the targets of the part.
            num_samples: about how many samples, drawn at random among those that count, always the same ones; of each
                class its share where targets are class indices. Fewer are among more.
            against_float: give the metric the float network's output in place of the target.
            told: called with parts of a candidate as they are done, from any thread.
        """
        ...

    def subset_size(self, num_samples: int) -> int:
        """How many samples `scores_on_subset` runs, at most, when asked for so many.

        More than asked for where batches are taken whole.
        """
        ...

    @property
    def description(self) -> str:
        """How candidates are evaluated."""
        ...

    @property
    def divergence_gap(self) -> str:
        """Why evaluations tell no divergence; empty where they do."""
        ...

    @property
    def series(self) -> tuple[tuple[int, ...], ...]:
        """Points between which nothing mixes, in the order they are passed; none where that is not known."""
        ...

    @property
    def early_stop(self) -> str:
        """``"on"``, or why candidates are always run to their end."""
        ...


class EvaluatorAround:
    """An `Evaluator` that asks another one, apart from the measuring: it says of itself what that one says.

    Args:
        evaluator: the other one.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator

    def subset_size(self, num_samples: int) -> int:
        """As `Evaluator.subset_size`."""
        return self._evaluator.subset_size(num_samples)

    @property
    def description(self) -> str:
        """As `Evaluator.description`."""
        return self._evaluator.description

    @property
    def divergence_gap(self) -> str:
        """As `Evaluator.divergence_gap`."""
        return self._evaluator.divergence_gap

    @property
    def series(self) -> tuple[tuple[int, ...], ...]:
        """As `Evaluator.series`."""
        return self._evaluator.series

    @property
    def early_stop(self) -> str:
        """As `Evaluator.early_stop`."""
        return self._evaluator.early_stop
