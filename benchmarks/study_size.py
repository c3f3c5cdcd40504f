"""What a study costs: time to write, to open and to read it, and its size on disk.

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

import numpy as np

from qexplore.evaluation import Evaluation
from qexplore.study import Store, Stored


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
            store.begin_run({"seed": 1}, {}, {})
            seconds, _ = timed(lambda: write(store, ones, arguments.evaluations))
            print(f"{arguments.evaluations} evaluations written, 1000 a transaction: {seconds:.1f} s")
        print(f"size on disk: {path.stat().st_size / 1e6:.1f} MB")
        measure_reading(path)
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
