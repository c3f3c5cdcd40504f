"""How fast a search comes to a front: the plain recipe, a sensitivity table with its additive front, and qexplore.

    python benchmarks/time_to_front.py --results curves.json --picture docs/images/time_to_front.png
    python benchmarks/time_to_front.py --networks resnet20 mobilenet:2 --plain-every 10 --results curves.json

All three work on the same network, images, ranges, sign mode and widths, in one process and in turns:

- the plain recipe: pymoo's NSGA-II, population 40, random start, pytorch-quantization's quantizers in forward hooks;
- the additive front: divergence of one point at a time on half of the images, a dynamic program, every candidate of its
  front measured, all with the same hooks;
- qexplore: posing the problem (set-up, capture) and `explore`; its seconds hold everything.

What the plain evaluator needs does not depend on the candidate. With ``--plain-every K`` it runs one candidate in K;
the others take their scores from the engine and are charged the mean seconds of those that ran.

Fronts are compared twice: by the direct evaluator on the search set, and on the test images that this leaves, on which
nothing was trained, calibrated or chosen. What a search hands out after fewer passes is that of a search with this
budget, outside the time, which finds in memory what the long one has measured. The best known front is that of all that
was handed out or measured on any front, that of one long run included; unseen it is whichever of these fronts is best.

Runs of many minutes do not see the same machine. ``--turns K`` times the ratios again, K times in turns: some
candidates of the plain evaluator, then qexplore from nothing until it has what the other methods ended with; those are
charged the candidates that they measured, the table on half of the images as half a candidate for each choice.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from _curves import Candidate, Clock, Curve, Growing, draw
from _outcome import Outcome, summary
from _results import Results
from _unseen import unseen
from _workloads import EPOCHS, PlainScript, Workload, named
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
MARKS = (60, 100, 200, BUDGET)


def main() -> None:
    """Run every network and seed, print the ratios, draw the curves."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument(
        "--networks",
        nargs="+",
        type=named,
        default=[(name, None) for name in ("resnet20", "mobilenet", "transformer", "small")],
        metavar="NAME[:SEEDS]",
        help=f"of {', '.join(EPOCHS)}; with a number, only the first so many seeds",
    )
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--samples", type=int, default=1024)
    options.add_argument("--report-batches", type=int, help="of 128 unseen images; all that are left by default")
    options.add_argument("--plain-every", type=int, default=1)
    options.add_argument("--best-evaluations", type=int, default=5000, help="candidates of the run for the best known")
    options.add_argument("--turns", type=int, default=0, help="how often ratios are timed again, both sides in turns")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--results", type=Path, help="JSON that a rerun goes on from: what is in it is not run again")
    options.add_argument("--picture", type=Path)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    results, drawn = Results(arguments.results), {}
    for name, count in arguments.networks:
        workload = Workload(name, arguments.samples)
        workload.report = workload.report[: arguments.report_batches]
        bench = Bench(workload, arguments, results)
        print(
            f"\n{name}: {bench.num_points} points, {arguments.samples} images, {arguments.threads} threads", flush=True
        )
        bench.run(arguments.seeds[:count])
        outcome = bench.outcome
        for line in (*outcome.report(), *bench.again(arguments.turns)):
            print(line, flush=True)
        drawn[name] = outcome.record()
    print(f"\n{summary(drawn)}")
    if arguments.picture:
        draw(drawn, arguments.picture)


class Bench:
    """All methods on one network."""

    def __init__(self, workload: Workload, arguments: argparse.Namespace, results: Results) -> None:
        self.workload, self.arguments, self.results = workload, arguments, results
        self.batches = workload.search
        self.num_samples = sum(len(labels) for _, labels in self.batches)
        self.model = self.new_model()
        self.num_points = len(self.model.activation_fake_quantizers)
        self.reference = (MIN_ACCURACY, float(WIDTHS[1] * self.num_points))
        self.plain_seconds: list[float] = []
        self.curves: dict[str, list[Curve]] = {"plain": [], "additive": [], "qexplore": []}
        self.long: Curve | None = None
        self.scores: dict[Candidate, tuple[float, float]] = {}

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

    @cached_property
    def engine(self) -> qx.LayerwiseQuantizationProblem:
        """Scores of candidates that the plain evaluator does not run; posed before any clock runs."""
        return self.new_problem(self.model)

    @cached_property
    def unseen(self) -> qx.LayerwiseQuantizationProblem:
        """The same candidates on the images that nothing was chosen on."""
        return unseen(self.engine, self.workload.report)

    @cached_property
    def script(self) -> PlainScript:
        """The plain evaluator."""
        amax = {name: float(quantizer.amax) for name, quantizer in self.model.activation_fake_quantizers.items()}
        return PlainScript(copy.deepcopy(self.workload.network), amax)

    def run(self, seeds: list[int]) -> None:
        """Every method for every seed, in turns; the additive front has no seed and runs once."""
        for seed in seeds:
            self.take("qexplore", self.qexplore, seed)
            self.take("plain", self.plain, seed)
            if not self.curves["additive"]:
                self.take("additive", self.additive)
            print(f"  seed {seed} done", flush=True)
        if self.arguments.best_evaluations:
            self.long = self.found("long run", self.long_run, self.arguments.best_evaluations)

    def take(self, method: str, run: Callable[..., Curve], *args: int) -> None:
        """One run of a method, or what the file has of it."""
        curve = self.found(method, run, *args)
        self.curves[method].append(curve)
        self.plain_seconds += curve.plain_seconds

    def found(self, method: str, run: Callable[..., Curve], *args: int) -> Curve:
        """A curve whose fronts are judged."""

        def judged(*args: int) -> dict[str, object]:
            _ = self.engine, self.script  # whatever is done once in a process is done
            before = len(self.plain_seconds)
            curve = run(*args)
            curve.plain_seconds = self.plain_seconds[before:]
            del self.plain_seconds[before:]
            self.judge(curve)
            return vars(curve)

        given = self.arguments
        of = self.workload.name, self.num_samples, given.report_batches, given.threads, given.plain_every, method
        curve = Curve(**self.results.get(of, judged, *args))
        self.scores |= {tuple(candidate): (direct, there) for candidate, direct, there in curve.scores}
        return curve

    def again(self, turns: int) -> list[str]:
        """The ratios of each seed, from medians of plain evaluations and searches that took turns."""
        if not turns:
            return []
        plain, additive = self.curves["plain"], self.curves["additive"][0]
        lot = self.num_points * (WIDTHS[1] - WIDTHS[0]) + 1
        paid = lot / 2 + additive.passes[-1] if additive.passes else lot / 2
        lines = []
        for seed, ours, recipe in zip(self.arguments.seeds, self.curves["qexplore"], plain, strict=False):
            ends = recipe.hypervolume[-1], additive.hypervolume[-1]
            seconds, times = [], []
            for _ in range(turns):
                seconds.append(self.plain_candidate(ours))
                times.append(self.until(seed, ends))
            each, reached = float(np.median(seconds)), np.median(times, axis=0)
            a, b = np.array([BUDGET, paid]) * each / reached
            lines.append(
                f"seed {seed}, {turns} turns: plain evaluator {each:.3f} s a candidate, ours has what the recipe ends "
                f"with after {reached[0]:.1f} s and what the additive front ends with after {reached[1]:.1f} s: "
                f"(a) {a:.1f}, (b) {b:.1f}"
            )
        return lines

    def plain_candidate(self, curve: Curve) -> float:
        """Seconds that the plain evaluator takes for one candidate of a front; a mean of three."""
        start = time.perf_counter()
        for candidate in curve.fronts["end"][:3]:
            self.script.correct(np.array(candidate), self.batches)
        return (time.perf_counter() - start) / 3

    def until(self, seed: int, ends: tuple[float, float]) -> list[float]:
        """Seconds of a search from nothing until it has each of two hypervolumes; infinite where it never has."""
        model = self.new_model()
        start = time.perf_counter()
        reached = [float("inf")] * len(ends)

        def look(snapshot: qx.Snapshot) -> None:
            for place, end in enumerate(ends):
                if snapshot.hypervolume >= end:
                    reached[place] = min(reached[place], time.perf_counter() - start)
            if max(reached) < float("inf"):
                raise qx.StopExploration

        qx.explore(self.new_problem(model), max_evaluations=BUDGET, seed=seed, progress=False, callbacks=[look])
        return reached

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
        curve.fronts = fronts_of(found)
        for mark in MARKS[:-1]:
            less = qx.explore(problem, max_evaluations=mark, seed=seed, progress=False)
            curve.fronts[str(mark)] = less.front.num_bits.tolist()
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

    def long_run(self, num_evaluations: int) -> Curve:
        """One long search, for the best that is known."""

        def enough(snapshot: qx.Snapshot) -> None:
            if snapshot.num_evaluations >= num_evaluations:
                raise qx.StopExploration

        problem = self.new_problem(self.model)
        found = qx.explore(problem, max_evaluations=num_evaluations, seed=99, callbacks=[enough], progress=False)
        return Curve(fronts=fronts_of(found))

    def judge(self, curve: Curve) -> None:
        """Every candidate of its fronts by the direct evaluator, and unseen."""
        candidates = sorted({tuple(candidate) for front in curve.fronts.values() for candidate in front})
        new = np.array([one for one in candidates if one not in self.scores]).reshape(-1, self.num_points)
        for direct, there in zip(self.engine.direct.evaluate(new), self.unseen.measure(new), strict=True):
            self.scores[direct.candidate] = direct.score, there.score
        curve.scores = [(list(candidate), *self.scores[candidate]) for candidate in candidates]

    @property
    def outcome(self) -> Outcome:
        """What the runs so far come to."""
        num_unseen = sum(len(labels) for _, labels in self.workload.report)
        return Outcome(self.curves, self.long, self.scores, self.plain_seconds, self.reference, MARKS, num_unseen)


def fronts_of(found: qx.Exploration) -> dict[str, list[list[int]]]:
    """What an exploration hands out, and the front of all that it measured."""
    return {"end": found.front.num_bits.tolist(), "measured": found.history[-1].front.num_bits.tolist()}


if __name__ == "__main__":
    main()
