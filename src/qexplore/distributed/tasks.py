"""What goes to a worker and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qexplore.model import Candidates


@dataclass(frozen=True, eq=False)
class Task:
    """Candidates that one worker measures in one go.

    Attributes:
        role: whose evaluations these are, as `LayerwiseQuantizationProblem.recorded_by` names them.
        question: the method of the evaluator that is asked: ``"evaluate"`` or ``"scores_on_subset"``.
        places: of the candidates in the call that was divided.
        candidates: codes, shape ``[N, L]``.
        options: keywords of the method.
        order: of the samples, or what `share` of the crew gave for it.
        num_lost: workers that were lost with it.
    """

    role: str
    question: str
    places: tuple[int, ...]
    candidates: Candidates
    options: Mapping[str, Any] = field(default_factory=dict)
    order: Any = None
    num_lost: int = 0

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True, eq=False)
class Answer:
    """What a worker found.

    Attributes:
        values: an `Evaluation`, or scores, of each candidate.
        seconds: that the worker took.
        error: what was raised instead.
        warnings: what was warned of meanwhile, with its category.
        worker: its name.
    """

    values: tuple[Any, ...] = ()
    seconds: float = 0.0
    error: Exception | None = None
    warnings: tuple[tuple[type[Warning], str], ...] = ()
    worker: str = ""
