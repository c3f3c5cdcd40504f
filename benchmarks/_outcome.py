"""What methods that look for a front come to on one network: ratios of their times, shares of the best known front."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from statistics import mean

import moocore
import numpy as np
from _curves import Candidate, Curve, stairs


@dataclass(frozen=True)
class Outcome:
    """Of all runs on one network.

    Attributes:
        curves: of the runs by method: "plain", "additive" and "qexplore".
        long: of the one long search, if there was one.
        scores: of all candidates of their fronts: accuracy by the direct evaluator, and unseen.
        plain_seconds: of each candidate that the plain evaluator ran.
        reference: the least accuracy, and the cost that is too much.
        marks: passes after which qexplore's front is looked at, its whole budget last.
        num_unseen: images that nothing was chosen on.
    """

    curves: dict[str, list[Curve]]
    long: Curve | None
    scores: dict[Candidate, tuple[float, float]]
    plain_seconds: list[float]
    reference: tuple[float, float]
    marks: tuple[int, ...]
    num_unseen: int

    def hypervolume(self, candidates: list[list[int]], which: int) -> float:
        """Of candidates by the direct evaluator, 0, or unseen, 1."""
        points = [(sum(candidate), self.scores[tuple(candidate)][which], tuple(candidate)) for candidate in candidates]
        return stairs([point for point in points if point[1] > self.reference[0]], self.reference)

    def hypervolumes(self, curves: list[Curve], front: str, which: int) -> list[float]:
        """The same of one front of each curve."""
        return [self.hypervolume(curve.fronts[front], which) for curve in curves]

    @cached_property
    def best(self) -> tuple[float, float]:
        """The best known on the search set and unseen."""
        every = [curve for curves in self.curves.values() for curve in curves] + ([self.long] if self.long else [])
        together = [candidate for curve in every for front in curve.fronts.values() for candidate in front]
        points = np.array([[sum(one), -self.scores[tuple(one)][0]] for one in together])
        chosen = [together[place] for place in np.flatnonzero(moocore.is_nondominated(points))]
        ends = [front for curve in every for front in curve.fronts.values()]
        return self.hypervolume(chosen, 0), max(self.hypervolume(front, 1) for front in (chosen, *ends))

    def record(self) -> dict[str, object]:
        """Everything that tables and pictures need."""
        plain, additive, ours = (self.curves[name] for name in ("plain", "additive", "qexplore"))
        return {
            "curves": {name: [vars(curve) for curve in curves] for name, curves in self.curves.items()},
            "best": self.best[0],
            "a": [p.total_seconds / o.time_to(p.hypervolume[-1]) for p, o in zip(plain, ours, strict=True)],
            "b": [additive[0].total_seconds / o.time_to(additive[0].hypervolume[-1]) for o in ours],
            "in the time of 100": [o.at_seconds(100 * mean(self.plain_seconds)) / self.best[0] for o in ours],
        }

    def report(self) -> list[str]:
        """One table for the network."""
        record, ours, (best, best_unseen) = self.record(), self.curves["qexplore"], self.best
        lines = [
            f"plain evaluator: {mean(self.plain_seconds):.3f} s a candidate, {len(self.plain_seconds)} were run; "
            f"best known hypervolume {best:.3f}, on {self.num_unseen} unseen images {best_unseen:.3f}",
            f"{'method':10s} {'seconds':>22s} {'hypervolume (direct)':>26s} {'unseen':>26s}",
        ]
        for name, curves in self.curves.items():
            seconds = ", ".join(f"{curve.total_seconds:.0f}" for curve in curves)
            ends = (numbers(self.hypervolumes(curves, "end", which), 2) for which in (0, 1))
            lines.append(f"{name:10s} {seconds:>22s} {' '.join(f'{end:>26s}' for end in ends)}")
        for mark in self.marks:
            front = "end" if mark == self.marks[-1] else str(mark)
            here, there = (self.hypervolumes(ours, front, which) for which in (0, 1))
            measured = [curve.at_passes(mark) for curve in ours]
            lines.append(
                f"(c) within {mark:3d} passes: measured {shares(measured, best)} of the best known, front "
                f"{shares(here, best)}; unseen {numbers(there, 2)}, {shares(there, best_unseen)} of the best known"
            )
        return lines + [
            f"(a) plain recipe over ours: {numbers(record['a'])}",
            f"(b) table and additive front over ours: {numbers(record['b'])}",
            f"share of the best known in the time of 100 plain evaluations: {numbers(record['in the time of 100'], 4)}",
        ]


def shares(values: list[float], whole: float) -> str:
    """Values as shares, in one line."""
    return numbers([value / whole for value in values], 4)


def numbers(values: list[float], digits: int = 1) -> str:
    """Values in one line."""
    return ", ".join(f"{value:.{digits}f}" for value in values)


def summary(drawn: dict[str, dict[str, list[float]]]) -> str:
    """Geometric means over the networks of 20 points and more."""
    large = [record for name, record in drawn.items() if name != "small"]
    lines = []
    for key, what in (("a", "plain recipe over ours"), ("b", "additive front over ours")):
        values = np.array([value for record in large for value in record[key]])
        if len(values):
            lines.append(f"{what}: geometric mean {np.exp(np.log(values).mean()):.1f}, least {values.min():.1f}")
    return "\n".join(lines)
