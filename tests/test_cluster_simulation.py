"""The simulated cluster: what a search asks is dealt out, and workers take the time that can be counted by hand."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import tiny_problem

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("_cluster_model")


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("_cluster_traces")


def steps(traces: Any, *counts: int, own: float = 0.0, kind: str = "measure") -> list[Any]:
    """Candidates that share nothing, a pass each."""
    return [traces.Step(kind, own, [1.0] * count, [1.0] * count) for count in counts]


def test_all_passes_of_a_watched_search_are_in_its_trace(traces: Any) -> None:
    trace = traces.traced(tiny_problem(upper=4, min_accuracy=0.5), 10, 1, 4)
    work = {
        kind: sum(sum(step.work) for step in trace.steps if step.kind == kind) for kind in ("look", "measure", "verify")
    }
    _, num_passes, _ = trace.curve[-1]
    # The widest candidate was measured when the problem was posed.
    assert work["look"] + work["measure"] == pytest.approx(num_passes - 1)
    assert work["verify"] == int(work["verify"]) > 0
    assert all(step.own >= 0 and len(step.work) == len(step.fresh) for step in trace.steps)
    assert [volume for _, _, volume in trace.curve] == sorted(volume for _, _, volume in trace.curve)


def test_what_is_fresh_is_counted_from_the_first_point_that_differs(traces: Any) -> None:
    rows = np.array([[2, 2, 2, 2], [2, 2, 2, 3], [2, 3, 2, 3], [3, 3, 2, 3], [3, 3, 2, 3]])
    assert traces.fresh(rows) == [1.0, 0.25, 0.75, 1.0, 0.0]
    assert traces.fresh(rows[:1]) == [1.0] and traces.fresh(rows[:0]) == []


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_without_costs_equal_candidates_are_done_in_as_many_rounds_as_it_takes(
    model: Any, traces: Any, workers: int
) -> None:
    taken = model.simulated(steps(traces, 8, 16, own=3.0), workers, 10.0, model.Costs())
    assert taken.seconds == pytest.approx(2 * 3.0 + 24 * 10.0 / workers)
    assert taken.worked == pytest.approx(240.0) and taken.busy == pytest.approx(240 / (240 + 6 * workers))


def test_more_workers_than_candidates_do_not_help(model: Any, traces: Any) -> None:
    seconds = [model.simulated(steps(traces, 8), workers, 1.0, model.Costs()).seconds for workers in (8, 9, 512)]
    assert seconds == pytest.approx([1.0, 1.0, 1.0])


def test_a_driver_that_has_its_hands_full_is_the_limit(model: Any, traces: Any) -> None:
    costs = model.Costs(per_task=0.5)
    taken = model.simulated(steps(traces, 100), 50, 0.001, costs)
    assert taken.handing <= taken.seconds == pytest.approx(taken.handing, rel=0.2)


def test_every_cost_makes_a_search_slower(model: Any, traces: Any) -> None:
    def seconds(**costs: float) -> float:
        some = [*steps(traces, 8, 8), *steps(traces, 3, kind="verify")]
        return model.simulated(some, 4, 1.0, model.Costs(**costs)).seconds

    free = seconds()
    others = {name: seconds(**{name: 2.0}) for name in vars(model.Costs())}
    assert {name: value for name, value in others.items() if value <= free} == {}
    assert others["verify"] == pytest.approx(free + 1.0) and others["start"] == pytest.approx(free + 2.0)


def test_neighbours_that_are_divided_share_nothing_across_the_cut(model: Any, traces: Any) -> None:
    step = traces.Step("measure", 0.0, [1.0] * 8, [1.0, *[0.25] * 7])
    worked = [model.simulated([step], workers, 1.0, model.Costs()).worked for workers in (1, 8)]
    assert pytest.approx(worked[1]) == 8.0 and 1 + 7 * 0.25 <= worked[0] < worked[1]
    assert model.work_of(step, range(8)) == 1 + 7 * 0.25
    assert model.work_of(step._replace(kind="verify"), range(8)) == 8.0
