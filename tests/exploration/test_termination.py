"""SIGTERM ends a search in time for its front to be saved, and leaves no trace."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from networks import digits
from problems import Watched, random_state, state_of, tiny_model, tiny_problem

import qexplore as qx
from qexplore.exploration import verification

BUILT = 2  # batches that building a problem takes


def terminating(scores):
    signal.raise_signal(signal.SIGTERM)
    return scores


def problem_terminated_at(evaluation, do=terminating, **options):
    """One whose process is sent SIGTERM in the middle of its ``evaluation``-th evaluation."""
    return tiny_problem(Watched(at=[BUILT + evaluation - 1], do=do), upper=8, engine="direct", **options)


def explored(problem, **options):
    options = {
        "max_evaluations": 40,
        "seed": 1,
        "progress": False,
        "population_size": 10,
        "judge": "accuracy",
        **options,
    }
    return qx.explore(problem, **options)


def points(front):
    return {(point.num_bits, point.accuracy) for point in front}


@pytest.mark.parametrize("evaluation", [3, 20])
def test_sigterm_returns_the_front_so_far_unverified(evaluation):
    before = signal.getsignal(signal.SIGTERM)
    model = tiny_model().train()
    model.num_bits = [5, 0, 7]
    problem = problem_terminated_at(evaluation, model=model)
    state, drawn = state_of(model), random_state()
    exploration = explored(problem, report_loader=[digits().report])
    assert exploration.stopped_by == "SIGTERM"
    assert not exploration.front.verified and exploration.front.report_accuracy is None
    assert exploration.num_verifications == 0
    assert points(exploration.front) == points(problem.front()) != set()
    assert len(problem.evaluations) == evaluation - 2  # the one at hand is dropped; the report set took a batch
    assert signal.getsignal(signal.SIGTERM) is before
    assert (state_of(model), random_state()) == (state, drawn)
    assert "stopped by SIGTERM" in str(exploration)


@pytest.mark.parametrize("algorithm", ["nsga2", "nsga2-plain"])
@pytest.mark.parametrize("evaluation", [2, 9])
def test_sigterm_ends_other_algorithms_likewise(algorithm, evaluation):
    exploration = explored(problem_terminated_at(evaluation, min_accuracy=0.3), algorithm=algorithm)
    assert (exploration.stopped_by, exploration.front.verified) == ("SIGTERM", False)


def test_sigterm_during_verification_returns_the_front_unverified():
    done = explored(tiny_problem(upper=8, engine="direct"), max_evaluations=20)
    exploration = explored(problem_terminated_at(done.num_evaluations + 2), max_evaluations=20)
    assert (exploration.stopped_by, exploration.num_evaluations) == ("SIGTERM", done.num_evaluations)
    assert not exploration.front.verified
    assert points(exploration.front) == points(done.history[-1].front)


def test_sigterm_during_the_judging_verifies_nothing(monkeypatch):
    monkeypatch.setattr(verification, "is_contradicted", lambda *_: terminating(None))
    monkeypatch.setattr(qx.LayerwiseQuantizationProblem, "measure_directly", lambda *_: pytest.fail("verified"))
    exploration = explored(tiny_problem(upper=8), max_evaluations=9, judge="divergence")
    assert (exploration.stopped_by, exploration.front.verified) == ("SIGTERM", False)
    assert points(exploration.front) == points(exploration.history[-1].front)


def test_a_handler_of_the_users_is_called_and_stands_again():
    called = []

    def handler(number, frame):
        called.append(number)

    before = signal.signal(signal.SIGTERM, handler)
    try:
        exploration = explored(problem_terminated_at(10))
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert called == [signal.SIGTERM]
    assert exploration.stopped_by == "SIGTERM"


def test_ignored_sigterm_stays_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        exploration = explored(problem_terminated_at(10), max_evaluations=20)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert exploration.stopped_by == "max_evaluations"


def test_in_another_thread_nothing_is_touched():
    handlers, results = [], []

    def noted(scores):
        handlers.append(signal.getsignal(signal.SIGTERM))
        return scores

    before = signal.getsignal(signal.SIGTERM)
    problem = problem_terminated_at(10, noted)
    thread = threading.Thread(target=lambda: results.append(explored(problem, max_evaluations=20)))
    thread.start()
    thread.join()
    assert handlers == [before]
    assert results[0].stopped_by == "max_evaluations"


SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
import qexplore as qx
from problems import tiny_problem

def metric(output, target):
    time.sleep(0.02)
    return qx.top1_accuracy(output, target)

def tell(snapshot):
    print("evaluated", snapshot.num_evaluations, flush=True)

exploration = qx.explore(
    tiny_problem(metric, upper=8), max_evaluations=300, seed=1, callbacks=[tell], progress=False
)
exploration.front.save({path!r})
print("result", exploration.stopped_by, exploration.front.verified, len(exploration.front) > 0, flush=True)
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("evaluations", [1, 25])
def test_a_real_sigterm_lets_a_script_save_its_front_and_the_next_one_ends_it(evaluations, tmp_path):
    path = tmp_path / "front.json"
    script = SCRIPT.format(tests=str(Path(__file__).resolve().parents[1] / "shared"), path=str(path))
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    with process:
        assert next(line for line in process.stdout if int(line.split()[1]) >= evaluations)
        process.terminate()
        told = next(line for line in process.stdout if line.startswith("result"))
        process.terminate()
    assert told.split() == ["result", "SIGTERM", "False", "True"]
    assert process.returncode == -signal.SIGTERM
    assert len(qx.Front.load(path)) > 0
