"""Weights only: qexplore's search, the additive front, and NVIDIA ModelOpt's `auto_quantize`, judged by one evaluator.

    python -m venv modelopt && modelopt/bin/pip install nvidia-modelopt requests huggingface_hub torchvision
    python benchmarks/weights_front.py --modelopt-python modelopt/bin/python

Every layer's weights have 2, 3, 4, 5, 6 or 8 bits and one scale per output channel; activations stay in float; the cost
is model bits. All sides have the same trained network and the same 1,024 images with labels:

- ModelOpt, in its own environment: method "gradient", its sensitivities once and its integer program for 20 targets of
  effective bits between 2 and 8; with ranges by "max" (its default) and by "mse";
- the additive front: a sensitivity table on half of the images, a dynamic program, and as many members of its front
  measured as are left of the passes that the search has;
- qexplore: `explore`.

Only assignments are compared: every one is measured by qexplore's direct evaluator with qexplore's quantizers (ranges
of least squared error). Hypervolumes are in points of accuracy times the share of the bits of the 8-bit model; the
reference was set before any run: accuracy 0.5 and the bits of the 8-bit model, and, nearer to what is deployed, five
points below the float network. Seconds begin with the float network and end with the assignments, imports not counted;
the two sides take turns. CPU seconds are those of all threads of the process: on a machine shared with other work they
say more.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import moocore
import numpy as np
import torch
from _results import Results
from _workloads import Batches, Workload

import qexplore as qx
from qexplore import predicates
from qexplore.evaluation import DirectEvaluator
from qexplore.search import LayerwiseQuantizationProblem

WIDTHS = (2, 3, 4, 5, 6, 8)
TARGETS = np.linspace(2, 8, 20).tolist()
CALIBRATIONS = ("max", "mse")
MIN_ACCURACY = 0.5
NEAR = 0.05
"""How far below the float network the reference is that looks at good accuracies only."""
ONE_POINT = 0.01
HOW_TO = (
    "ModelOpt was not run. Its own environment: python -m venv modelopt && modelopt/bin/pip install nvidia-modelopt "
    "requests huggingface_hub torchvision; then pass --modelopt-python modelopt/bin/python"
)
Points = list[tuple[float, float]]
"""Accuracy and model bits."""


def main() -> None:
    """Run all sides on every network and print a table for each."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--networks", nargs="+", choices=("resnet20", "mobilenet"), default=["resnet20", "mobilenet"])
    options.add_argument("--seeds", type=int, nargs="+", default=[1], help="of the search; all sides run for each")
    options.add_argument("--max-evaluations", type=int, default=450)
    options.add_argument("--rounds", type=int, default=1, help="how often both sides are timed, in turns")
    options.add_argument("--report-samples", type=int, default=2048)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--calibrations", nargs="+", choices=CALIBRATIONS, default=list(CALIBRATIONS))
    options.add_argument("--modelopt-python", metavar="PATH", help="interpreter of an environment with nvidia-modelopt")
    options.add_argument("--results", type=Path, help="JSON that a rerun goes on from: what is in it is not run again")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    results = Results(arguments.results)
    given = arguments.max_evaluations, arguments.rounds, arguments.report_samples, arguments.threads
    of = (bool(arguments.modelopt_python), *arguments.calibrations, *given)
    for name in arguments.networks:
        for seed in arguments.seeds:
            for line in results.get((name, *of), partial(compare, name, arguments), seed)["lines"]:
                print(line, flush=True)
    if not arguments.modelopt_python:
        print(HOW_TO)


@dataclass
class Method:
    """What one side found."""

    name: str
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    candidates: list[tuple[int, ...]] = field(default_factory=list)
    curve: list[tuple[float, float, Points]] = field(default_factory=list)
    """Of a search: seconds, CPU seconds, and its front by then."""
    passes: float = 0.0


def compare(name: str, arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """All sides on one network: what is to be said, and the figures."""
    workload = Workload(name)
    judge = Judge(workload, arguments.report_samples)
    ours, additive = Method("qexplore"), Method("additive front")
    theirs = {calibration: Method(f"ModelOpt, {calibration}") for calibration in arguments.calibrations}
    for number in range(arguments.rounds):
        if arguments.modelopt_python:
            ask_modelopt(workload, theirs, judge, arguments)
        explore(workload, ours, arguments, seed)
        if number == 0:
            measure_additive_front(workload, additive, arguments)
    methods = [*(method for method in theirs.values() if method.candidates), additive, ours]
    results = {method.name: judge.judged(method) for method in methods}
    lines = table(judge, methods, results, seed)
    for method in theirs.values():
        if method.candidates:
            lines.append(against(method, results[method.name], ours, results[ours.name], judge))
    seconds = {method.name: (method.seconds, method.cpu_seconds) for method in methods}
    return {"lines": lines, "results": results, "seconds": seconds}


def table(judge: Judge, methods: list[Method], results: dict[str, dict[str, Any]], seed: int) -> list[str]:
    """The network, and a line a side."""
    lines = [
        f"\n{judge.name}, seed {seed}: {judge.problem.space.num_points} weights, {judge.problem.num_samples} images, "
        f"float {judge.problem.float_accuracy:.4f} (report set of {judge.num_report}: {judge.float_report:.4f}), "
        f"8-bit model {judge.most_bits:.0f} bits"
    ]
    header = "seconds", "CPU s", "assignments", "hypervolume", "near float", "report set", "bits 1 point below float"
    lines.append("{:16s} {:>14s} {:>7s} {:>11s} {:>11s} {:>10s} {:>10s}   {}".format("", *header))
    for method in methods:
        one = results[method.name]
        seconds = ", ".join(f"{value:.1f}" for value in method.seconds)
        lines.append(
            f"{method.name:16s} {seconds:>14s} {median(method.cpu_seconds):7.1f} {one['num_assignments']:11d} "
            f"{one['hypervolume']:11.4f} {one['near']:10.4f} {one['report']:10.4f}   {one['cheapest']}"
        )
    return lines


def against(theirs: Method, their_result: dict, ours: Method, our_result: dict, judge: Judge) -> str:
    """When our search passed their hypervolumes, and what it had at their time."""
    lines = [
        f"against {theirs.name}: hypervolume {our_result['hypervolume'] / their_result['hypervolume']:.4f} times, near "
        f"float {our_result['near'] / max(their_result['near'], 1e-12):.4f} times, report set "
        f"{our_result['report'] / their_result['report']:.4f} times"
    ]
    for key, accuracy in (("hypervolume", MIN_ACCURACY), ("near", judge.near_accuracy)):
        values = [judge.hypervolume(points, accuracy) for _, _, points in ours.curve]
        passed = next((place for place, value in enumerate(values) if value > their_result[key]), None)
        for column, (unit, limits) in enumerate((("s", theirs.seconds), ("CPU s", theirs.cpu_seconds))):
            limit = median(limits)
            times = [moment[column] for moment in ours.curve]
            by_then = max((value for when, value in zip(times, values, strict=True) if when <= limit), default=0.0)
            when = "never passed" if passed is None else f"passed after {times[passed]:.1f} {unit}"
            share = "" if passed is None else f", {limit / times[passed]:.2f} times sooner"
            lines.append(
                f"  {key}: {when}{share}; within their {limit:.1f} {unit} ours has {by_then:.4f}, theirs "
                f"{their_result[key]:.4f}"
            )
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------- the sides


def posed(workload: Workload, **options: Any) -> LayerwiseQuantizationProblem:
    """The problem anew, from the float network on."""
    model = qx.QuantizedModel(copy.deepcopy(workload.network), weights=predicates.weighted)
    model.calibrate(None, weight_method="mse")
    return LayerwiseQuantizationProblem(
        model, workload.search, choices=WIDTHS, costs=("model_bits",), min_accuracy=MIN_ACCURACY, **options
    )


def explore(workload: Workload, method: Method, arguments: argparse.Namespace, seed: int) -> None:
    """qexplore's search; the first of several equal ones gives the curve."""
    start, busy = time.perf_counter(), time.process_time()
    curve = []

    def note(snapshot: qx.Snapshot) -> None:
        curve.append((time.perf_counter() - start, time.process_time() - busy, points_of(snapshot.front)))

    problem = posed(workload)
    posing = time.perf_counter() - start
    found = qx.explore(problem, max_evaluations=arguments.max_evaluations, seed=seed, callbacks=[note], progress=False)
    method.seconds.append(time.perf_counter() - start)
    method.cpu_seconds.append(time.process_time() - busy)
    if not method.candidates:
        method.passes = found.num_passes
        method.candidates = list(map(tuple, found.front.num_bits.tolist()))
        method.curve = curve
    print(
        f"  qexplore: {posing:.1f} s to pose, {found.num_passes:.0f} passes, {found.num_evaluations} candidates, "
        f"{method.seconds[-1]:.1f} s with verification, stopped by {found.stopped_by}",
        flush=True,
    )


def measure_additive_front(workload: Workload, method: Method, arguments: argparse.Namespace) -> None:
    """A table, its front, and members of it evenly from few bits to many."""
    start, busy = time.perf_counter(), time.process_time()
    problem = posed(workload)
    table = qx.sensitivity(problem, num_samples=problem.num_samples // 2)
    costs = marginal(problem, table.num_bits)
    front = qx.additive_front(table, costs)
    method.passes = sum(map(len, table.values)) * table.num_samples / problem.num_samples
    affordable = max(1, int(arguments.max_evaluations - method.passes))
    chosen = np.unique(np.linspace(0, len(front) - 1, affordable).round().astype(int))
    measured = list(problem.measure(front.num_bits[chosen]))
    method.candidates = list(map(tuple, problem.front_of(measured).num_bits.tolist()))
    method.passes += len(chosen)
    method.seconds.append(time.perf_counter() - start)
    method.cpu_seconds.append(time.process_time() - busy)
    print(f"  additive front: {len(chosen)} of {len(front)} members measured, {method.seconds[-1]:.1f} s", flush=True)


def marginal(problem: LayerwiseQuantizationProblem, choices: Iterable[Iterable[int]]) -> list[list[float]]:
    """Model bits of every width of every weight."""
    least = problem.space.narrowest.reshape(1, -1)
    rows = []
    for point, widths in enumerate(choices):
        candidates = np.repeat(least, len(tuple(widths)), axis=0)
        candidates[:, point] = widths
        costs = problem.costs_of(candidates)[:, 0]
        rows.append((costs - costs.min()).tolist())
    return rows


def ask_modelopt(workload: Workload, methods: dict[str, Method], judge: Judge, arguments: argparse.Namespace) -> None:
    """ModelOpt's assignments, from another process."""
    with tempfile.TemporaryDirectory() as folder:
        task = {
            "network": workload.name,
            "state": workload.network.state_dict(),
            "batches": workload.search,
            "widths": list(WIDTHS),
            "targets": TARGETS,
            "threads": arguments.threads,
            "calibrations": list(methods),
        }
        torch.save(task, Path(folder) / "task.pt")
        script = Path(__file__).with_name("_modelopt.py")
        subprocess.run([arguments.modelopt_python, str(script), folder], check=True, capture_output=True)
        answer = json.loads((Path(folder) / "answer.json").read_text())
    for calibration, run in answer["runs"].items():
        method = methods[calibration]
        method.seconds.append(run["seconds"])
        method.cpu_seconds.append(run["cpu_seconds"])
        method.candidates = [judge.candidate(widths) for widths in run["assignments"].values()]
        print(
            f"  ModelOpt {answer['version']}, {calibration}: {run['score_seconds']:.1f} s to score, "
            f"{run['seconds']:.1f} s, {run['cpu_seconds']:.1f} CPU s",
            flush=True,
        )


# ------------------------------------------------------------------------------------------------------- the judge


class Judge:
    """Measures assignments, whoever made them, with qexplore's direct evaluator."""

    def __init__(self, workload: Workload, report_samples: int) -> None:
        self.name = workload.name
        self.problem = posed(workload, engine="direct")
        report = first_of(workload.report, report_samples)
        self.num_report = sum(len(labels) for _, labels in report)
        self._report = DirectEvaluator(self.problem.model, report, self.problem.metric)
        self.float_report = self._report.float_evaluation.score
        self.near_accuracy = self.problem.float_accuracy - NEAR
        space = self.problem.space
        self.most_bits = float(self.problem.costs_of(np.full((1, space.num_points), max(WIDTHS)))[0, 0])
        self._known: dict[tuple[str, tuple[int, ...]], float] = {}

    def candidate(self, widths: dict[str, int]) -> tuple[int, ...]:
        """The assignment by layer in the order of our points."""
        return tuple(widths[point.module] for point in self.problem.model.points)

    def judged(self, method: Method) -> dict[str, Any]:
        """Hypervolumes of a method, and its cheapest assignment within a point of the float network."""
        points = self._points(method.candidates, "search")
        # What the search set does not tell apart from the rest would not be chosen for the report set either.
        front = [
            candidate for candidate, is_kept in zip(method.candidates, nondominated(points), strict=True) if is_kept
        ]
        report = self._points(front, "report")
        good = [
            (bits, report_accuracy)
            for (accuracy, bits), (report_accuracy, _) in zip(self._points(front, "search"), report, strict=True)
            if accuracy >= self.problem.float_accuracy - ONE_POINT
        ]
        cheapest = min(good, default=None)
        return {
            "num_assignments": len(set(method.candidates)),
            "hypervolume": self.hypervolume(points, MIN_ACCURACY),
            "near": self.hypervolume(points, self.near_accuracy),
            "report": self.hypervolume(report, MIN_ACCURACY),
            "cheapest": "none" if cheapest is None else f"{cheapest[0]:.0f}, {cheapest[1]:.4f} on the report set",
            "passes": method.passes,
            "points": points,
        }

    def _points(self, candidates: list[tuple[int, ...]], which: str) -> Points:
        if not candidates:
            return []
        evaluator = self._report if which == "report" else self.problem.direct
        unknown = [c for c in dict.fromkeys(candidates) if (which, c) not in self._known]
        for evaluation in evaluator.evaluate(np.array(unknown, dtype=np.int64)):
            self._known[which, evaluation.candidate] = evaluation.score
        bits = self.problem.costs_of(np.array(candidates))[:, 0].tolist()
        return [(self._known[which, candidate], cost) for candidate, cost in zip(candidates, bits, strict=True)]

    def hypervolume(self, points: Points, accuracy: float) -> float:
        """In points of accuracy times the share of the 8-bit model's bits."""
        inside = [(-100 * a, bits / self.most_bits) for a, bits in points if a > accuracy]
        return float(moocore.hypervolume(np.array(inside), ref=np.array([-100 * accuracy, 1.0]))) if inside else 0.0


def nondominated(points: Points) -> list[bool]:
    """Which points no other is better than."""
    return moocore.is_nondominated(np.array([(-accuracy, bits) for accuracy, bits in points]).reshape(-1, 2)).tolist()


def points_of(front: qx.Front) -> Points:
    """Accuracy and model bits."""
    return list(zip(front.accuracy.tolist(), front.costs[:, 0].tolist(), strict=True))


def first_of(batches: Batches, num_samples: int) -> Batches:
    """The first samples, in whole batches."""
    kept: Batches = []
    for batch in batches:
        if sum(len(labels) for _, labels in kept) >= num_samples:
            break
        kept.append(batch)
    return kept


if __name__ == "__main__":
    main()
