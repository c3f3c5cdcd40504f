"""Searches whose limits and minima leave little: nothing is measured for nothing, and what is in reach is found."""

from __future__ import annotations

import numpy as np
import pytest
from networks import batches, digits
from problems import every_candidate, search_loader, tiny_model, tiny_problem, weighted_model

import qexplore as qx


def explored(problem, **options):
    return qx.explore(problem, **{"max_evaluations": 80, "seed": 1, "progress": False, **options})


def bits(problem):
    """Total bits of what was measured beside uniform widths."""
    return [sum(one.candidate) for one in problem.evaluations if len(set(one.candidate)) > 1]


def far_from_float():
    """A problem of which eight uniform widths in a row, 2 to 9 bits, miss the minimum."""
    model = tiny_model()
    model.num_bits = [0, 0, 0]
    loader = [(x, model(x).detach()) for x, _ in search_loader()]
    scores = qx.DirectEvaluator(model, loader, qx.squared_error).evaluate(np.array([(9, 9, 9), (10, 10, 10)]))
    least = float(np.mean([one.score for one in scores]))
    return tiny_problem(qx.squared_error, model=model, loader=loader, upper=16, min_accuracy=least)


def test_the_ladder_goes_on_where_uniform_widths_have_missed_the_minimum():
    assert explored(far_from_float(), algorithm="greedy", max_evaluations=30).num_evaluations > 15


@pytest.mark.parametrize("limits", [{"min_accuracy": 0.8}, {"max_total_bits": 12}], ids=str)
def test_the_ladder_goes_down_to_where_the_front_is(limits):
    problem = tiny_problem(upper=8, **limits)
    found = explored(problem, algorithm="greedy")
    assert found.stopped_by == "nothing new"
    assert min(bits(problem)) < 9  # rungs that are stopped for others are better are no misses
    assert max(bits(problem)) <= limits.get("max_total_bits", 24)
    assert found.front.num_bits.sum(axis=1).tolist()[0] < 9


def test_a_guided_search_measures_nothing_beyond_a_limit_but_uniform_widths_and_ends_with_what_is_left():
    problem = tiny_problem(upper=8, max_total_bits=8)
    found = explored(problem, racing=False)
    within = [candidate for candidate in every_candidate(problem) if sum(candidate) <= 8]
    assert sorted(one.candidate for one in problem.evaluations if sum(one.candidate) <= 8) == within
    assert max(bits(problem)) <= 8
    assert (found.stopped_by, found.num_evaluations) == ("exhausted", len(within) + 6)


def test_a_space_too_large_to_list_ends_where_limits_leave_nothing_new():
    problem = qx.LayerwiseQuantizationProblem(
        weighted_model(), search_loader(), num_bits_upper_limit=10, max_total_bits=13
    )
    assert not problem.space.is_listable
    found = explored(problem, racing=False)
    assert (found.stopped_by, max(bits(problem))) == ("nothing new", 13)
    assert found.num_evaluations == 9 + 6  # uniform widths, and one bit more at one of six points


def test_one_point_within_total_bits_is_found_whatever_cost_is_searched():
    options = {"max_total_bits": 22, "max_evaluations": 40, "progress": False}
    by_bits = qx.fit(weighted_model(), search_loader(), **options)
    by_cost = qx.fit(weighted_model(), search_loader(), costs=("weighted_bits",), **options)
    assert sum(by_cost.num_bits) <= 22
    assert by_cost.accuracy >= by_bits.accuracy - 0.01


def test_an_empty_front_with_a_report_set_and_a_further_metric_says_what_was_missed(tmp_path):
    def top3(output, target):
        return (output.topk(3).indices == target[:, None]).any(dim=1).float()

    problem = tiny_problem([qx.top1_accuracy, top3], upper=8, min_accuracy=[None, 0.98], max_total_bits=8)
    options = {"report_loader": batches(digits().report), "study": tmp_path / "a.db"}
    front = explored(problem, max_evaluations=20, **options).front
    assert front.report_further_scores.shape == (0, 1)
    assert "of 8 candidates that were measured 2 missed min_accuracy; 6 went beyond a limit" in front.empty_because
    with qx.Study.open(tmp_path / "a.db") as study:
        assert "2 missed min_accuracy and 6 went" in study.front(1, min_accuracy=0.1).empty_because
    front = explored(tiny_problem(upper=8, max_total_bits=8), max_evaluations=3).front
    assert "3 went beyond a limit" in front.empty_because and "min_accuracy" not in front.empty_because


def test_costs_that_fall_with_the_width_leave_room_for_a_front():
    model = tiny_model()
    milliseconds = {8: 1, 7: 9, 6: 8, 5: 7, 4: 2, 3: 6, 2: 5}
    table = {(name, width): float(cost) for name in model.fake_quantizers for width, cost in milliseconds.items()}
    for limits, most in (({}, 27.0), ({"limits": {"ms": 20}}, 20 + 0.24)):
        problem = tiny_problem(
            model=model, upper=8, min_accuracy=0.5, costs=(qx.CostTable(table, name="ms"), "total_bits"), **limits
        )
        found = explored(problem, max_evaluations=15)
        assert found.reference_point == (0.5, pytest.approx(most), 24.0)
        assert found.history[-1].hypervolume > 0
