"""Explorations on two Ray nodes of this machine, of which something is killed at random: is anything lost or other?

    python benchmarks/cluster_kills.py --kills 20

A cluster of two raylets with a worker each. While an exploration runs in a process of its own, one of three is killed
with SIGKILL at a random moment, again and again: a worker; the second raylet with all that runs on it, after which a
node joins anew; the exploring process itself, which is then started again on its study. At its end the front's file is
compared with that of one process without a study, byte by byte; the study's rows with those of a study that nobody
killed, times apart; and every evaluation that was acknowledged before a kill is looked for among those that were
measured again. A row a case; exit code 1 where anything differs.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from kill import CASES, READY, acknowledging, rows_of

import qexplore as qx

WORKER_NAME = "ray::Measurer"
STORE_BYTES = 200_000_000
ROLES = ("search", "direct", "report", "cost")
"""What lines of acknowledged evaluations begin with."""
SECONDS_UP = 3.0
"""That a node is away."""


def explored(name: str, study: Path | None, front: Path, workers: qx.RayWorkers | None = None) -> qx.Exploration:
    """One exploration, in this process."""
    case = CASES[name]
    given = {"max_evaluations": 100, "seed": 1, "progress": False} | case.options()
    found = qx.explore(case.pose(), study=study, workers=workers, **given)
    found.front.save(front)
    return found


class Machines:
    """Two raylets of this machine, the second of which can be killed."""

    def __init__(self) -> None:
        import ray.cluster_utils

        os.environ |= {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
        logging.getLogger("ray").setLevel(logging.ERROR)
        node = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
        self._node = node
        self._cluster = ray.cluster_utils.Cluster(
            initialize_head=True, head_node_args=node | {"include_dashboard": False}
        )
        self.address = self._cluster.address
        self._second = self._cluster.add_node(**node)

    def kill_node(self) -> bool:
        """SIGKILL to the second raylet; another one joins afterwards."""
        self._cluster.remove_node(self._second, allow_graceful=False)
        time.sleep(SECONDS_UP)
        self._second = self._cluster.add_node(**self._node)
        return True

    def kill_worker(self) -> bool:
        """SIGKILL to one of the workers, if there are any now."""
        import psutil

        there = [
            one.pid for one in psutil.process_iter(["cmdline"]) if WORKER_NAME in " ".join(one.info["cmdline"] or ())
        ]
        if there:
            os.kill(random.choice(there), signal.SIGKILL)
        return bool(there)

    def end(self) -> None:
        """End both."""
        self._cluster.shutdown()


def started(name: str, study: Path, front: Path, address: str) -> subprocess.Popen[str]:
    """The exploration in a process of its own."""
    command = [sys.executable, __file__, "--explore", name, "--study", str(study), "--front", str(front)]
    command += ["--address", address]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def killed(machines: Machines, process: subprocess.Popen[str], kind: str) -> bool:
    """Whether something was killed."""
    if kind == "driver":
        process.kill()
        return True
    return machines.kill_worker() if kind == "worker" else machines.kill_node()


def kill_at_random(machines: Machines, process: subprocess.Popen[str], rng: random.Random, left: int) -> Counter[str]:
    """Kill, at random moments, until ``process`` ends or there were so many; Ray starts nodes in a main thread only."""
    kills = Counter[str]()
    while process.poll() is None and kills.total() < left:
        time.sleep(rng.uniform(0.5, 6.0))
        kind = rng.choice(("worker", "worker", "node", "driver"))
        kills[kind] += process.poll() is None and killed(machines, process, kind)
    process.wait()
    return kills


def killed_until_done(
    name: str, folder: Path, machines: Machines, rng: random.Random, left: int
) -> tuple[Counter[str], list[str]]:
    """Kill, and start again on the same study, until an exploration comes to its end."""
    kills, acknowledged = Counter[str](), list[str]()
    while True:
        process = started(name, folder / "killed.db", folder / "killed.json", machines.address)
        assert process.stdout is not None
        process.stdout.readline()  # told once everything is ready: what comes then is the exploration
        lines = list[str]()
        reader = threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True)  # noqa: B023
        reader.start()
        kills += kill_at_random(machines, process, rng, left - kills.total())
        reader.join()
        acknowledged += [line for line in lines if line.startswith(ROLES)]  # Ray tells of dead nodes there too
        if process.returncode == 0:
            return kills, acknowledged
        if process.returncode != -signal.SIGKILL:
            raise SystemExit(f"{name}: the exploration ended with {process.returncode}")


def main() -> None:
    """Run every case, and print a row for each."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--kills", type=int, default=20, help="of all cases together, at least")
    options.add_argument("--cases", nargs="+", choices=CASES, default=["racing", "several costs and weights"])
    options.add_argument("--seed", type=int, default=0)
    for hidden in ("--explore", "--study", "--front", "--address"):
        options.add_argument(hidden, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.explore:
        acknowledging(Path(given.study))
        print(READY, flush=True)
        workers = qx.RayWorkers(2, address=given.address, most_lost=10)
        explored(given.explore, Path(given.study), Path(given.front), workers)
        return
    rng, failed, total = random.Random(given.seed), False, Counter[str]()
    machines = Machines()
    heads = (
        "case                        workers  nodes  drivers  acknowledged  measured twice  front  rows of the study"
    )
    print(heads, flush=True)
    try:
        for place, name in enumerate(given.cases):
            wanted = given.kills * (place + 1) // len(given.cases) - given.kills * place // len(given.cases)
            row = case_row(name, wanted, machines, rng)
            failed, total = failed or not row[1], total + row[2]
            print(row[0], flush=True)
    finally:
        machines.end()
    print(f"{total.total()} kills{', something was lost or is other' if failed else ', nothing lost, nothing twice'}")
    raise SystemExit(failed)


def case_row(name: str, wanted: int, machines: Machines, rng: random.Random) -> tuple[str, bool, Counter[str]]:
    """What came of one case: its row, whether all is well, and its kills."""
    kills, count, twice, others = Counter[str](), 0, 0, 0
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        explored(name, None, folder / "plain.json")
        explored(name, folder / "whole.db", folder / "whole.json")
        whole, same_rows = rows_of(folder / "whole.db"), True
        while kills.total() < wanted:
            done, acknowledged = killed_until_done(name, folder, machines, rng, wanted - kills.total())
            kills, count = kills + done, count + len(acknowledged)
            twice += len(acknowledged) - len(set(acknowledged))
            others += (folder / "plain.json").read_bytes() != (folder / "killed.json").read_bytes()
            same_rows = same_rows and whole == rows_of(folder / "killed.db")
            for file in folder.glob("killed*"):
                file.unlink()
    told: Any = "OTHER" if others else "same"
    row = (
        f"{name:26s} {kills['worker']:8d} {kills['node']:6d} {kills['driver']:8d} {count:13d} {twice:15d}  {told:5s} "
        f"{len(whole):6d} {'same' if same_rows else 'OTHER'}"
    )
    return row, same_rows and not twice and not others, kills


if __name__ == "__main__":
    main()
