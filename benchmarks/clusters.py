"""One process beside two workers of a Ray cluster on this machine: the same front, and what is lost where.

    python benchmarks/clusters.py

Each search runs in this process and with two workers, in turns, one thread each, from a problem that has measured
nothing yet; fronts and histories are compared to the last bit, and the script ends with code 1 where they differ. Of
the time for which two workers were there it says how much went to measuring, and what they waited for: while candidates
were asked for (division, sending, the last answer), and while the search was thinking; and how long they took to start.
The last lines are of networks of 1 and 100 MB: what is sent, and how long it takes until workers measure.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from _cluster_costs import cluster
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "shared"))

from networks import batches, digits, trained, wrapping
from problems import weighted_model

import qexplore as qx
from qexplore import predicates
from qexplore.distributed.shipping import packed

WORKERS = 2
SEED = 1
Problem = qx.LayerwiseQuantizationProblem


def of_activations(name: str) -> Problem:
    """The points of a network of the tests."""
    model = qx.QuantizedActivationsModel(trained(name), **wrapping(name))
    model.calibrate(batches(digits().calibration))
    return Problem(model, batches(digits().search), min_accuracy=0.6)


def of_weights() -> Problem:
    """Points and weights, two costs."""
    costs = ("total_bits", "model_bytes")
    return Problem(weighted_model(), batches(digits().search), min_accuracy=0.6, costs=costs)


NETWORKS: dict[str, Callable[[], Problem]] = {
    "ResNet-20": lambda: of_activations("resnet20"),
    "MobileNetV2-like": lambda: of_activations("mobilenet"),
    "transformer": lambda: of_activations("transformer"),
    "weights, two costs": of_weights,
}


def main() -> None:
    """Measure every network, print a row for each."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    options.add_argument("--budget", type=int, default=100)
    options.add_argument("--repeats", type=int, default=2)
    options.add_argument("--megabytes", type=int, nargs="*", default=[1, 100])
    arguments = options.parse_args()
    torch.set_num_threads(1)
    differ = False
    print(
        f"{'network':20s} {'alone s':>8s} {'two s':>7s} {'faster':>7s} {'once started':>12s}  front   shares of the workers' time: "
        "measuring, asked for but idle, thinking; start s"
    )
    for name in arguments.networks:
        with cluster():
            pairs = [both(NETWORKS[name], arguments.budget) for _ in range(arguments.repeats)]
        same = all(is_same(alone, many) for (alone, _), (many, _) in pairs)
        differ |= not same
        print(row(name, pairs, same), flush=True)
    for size in arguments.megabytes:
        print(set_up(size), flush=True)
    raise SystemExit(differ)


def both(pose: Callable[[], Problem], budget: int) -> list[tuple[qx.Exploration, float]]:
    """The search in this process and with workers, with their seconds."""
    found = []
    for workers in (None, qx.RayWorkers(num_workers=WORKERS)):
        problem, start = pose(), time.perf_counter()
        explored = qx.explore(problem, max_evaluations=budget, seed=SEED, workers=workers, progress=False)
        found.append((explored, time.perf_counter() - start))
    return found


def is_same(one: qx.Exploration, other: qx.Exploration) -> bool:
    """Front and history, to the last bit."""
    arrays = (("num_bits", "accuracy", "costs", "total_bits"), (one.front, other.front))
    fronts = all(np.array_equal(getattr(arrays[1][0], of), getattr(arrays[1][1], of)) for of in arrays[0])
    told = [[(at.num_passes, at.hypervolume, at.num_evaluations) for at in found.history] for found in (one, other)]
    return fronts and told[0] == told[1] and one.num_passes == other.num_passes


def row(name: str, pairs: list[Any], same: bool) -> str:
    """Medians over the turns."""
    shares = np.median([losses(many, seconds) for _, (many, seconds) in pairs], axis=0)
    alone, two = (median(pair[which][1] for pair in pairs) for which in (0, 1))
    measuring, idle, thinking, start = shares
    times = f"{alone:8.1f} {two:7.1f} {alone / two:7.2f} {alone / (two - start):12.2f}"
    return (
        f"{name:20s} {times}  {'same ' if same else 'OTHER'} "
        f"{100 * measuring:24.0f} % {100 * idle:6.0f} % {100 * thinking:6.0f} %   {start:8.1f}"
    )


def losses(explored: qx.Exploration, seconds: float) -> list[float]:
    """Shares of the time in which workers were there, and the seconds until they were."""
    report = explored.workers
    assert report is not None
    there = sum(worker.seconds for worker in report.workers)
    busy = sum(worker.busy_seconds for worker in report.workers)
    start = seconds - there / len(report.workers)
    thinking = (seconds - report.asked_seconds) * len(report.workers)
    return [busy / there, 1.0 - (busy + thinking) / there, thinking / there, start]


def set_up(megabytes: int) -> str:
    """What it takes to bring a network to two workers."""
    width = 512
    layers = max(1, round(megabytes * 1e6 / (4 * width * width)))
    network = nn.Sequential(nn.Linear(64, width), *[nn.Linear(width, width) for _ in range(layers)], nn.ReLU())
    model = qx.QuantizedActivationsModel(network.eval(), predicates.by_type(nn.ReLU))
    data = [(x.flatten(1), y) for x, y in batches(digits().search)]
    model.calibrate(data)
    problem = Problem(model, data, qx.Metric(lambda output, target: output[:, 0], "first", range=(-np.inf, np.inf)))
    start = time.perf_counter()
    sent = len(packed({"search": problem.evaluator, "direct": problem.direct}))
    packing = time.perf_counter() - start
    with cluster():
        start = time.perf_counter()
        explored = qx.explore(
            problem, max_evaluations=8, seed=SEED, workers=qx.RayWorkers(num_workers=WORKERS), progress=False
        )
        seconds = time.perf_counter() - start
    assert explored.workers is not None
    workers = explored.workers.workers
    until = sorted(seconds - worker.seconds for worker in workers)
    return (
        f"network of {megabytes} MB: {sent / 1e6:.1f} MB sent, packed in {packing:.2f} s, unpacked and the "
        f"float network measured in {max(worker.setup_seconds for worker in workers):.2f} s; workers measure after "
        f"{', '.join(f'{one:.1f}' for one in until)} s"
    )


if __name__ == "__main__":
    main()
