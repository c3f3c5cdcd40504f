"""What an exploration hands out: a snapshot while it runs, and the result."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from qexplore._coverage import Coverage
from qexplore._table import Framed, Rows, counted
from qexplore.distributed import WorkersReport
from qexplore.evaluation import Clipping, Evaluation, clipping_text
from qexplore.front import (
    Front,
    difference_text,
    float_misses,
    front_notes,
    missing_words,
    num_report_violations,
    optimism_gap,
)

_NUMBER = re.compile(r"[0-9]+")


def clipping_notes(found: Sequence[Clipping]) -> tuple[str, ...]:
    """`clipping_text` as sentences."""
    return tuple(f"{line[0].upper()}{line[1:]}." for line in clipping_text(found).splitlines())


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
        hypervolume: of the front against the exploration's reference point, in the product of their units.
        generation: counted from 1; 0 before the first.
    """

    front: Front = field(repr=False)
    num_evaluations: int
    num_passes: float
    seconds: float
    hypervolume: float
    generation: int


@dataclass(frozen=True)
class Exploration(Framed):
    """The result of `explore`.

    Attributes:
        front: non-dominated, feasible points, each re-evaluated by the direct evaluator.
        uniform: every uniform choice, dominated and infeasible ones too, the cheapest first; ``front.uniform``.
        history: a snapshot each time the front grew and at the end of every generation.
        float_accuracy: score of the float network on the search set.
        report_float_accuracy: the same on the report set; None without one.
        reference_point: (score, each cost) that hypervolumes are measured against, fixed before the search.
        num_evaluations: different candidates that the search measured.
        num_passes: full passes over the search set that they cost, and those that found them.
        num_prepared_passes: those of ``num_passes`` in which no candidate was measured: sensitivities of single points,
            and looks at whole candidates on a part of the set.
        num_look_passes: those of looks.
        num_stopped: candidates that were stopped early, and so cost less than a pass.
        num_verifications: points that were re-evaluated, each by every metric; 0 after an interrupt; not counted above.
        num_report_passes: passes over the report set: of the float network and the front by every metric, of the
            uniform choices by the first; not counted above.
        optimism_interval: 95 % interval of `optimism_gap`, paired by sample on each set; None where it is not known.
        seconds: wall time, verification included.
        failures: candidates that could not be evaluated, be it by a further metric alone, with their reasons.
        stopped_by: ``"max_evaluations"``, ``"max_seconds"``, ``"stagnation"``, ``"exhausted"`` (every candidate within
            the limits was measured), ``"failures"`` (so many candidates in a row
            failed), ``"nothing new"`` (the algorithm has come to its end before: a ladder at its foot, or a plain one
            that proposed known candidates for 20 generations), ``"interrupt"``, ``"SIGTERM"`` or ``"callback"``.
        algorithm: as given to `explore`, or the type of an algorithm object.
        seed: as given to `explore`.
        engine: how candidates were evaluated, or why one after the other.
        early_stop: ``"on"``, or why every candidate ran to its end.
        left_out: what the search did without for want of budget, and what budget has it; empty for nothing.
        clipping: what ranges cut off of the float network's tensors on the search set, where they cut something off.
        num_moved: samples whose scores the direct evaluator found to be others than the search had seen, at the point
            with most of them; None where nothing was verified, or scores are not of samples.
        num_samples: of the search set; 0 under a whole-set metric.
        judge: what decided between points that the search set cannot tell apart, and how many gave way by it.
        unverified: evaluations of points that could not be measured again, with their reasons; they are left out of the
            front, unless none could be.
        shared_data: sentences on samples that one set has of another: of the report set those that were searched or
            calibrated on, of which a warning tells too, of the search set those that were calibrated on.
        study: where all of it was written down, and how much of it was there before; empty for nowhere.
        workers: who measured what, and how busy they were; None where this process measured.
    """

    front: Front
    uniform: Front = field(repr=False)
    history: tuple[Snapshot, ...] = field(repr=False)
    float_accuracy: float
    report_float_accuracy: float | None
    reference_point: tuple[float, ...]
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
    num_report_passes: int = 0
    num_prepared_passes: float = 0.0
    num_look_passes: float = 0.0
    num_stopped: int = 0
    optimism_interval: tuple[float, float] | None = None
    left_out: str = ""
    clipping: tuple[Clipping, ...] = ()
    num_moved: int | None = None
    num_samples: int = 0
    judge: str = ""
    study: str = ""
    shared_data: tuple[str, ...] = ()
    workers: WorkersReport | None = field(default=None, repr=False)
    unverified: tuple[Evaluation, ...] = field(default=(), repr=False)

    @property
    def coverage(self) -> Coverage | None:
        """Which share of the network was searched: what is at points that may be on; ``front.coverage``."""
        return self.front.coverage

    @property
    def optimism_gap(self) -> float | None:
        """By how much better the front looks on the search set than on the report set, mean over its points.

        Counted from the float network on each set, which one set may be harder for than another:
        ``(front on search - float on search) - (front on report - float on report)``, in the metric's unit, positive
        where the front looks better than it is; None without a report set. The search picks what does well on its own
        set, so some of it is luck; `optimism_interval` says how sure the figure is.
        """
        return optimism_gap(self.front)

    @property
    def hypervolume(self) -> float:
        """Of the front as it is handed out, against `reference_point`; 0 without points, or before that was settled.

        The last of `history` counts every point that the search had found, by score alone, so it may be a little more:
        the judge and the verification have taken points away since.
        """
        is_known = len(self.front) and all(map(math.isfinite, self.reference_point))
        return self.front.hypervolume(self.reference_point) if is_known else 0.0

    @property
    def num_report_violations(self) -> int | None:
        """Points of the front that miss the minimum of some metric on the report set; None without one."""
        return num_report_violations(self.front)

    @property
    def was_cut_short(self) -> bool:
        """Whether something else than its budget, or the end of what is new, ended the search."""
        return self.stopped_by in ("interrupt", "SIGTERM", "failures", "callback")

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that say what limits the result, the gravest first; none where nothing does.

        An early end, a front that is not verified, failures, workers that differed, sets of data that share samples,
        what was left out for want of budget, what the ranges clip on the search set, and what the report set says of
        the scores. The page of a report has them on top, of an exploration as of its study.
        """
        told = []
        if self.was_cut_short:
            told.append(f"The search was ended before its budget was spent: {self.stopped_by}.")
        if self.failure_summary:
            told.append(f"Failures: {self.failure_summary}.")
        told += self.workers.notes if self.workers is not None else ()
        told += self.shared_data
        if self.left_out:
            told.append(f"Left out for want of budget: {self.left_out}.")
        return (*told, *clipping_notes(self.clipping), *front_notes(self.front, self.optimism_interval))

    @property
    def failure_summary(self) -> str:
        """How many candidates failed, the commonest reason, and the first candidate with it; empty where none did.

        Reasons that differ in numbers alone count as one.
        """
        if not self.failures:
            return ""
        kinds = [_NUMBER.sub("", failure.reason) for failure in self.failures]
        kind, count = Counter(kinds).most_common(1)[0]
        first = self.failures[kinds.index(kind)]
        most = f" {count} of them" if count < len(kinds) else ""
        way_out = "; max_failures=None goes on all the same" if self.stopped_by == "failures" else ""
        return f"{len(kinds)} failed{',' * bool(most)}{most}: {first.reason}, the first {first.candidate}{way_out}"

    def _report_line(self) -> str:
        violations, gap, least = self.num_report_violations, self.optimism_gap, self.front.min_accuracy
        if violations is None:
            return ""
        minimum = "a minimum" if self.front.further else "" if least is None else f"min_accuracy {least:g}"
        parts = [counted(self.num_report_passes, "pass", "passes")]
        parts += (
            [f"{missing_words(violations, len(self.front))} {minimum} there{float_misses(self.front)}"]
            if minimum
            else []
        )
        if gap is not None:
            by = f"{self.front.metric_name} {difference_text(gap, self.optimism_interval)}"
            parts.append(f"counted from float, the front looks better on the search set by {by}, mean over its points")
        return f"\nreport set: {'; '.join(parts)}"

    def _frame_rows(self) -> Rows:
        """The history: a row a snapshot."""
        names = [field.name for field in fields(Snapshot)]
        best = f"best_{self.front.metric_name}"
        return [*names[1:], "num_points", best, *(f"least_{name}" for name in self.front.cost_names)], (
            (*(getattr(one, name) for name in names[1:]), len(one.front), *one.front.best) for one in self.history
        )

    @property
    def _verification_line(self) -> str:
        if not self.unverified:
            return ""
        first, count = self.unverified[0], len(self.unverified)
        points = f"{count} points" if count > 1 else "a point"
        left = " and is left out" if count == 1 else " and are left out"
        so = left if self.front.verified else ", so that the front is not verified"
        return f"\nverification: {points} could not be measured again{so}, {first.candidate} with: {first.reason}"

    @property
    def _arithmetic_line(self) -> str:
        told = f"\narithmetic: {self.front.arithmetic}" if self.front.arithmetic else ""
        if not told or self.num_moved is None:
            return told
        return f"{told}; verification moved {self.num_moved:,} of {self.num_samples:,} samples at most"

    @property
    def _hypervolume_words(self) -> str:
        told = f"{self.hypervolume:.4g}"
        searched = f"{self.history[-1].hypervolume:.4g}" if self.history else told
        return told if told == searched else f"{told} (of all that the search found, by score alone, {searched})"

    @property
    def _spent(self) -> str:
        """What was measured and what it cost, in words."""
        stopped = f" ({self.num_stopped} stopped early)" if self.num_stopped else ""
        told = (
            f"{counted(self.num_evaluations, 'candidate')}{stopped} for "
            f"{counted(round(self.num_passes), 'full evaluation')}"
        )
        if not self.num_prepared_passes:
            return told
        on_points, on_looks = self.num_prepared_passes - self.num_look_passes, self.num_look_passes
        looks = f"{on_looks:.1f} on looks at parts of the set" if on_looks else "none on looks at parts of the set"
        return f"{told} ({on_points:.1f} of them on sensitivities, {looks})"

    def __str__(self) -> str:
        failed = f", {self.failure_summary}" if self.failures else ""
        left_out = f"\nleft out: {self.left_out}" if self.left_out else ""
        judge = f"\njudge: {self.judge}" if self.judge else ""
        study = f"\nstudy: {self.study}" if self.study else ""
        shared = "".join(f"\n{one}" for one in self.shared_data)
        workers = "" if self.workers is None else f"\nworkers: {self.workers.summary}"
        told = (
            judge
            + self._arithmetic_line
            + self._verification_line
            + left_out
            + f"\n{clipping_text(self.clipping)}".rstrip("\n")
            + workers
            + study
        )
        return (
            f"{self.algorithm}, seed {self.seed}: {self._spent} in {self.seconds:.1f} s, stopped by {self.stopped_by}, "
            f"hypervolume {self._hypervolume_words}{failed}"
            f"\nengine: {self.engine}\nearly stop: {self.early_stop}{told}{self._report_line()}{shared}\n{self.front}"
        )
