"""What Ray takes on this machine: to start workers, to give them tasks, to take in their answers."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import numpy as np

from qexplore.distributed import Answer, Task
from qexplore.evaluation import Evaluation

WORKERS = 2
CALLS, REPEATS = 100, 5
FEW, MANY = 1, 16
"""Candidates of a task, to tell what a task costs from what a candidate does."""
OPEN = 256
"""Tasks that are under way when it is measured what each of them costs whoever waits for the first."""


@contextmanager
def cluster(**options: Any) -> Iterator[Any]:
    """Ray on this machine, small and quiet, stopped at the end."""
    os.environ.setdefault("RAY_worker_niceness", "0")  # else workers stand back behind everything else that runs here
    import ray

    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init("local", num_cpus=WORKERS, object_store_memory=200 * 2**20, **quiet, **options)
    try:
        yield ray
    finally:
        ray.shutdown()


class Answering:
    """Answers at once, with as much as evaluations hold."""

    def answer(self, task: Task, order: np.ndarray) -> Answer:
        """A complete evaluation of each candidate."""
        return Answer(tuple(evaluation(row, len(order)) for row in task.candidates))

    def wait(self, seconds: float) -> float:
        """Wait, and tell the seconds of this process's processors so far."""
        time.sleep(seconds)
        return time.process_time()


def evaluation(candidate: np.ndarray, num_samples: int) -> Evaluation:
    """Complete, a score for each sample."""
    scores = np.ones(num_samples, np.float32)
    return Evaluation(tuple(candidate.tolist()), "complete", 0.5, scores, (0.4, 0.6), divergence=0.1)


def measured(num_samples: int, num_points: int) -> dict[str, float]:
    """Costs by name, in seconds, and the bytes of an answer.

    Those of the driver and of a worker are of their processors, all threads together, so that others' work does not
    count; the latency is that of the fastest tenth.
    """
    with cluster() as ray:
        actors = [ray.remote(Answering).options(num_cpus=1).remote() for _ in range(WORKERS)]
        order = np.arange(num_samples)
        start = max(ray.get([actor.wait.remote(0) for actor in actors]))

        def task(count: int) -> Task:
            return Task("search", "evaluate", tuple(range(count)), np.full((count, num_points), 8), {"must_beat": 0.5})

        def seconds(count: int) -> float:
            """Of the driver for a task of so many candidates, each worker having one at a time."""
            begun = time.process_time()
            given = {actor.answer.remote(task(count), order): actor for actor in actors}
            for _ in range(CALLS):
                [done], _ = ray.wait(list(given), num_returns=1)
                ray.get(done)
                actor = given.pop(done)
                given[actor.answer.remote(task(count), order)] = actor
            ray.get(list(given))
            return (time.process_time() - begun) / (CALLS + WORKERS)

        def waiting() -> float:
            """Of the driver for each task that is under way, while it waits for the first."""
            given = [actors[0].wait.remote(0.02 if at else 0.0) for at in range(OPEN)]
            begun = time.process_time()
            for _ in range(10):
                ray.wait(given, num_returns=OPEN, timeout=0)
            return (time.process_time() - begun) / 10 / OPEN

        few, many = (median(seconds(count) for _ in range(REPEATS)) for count in (FEW, MANY))
        before = ray.get(actors[0].wait.remote(0))
        ray.get([actors[0].answer.remote(task(FEW), order) for _ in range(CALLS)])
        begin = (ray.get(actors[0].wait.remote(0)) - before) / CALLS
        round_trips = [timed(lambda: ray.get(actors[0].wait.remote(0))) for _ in range(CALLS)]
        per_answer = max(0.0, many - few) / (MANY - FEW)
        return {
            "per_task": few - FEW * per_answer,
            "per_answer": per_answer,
            "per_open": waiting(),
            "latency": float(np.quantile(round_trips, 0.1)),
            "begin": begin,
            "start": start,
            "answer_bytes": float(len(pickle.dumps(evaluation(np.full(num_points, 8), num_samples)))),
        }


def timed(work: Callable[[], object]) -> float:
    """Seconds that ``work`` took."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
