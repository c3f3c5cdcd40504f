"""What a method knew when: its curve and the picture of it, and a clock that can be charged."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

Candidate = tuple[int, ...]


@dataclass
class Curve:
    """What a method knew when: one entry for each time its front grew."""

    seconds: list[float] = field(default_factory=list)
    passes: list[float] = field(default_factory=list)
    hypervolume: list[float] = field(default_factory=list)
    total_seconds: float = 0.0
    fronts: dict[str, list[list[int]]] = field(default_factory=dict)
    """Candidates of fronts: "end" for the last one, a number of passes for one that is handed out after so many."""
    scores: list[tuple[list[int], float, float]] = field(default_factory=list)
    """Of all candidates of ``fronts``: accuracy by the direct evaluator, and unseen."""
    plain_seconds: list[float] = field(default_factory=list)
    """Of each candidate that the plain evaluator ran."""

    def time_to(self, hypervolume: float) -> float:
        """Seconds until this much was reached; infinite where it never was."""
        return next((s for s, h in zip(self.seconds, self.hypervolume, strict=True) if h >= hypervolume), float("inf"))

    def at_passes(self, budget: float) -> float:
        """Hypervolume within so many full passes."""
        return max((h for p, h in zip(self.passes, self.hypervolume, strict=True) if p <= budget + 1e-6), default=0.0)

    def at_seconds(self, limit: float) -> float:
        """Hypervolume within so many seconds."""
        return max((h for s, h in zip(self.seconds, self.hypervolume, strict=True) if s <= limit), default=0.0)


class Growing:
    """The front of what a plain method has measured, and its curve."""

    def __init__(self, reference: tuple[float, float]) -> None:
        self.reference = reference
        self.known: dict[Candidate, float] = {}
        self.front: list[tuple[int, float, Candidate]] = []
        self.curve = Curve()

    def add(self, candidate: np.ndarray, accuracy: float, seconds: float) -> None:
        """Take one measurement in."""
        key = tuple(int(width) for width in candidate)
        self.known[key] = accuracy
        cost = sum(key)
        if accuracy > self.reference[0] and not any(c <= cost and a >= accuracy for c, a, _ in self.front):
            kept = [point for point in self.front if not (point[0] >= cost and point[1] <= accuracy)]
            self.front = [*kept, (cost, accuracy, key)]
            self.curve.seconds.append(seconds)
            self.curve.passes.append(len(self.known))
            self.curve.hypervolume.append(stairs(self.front, self.reference))

    def done(self, seconds: float) -> Curve:
        """The curve with its end."""
        self.curve.fronts["end"] = [list(key) for _, _, key in self.front]
        self.curve.total_seconds = seconds
        return self.curve


def stairs(front: list[tuple[int, float, Candidate]], reference: tuple[float, float]) -> float:
    """Hypervolume of points (cost, accuracy, ...)."""
    from pymoo.indicators.hv import HV

    points = np.array([[cost, -accuracy] for cost, accuracy, _ in front]).reshape(-1, 2)
    return float(HV(ref_point=np.array([reference[1], -reference[0]]))(points)) if len(points) else 0.0


class Clock:
    """Seconds that count: it can be stopped, and charged with what was not run."""

    def __init__(self) -> None:
        self._extra = 0.0
        self._start = self._lap = 0.0

    def __enter__(self) -> Clock:
        self._start = self._lap = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._extra, self._start = self.seconds, 0.0

    @property
    def seconds(self) -> float:
        """So far."""
        return self._extra + (time.perf_counter() - self._start if self._start else 0.0)

    def charge(self, seconds: float) -> None:
        """Count seconds that were not spent."""
        self._extra += seconds

    def forget(self) -> None:
        """Begin again."""
        self._extra, self._start = 0.0, time.perf_counter()
        self._lap = self._start

    def lap(self) -> float:
        """Seconds on the wall since the last lap or `forget`."""
        now = time.perf_counter()
        before, self._lap = self._lap, now
        return now - before

    def stopped(self) -> Stopped:
        """A block that does not count."""
        return Stopped(self)


class Stopped:
    """Takes back what a block spent."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._clock.charge(self._start - time.perf_counter())


def draw(drawn: dict[str, dict[str, object]], path: Path) -> None:
    """Hypervolume over seconds, one panel a network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * len(drawn), 5), layout="constrained")
    colours = {"plain": "#D55E00", "additive": "#CC79A7", "qexplore": "#0072B2"}
    labels = {"plain": "plain recipe", "additive": "table and additive front, plain evaluator", "qexplore": "qexplore"}
    for place, (name, record) in enumerate(drawn.items(), start=1):
        axes = figure.add_subplot(1, len(drawn), place)
        for method, curves in record["curves"].items():
            for index, curve in enumerate(curves):
                seconds = [*curve["seconds"], curve["total_seconds"]]
                share = [h / record["best"] for h in (*curve["hypervolume"], curve["hypervolume"][-1])]
                label = labels[method] if index == 0 else None
                axes.step(seconds, share, where="post", color=colours[method], label=label, linewidth=1.6)
        axes.set_xscale("log")
        axes.set_ylim(0, 1.02)
        axes.set_title(name, loc="left", fontweight="bold")
        axes.set_xlabel("seconds, set-up included")
        axes.grid(alpha=0.3)
        if place == 1:
            axes.set_ylabel("hypervolume, share of the best known")
            axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=100)
