"""How honest a front is: its accuracy on data that was never searched on, ours beside the plain recipe's.

    python benchmarks/held_out.py --networks small --samples 1024 4096

Both search the same images under the same floor, a given drop from the float network's accuracy on them; the rest of
the test images is the report set. A point violates the floor when its accuracy on the report set has dropped by more
than that from the float network's accuracy there, for the two sets differ in how hard they are.
"""

from __future__ import annotations

import argparse
import copy
from statistics import mean

import torch
from _workloads import EPOCHS, Workload

import qexplore as qx


def main() -> None:
    """Explore with both, report both."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--networks", nargs="+", choices=EPOCHS, default=["small"])
    options.add_argument("--samples", type=int, nargs="+", default=[1024, 4096])
    options.add_argument("--budget", type=int, default=450)
    options.add_argument("--max-drop", type=float, default=0.05)
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--threads", type=int, default=2)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.networks:
        for num_samples in arguments.samples:
            workload = Workload(name, num_samples)
            model = qx.QuantizedActivationsModel(copy.deepcopy(workload.network), workload.predicate, unsigned=False)
            model.calibrate(workload.calibration)
            for algorithm in ("nsga2", "nsga2-plain"):
                line = held_out(model, workload, algorithm, arguments)
                print(f"{name}, {num_samples} search images, {algorithm:12s} {line}", flush=True)


def held_out(
    model: qx.QuantizedActivationsModel, workload: Workload, algorithm: str, arguments: argparse.Namespace
) -> str:
    """Violations and gaps over the fronts of all seeds."""
    gaps, violations, points, relative = [], 0, 0, []
    for seed in arguments.seeds:
        problem = qx.LayerwiseQuantizationProblem(model, workload.search, max_drop=arguments.max_drop)
        found = qx.explore(
            problem,
            max_evaluations=arguments.budget,
            seed=seed,
            algorithm=algorithm,
            report_loader=workload.report,
            progress=False,
        )
        front = found.front
        points += len(front)
        gaps += (front.accuracy - front.report_accuracy).tolist()
        drops = (found.report_float_accuracy - front.report_accuracy) - (found.float_accuracy - front.accuracy)
        relative += drops.tolist()
        violations += int((front.report_accuracy < found.report_float_accuracy - arguments.max_drop).sum())
    return (
        f"{points:3d} points over {len(arguments.seeds)} seeds: {violations / points:6.1%} drop too far there; "
        f"mean gap {100 * mean(gaps):+.2f} points, {100 * mean(relative):+.2f} beyond the float network's own gap"
    )


if __name__ == "__main__":
    main()
