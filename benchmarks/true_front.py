"""How near a search comes to the true front, where the truth can be had by measuring every candidate.

    python benchmarks/true_front.py

Every candidate of a space is measured once; searches of 20 seeds then take their evaluations from that memory, so what
a candidate scores is what the same engine measured. Unique evaluations are counted, each in full, and the sensitivity
table by the samples that it takes.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import dataclass

import numpy as np
import torch
from _workloads import Workload
from torch import nn

import qexplore as qx
from qexplore import predicates

SPACES = {
    "5 points x 7 widths": (predicates.by_type(nn.Conv2d, nn.Linear), 2, 8),
    "8 points x 4 widths": (predicates.by_type(nn.Conv2d, nn.ReLU, nn.AvgPool2d, nn.Linear), 3, 6),
}
MIN_ACCURACY = 0.5
BUDGETS = (85, 300, 450)


def main() -> None:
    """Enumerate each space, search it, and print how the searches compare with the truth."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--samples", type=int, default=1024)
    options.add_argument("--seeds", type=int, default=20)
    options.add_argument("--algorithms", nargs="+", default=["nsga2", "nsga2-plain"])
    options.add_argument("--threads", type=int, default=2)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    workload = Workload("small", arguments.samples)
    for name, (predicate, lower, upper) in SPACES.items():
        space = Space(workload, predicate, lower, upper)
        print(f"\nsmall network, {name}: {space.text}", flush=True)
        for algorithm in arguments.algorithms:
            runs = [space.search(algorithm, seed) for seed in range(arguments.seeds)]
            print(report(algorithm, runs), flush=True)


@dataclass
class Run:
    """One search: shares of the true hypervolume at each budget, and of the true front at the last one."""

    shares: list[float]
    found: float


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
        widths = np.arange(lower, upper + 1)
        num_points = self.problem.space.num_points
        everything = np.stack(np.meshgrid(*[widths] * num_points, indexing="ij"), axis=-1).reshape(-1, num_points)
        start = time.perf_counter()
        list(self.problem.measure(everything))
        seconds = time.perf_counter() - start
        self.front = self.problem.front()
        self.reference = (MIN_ACCURACY, float(upper * num_points))
        self.hypervolume = self.front.hypervolume(self.reference)
        self.text = (
            f"{len(everything)} candidates in {seconds:.0f} s, true front of {len(self.front)} points, hypervolume "
            f"{self.hypervolume:.3f}"
        )

    def search(self, algorithm: str, seed: int) -> Run:
        """One search with every evaluation in full."""
        found = qx.explore(
            self.problem, max_evaluations=BUDGETS[-1], seed=seed, algorithm=algorithm, racing=False, progress=False
        )
        shares = [
            max((s.hypervolume for s in found.history if s.num_passes <= budget), default=0.0) / self.hypervolume
            for budget in BUDGETS
        ]
        known = set(zip(found.history[-1].front.total_bits, found.history[-1].front.accuracy, strict=True))
        true = list(zip(self.front.total_bits, self.front.accuracy, strict=True))
        return Run(shares, sum(point in known for point in true) / len(true))


def report(algorithm: str, runs: list[Run]) -> str:
    """Worst and median over the seeds."""
    shares = np.array([run.shares for run in runs])
    parts = [
        f"at {budget}: worst {worst:.4f}, median {middle:.4f}"
        for budget, worst, middle in zip(BUDGETS, shares.min(axis=0), np.median(shares, axis=0), strict=True)
    ]
    complete = sum(run.found == 1 for run in runs)
    return f"{algorithm:12s} {'; '.join(parts)}; every true point found in {complete} of {len(runs)} seeds"


if __name__ == "__main__":
    main()
