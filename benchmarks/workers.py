"""How two cores are used best: threads inside operations, a thread for a batch, or a process for half the samples.

    python benchmarks/workers.py

The same random candidates by all three, in turns; seconds per candidate, medians. Processes are forked with everything
built, so that what they would need to start is not counted.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from statistics import median

import numpy as np
import torch
from _workloads import EPOCHS, Batches, Workload

import qexplore as qx
from qexplore.evaluation import PrefixEvaluator, engine

THREADS = 2


def main() -> None:
    """Measure every network and print a row for each."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--networks", nargs="+", choices=EPOCHS, default=list(EPOCHS))
    options.add_argument("--candidates", type=int, default=20)
    options.add_argument("--repeats", type=int, default=5)
    arguments = options.parse_args()
    print("seconds per candidate")
    print(f"{'network':12s} {'inside operations':>18s} {'a batch a thread':>17s} {'processes':>10s}")
    for name in arguments.networks:
        workload = Workload(name)
        model = qx.QuantizedActivationsModel(copy.deepcopy(workload.network), workload.predicate)
        model.calibrate(workload.calibration)
        rng, ways = np.random.default_rng(0), (inside, side_by_side, processes)
        seconds: dict[str, list[float]] = {way.__name__: [] for way in ways}
        for _ in range(arguments.repeats):
            candidates = rng.integers(2, 9, size=(arguments.candidates, len(model.points)))
            for way in ways:
                seconds[way.__name__].append(way(model, workload.search, candidates) / len(candidates))
        one, two, three = (median(seconds[way.__name__]) for way in ways)
        print(f"{name:12s} {one:18.4f} {two:17.4f} {three:10.4f}", flush=True)


def build(model: qx.QuantizedActivationsModel, batches: Batches, threads: int, workers: int) -> PrefixEvaluator:
    """An evaluator that may use so many workers."""
    torch.set_num_threads(threads)
    engine._MOST_WORKERS = workers
    return PrefixEvaluator(qx.DirectEvaluator(model, batches, qx.top1_accuracy), required=True)


def inside(model: qx.QuantizedActivationsModel, batches: Batches, candidates: np.ndarray) -> float:
    """One batch after the other, all threads inside every operation."""
    evaluator = build(model, batches, THREADS, 1)
    return timed(lambda: list(evaluator.evaluate(candidates)))


def side_by_side(model: qx.QuantizedActivationsModel, batches: Batches, candidates: np.ndarray) -> float:
    """A thread for each batch: what the engine does."""
    evaluator = build(model, batches, THREADS, THREADS)
    return timed(lambda: list(evaluator.evaluate(candidates)))


def processes(model: qx.QuantizedActivationsModel, batches: Batches, candidates: np.ndarray) -> float:
    """A process for each half of the samples, with batches of the same size."""
    context = multiprocessing.get_context("fork")
    engine._LEAST_BATCHES = 8 // THREADS
    ends = []
    for share in range(THREADS):
        ours, theirs = context.Pipe()
        worker = context.Process(target=serve, args=(model, batches[share::THREADS], candidates, theirs))
        worker.start()
        ends.append((ours, worker))
    for ours, _ in ends:
        ours.recv()

    def work() -> None:
        for ours, _ in ends:
            ours.send(True)
        for ours, _ in ends:
            ours.recv()

    seconds = timed(work)
    for _, worker in ends:
        worker.join()
    engine._LEAST_BATCHES = 8
    return seconds


def serve(model: qx.QuantizedActivationsModel, batches: Batches, candidates: np.ndarray, end: Connection) -> None:
    """Build, say so, wait, evaluate, say so."""
    evaluator = build(model, batches, 1, 1)
    end.send(True)
    end.recv()
    list(evaluator.evaluate(candidates))
    end.send(True)


def timed(work: Callable[[], object]) -> float:
    """Seconds that ``work`` took."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
