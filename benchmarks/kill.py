"""Explorations that are killed at random moments until they are done: is anything lost, measured twice, or other?

    python benchmarks/kill.py --kills 100

Each case explores in a process of its own, with a study, and is killed with SIGKILL at a random moment: while the
study is being made, while the table is measured, in a population, in a transaction, in the verification. The same
command is run again until one comes to its end, and all of it again until there were so many kills. The front's file
is compared with that of a run without a study and without kills, byte by byte; the study's rows with those of a study
that nobody killed, times apart; and every evaluation that was acknowledged before a kill (the process says so once
its write has returned) is looked for among those that were measured again. A row a case; exit code 1 where anything
differs.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "shared"))

from networks import batches, digits
from problems import search_loader, tiny_network, tiny_problem, weighted_model
from pymoo.algorithms.moo.moead import MOEAD
from pymoo.util.ref_dirs import get_reference_directions

import qexplore as qx
from qexplore.study import Store

SLOWED = 0.01
"""Seconds that every batch waits, so that an exploration takes some."""
READY = "ready"


class Case(NamedTuple):
    """What is explored, and how."""

    pose: Callable[[], qx.LayerwiseQuantizationProblem]
    options: Callable[[], dict[str, Any]]


def slowed(output: Any, target: Any) -> Any:
    """Top-1 accuracy that takes its time."""
    time.sleep(SLOWED)
    return qx.top1_accuracy(output, target)


SLOW = qx.Metric(slowed, "accuracy", range=(0.0, 1.0), sample_range=(0.0, 1.0))


def share_of_right(model: Any, loader: Any) -> float:
    """A metric of the whole set."""
    time.sleep(SLOWED)
    return float(sum((model(x).argmax(1) == y).sum() for x, y in loader)) / 400


def posed(**options: Any) -> qx.LayerwiseQuantizationProblem:
    """Three points of a small network on the digits."""
    return tiny_problem(**({"metric": SLOW, "upper": 8, "min_accuracy": 0.85} | options))


def with_weights() -> qx.LayerwiseQuantizationProblem:
    """Six points, two costs."""
    model = weighted_model(tiny_network())
    costs = ("total_bits", "model_bytes")
    return qx.LayerwiseQuantizationProblem(model, search_loader(), SLOW, min_accuracy=0.85, costs=costs)


def large() -> qx.LayerwiseQuantizationProblem:
    """A set that is screened."""
    return posed(loader=[batch for _ in range(21) for batch in search_loader()])


def by_decomposition() -> dict[str, Any]:
    """An object of pymoo."""
    return {"algorithm": MOEAD(get_reference_directions("uniform", 2, n_partitions=9), n_neighbors=5)}


CASES = {
    "racing": Case(posed, dict),
    "report set": Case(posed, lambda: {"report_loader": batches(digits().report)}),
    "screening": Case(large, lambda: {"max_evaluations": 12}),
    "several costs and weights": Case(with_weights, dict),
    "whole-set metric": Case(lambda: posed(metric=qx.whole_set(share_of_right)), dict),
    "sms-emoa": Case(posed, lambda: {"algorithm": "sms-emoa"}),
    "an object of pymoo": Case(lambda: posed(min_accuracy=None), by_decomposition),
}


def explored(name: str, study: Path | None, front: Path) -> None:
    """One exploration, in this process."""
    case = CASES[name]
    given = {"max_evaluations": 45, "seed": 1, "progress": False} | case.options()
    qx.explore(case.pose(), study=study, **given).front.save(front)


def acknowledging(study: Path) -> None:
    """Have the store tell, on stdout, every evaluation whose write has returned."""
    write = Store.write

    def told(store: Store, evaluations: Any = (), *rows: Any) -> None:
        write(store, evaluations, *rows)
        for one in evaluations:
            print(one.role, one.limit, one.order, one.evaluation.candidate, flush=True)

    Store.write = told  # type: ignore[method-assign, assignment]


def started(name: str, study: Path, front: Path) -> subprocess.Popen[str]:
    """The exploration in a process of its own."""
    command = [sys.executable, __file__, "--explore", name, "--study", str(study), "--front", str(front)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def rows_of(path: Path) -> list[str]:
    """All rows of a study, times apart."""
    with Store.open(path, writes=False) as store:
        found = [
            repr((one.role, one.limit, one.order, one.evaluation.candidate, one.evaluation.state, one.evaluation.score))
            + repr((one.evaluation.bound, one.evaluation.num_samples, one.evaluation.divergence))
            + ("" if one.evaluation.scores is None else one.evaluation.scores.tobytes().hex())
            for one in store.evaluations()
        ]
        found += [repr((one.role, one.metric, one.candidate)) + one.values.tobytes().hex() for one in store.parts()]
        return found + [repr((one.num_passes, one.hypervolume, one.candidates)) for one in store.snapshots()]


def killed_until_done(name: str, folder: Path, rng: random.Random, shortest: float) -> tuple[int, list[str]]:
    """Kill and start again until one comes to its end: kills, and all that was acknowledged."""
    study, front, acknowledged, kills = folder / "killed.db", folder / "killed.json", list[str](), 0
    window = shortest
    while True:
        process = started(name, study, front)
        assert process.stdout is not None
        lines = [process.stdout.readline()]  # told once everything is ready: what comes then is the exploration
        killer = threading.Timer(rng.uniform(0.0, window), process.kill)
        killer.start()
        lines += process.stdout.readlines()
        killer.cancel()
        new = [line for line in lines if line.strip() != READY]
        acknowledged += new
        window = shortest if new else 1.5 * window  # or a slow machine would never come further
        if process.wait() == 0:
            return kills, acknowledged
        if process.returncode != -signal.SIGKILL:
            raise SystemExit(f"{name}: the exploration ended with {process.returncode}")
        kills += 1


def main() -> None:
    """Run every case, and print a row for each."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--kills", type=int, default=100, help="of all cases together")
    options.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--window", type=float, default=1.5, help="seconds within which a search is killed")
    options.add_argument("--explore", choices=CASES, help=argparse.SUPPRESS)
    options.add_argument("--study", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--front", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.explore:
        acknowledging(given.study)
        print(READY, flush=True)
        explored(given.explore, given.study, given.front)
        return
    rng, failed, total = random.Random(given.seed), False, 0
    print("case                        kills  rounds  acknowledged  measured twice  fronts  rows of the study")
    for place, name in enumerate(given.cases):
        wanted = given.kills * (place + 1) // len(given.cases) - given.kills * place // len(given.cases)
        kills = rounds = count = twice = others = 0
        with tempfile.TemporaryDirectory() as path:
            folder = Path(path)
            explored(name, None, folder / "plain.json")
            explored(name, folder / "whole.db", folder / "whole.json")
            whole = rows_of(folder / "whole.db")
            while kills < wanted:
                done, acknowledged = killed_until_done(name, folder, rng, given.window)
                kills, rounds, count = kills + done, rounds + 1, count + len(acknowledged)
                twice += len(acknowledged) - len(set(acknowledged))
                fronts = {(folder / f"{kind}.json").read_bytes() for kind in ("plain", "whole", "killed")}
                others += len(fronts) > 1
                same_rows = whole == rows_of(folder / "killed.db")
                failed, total = failed or bool(twice or others) or not same_rows, total + done
                for file in folder.glob("killed*"):
                    file.unlink()
        print(
            f"{name:26s} {kills:6d} {rounds:7d} {count:13d} {twice:15d}  {f'{others} other' if others else 'same':6s} "
            f"{len(whole):5d} {'same' if same_rows else 'OTHER'}",
            flush=True,
        )
    print(f"{total} kills{', something was lost or is other' if failed else ', nothing lost, nothing measured twice'}")
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
