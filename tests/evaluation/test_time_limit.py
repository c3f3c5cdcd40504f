"""A candidate that takes too long is ended, wherever it hangs, and all others are measured as ever."""

import signal
import threading
import time

import pytest
import torch
from faults import Fault, faulty_model, is_coarse
from networks import batches, digits
from problems import SpoiledFor, raising, random_state, search_loader, state_of, tiny_model, tiny_problem

import qexplore as qx
from qexplore.errors import EvaluationError, ProblemError
from qexplore.evaluation import prefix
from qexplore.evaluation.time_limit import OutOfTime, TimeLimit

LIMIT = 0.5
ROWS = [(5, 3, 5), (4, 4, 4)]
REASON = f"took longer than {LIMIT:g} s (max_seconds_each)"


def sleep(x):
    time.sleep(30)
    return x


def loop(x):
    while True:
        pass


def stubborn(x):
    """Swallows what a metric may swallow."""
    while True:
        try:
            time.sleep(30)
        except Exception:
            continue


def hanging(do, engine, *, limit=LIMIT, **options):
    """A problem whose network hangs at coarse widths, once it is posed."""
    fault = Fault(do, is_armed=False)
    model = faulty_model(fault).train()
    problem = tiny_problem(model=model, upper=5, engine=engine, max_seconds_each=limit, **options)
    fault.is_armed = True
    return problem


def told(evaluations):
    return [(one.state, one.reason if one.state == "failed" else one.score) for one in evaluations]


@pytest.mark.parametrize(
    ("do", "engine"), [(sleep, "direct"), (sleep, "prefix"), (loop, "prefix"), (stubborn, "direct")]
)
def test_what_hangs_is_failed_and_the_others_are_measured_as_without_a_limit(do, engine):
    problem = hanging(do, engine)
    expected = hanging(lambda x: x, engine, limit=None).measure(ROWS)
    before, drawn, alarm = state_of(problem.model), random_state(), signal.getsignal(signal.SIGALRM)
    expected = [("failed", REASON) if is_coarse(one.candidate) else (one.state, one.score) for one in expected]
    assert told(problem.measure(ROWS)) == expected
    assert state_of(problem.model) == before
    assert random_state() == drawn
    assert signal.getsignal(signal.SIGALRM) is alarm
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize("engine", ["direct", "prefix"])
def test_a_metric_that_hangs_costs_its_candidate_only(engine):
    problem = tiny_problem(SpoiledFor((4, 4, 4), loop), upper=5, engine=engine, max_seconds_each=LIMIT)
    answers = list(problem.measure(ROWS))
    assert [one.reason for one in answers if not one.is_complete] == [REASON]
    assert answers[-1].candidate == (4, 4, 4) and not answers[-1].is_complete


class Stuck:
    """A loader that hangs once, in the middle of a pass."""

    def __init__(self):
        self.is_armed = False

    def __iter__(self):
        for place, batch in enumerate(batches(digits().search, 100)):
            if self.is_armed and place == 2:
                self.is_armed = False
                time.sleep(30)
            yield batch


@pytest.mark.parametrize("metric", [qx.top1_accuracy, "whole set"])
def test_a_loader_that_sleeps_costs_one_candidate(metric):
    loader = Stuck()
    if metric == "whole set":
        metric = qx.whole_set(lambda model, loader: sum((model(x).argmax(1) == y).sum() for x, y in loader) / 400)
    problem = tiny_problem(metric, loader=loader, hold_bytes=0, upper=5, max_seconds_each=LIMIT)
    loader.is_armed = True
    first, second, again = (next(problem.direct.evaluate([row])) for row in ((5, 4, 5), (4, 4, 4), (5, 4, 5)))
    assert first.reason == REASON
    assert second.is_complete and again.is_complete


@pytest.mark.slow
def test_workers_that_hang_are_ended_too():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        problem = tiny_problem(SpoiledFor((4, 4, 4), loop), upper=5, max_seconds_each=LIMIT)
        assert "2 workers" in problem.describe().engine
        answers = list(problem.measure(ROWS))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert [one.candidate for one in answers if not one.is_complete] == [(4, 4, 4)]


def test_in_another_thread_the_clock_is_looked_at_between_batches():
    slow = Fault(lambda x: time.sleep(0.1) or x, is_armed=False)
    model = faulty_model(slow)
    problem = tiny_problem(model=model, loader=search_loader(40), upper=5, engine="direct", max_seconds_each=LIMIT)
    slow.is_armed = True
    found = []
    thread = threading.Thread(target=lambda: found.extend(problem.measure(ROWS)))
    thread.start()
    thread.join()
    assert [one.reason for one in found if not one.is_complete] == [REASON]
    assert slow.hits < 10  # it did not go through all of its batches
    assert [one.candidate for one in found if one.is_complete] == [row for row in ROWS if not is_coarse(row)]


@pytest.mark.slow
def test_looks_at_a_part_end_too_and_the_table_says_that_nothing_is_known():
    for engine in ("direct", "prefix"):
        table = qx.sensitivity(hanging(sleep, engine, limit=0.3), num_samples=64)
        assert [value == float("inf") for value in table.values[1]] == [True, True, False, False]


@pytest.mark.slow
def test_a_search_goes_on_past_what_hangs():
    problem = hanging(sleep, "prefix", limit=LIMIT, min_accuracy=0.3)
    exploration = qx.explore(problem, max_evaluations=12, seed=1, progress=False, algorithm="random")
    assert exploration.failures and exploration.front.verified
    assert {one.reason for one in exploration.failures} == {REASON}


def test_timer_and_handler_of_the_user_stand_again():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(time.perf_counter()))
    try:
        signal.setitimer(signal.ITIMER_REAL, 100.0, 7.0)
        with TimeLimit().around(5.0):
            pass
        left, interval = signal.getitimer(signal.ITIMER_REAL)
        assert 90 < left <= 100 and interval == 7.0
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(OutOfTime), TimeLimit().around(0.2):
            time.sleep(5)
        time.sleep(0.05)  # the user's was due meanwhile, and comes late
        assert len(rung) == 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_network_that_hangs_while_it_is_taken_apart_is_left_to_the_direct_evaluator(monkeypatch):
    monkeypatch.setattr(prefix, "_SECONDS_TO_BUILD", 0.1)
    problem = tiny_problem(model=faulty_model(Fault(sleep)), upper=5, max_seconds_each=LIMIT)
    assert "taking the network apart takes too long" in problem.describe().engine
    assert [one.is_complete for one in problem.measure(ROWS)] == [not is_coarse(row) for row in ROWS]


def test_without_a_limit_no_clock_is_looked_at(monkeypatch):
    for name in ("check", "_watched", "_ring"):
        monkeypatch.setattr(TimeLimit, name, raising(AssertionError("looked at")))
    monkeypatch.setattr(signal, "setitimer", raising(AssertionError("set")))
    for engine in ("direct", "prefix"):
        assert all(one.is_complete for one in tiny_problem(upper=5, engine=engine).measure(ROWS))


@pytest.mark.parametrize("engine", ["direct", "auto"])
def test_less_than_the_float_network_takes_is_refused(engine):
    with pytest.raises(
        ProblemError, match="`max_seconds_each` must leave time for the float network, which took .* got"
    ):
        tiny_problem(engine=engine, max_seconds_each=1e-7)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), "60", True])
def test_a_limit_that_is_no_positive_number_is_refused(value):
    with pytest.raises(ProblemError, match="`max_seconds_each` must be a positive number, got .*: None limits nothing"):
        tiny_problem(max_seconds_each=value)
    with pytest.raises(EvaluationError, match="`max_seconds_each` must be a positive number"):
        qx.DirectEvaluator(tiny_model(), search_loader(), qx.top1_accuracy, max_seconds_each=value)


def test_many_candidates_are_not_waited_for_each():
    limit = TimeLimit(60.0)
    assert limit.of_many(1, 0.005) == 60.0
    assert limit.of_many(1000, 0.005) == pytest.approx(110.0)
    assert limit.of_many(2, 100.0) == 120.0
    assert TimeLimit().of_many(5, 1.0) is None


def test_a_limit_that_no_clock_can_hold_limits_nothing():
    evaluator = qx.DirectEvaluator(tiny_model(), search_loader(), qx.top1_accuracy, max_seconds_each=1e12)
    assert next(evaluator.evaluate([(4, 4, 4)])).is_complete
