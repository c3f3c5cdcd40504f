"""Candidates that fail are recorded with their reasons, and the search goes on; a run of them ends it."""

import dataclasses

import numpy as np
import pytest
from faults import Fault, faulty_model, is_coarse
from networks import batches, digits
from problems import SpoiledFor, Watched, raising, state_of, tiny_problem

import qexplore as qx
from qexplore.errors import ProblemError
from qexplore.search import LayerwiseQuantizationProblem


def explored(problem, *, max_evaluations=25, **options):
    options = {"seed": 1, "progress": False, "population_size": 10, **options}
    return qx.explore(problem, max_evaluations=max_evaluations, **options)


def in_network(do, metric=qx.top1_accuracy, min_accuracy=0.3, **options):
    """Fails at 2 and 3 bits behind the first ReLU."""
    fault = Fault(do, is_armed=False)  # an engine that sees it while it takes the network apart leaves it to the other
    problem = tiny_problem(metric, model=faulty_model(fault), upper=5, min_accuracy=min_accuracy, **options)
    fault.is_armed = True
    return problem


def in_metric(do, **options):
    """Fails for one uniform candidate, which every search measures."""
    return tiny_problem(SpoiledFor((4, 4, 4), do), upper=5, min_accuracy=0.3, **options)


def in_likelihood(do, **options):
    """Top-1 accuracy of NaN is a number; this is none."""
    return in_network(do, qx.negative_log_likelihood, 2.0, **options)


FAULTS = {
    "network raises": (in_network, raising(ArithmeticError("too coarse")), "ArithmeticError: too coarse"),
    "network gives NaN": (in_likelihood, lambda x: x * float("nan"), "gave NaN"),
    "metric raises": (in_metric, raising(ArithmeticError("unlucky")), "'spoiled' raised ArithmeticError: unlucky"),
    "metric gives NaN": (in_metric, lambda x: x * float("nan"), "'spoiled' gave NaN"),
    "metric gives infinity": (in_metric, lambda x: x + float("inf"), "'spoiled' gave infinity"),
}


@pytest.mark.parametrize("engine", ["direct", "prefix"])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_fails_is_recorded_and_the_search_goes_on(fault, engine, monkeypatch):
    make, do, reason = FAULTS[fault]
    told = []
    objectives = LayerwiseQuantizationProblem.objectives
    monkeypatch.setattr(
        LayerwiseQuantizationProblem, "objectives", lambda *given: told.append(objectives(*given)) or told[-1]
    )
    problem = make(do, engine=engine)
    before = state_of(problem.model)
    exploration = explored(problem)
    assert exploration.stopped_by in ("max_evaluations", "exhausted")
    assert exploration.failures
    assert all(reason in failure.reason for failure in exploration.failures)
    is_hit = (lambda c: c == (4, 4, 4)) if make is in_metric else is_coarse
    assert all(is_hit(failure.candidate) for failure in exploration.failures)
    assert exploration.front.verified and len(exploration.front) > 0
    assert not any(is_hit(point.num_bits) for point in exploration.front)
    assert told and all(np.isfinite(rows).all() for rows in told)  # what pymoo and everybody else is given
    assert state_of(problem.model) == before
    assert f"{len(exploration.failures)} failed" in str(exploration)


class Torn:
    """Batches that end in an error in the middle of one pass: the ``at``-th batch that is read."""

    def __init__(self, at):
        self.at, self.read = at, 0

    def __iter__(self):
        for batch in batches(digits().search, 100):
            self.read += 1
            if self.read == self.at:
                raise OSError("connection lost")
            yield batch


def test_a_loader_that_breaks_in_the_middle_of_the_set_costs_one_candidate():
    posed = Torn(at=0)
    tiny_problem(loader=posed, hold_bytes=0, upper=5)
    problem = tiny_problem(loader=Torn(at=posed.read + 4 * 3 + 2), hold_bytes=0, upper=5)
    exploration = explored(problem, low_fidelity=False, algorithm="random", max_evaluations=10)
    assert [failure.reason for failure in exploration.failures] == ["OSError: connection lost"]
    assert exploration.num_evaluations == 10
    held = explored(tiny_problem(upper=5), low_fidelity=False, algorithm="random", max_evaluations=10)
    lost = {exploration.failures[0].candidate}
    assert {point.num_bits for point in held.front} - lost <= {point.num_bits for point in exploration.front}


def test_a_whole_set_metric_that_breaks_costs_one_candidate():
    calls = iter(range(100))

    def torn(model, loader):
        if next(calls) == 5:
            raise OSError("connection lost")
        return float(sum((model(x).argmax(1) == y).sum() for x, y in loader) / 400)

    exploration = explored(tiny_problem(qx.whole_set(torn), upper=5), algorithm="random", max_evaluations=10)
    assert [failure.reason for failure in exploration.failures] == ["the metric 'torn' raised OSError: connection lost"]
    assert exploration.num_evaluations == 10


@pytest.mark.parametrize("engine", ["direct", "prefix"])
def test_looks_at_candidates_that_fail_leave_the_others_their_numbers(engine):
    problem = in_network(raising(ArithmeticError("too coarse")), engine=engine)
    whole = in_network(lambda x: x, engine=engine)
    table, expected = qx.sensitivity(problem, num_samples=64), qx.sensitivity(whole, num_samples=64)
    expected_to_fail = [[False] * 4, [True, True, False, False], [False] * 4]
    for values in (table.values, qx.sensitivity(problem, "accuracy").values):
        assert [np.isinf(row).tolist() for row in values] == expected_to_fail
    for row, values in zip(table.values, expected.values, strict=True):
        assert [v for v in row if np.isfinite(v)] == pytest.approx(values[-np.isfinite(row).sum() :], rel=1e-4)


def broken_after(count):
    """A problem whose metric raises from the ``count``-th evaluation on."""
    metric = Watched(at=range(3 + count, 1000), do=raising(ArithmeticError("disk gone")))
    return tiny_problem(metric, upper=8, min_accuracy=0.3, engine="direct")


@pytest.mark.parametrize(("options", "most"), [({}, 10), ({"max_failures": 3}, 3)])
def test_a_run_of_failures_ends_the_search_with_its_front_and_a_summary(options, most):
    exploration = explored(broken_after(12), max_evaluations=60, algorithm="random", **options)
    assert exploration.stopped_by == "failures"
    assert len(exploration.failures) == most
    assert exploration.num_evaluations < 60
    first = exploration.failures[0].candidate
    summary = f"{most} failed: the metric 'watched' raised ArithmeticError: disk gone, the first {first}"
    assert exploration.failure_summary == f"{summary}; max_failures=None goes on all the same"
    assert "stopped by failures, hypervolume" in str(exploration) and summary in str(exploration)


def test_failures_that_do_not_come_in_a_row_end_nothing():
    metric = Watched(at=range(5, 1000, 2), do=raising(ArithmeticError("unlucky")))
    exploration = explored(tiny_problem(metric, upper=8, engine="direct"), algorithm="random", max_failures=2)
    assert exploration.stopped_by == "max_evaluations"
    assert len(exploration.failures) > 5


def test_without_a_limit_a_search_bears_any_number_of_failures():
    exploration = explored(broken_after(12), max_evaluations=40, algorithm="random", max_failures=None)
    assert exploration.stopped_by == "max_evaluations"
    assert len(exploration.failures) > 20


def test_the_commonest_reason_is_told_whatever_numbers_stand_in_it():
    exploration = explored(tiny_problem(upper=5), max_evaluations=5)
    reasons = ["lost", "gave NaN for 3 of 400 samples", "gave NaN for 7 of 400 samples"]
    failures = tuple(qx.Evaluation((2, 2, place), "failed", reason=reason) for place, reason in enumerate(reasons))
    told = dataclasses.replace(exploration, failures=failures).failure_summary
    assert told == "3 failed, 2 of them: gave NaN for 3 of 400 samples, the first (2, 2, 1)"
    assert exploration.failure_summary == ""


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "ten"])
def test_a_limit_of_failures_that_is_no_positive_int_is_refused(value):
    with pytest.raises(ProblemError, match="`max_failures` must be an int of at least 1, got"):
        explored(tiny_problem(upper=5), max_failures=value)
