"""Whatever stops an exploration, what was found is kept and the model is as it was."""

import functools
import itertools
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import problems
import pytest
from networks import batches, digits
from problems import Watched, correct, raising, random_state, state_of, tiny_model, true_front

import qexplore as qx
from qexplore.errors import DataError, EvaluationError, MetricError, ModelError, ProblemError
from qexplore.study import Recorder

# One candidate after the other, so that a test can say at which one it happens.
tiny_problem = functools.partial(problems.tiny_problem, engine="direct")

BUILT = 2  # batches that building a problem takes: the float network, the widest candidate


def explored(problem, *, max_evaluations=40, population_size=10, **options):
    options = {"seed": 1, "progress": False, "judge": "accuracy", **options}
    return qx.explore(problem, max_evaluations=max_evaluations, population_size=population_size, **options)


def interrupted_at(evaluation, *, also=(), **options):
    """An exploration whose metric is interrupted in the middle of its ``evaluation``-th evaluation, and its problem."""
    # The widest candidate was measured before, so the second evaluation is the first to run the network.
    batch = BUILT + evaluation - 1
    metric = Watched(at=[batch, *(batch + later for later in also)], do=raising(KeyboardInterrupt()))
    problem = tiny_problem(metric, upper=8, min_accuracy=0.7)
    return explored(problem, **options), problem


def points(front):
    return {(point.num_bits, point.accuracy) for point in front}


@pytest.mark.parametrize(
    "evaluation", [2, 8, 15, *(pytest.param(one, marks=pytest.mark.slow) for one in (3, 7, 9, 35))]
)
def test_ctrl_c_returns_the_verified_front_of_all_that_was_measured(evaluation):
    exploration, problem = interrupted_at(evaluation)
    assert exploration.stopped_by == "interrupt"
    assert exploration.num_evaluations == len(problem.evaluations) == evaluation - 1
    scored = {e.candidate: correct(problem.model, e.candidate) / 400 for e in problem.evaluations}
    expected = true_front((score, sum(candidate)) for candidate, score in scored.items() if score >= 0.7)
    assert {(point.accuracy, point.total_bits) for point in exploration.front} == expected
    assert exploration.front.verified
    assert exploration.num_verifications == len(exploration.front)
    assert np.isfinite(exploration.reference_point).all()
    uninterrupted = explored(tiny_problem(upper=8, min_accuracy=0.7))
    last = exploration.history[-1] if exploration.history else None
    if last is not None and last.num_evaluations == exploration.num_evaluations:  # not among the uniform widths
        assert points(last.front) == points(exploration.front)
        same = [s for s in uninterrupted.history if s.num_evaluations <= last.num_evaluations]
        assert [s.hypervolume for s in exploration.history] == [s.hypervolume for s in same][: len(exploration.history)]
    assert exploration.reference_point == uninterrupted.reference_point


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_that_python_drops_in_a_finalizer_is_not_lost():
    class Finalized:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)  # its handler runs in here, and what it raises is dropped

    def finalized(scores):
        Finalized()
        return scores

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores it
    try:
        metric = Watched(at=[BUILT + 10], do=finalized)
        found = explored(tiny_problem(metric, upper=8, min_accuracy=0.7))
        assert (found.stopped_by, found.num_evaluations, found.front.verified) == ("interrupt", 11, True)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_leaves_model_and_random_state_as_they_were():
    model = tiny_model().train()
    model.num_bits = [5, 0, 7]
    metric = Watched(at=[20], do=raising(KeyboardInterrupt()))
    problem = tiny_problem(metric, model=model, upper=8)
    before, drawn = state_of(model), random_state()
    assert explored(problem).stopped_by == "interrupt"
    assert state_of(model) == before
    assert random_state() == drawn


def test_what_was_measured_before_ctrl_c_is_not_measured_again():
    metric = Watched(at=[20], do=raising(KeyboardInterrupt()))
    problem = tiny_problem(metric, upper=8)
    first = explored(problem)
    known = len(problem.evaluations)
    calls = metric.calls
    second = explored(problem)
    assert (first.stopped_by, second.stopped_by) == ("interrupt", "max_evaluations")
    assert metric.calls - calls == second.num_evaluations - known + second.num_verifications
    assert second.num_evaluations == 36  # and a table of sensitivities


def test_ctrl_c_in_a_callback_ends_the_search():
    seen = []

    def impatient(snapshot):
        seen.append(snapshot)
        if snapshot.num_evaluations >= 12:
            raise KeyboardInterrupt

    exploration = explored(tiny_problem(upper=8), callbacks=[impatient])
    assert exploration.stopped_by == "interrupt"
    assert points(exploration.front) == points(seen[-1].front)
    assert exploration.num_evaluations == seen[-1].num_evaluations


def test_ctrl_c_during_verification_returns_the_front_unverified():
    exploration, _ = interrupted_at(20, also=[2])
    assert exploration.stopped_by == "interrupt"
    assert not exploration.front.verified
    assert exploration.num_verifications == 0
    assert points(exploration.front) == points(exploration.history[-1].front)


def test_ctrl_c_during_verification_only_returns_all_that_was_searched():
    exploration, problem = interrupted_at(38)  # one after the last
    assert (exploration.stopped_by, exploration.num_evaluations) == ("max_evaluations", 35)
    assert not exploration.front.verified
    assert points(exploration.front) == points(problem.front())


def test_ctrl_c_during_the_report_returns_the_verified_front_without_it():
    calls = itertools.count()

    def metric(output, target):
        if len(target) == 300 and next(calls) == 3:
            raise KeyboardInterrupt
        return qx.top1_accuracy(output, target)

    problem = tiny_problem(metric, upper=8)
    exploration = explored(problem, report_loader=[digits().report])
    assert exploration.front.verified
    assert exploration.front.report_accuracy is None
    assert len(exploration.front) > 3


def test_stop_exploration_ends_the_search_with_the_verified_front():
    def enough(snapshot):
        if snapshot.generation == 2:
            raise qx.StopExploration

    exploration = explored(tiny_problem(upper=8), callbacks=[enough])
    assert exploration.stopped_by == "callback"
    assert 7 < exploration.num_evaluations <= 11
    assert exploration.front.verified
    assert points(exploration.front) == points(exploration.history[-1].front)


@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit(2), MetricError("mine too")], ids=repr)
def test_another_exception_in_a_callback_passes_through_and_nothing_measured_is_lost(error):
    model = tiny_model().train()
    model.num_bits = [5, 0, 7]
    problem = tiny_problem(model=model, upper=8)
    before, drawn = state_of(model), random_state()

    def failing(snapshot):
        if snapshot.num_evaluations >= 12:
            raise error

    with pytest.raises(type(error)) as raised:
        explored(problem, callbacks=[failing])
    assert raised.value is error
    assert state_of(model) == before
    assert random_state() == drawn
    assert len(problem.evaluations) >= 12
    assert len(problem.front()) > 0


def test_a_metric_that_raises_for_some_candidates_costs_these_only():
    batches_to_fail = {5, 13, 14, 30}
    metric = Watched(at=batches_to_fail, do=raising(ArithmeticError("unlucky")))
    problem = tiny_problem(metric, upper=8, min_accuracy=0.7)
    exploration = explored(problem)
    assert (exploration.stopped_by, exploration.num_evaluations) == ("max_evaluations", 35)
    assert len(exploration.failures) == 4
    assert {failure.reason for failure in exploration.failures} == {
        "the metric 'watched' raised ArithmeticError: unlucky"
    }
    failed = {failure.candidate for failure in exploration.failures}
    assert {e.candidate for e in problem.evaluations if not e.is_complete} == failed
    assert not failed & {point.num_bits for point in exploration.front}
    scored = [(e.score, sum(e.candidate)) for e in problem.evaluations if e.is_complete and e.score >= 0.7]
    assert {(point.accuracy, point.total_bits) for point in exploration.front} == true_front(scored)
    assert "4 failed: the metric 'watched' raised ArithmeticError: unlucky" in str(exploration)


@pytest.mark.parametrize("min_accuracy", [None, 0.5])
@pytest.mark.parametrize("algorithm", ["nsga2", "nsga2-plain"])
def test_a_search_in_which_everything_fails_says_so_with_the_first_reason(algorithm, min_accuracy):
    metric = Watched()
    problem = tiny_problem(metric, upper=8, min_accuracy=min_accuracy)
    # The network breaks at every width, not without quantizers.
    model = problem.model
    model.model.fc2.register_forward_pre_hook(
        lambda *_: raising(RuntimeError("broken"))(None) if model.num_bits.any() else None
    )
    model.model.fc1.weight.mul_(1.0)  # what was measured before is forgotten
    before = state_of(model)
    with pytest.raises(EvaluationError, match="all 10 candidates failed.*RuntimeError: broken"):
        explored(problem, max_evaluations=20, algorithm=algorithm)
    assert state_of(model) == before


def test_a_search_on_a_detached_model_is_refused_instead_of_blaming_the_accuracy():
    problem = tiny_problem()
    explored(problem, max_evaluations=5)
    problem.model.detach()
    with pytest.raises(ModelError, match="detached from its network"):
        explored(problem, max_evaluations=5)


@pytest.mark.filterwarnings("ignore:All .* of the report set were searched on")
def test_the_report_set_is_unpacked_as_the_search_set_is():
    numbered = [(number, *pair) for number, pair in enumerate(batches(digits().search))]
    problem = tiny_problem(loader=numbered, unpack=lambda batch: batch[1:])
    exploration = explored(problem, max_evaluations=5, report_loader=numbered)
    assert exploration.front.report_accuracy.tolist() == exploration.front.accuracy.tolist()


def test_a_bad_report_set_is_told_before_the_search():
    metric = Watched()
    problem = tiny_problem(metric, upper=8)
    model_before, calls = state_of(problem.model), metric.calls
    for loader, error in (
        ([], DataError),
        (7, DataError),
        ([digits().report.x], MetricError),
        ([(digits().report.x[:, :, :3], digits().report.y)], EvaluationError),
    ):
        with pytest.raises(error):
            explored(problem, report_loader=loader)
    assert metric.calls - calls <= 2
    assert state_of(problem.model) == model_before
    assert len(problem.evaluations) == 1


BAD_ARGUMENTS = {
    "no evaluations": ({"max_evaluations": 0}, "`max_evaluations` must be an int of at least 1, got 0"),
    "fewer": ({"max_evaluations": -5}, "got -5"),
    "half an evaluation": ({"max_evaluations": 10.5}, "got 10.5"),
    "whole, but a float": ({"max_evaluations": 10.0}, "got 10.0"),
    "True evaluations": ({"max_evaluations": True}, "got True"),
    "bool seed": ({"seed": True}, "`seed` must be an int of at least 0, got True"),
    "no seed": ({"seed": None}, "got None"),
    "negative seed": ({"seed": -1}, "got -1"),
    "text seed": ({"seed": "1"}, "got '1'"),
    "population of one": ({"population_size": 1}, "`population_size` must be an int of at least 2, got 1"),
    "unknown algorithm": (
        {"algorithm": "nsga4"},
        "'nsga2-plain', 'random' or an algorithm object of pymoo, got 'nsga4'",
    ),
    "algorithm object": ({"algorithm": ["nsga2"]}, "`algorithm` must be one of"),
    "one callback": ({"callbacks": print}, "`callbacks` must be a sequence"),
    "callbacks of another kind": ({"callbacks": [print, 3]}, "`callbacks` must be a sequence of functions"),
    "callbacks that can be read once": ({"callbacks": (print for _ in range(1))}, "`callbacks` must be a sequence"),
    "callbacks by name": ({"callbacks": "print"}, "`callbacks` must be a sequence"),
    "no callbacks": ({"callbacks": None}, "`callbacks` must be a sequence"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_arguments_are_refused_before_anything_runs(case):
    options, sentence = case
    metric = Watched()
    problem = tiny_problem(metric)
    before, drawn = state_of(problem.model), random_state()
    with pytest.raises(ProblemError) as raised:
        explored(problem, **options)
    assert sentence in str(raised.value)
    assert metric.calls == BUILT
    assert state_of(problem.model) == before
    assert random_state() == drawn


@pytest.mark.parametrize("problem", [None, "problem", tiny_model()])
def test_what_is_no_problem_is_refused(problem):
    with pytest.raises(ProblemError, match=f"got {type(problem).__name__}"):
        explored(problem)


SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
import qexplore as qx
from problems import correct, tiny_problem

def metric(output, target):
    time.sleep(0.02)
    return qx.top1_accuracy(output, target)

def tell(snapshot):
    print("evaluated", snapshot.num_evaluations, flush=True)

exploration = qx.explore(
    tiny_problem(metric, upper=8), max_evaluations=300, seed=1, callbacks=[tell], progress=False
)
model = exploration.front.verified and tiny_problem(upper=8).model
right = all(point.accuracy == correct(model, point.num_bits) / 400 for point in exploration.front)
print("result", exploration.stopped_by, exploration.front.verified, len(exploration.front) > 0, right, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("evaluations", [1, 9, 25])
def test_a_real_ctrl_c_in_a_process_returns_the_front_so_far(evaluations):
    script = SCRIPT.format(tests=str(Path(__file__).resolve().parents[1] / "shared"))
    # stderr is not a pipe: nobody reads it while the lines of stdout are waited for.
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    with process:
        told = next(line for line in process.stdout if int(line.split()[1]) >= evaluations)
        process.send_signal(signal.SIGINT)
        rest, again = [], time.monotonic() + 3
        for line in process.stdout:
            rest.append(line)
            # Outside of the search Python drops one that it meets in a finalizer; whoever presses it does so again.
            if line.startswith("evaluated") and time.monotonic() > again:
                process.send_signal(signal.SIGINT)
                again = math.inf
    assert told
    assert process.returncode == 0
    assert rest[-1].split() == ["result", "interrupt", "True", "True", "True"]


def test_a_run_that_ends_as_it_begins_leaves_a_study_of_an_empty_front(tmp_path, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Recorder, "keep", lambda *_: raising(KeyboardInterrupt())(None))
        qx.explore(tiny_problem(), max_evaluations=5, seed=1, study=tmp_path / "a.db", progress=False)
    with qx.Study.open(tmp_path / "a.db") as study:
        assert study.front().num_bits.shape == (0, 3)
        assert len(study.evaluations()) == 0
    assert len(qx.resume(tmp_path / "a.db", tiny_problem(), progress=False).front)
