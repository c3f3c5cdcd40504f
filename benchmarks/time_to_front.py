"""How fast a search comes to a front: the plain recipe, a sensitivity table with its additive front, and qexplore.

    python benchmarks/time_to_front.py --picture docs/images/time_to_front.png
    python benchmarks/time_to_front.py --networks resnet20 --seeds 1 --plain-every 10

All three work on the same network, images, ranges, sign mode and widths, in one process and in turns:

- the plain recipe: pymoo's NSGA-II, population 40, random start, pytorch-quantization's quantizers in forward hooks;
- the additive front: divergence of one point at a time on half of the images, a dynamic program, every candidate of its
  front measured, all with the same hooks;
- qexplore: posing the problem (set-up, capture) and `explore`; its seconds hold everything.

What the plain evaluator needs does not depend on the candidate. With ``--plain-every K`` it runs one candidate in K;
the others take their scores from the engine and are charged the mean seconds of those that ran.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from _workloads import EPOCHS, PlainScript, Workload
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.optimize import minimize

import qexplore as qx

WIDTHS = (2, 8)
MIN_ACCURACY = 0.5
BUDGET = 450
MARKS = (50, 100, 200, 450)


def main() -> None:
    """Run every network and seed, print the ratios, draw the curves."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument(
        "--networks", nargs="+", choices=EPOCHS, default=["resnet20", "mobilenet", "transformer", "small"]
    )
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--samples", type=int, default=1024)
    options.add_argument("--plain-every", type=int, default=1)
    options.add_argument("--best-evaluations", type=int, default=5000, help="candidates of the run for the best known")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--results", type=Path, help="curves as JSON, to draw from later")
    options.add_argument("--picture", type=Path)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    drawn = {}
    for name in arguments.networks:
        bench = Bench(Workload(name, arguments.samples), arguments)
        print(
            f"\n{name}: {bench.num_points} points, {arguments.samples} images, {arguments.threads} threads", flush=True
        )
        bench.run()
        for line in bench.report():
            print(line, flush=True)
        drawn[name] = bench.record()
        if arguments.results:
            arguments.results.write_text(json.dumps(drawn))
    print(f"\n{summary(drawn)}")
    if arguments.picture:
        draw(drawn, arguments.picture)


@dataclass
class Curve:
    """What a method knew when: one entry for each time its front grew."""

    seconds: list[float] = field(default_factory=list)
    passes: list[float] = field(default_factory=list)
    hypervolume: list[float] = field(default_factory=list)
    end: list[list[int]] = field(default_factory=list)
    total_seconds: float = 0.0

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
        self.known: dict[tuple[int, ...], float] = {}
        self.front: list[tuple[int, float, tuple[int, ...]]] = []
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
        self.curve.end = [list(key) for _, _, key in self.front]
        self.curve.total_seconds = seconds
        return self.curve


def stairs(front: list[tuple[int, float, tuple[int, ...]]], reference: tuple[float, float]) -> float:
    """Hypervolume of points (cost, accuracy, ...)."""
    from pymoo.indicators.hv import HV

    points = np.array([[cost, -accuracy] for cost, accuracy, _ in front]).reshape(-1, 2)
    return float(HV(ref_point=np.array([reference[1], -reference[0]]))(points)) if len(points) else 0.0


class Bench:
    """All methods on one network."""

    def __init__(self, workload: Workload, arguments: argparse.Namespace) -> None:
        self.workload, self.arguments = workload, arguments
        self.batches = workload.search
        self.num_samples = sum(len(labels) for _, labels in self.batches)
        self.model = self.new_model()
        amax = {name: float(quantizer.amax) for name, quantizer in self.model.activation_fake_quantizers.items()}
        self.script = PlainScript(copy.deepcopy(workload.network), amax)
        self.num_points = len(amax)
        self.reference = (MIN_ACCURACY, float(WIDTHS[1] * self.num_points))
        self.engine = self.new_problem(self.model)  # scores for candidates that the plain evaluator does not run
        self.plain_seconds: list[float] = []
        self.curves: dict[str, list[Curve]] = {"plain": [], "additive": [], "qexplore": []}
        self.best = 0.0
        self.verified: dict[tuple[int, ...], float] = {}

    def new_model(self) -> qx.QuantizedActivationsModel:
        """The network, wrapped and calibrated."""
        network = copy.deepcopy(self.workload.network)
        model = qx.QuantizedActivationsModel(network, self.workload.predicate, unsigned=False)
        model.calibrate(self.workload.calibration)
        return model

    def new_problem(self, model: qx.QuantizedActivationsModel) -> qx.LayerwiseQuantizationProblem:
        """One that knows nothing yet."""
        return qx.LayerwiseQuantizationProblem(
            model,
            self.batches,
            num_bits_lower_limit=WIDTHS[0],
            num_bits_upper_limit=WIDTHS[1],
            min_accuracy=MIN_ACCURACY,
        )

    def run(self) -> None:
        """Every method for every seed, in turns; the additive front has no seed and runs once."""
        self.new_problem(self.model)  # whatever is done once in a process is done
        for seed in self.arguments.seeds:
            self.curves["qexplore"].append(self.qexplore(seed))
            self.curves["plain"].append(self.plain(seed))
            if not self.curves["additive"]:
                self.curves["additive"].append(self.additive())
            print(f"  seed {seed} done", flush=True)
        every = [curve for curves in self.curves.values() for curve in curves]
        ends = {tuple(candidate) for curve in every for candidate in curve.end}
        if self.arguments.best_evaluations:
            ends |= {tuple(candidate) for candidate in self.long_run()}
        self.judge(ends)

    # ------------------------------------------------------------------------------------------------- the methods

    def qexplore(self, seed: int) -> Curve:
        """`explore` from nothing: the problem is posed within the time."""
        model = self.new_model()
        start = time.perf_counter()
        problem = self.new_problem(model)
        set_up = time.perf_counter() - start
        found = qx.explore(problem, max_evaluations=BUDGET, seed=seed, progress=False)
        curve = Curve(total_seconds=time.perf_counter() - start)
        for snapshot in found.history:
            curve.seconds.append(set_up + snapshot.seconds)
            curve.passes.append(snapshot.num_passes)
            curve.hypervolume.append(snapshot.hypervolume)
        curve.end = self.ended(found)
        return curve

    def plain(self, seed: int) -> Curve:
        """The recipe with pymoo and pytorch-quantization alone."""
        found, clock = Growing(self.reference), Clock()
        bench = self

        class Recipe(Problem):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__(n_var=bench.num_points, n_obj=2, n_ieq_constr=1, xl=WIDTHS[0], xu=WIDTHS[1], vtype=int)

            def _evaluate(self, x: np.ndarray, out: dict[str, np.ndarray], *args: object, **kwargs: object) -> None:
                candidates = np.asarray(x, dtype=np.int64)
                accuracy = bench.plainly(candidates, clock, lambda c, a: found.add(c, a, clock.seconds))
                out["F"] = np.column_stack([-accuracy, candidates.sum(axis=1)])
                out["G"] = (MIN_ACCURACY - accuracy)[:, None]

        algorithm = NSGA2(
            pop_size=40,
            sampling=IntegerRandomSampling(),
            crossover=SBX(prob=0.9, eta=15, vtype=float, repair=RoundingRepair()),
            mutation=PM(eta=20, vtype=float, repair=RoundingRepair()),
            eliminate_duplicates=True,
        )
        with clock:
            minimize(Recipe(), algorithm, ("n_eval", BUDGET), seed=seed, verbose=False)
        return found.done(clock.seconds)

    def additive(self) -> Curve:
        """A table on half of the images, the dynamic program, and every candidate of its front."""
        found, clock = Growing(self.reference), Clock()
        half = self.batches[: len(self.batches) // 2]
        lot = self.num_points * (WIDTHS[1] - WIDTHS[0]) + 1
        with clock:
            table = qx.sensitivity(self.engine, "kl", num_samples=self.num_samples // 2)
            front = qx.additive_front(table)
            clock.forget()
            ran = 0
            for row in range(0, lot, self.arguments.plain_every):
                self.script.correct(front.num_bits[row % len(front)], half)
                ran += 1
            clock.charge(clock.lap() / ran * (lot - ran))
            self.plainly(front.num_bits, clock, lambda c, a: found.add(c, a, clock.seconds))
        return found.done(clock.seconds)

    def plainly(self, candidates: np.ndarray, clock: Clock, take: Callable[[np.ndarray, float], None]) -> np.ndarray:
        """Accuracies of candidates at the price of the plain evaluator."""
        every = self.arguments.plain_every
        accuracy = np.zeros(len(candidates))
        if every > 1:
            with clock.stopped():
                accuracy[:] = [evaluation.score for evaluation in self.engine.measure(candidates)]
        for row, candidate in enumerate(candidates):
            if row % every == 0:
                start = time.perf_counter()
                counted = self.script.correct(candidate, self.batches) / self.num_samples
                self.plain_seconds.append(time.perf_counter() - start)
                if every > 1 and abs(counted - accuracy[row]) > -(-self.num_samples // 1000) / self.num_samples + 1e-9:
                    raise SystemExit(f"{candidate}: the plain script counts {counted}, the engine {accuracy[row]}")
                accuracy[row] = counted
            else:
                clock.charge(mean(self.plain_seconds))
            take(candidate, accuracy[row])
        return accuracy

    def long_run(self) -> list[list[int]]:
        """The front of one long search, for the best that is known."""

        def enough(snapshot: qx.Snapshot) -> None:
            if snapshot.num_evaluations >= self.arguments.best_evaluations:
                raise qx.StopExploration

        problem = self.new_problem(self.model)
        found = qx.explore(
            problem, max_evaluations=self.arguments.best_evaluations, seed=99, callbacks=[enough], progress=False
        )
        return self.ended(found)

    def ended(self, found: qx.Exploration) -> list[list[int]]:
        """The widths of a front, whose scores the direct evaluator has given already."""
        self.verified |= {point.num_bits: point.accuracy for point in found.front}
        return found.front.num_bits.tolist()

    def judge(self, candidates: set[tuple[int, ...]]) -> None:
        """The best known front, every point of it measured by the direct evaluator."""
        rows = np.array(sorted(candidates - set(self.verified)), dtype=np.int64).reshape(-1, self.num_points)
        judged = zip(map(tuple, rows.tolist()), self.engine.direct.evaluate(rows), strict=True)
        scores = self.verified | {key: evaluation.score for key, evaluation in judged}
        together = [(sum(key), scores[key], key) for key in candidates if scores[key] > MIN_ACCURACY]
        self.best = stairs(together, self.reference)
        self.direct_ends = {
            name: [
                stairs(
                    [(sum(c), scores[tuple(c)], tuple(c)) for c in curve.end if scores[tuple(c)] > MIN_ACCURACY],
                    self.reference,
                )
                for curve in curves
            ]
            for name, curves in self.curves.items()
        }

    # -------------------------------------------------------------------------------------------------- the report

    def record(self) -> dict[str, object]:
        """Everything that tables and pictures need."""
        plain, additive, ours = (self.curves[name] for name in ("plain", "additive", "qexplore"))
        return {
            "curves": {name: [vars(curve) for curve in curves] for name, curves in self.curves.items()},
            "best": self.best,
            "direct_ends": self.direct_ends,
            "a": [p.total_seconds / o.time_to(p.hypervolume[-1]) for p, o in zip(plain, ours, strict=True)],
            "b": [additive[0].total_seconds / o.time_to(additive[0].hypervolume[-1]) for o in ours],
            "c97": [o.at_seconds(100 * mean(self.plain_seconds)) / self.best for o in ours],
            "c995": [o.at_passes(BUDGET) / self.best for o in ours],
        }

    def report(self) -> list[str]:
        """One table for the network."""
        record = self.record()
        lines = [
            f"plain evaluator: {mean(self.plain_seconds):.3f} s a candidate, {len(self.plain_seconds)} were run; "
            f"best known hypervolume {self.best:.3f}",
            f"{'method':10s} {'seconds':>22s} {'hypervolume (direct)':>26s}",
        ]
        for name, curves in self.curves.items():
            seconds = ", ".join(f"{curve.total_seconds:.0f}" for curve in curves)
            ends = ", ".join(f"{h:.2f}" for h in self.direct_ends[name])
            lines.append(f"{name:10s} {seconds:>22s} {ends:>26s}")
        for budget in MARKS:
            shares = ", ".join(f"{c.at_passes(budget) / self.best:.4f}" for c in self.curves["qexplore"])
            lines.append(f"qexplore at {budget} passes: {shares} of the best known")
        lines += [
            f"(a) plain recipe over ours: {numbers(record['a'])}",
            f"(b) table and additive front over ours: {numbers(record['b'])}",
            f"(c) share of the best known within the time of 100 plain evaluations: {numbers(record['c97'], 4)}; "
            f"within {BUDGET} passes: {numbers(record['c995'], 4)}",
        ]
        return lines


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


if __name__ == "__main__":
    main()
