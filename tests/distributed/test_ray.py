"""Explorations on a Ray of this machine."""

import pytest
import torch
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
