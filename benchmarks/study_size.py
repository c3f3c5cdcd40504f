"""What a study costs: time to write, to open, to read and to ask it, and its size on disk.

    python benchmarks/study_size.py

Evaluations of 20 points with 1,024 scores of 0 and 1, ten in a thousand stopped early. A write is timed with the disk's
own confirmation; the folder given by ``--folder`` decides which disk.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from qexplore.cost import AdditiveTable, TotalBits
from qexplore.evaluation import Evaluation
from qexplore.study import Store, Stored, Study

SETTINGS = {"seed": 1, "min_accuracy": 0.85, "limits": {}, "further": [], "judge": "divergence"}


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--evaluations", type=int, default=100_000)
    options.add_argument("--points", type=int, default=20)
    options.add_argument("--samples", type=int, default=1024)
    options.add_argument("--repeats", type=int, default=30, help="writes of each size that are timed")
    options.add_argument("--folder", type=Path, help="where the study is written; the system's own without")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder, "study.db")
        ones = evaluations(arguments.points, arguments.samples)
        with Store.create(path, {"points": str(arguments.points)}) as store:
            store.begin_run(SETTINGS, {}, facts(arguments.points, arguments.samples))
            seconds, _ = timed(lambda: write(store, ones, arguments.evaluations))
            print(f"{arguments.evaluations} evaluations written, 1000 a transaction: {seconds:.1f} s")
        print(f"size on disk: {path.stat().st_size / 1e6:.1f} MB")
        measure_reading(path)
        measure_asking(path)
        print(f"\n{'evaluations a write':>20s} {'median ms':>10s} {'slowest ms':>11s}")
        with Store.open(path, writes=True) as store:
            for size in (1, 8, 64):
                times = [1e3 * timed(lambda n=size: write(store, ones, n))[0] for _ in range(arguments.repeats)]
                print(f"{size:20d} {median(times):10.2f} {max(times):11.2f}")


def measure_reading(path: Path) -> None:
    for mode in (True, False):
        seconds, store = timed(lambda writes=mode: Store.open(path, writes=writes))
        print(f"opened to {'write' if mode else 'read'}: {seconds:.2f} s")
        store.close()
    with Store.open(path, writes=False) as store:
        seconds, columns = timed(store.columns)
        print(f"{len(columns)} complete evaluations as arrays, every checksum compared: {seconds:.2f} s")
        seconds, one = timed(lambda: store.evaluation("search", columns.candidates[-1], None, ""))
        print(f"one of them found: {1e3 * seconds:.2f} ms")
        seconds, count = timed(lambda: sum(1 for _ in store.evaluations()))
        print(f"all {count} as records, their scores unpacked: {seconds:.1f} s")


def measure_asking(path: Path) -> None:
    seconds, study = timed(lambda: Study.open(path))
    print(f"opened to be asked: {seconds:.2f} s")
    with study:
        for question in ({"judge": "accuracy"}, {"judge": "divergence"}, {"first": 50_000}):
            seconds, front = timed(lambda asked=question: study.front(**asked))
            print(f"its front, {question}, {len(front)} points: {seconds:.2f} s")
        print(f"its table of runs: {timed(lambda: str(study))[0]:.2f} s")


def facts(points: int, samples: int) -> dict[str, Any]:
    """As `explore` writes them."""
    choices = tuple(tuple(range(2, 9)) for _ in range(points))
    return {
        "points": [{"name": f"layer{place}", "kind": "activation", "index": place} for place in range(points)],
        "choices": choices,
        "ties": [],
        "costs": ["total_bits"],
        "cost tables": {"total_bits": AdditiveTable.of(TotalBits(), choices).described},
        "measured costs": {},
        "metric": {"name": "accuracy", "higher_is_better": True, "range": [0, 1], "kind": "mean"},
        "float_accuracy": 0.9,
        "num_samples": samples,
        "arithmetic": "",
    }


def write(store: Store, ones: Iterator[Stored], count: int, together: int = 1000) -> None:
    for start in range(0, count, together):
        store.write([next(ones) for _ in range(min(together, count - start))])


def evaluations(points: int, samples: int) -> Iterator[Stored]:
    """Random ones, without end."""
    draw = np.random.default_rng(0)
    while True:
        codes = tuple(draw.integers(2, 9, points).tolist())
        scores = (draw.random(samples) < 0.9).astype(np.float32)
        score = float(scores.mean(dtype=np.float64))
        spread, seconds = float(draw.random()), float(draw.random())
        if draw.random() < 0.01:
            one = Evaluation(codes, "stopped", bound=score, num_samples=samples // 2, reason="proved", seconds=seconds)
        else:
            interval = (score - 0.01 * spread, score + 0.01 * spread)
            one = Evaluation(codes, "complete", score, scores, interval, None, (), spread, samples, "", seconds)
        yield Stored(1, "search", score, "0123456789abcdef" * 2, 60 * seconds, one)


def timed(work):
    start = time.perf_counter()
    answer = work()
    return time.perf_counter() - start, answer


if __name__ == "__main__":
    main()
