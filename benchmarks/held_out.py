"""How honest a front is: its accuracy on data that was never searched on, ours beside the plain recipe's.

    python benchmarks/held_out.py --results held_out.json
    python benchmarks/held_out.py --networks small resnet20:1 --samples 1024 4096

Both search the same images under the same floor, a given drop from the float network's accuracy on them; the rest of
the test images is the report set. A point violates the floor when its accuracy on the report set has dropped by more
than that from the float network's accuracy there, for the two sets differ in how hard they are.

They also differ in how much quantization hurts, by chance, for every candidate alike. The last line of each set is
that: candidates that were drawn at random and keep the floor on the report set. What a front has beyond it is what
choosing did. It costs a pass over all test images for each of ``--drawn``, more than a search does.
"""

from __future__ import annotations

import argparse
import copy
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _results import Results
from _unseen import unseen
from _workloads import Workload, named

import qexplore as qx

ALGORITHMS = {"nsga2": "explore", "nsga2-plain": "plain recipe"}
DRAWN = 300


def main() -> None:
    """Explore with both, report both."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument(
        "--networks",
        nargs="+",
        type=named,
        default=[("small", None), ("resnet20", None)],
        metavar="NAME[:SEEDS]",
        help="with a number, only the first so many seeds",
    )
    options.add_argument("--samples", type=int, nargs="+", default=[1024, 4096])
    options.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS))
    options.add_argument("--budget", type=int, default=450)
    options.add_argument("--max-drop", type=float, default=0.05)
    options.add_argument("--drawn", type=int, default=DRAWN, help="candidates that nobody chose; 0 for none")
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--results", type=Path, help="JSON that a rerun goes on from: what is in it is not run again")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    results = Results(arguments.results)
    for name, count in arguments.networks:
        for num_samples in arguments.samples:
            workload = Workload(name, num_samples)
            model = qx.QuantizedActivationsModel(copy.deepcopy(workload.network), workload.predicate, unsigned=False)
            model.calibrate(workload.calibration)
            for algorithm in arguments.algorithms:
                run = partial(held_out, model, workload, algorithm, arguments)
                of = name, num_samples, algorithm, arguments.budget, arguments.max_drop
                rows = [results.get(of, run, seed) for seed in arguments.seeds[:count]]
                print(f"{name}, {num_samples} search images, {ALGORITHMS[algorithm]:12s} {line(rows)}", flush=True)
            if arguments.drawn:
                luck = partial(drawn, model, workload, arguments.max_drop, arguments.drawn)
                of = (name, num_samples, arguments.max_drop, *([] if arguments.drawn == DRAWN else [arguments.drawn]))
                near, far = (100 * np.array(gaps) for gaps in results.get(of, luck))
                print(
                    f"{name}, {num_samples} search images, {'at random':12s} points that nobody chose: mean gap beyond "
                    f"the float network's own {near.mean():+.2f} where they drop by less than half of what they may "
                    f"there ({len(near)}), {far.mean():+.2f} where by more ({len(far)})",
                    flush=True,
                )


def held_out(
    model: qx.QuantizedActivationsModel, workload: Workload, algorithm: str, arguments: argparse.Namespace, seed: int
) -> list[tuple[float, float, bool]]:
    """Of each front point its gap, its gap beyond the float network's, and whether it drops too far."""
    problem = qx.LayerwiseQuantizationProblem(model, workload.search, max_drop=arguments.max_drop)
    found = qx.explore(
        problem,
        max_evaluations=arguments.budget,
        seed=seed,
        algorithm=algorithm,
        report_loader=workload.report,
        progress=False,
    )
    gaps = found.front.accuracy - found.front.report_accuracy
    beyond = gaps - (found.float_accuracy - found.report_float_accuracy)
    violates = found.front.report_accuracy < found.report_float_accuracy - arguments.max_drop
    return list(zip(gaps.tolist(), beyond.tolist(), violates.tolist(), strict=True))


def drawn(
    model: qx.QuantizedActivationsModel, workload: Workload, max_drop: float, count: int
) -> tuple[list[float], list[float]]:
    """Gaps beyond the float network's of candidates near uniform widths: those that drop little there, and much."""
    problem = qx.LayerwiseQuantizationProblem(model, workload.search)
    there = unseen(problem, workload.report)
    rng = np.random.default_rng(0)
    widths = rng.integers(3, 9, (count, 1)) + rng.integers(-1, 2, (count, problem.space.num_points))
    widths = widths.clip(2, 8)
    here, report = (np.array([one.score for one in of.measure(widths)]) for of in (problem, there))
    gaps = (here - problem.float_accuracy) - (report - there.float_accuracy)
    drops = (there.float_accuracy - report) / max_drop
    return gaps[drops < 0.5].tolist(), gaps[(drops >= 0.5) & (drops <= 1)].tolist()


def line(rows: list[list[tuple[float, float, bool]]]) -> str:
    """Violations and gaps over the fronts of all seeds, and the gap of the worst seed."""
    gaps, beyond, violates = np.array([point for row in rows for point in row]).T
    worst = max(float(np.mean([point[1] for point in row])) for row in rows)
    return (
        f"{len(gaps):3d} points over {len(rows)} seeds: {violates.mean():6.1%} drop too far there; mean gap "
        f"{100 * gaps.mean():+.2f} points, {100 * beyond.mean():+.2f} beyond the float network's own gap "
        f"({100 * worst:+.2f} in the worst seed)"
    )


if __name__ == "__main__":
    main()
