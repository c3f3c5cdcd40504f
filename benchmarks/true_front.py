"""How near a search comes to the true front, where the truth can be had by measuring every candidate.

    python benchmarks/true_front.py --results true_front.json

Every candidate of a space is measured once; searches of 20 seeds then take their evaluations from that memory, so what
a candidate scores is what the same engine measured. Each budget is a search of its own. Unique evaluations are counted,
each in full, and what a search looks at beside them by the samples that it takes.

The search set stands beside the test images that it leaves, on which nothing was trained, calibrated or chosen. A
front's unseen hypervolume is that of its candidates' accuracies there, beside that of the true front, which the search
set's labels have chosen, and of the candidates that diverge least from the float network at each total of bits, on 64
of the search images and on all of them, which no label has chosen.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _results import Results
from _unseen import hypervolume, unseen
from _workloads import Workload
from torch import nn

import qexplore as qx
from qexplore import predicates
from qexplore.metrics import kl_divergence

SPACES = {
    "5x7": (predicates.by_type(nn.Conv2d, nn.Linear), 2, 8),
    "8x4": (predicates.by_type(nn.Conv2d, nn.ReLU, nn.AvgPool2d, nn.Linear), 3, 6),
}
"""Points times widths."""
MIN_ACCURACY = 0.5
BUDGETS = (40, 60, 85, 120, 300, 450)
FEW = 64
"""Samples of the cheap divergence."""
CHUNK = 8192
"""Candidates whose divergences are held at once."""


def main() -> None:
    """Enumerate each space, search it, and print how the searches compare with the truth."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--spaces", nargs="+", choices=SPACES, default=list(SPACES))
    options.add_argument("--samples", type=int, default=1024)
    options.add_argument("--report-batches", type=int, help="of 128 unseen images; all that are left by default")
    options.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS))
    options.add_argument("--seeds", type=int, default=20)
    options.add_argument("--algorithms", nargs="+", default=["nsga2", "nsga2-plain"])
    options.add_argument("--results", type=Path, help="JSON that a rerun goes on from")
    options.add_argument("--threads", type=int, default=2)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    workload = Workload("small", arguments.samples)
    workload.report = workload.report[: arguments.report_batches]
    results = Results(arguments.results)
    for name in arguments.spaces:
        space = Space(workload, *SPACES[name])
        print(f"\nsmall network, {name}: {space.text}", flush=True)
        for line in table(space, (name, space.problem.num_samples, space.unseen.num_samples), results, arguments):
            print(line, flush=True)


def table(space: Space, of: tuple[object, ...], results: Results, arguments: argparse.Namespace) -> Iterator[str]:
    """What there is to find, and what each algorithm finds of it within each budget."""
    marks = {what: results.get((*of, what), choose) for what, choose in space.choices().items()}
    for what, (here, there) in marks.items():
        yield f"{what:34s} search set {here:.3f}, unseen {there:.3f}"
    for algorithm in arguments.algorithms:
        for budget in arguments.budgets:
            runs = [results.get(of, space.search, algorithm, budget, seed) for seed in range(arguments.seeds)]
            yield f"{algorithm:12s} at {budget:3d}: {report(np.array(runs), marks)}"


class Space:
    """A space of which everything is known."""

    def __init__(self, workload: Workload, predicate: object, lower: int, upper: int) -> None:
        model = qx.QuantizedActivationsModel(copy.deepcopy(workload.network), predicate, unsigned=False)
        model.calibrate(workload.calibration)
        self.problem = qx.LayerwiseQuantizationProblem(
            model,
            workload.search,
            num_bits_lower_limit=lower,
            num_bits_upper_limit=upper,
            min_accuracy=MIN_ACCURACY,
        )
        self.unseen = unseen(self.problem, workload.report)
        num_points = self.problem.space.num_points
        widths = [np.arange(lower, upper + 1)] * num_points
        self.everything = np.stack(np.meshgrid(*widths, indexing="ij"), axis=-1).reshape(-1, num_points)
        start = time.perf_counter()
        list(self.problem.measure(self.everything))
        seconds = time.perf_counter() - start
        self.front = self.problem.front()
        self.reference = (MIN_ACCURACY, float(upper * num_points))
        self.text = (
            f"{len(self.everything)} candidates in {seconds:.0f} s on {self.problem.num_samples} images, true front of "
            f"{len(self.front)} points; {self.unseen.num_samples} unseen images"
        )

    def both(self, candidates: Any) -> tuple[float, float]:
        """Hypervolume on the search set and unseen."""
        return tuple(hypervolume(problem, candidates, self.reference) for problem in (self.problem, self.unseen))

    def choices(self) -> dict[str, Callable[[], tuple[float, float]]]:
        """Hypervolumes of the fronts to compare with, by what chooses them of everything."""
        by_divergence = {
            f"lowest divergence on {count}": lambda count=count: self.both(self.least_divergent(count))
            for count in (FEW, self.problem.num_samples)
        }
        return {"all by accuracy": lambda: self.both(self.front.num_bits), **by_divergence}

    def least_divergent(self, num_samples: int) -> np.ndarray:
        """The candidate of each total of bits whose outputs are nearest to the float network's."""
        parts = [
            self.problem.scores_on_subset(part, kl_divergence, num_samples, against_float=True).mean(axis=1)
            for part in np.split(self.everything, range(CHUNK, len(self.everything), CHUNK))
        ]
        divergence, totals = np.concatenate(parts), self.everything.sum(axis=1)
        of_total = (np.flatnonzero(totals == total) for total in np.unique(totals))
        return self.everything[[places[divergence[places].argmin()] for places in of_total]]

    def search(self, algorithm: str, budget: int, seed: int) -> tuple[float, ...]:
        """What one search measured: hypervolume and share of the true points; its front's hypervolumes."""
        found = qx.explore(
            self.problem, max_evaluations=budget, seed=seed, algorithm=algorithm, racing=False, progress=False
        )
        last = found.history[-1]
        known = set(zip(last.front.total_bits, last.front.accuracy, strict=True))
        true = list(zip(self.front.total_bits, self.front.accuracy, strict=True))
        return last.hypervolume, sum(point in known for point in true) / len(true), *self.both(found.front.num_bits)


def report(runs: np.ndarray, marks: dict[str, tuple[float, float]]) -> str:
    """Worst and median over the seeds, and in how many of them a front's unseen hypervolume reaches each mark."""
    truth = marks["all by accuracy"][0]
    measured, found, front, there = runs.T
    columns = (("measured", measured / truth, 4), ("front", front / truth, 4), ("unseen", there, 3))
    parts = [f"{what} {values.min():.{digits}f} {np.median(values):.{digits}f}" for what, values, digits in columns]
    reached = [f"{what} {int((there >= mark - 1e-9).sum())}" for what, (_, mark) in marks.items()]
    return (
        f"{', '.join(parts)} (worst and median); of {len(runs)} seeds every true point in {int((found == 1).sum())}, "
        f"unseen as good as {', '.join(reached)}"
    )


if __name__ == "__main__":
    main()
