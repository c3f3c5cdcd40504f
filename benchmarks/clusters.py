"""One process beside two workers of a Ray cluster on this machine: the same front, and what is lost where.

    python benchmarks/clusters.py

Each search runs in this process and with two workers, in turns, one thread each, from a problem that has measured
nothing yet; fronts and histories are compared to the last bit, and the script ends with code 1 where they differ. Of
the time for which two workers were there it says how much went to measuring, and what they waited for: while candidates
were asked for (division, sending, the last answer), and while the search was thinking; and how long they took to start.
Processor seconds do not count what else a busy machine does: here, and of the worker that was busiest, from its first
answer on. The last lines are of networks of 1 and 100 MB: what is sent, and how long it takes until workers measure.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

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
HEAD = """
                     seconds              processor seconds         share of the workers' time
network               alone     two  front   alone   driver  worker   measuring   idle  thinking  start s"""
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
    print(HEAD)
    for name in arguments.networks:
        with cluster():
            pairs = [both(NETWORKS[name], arguments.budget) for _ in range(arguments.repeats)]
        line, same = row(name, pairs)
        differ |= not same
        print(line, flush=True)
    for size in arguments.megabytes:
        print(set_up(size), flush=True)
    raise SystemExit(differ)


class Run(NamedTuple):
    """A search, what it took by the clock, and of the processors: here, and of the worker that was busiest."""

    found: qx.Exploration
    seconds: float
    here: float
    worker: float


def both(pose: Callable[[], Problem], budget: int) -> tuple[Run, Run]:
    """The search in this process and with workers."""
    return ran(pose(), budget, None), ran(pose(), budget, qx.RayWorkers(num_workers=WORKERS))


def ran(problem: Problem, budget: int, workers: qx.RayWorkers | None) -> Run:
    """One search."""
    spent: list[dict[int, float]] = []
    start, here = time.perf_counter(), time.process_time()
    found = qx.explore(
        problem,
        max_evaluations=budget,
        seed=SEED,
        workers=workers,
        callbacks=[lambda _: spent.append(of_workers())],
        progress=False,
    )
    seconds, here = time.perf_counter() - start, time.process_time() - here
    began = {worker: seconds for sample in reversed(spent[1:]) for worker, seconds in sample.items()}
    of_each = [last - began[worker] for worker, last in spent[-1].items()]
    return Run(found, seconds, here, max(of_each, default=0.0))


def of_workers() -> dict[int, float]:
    """Processor seconds so far of every worker on this machine, by its process."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            before, _, after = stat.read_text().rpartition(")")
            if "ray::Measurer" in before or b"ray::Measurer" in stat.with_name("cmdline").read_bytes():
                fields = after.split()
                found[int(stat.parent.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def is_same(one: qx.Exploration, other: qx.Exploration) -> bool:
    """Front and history, to the last bit."""
    arrays = (("num_bits", "accuracy", "costs", "total_bits"), (one.front, other.front))
    fronts = all(np.array_equal(getattr(arrays[1][0], of), getattr(arrays[1][1], of)) for of in arrays[0])
    told = [[(at.num_passes, at.hypervolume, at.num_evaluations) for at in found.history] for found in (one, other)]
    return fronts and told[0] == told[1] and one.num_passes == other.num_passes


def row(name: str, pairs: list[tuple[Run, Run]]) -> tuple[str, bool]:
    """Medians over the turns, and whether all found the same."""
    same = all(is_same(alone.found, two.found) for alone, two in pairs)
    measuring, idle, thinking, start = np.median([losses(two) for _, two in pairs], axis=0)
    (seconds, here, _), (seconds_two, driver, worker) = np.median([[run[1:] for run in pair] for pair in pairs], axis=0)
    return (
        f"{name:20s} {seconds:6.1f} {seconds_two:7.1f} {'same' if same else 'OTHER':>6s} "
        f"{here:7.1f} {driver:8.1f} {worker:7.1f}   "
        f"{100 * measuring:7.0f} % {100 * idle:4.0f} % {100 * thinking:7.0f} % {start:8.1f}"
    ), same


def losses(run: Run) -> list[float]:
    """Shares of the time in which workers were there, and the seconds until they were."""
    report, seconds = run.found.workers, run.seconds
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
