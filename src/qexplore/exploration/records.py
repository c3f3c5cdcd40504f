"""What an exploration hands out: a snapshot while it runs, and the result."""

from __future__ import annotations

from dataclasses import dataclass, field

from qexplore.evaluation import Evaluation
from qexplore.front import Front


class StopExploration(Exception):
    """Raise this in a callback to end the exploration with the front found so far."""


@dataclass(frozen=True)
class Snapshot:
    """Where an exploration stands.

    Attributes:
        front: the front so far.
        num_evaluations: candidates measured so far.
        num_passes: full passes over the search set that they cost; one stopped early costs a share of one.
        seconds: since the exploration began.
        hypervolume: of the front against the exploration's reference point, in metric times bits.
        generation: counted from 1; 0 before the first.
    """

    front: Front = field(repr=False)
    num_evaluations: int
    num_passes: float
    seconds: float
    hypervolume: float
    generation: int


@dataclass(frozen=True)
class Exploration:
    """The result of `explore`.

    Attributes:
        front: non-dominated, feasible points, each re-evaluated by the direct evaluator.
        uniform: every uniform width, dominated and infeasible ones too, by rising width.
        history: a snapshot each time the front grew and at the end of every generation.
        float_accuracy: score of the float network on the search set.
        report_float_accuracy: the same on the report set; None without one.
        reference_point: (score, total bits) that hypervolumes are measured against, fixed before the search.
        num_evaluations: different candidates that the search measured.
        num_passes: full passes over the search set that they cost.
        num_verifications: evaluations spent on re-evaluating the front, not counted above.
        seconds: wall time, verification included.
        failures: candidates that could not be evaluated, with their reasons.
        stopped_by: ``"max_evaluations"``, ``"exhausted"``, ``"interrupt"`` or ``"callback"``.
        algorithm: as given to `explore`.
        seed: as given to `explore`.
        engine: how candidates were evaluated, or why one after the other.
        early_stop: ``"on"``, or why every candidate ran to its end.
    """

    front: Front
    uniform: Front = field(repr=False)
    history: tuple[Snapshot, ...] = field(repr=False)
    float_accuracy: float
    report_float_accuracy: float | None
    reference_point: tuple[float, float]
    num_evaluations: int
    num_passes: float
    num_verifications: int
    seconds: float
    failures: tuple[Evaluation, ...] = field(repr=False)
    stopped_by: str
    algorithm: str
    seed: int
    engine: str
    early_stop: str

    def __str__(self) -> str:
        hypervolume = self.history[-1].hypervolume if self.history else 0.0
        failed = f", {len(self.failures)} failed: {self.failures[0].reason}" if self.failures else ""
        return (
            f"{self.algorithm}, seed {self.seed}: {self.num_evaluations} candidates for {self.num_passes:.0f} full "
            f"evaluations in {self.seconds:.1f} s, stopped by {self.stopped_by}, hypervolume {hypervolume:.4g}{failed}"
            f"\nengine: {self.engine}\nearly stop: {self.early_stop}\n{self.front}"
        )
