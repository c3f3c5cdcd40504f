"""What a study costs: explorations with and without one, in turns, whose evaluations take a known time.

    python benchmarks/remembering.py --milliseconds 50

The metric waits, so that an evaluation of the small network takes about as long as asked. Both sides search the same
problem with the same seed and end with the same front; medians of the turns, and the share that remembering adds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "shared"))

from problems import tiny_problem

import qexplore as qx


def waiting(seconds: float) -> qx.Metric:
    """Top-1 accuracy of one batch, which takes so long."""

    def accuracy(output: Any, target: Any) -> Any:
        end = time.perf_counter() + seconds
        scores = qx.top1_accuracy(output, target)
        while time.perf_counter() < end:
            pass
        return scores

    return qx.Metric(accuracy, "accuracy", range=(0.0, 1.0))


def seconds(problem: qx.LayerwiseQuantizationProblem, study: Path | None, evaluations: int) -> tuple[float, str]:
    """Of one exploration, and its front."""
    start = time.perf_counter()
    found = qx.explore(problem, max_evaluations=evaluations, seed=1, progress=False, study=study)
    return time.perf_counter() - start, found.front.to_json()


def main() -> None:
    """Explore in turns, and print the medians."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--milliseconds", type=float, nargs="+", default=[50.0])
    options.add_argument("--evaluations", type=int, default=60)
    options.add_argument("--turns", type=int, default=5)
    given = options.parse_args()
    print("ms an evaluation   without (s)   with a study (s)   adds   front")
    for milliseconds in given.milliseconds:
        taken: dict[bool, list[float]] = {False: [], True: []}
        fronts = set()
        for turn in range(given.turns):
            for remembers in (False, True) if turn % 2 else (True, False):
                problem = tiny_problem(waiting(milliseconds / 1e3), upper=8, engine="direct")
                with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
                    study = Path(folder) / "study.db" if remembers else None
                    took, front = seconds(problem, study, given.evaluations)
                taken[remembers].append(took)
                fronts.add(front)
        plain, ours = (statistics.median(taken[remembers]) for remembers in (False, True))
        same = "same" if len(fronts) == 1 else "OTHER"
        print(f"{milliseconds:16.3g} {plain:13.2f} {ours:18.2f} {ours / plain - 1:6.1%}   {same}", flush=True)


if __name__ == "__main__":
    main()
