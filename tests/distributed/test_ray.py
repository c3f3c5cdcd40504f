"""Explorations on a Ray of this machine."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from crews import slowed
from networks import batches, digits
from problems import tiny_problem

import qexplore as qx

pytest.importorskip("ray")


def told(exploration):
    """All of it but times."""
    history = [(one.num_evaluations, one.num_passes, one.hypervolume) for one in exploration.history]
    return exploration.front.to_json(), history, exploration.num_passes


@pytest.mark.slow
def test_two_ray_workers_give_the_front_of_one_process():
    def explored(**options):
        problem = tiny_problem(upper=8, min_accuracy=0.85)
        return qx.explore(problem, max_evaluations=45, seed=1, report_loader=batches(digits().report), **options)

    threads = torch.get_num_threads()
    there = explored(workers=qx.RayWorkers(num_workers=2))
    assert told(there) == told(explored())
    assert torch.get_num_threads() == threads
    assert [one.state for one in there.workers.workers] == ["ready", "ready"]
    assert 0 <= there.workers.idle_share < 1


class Cluster:
    """Two raylets of this machine with a worker's room each."""

    def __init__(self):
        import ray.cluster_utils

        self._node = {"num_cpus": 1, "object_store_memory": 200_000_000}
        head = self._node | {"include_dashboard": False}
        self._cluster = ray.cluster_utils.Cluster(initialize_head=True, head_node_args=head)
        self.address = self._cluster.address
        self._second = self._cluster.add_node(**self._node)

    def kill_node(self):
        self._cluster.remove_node(self._second, allow_graceful=False)

    def add_node(self):
        self._second = self._cluster.add_node(**self._node)

    def kill_worker(self):
        import psutil

        names = ((one.pid, " ".join(one.info["cmdline"] or ())) for one in psutil.process_iter(["cmdline"]))
        os.kill(next(pid for pid, name in names if "ray::Measurer" in name), signal.SIGKILL)

    def end(self):
        self._cluster.shutdown()


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster()
    yield cluster
    cluster.end()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of Ray, for processes that were killed
def test_a_killed_worker_a_killed_node_and_a_new_one_change_nothing(cluster):
    todo = {15: cluster.kill_worker, 25: cluster.kill_node, 30: cluster.add_node}

    def disturb(snapshot):
        for count in [count for count in todo if snapshot.num_evaluations >= count]:
            todo.pop(count)()

    def explored(**options):
        problem = tiny_problem(slowed, upper=8, min_accuracy=0.85)
        return qx.explore(problem, max_evaluations=50, seed=1, **options)

    there = explored(workers=qx.RayWorkers(2, address=cluster.address), callbacks=[disturb])
    assert not todo
    assert told(there) == told(explored())
    assert sum(one.state.startswith("lost") for one in there.workers.workers) >= 2


@pytest.mark.slow
def test_killed_workers_nodes_and_driver_lose_nothing_and_measure_nothing_twice():
    script = Path(__file__).parents[2] / "benchmarks" / "cluster_kills.py"
    done = subprocess.run([sys.executable, script, "--kills", "4", "--cases", "racing"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "nothing lost, nothing twice" in done.stdout
