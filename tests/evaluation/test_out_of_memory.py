"""Where memory runs out a batch is halved once more, and then the candidate alone is failed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from faults import Fault, faulty_model, is_coarse
from problems import prefix_evaluator, search_loader, state_of, tiny_model, tiny_problem

import qexplore as qx
from qexplore.evaluation.engine import Engine
from qexplore.evaluation.out_of_memory import is_out_of_memory

ROWS = [(5, 5, 5), (5, 3, 5), (4, 4, 4), (4, 2, 4)]


def too_much():
    """What the allocator really says."""
    torch.empty(2**50)


def beyond(most):
    """Needs more memory than there is for more than so many samples at once."""

    def do(x):
        if len(x) > most:
            too_much()
        return x

    return do


def greedy(most, engine="direct", **options):
    fault = Fault(beyond(most), is_armed=False)
    problem = tiny_problem(model=faulty_model(fault), upper=5, engine=engine, **options)
    fault.is_armed = True
    return problem


@pytest.mark.parametrize("hold_bytes", [None, 0])
def test_half_a_batch_gives_the_same_scores_and_it_is_said(hold_bytes):
    expected = list(greedy(400).measure(ROWS))
    problem = greedy(200, hold_bytes=hold_bytes)
    before = state_of(problem.model)
    found = list(problem.measure(ROWS))
    assert [one.scores.tolist() for one in found] == [one.scores.tolist() for one in expected]
    if hold_bytes is None:  # else no outputs of the float network are kept
        assert [one.divergence for one in found] == pytest.approx([one.divergence for one in expected], rel=1e-4)
    assert state_of(problem.model) == before
    assert "2 candidates in half batches for want of memory" in problem.describe().engine


@pytest.mark.parametrize("engine", ["direct", "prefix"])
def test_a_candidate_that_needs_too_much_in_any_case_is_failed(engine):
    problem = greedy(0, engine)
    found = list(problem.measure(ROWS))
    assert [one.is_complete for one in found] == [not is_coarse(one.candidate) for one in found]
    assert all("DefaultCPUAllocator: can't allocate memory" in one.reason for one in found if not one.is_complete)
    exploration = qx.explore(problem, max_evaluations=15, seed=1, progress=False, algorithm="random")
    assert exploration.failures and exploration.front.verified


def test_a_metric_of_a_whole_set_is_not_tried_again():
    calls = []

    def metric(model, loader):
        calls.append(model.num_bits.tolist())
        if model.num_bits[1] == 3:
            too_much()
        return 0.5

    problem = tiny_problem(qx.whole_set(metric), upper=5)
    (found,) = problem.measure([(5, 3, 5)])
    assert found.reason.startswith("the metric 'metric' raised RuntimeError")
    assert calls.count([5, 3, 5]) == 1


def limited(monkeypatch, fits):
    """An engine whose batches have to fit, and how many samples the largest one had."""
    run = Engine._run_batch

    def run_batch(self, worker, item):
        if not fits(len(self._batches[item[0]]), item[1]):
            too_much()
        return run(self, worker, item)

    monkeypatch.setattr(Engine, "_run_batch", run_batch)
    return prefix_evaluator(tiny_model(), search_loader(), qx.top1_accuracy)


def test_the_engine_goes_on_with_smaller_batches_and_says_so(monkeypatch):
    expected = [
        one.scores.tolist() for one in prefix_evaluator(tiny_model(), search_loader(), qx.top1_accuracy).evaluate(ROWS)
    ]
    ours = limited(monkeypatch, lambda size, _: size <= 9)
    assert [one.scores.tolist() for one in ours.evaluate(ROWS)] == expected
    assert "batches of 8 for want of memory, instead of 32" in ours.description


def test_a_candidate_that_smaller_batches_do_not_help_leaves_the_engine_as_it_was(monkeypatch):
    def fits(_, schedule):
        return all(3 not in operation.widths for operation in schedule.operations)

    ours = limited(monkeypatch, fits)
    before = ours.description
    assert all(one.is_complete for one in ours.evaluate(ROWS))  # by the direct evaluator, where there is room
    assert ours.description == before


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_errors_of_memory_are_told_from_others(error):
    wrapped = ValueError("metric")
    wrapped.__cause__ = error
    assert is_out_of_memory(error) and is_out_of_memory(wrapped)
    assert not is_out_of_memory(RuntimeError("shapes differ"))


SCRIPT = """
import resource, sys
sys.path.insert(0, {tests!r})
import torch
import qexplore as qx
from faults import Fault, faulty_model, is_coarse
from problems import tiny_problem

def need(x):
    torch.ones(len(x), 2**20)  # 4 MiB a sample
    return x

fault = Fault(need, is_armed=False)
problem = tiny_problem(model=faulty_model(fault), upper=5, engine={engine!r})
fault.is_armed = True
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {room} * 2**20, -1))
exploration = qx.explore(problem, max_evaluations=20, seed=1, progress=False, algorithm="random")
failed = {{one.reason.split(":")[0] for one in exploration.failures}}
print(len(exploration.failures), failed, exploration.front.verified, exploration.engine, sep="|")
"""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["direct", "prefix"])
@pytest.mark.parametrize(("room", "fails"), [(1200, False), (400, True)])  # all samples together take 1,600 MiB
def test_a_process_whose_memory_really_ends_goes_on(engine, room, fails):
    script = SCRIPT.format(tests=str(Path(__file__).resolve().parents[1] / "shared"), engine=engine, room=room)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    count, reasons, verified, engine_text = done.stdout.strip().split("|")
    assert (int(count) > 0) == fails
    assert not fails or "RuntimeError" in reasons
    assert verified == "True"
    assert fails or "in half batches for want of memory" in engine_text
