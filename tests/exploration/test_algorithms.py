"""Searches by name and by object: what they find, when they end, and problems that are hard to search."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import batches, digits
from problems import search_loader, tiny_model, tiny_problem, weighted_model
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.moo.sms import SMSEMOA
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling

import qexplore as qx
from qexplore import predicates
from qexplore.errors import ProblemError
from qexplore.evaluation import Evaluation
from qexplore.search import ALGORITHMS
from qexplore.search.ladder import Ladder


def explored(problem, *, max_evaluations=60, seed=1, **options):
    options = {"judge": "accuracy", **options}
    return qx.explore(problem, max_evaluations=max_evaluations, seed=seed, progress=False, **options)


def points(front):
    return [(point.num_bits, point.accuracy) for point in front]


@pytest.mark.parametrize(
    "algorithm",
    [pytest.param(one, marks=[pytest.mark.slow] * (one in ("nsga3", "sms-emoa"))) for one in ALGORITHMS],
)
def test_every_algorithm_repeats_itself_and_keeps_to_its_budget(algorithm):
    runs = [explored(tiny_problem(upper=8, min_accuracy=0.7), algorithm=algorithm) for _ in range(2)]
    assert points(runs[0].front) == points(runs[1].front)
    assert [s.hypervolume for s in runs[0].history] == [s.hypervolume for s in runs[1].history]
    assert runs[0].num_passes <= 60
    assert runs[0].front.verified
    assert runs[0].algorithm == algorithm


@pytest.mark.parametrize(
    "algorithm",
    ["nsga2", pytest.param("sms-emoa", marks=pytest.mark.slow), pytest.param("nsga3", marks=pytest.mark.slow)],
)
def test_guided_searches_find_the_true_front_with_a_quarter_of_the_space(algorithm):
    everything = np.array(list(itertools.product(range(2, 9), repeat=3)))
    truth = tiny_problem(upper=8, min_accuracy=0.7)
    list(truth.measure(everything))
    found = explored(tiny_problem(upper=8, min_accuracy=0.7), max_evaluations=85, algorithm=algorithm)
    reference = found.reference_point
    assert found.front.hypervolume(reference) >= 0.995 * truth.front().hypervolume(reference)


def test_a_guided_search_is_ahead_of_a_plain_one_at_the_same_budget():
    def hypervolume(algorithm, seed):
        found = explored(tiny_problem(upper=8, min_accuracy=0.7), max_evaluations=40, algorithm=algorithm, seed=seed)
        return found.history[-1].hypervolume

    for seed in (1, 2, 3):
        assert hypervolume("nsga2", seed) > max(
            hypervolume(other, seed) for other in ("nsga2-plain", "random", "greedy")
        )


@pytest.mark.parametrize(
    "algorithm",
    [
        NSGA2(pop_size=10),
        SMSEMOA(pop_size=10, sampling=IntegerRandomSampling(), repair=RoundingRepair()),
    ],
    ids=lambda algorithm: type(algorithm).__name__,
)
def test_an_algorithm_object_of_pymoo_is_run_as_it_is_and_left_as_it_was(algorithm):
    runs = [explored(tiny_problem(upper=8), algorithm=algorithm) for _ in range(2)]
    assert points(runs[0].front) == points(runs[1].front)
    assert runs[0].algorithm == type(algorithm).__name__
    assert runs[0].early_stop == "off: a plain algorithm needs every score"
    assert 50 < runs[0].num_evaluations <= 60
    assert algorithm.pop is None


def test_the_ladder_goes_down_a_bit_at_a_time():
    problem = tiny_problem(upper=6)
    explored(problem, max_evaluations=100, algorithm="greedy")
    rungs = [e.candidate for e in problem.evaluations if len(set(e.candidate)) > 1]
    sums = [sum(rung) for rung in rungs]
    assert sums == sorted(sums, reverse=True)
    for above, below in itertools.pairwise([(6, 6, 6), *rungs]):
        assert all(a >= b for a, b in zip(above, below, strict=True))
        assert 1 <= sum(above) - sum(below) <= 2  # two where a rung is a uniform width, measured before


@pytest.mark.parametrize(
    ("options", "told", "goes_on"),
    [
        ({"min_accuracy": 0.7}, {"state": "stopped", "bound": 0.75}, True),
        ({"min_accuracy": 0.7}, {"state": "stopped", "bound": 0.65}, False),
        ({"min_accuracy": 0.7}, {"state": "complete", "score": 0.65}, False),
        ({}, {"state": "stopped", "bound": 0.1}, True),
        ({}, {"state": "failed", "reason": "NaN"}, False),
    ],
    ids=["stopped", "stopped far below", "too bad", "nothing asked", "failed"],
)
def test_the_ladder_ends_where_scores_are_too_bad_and_nowhere_else(options, told, goes_on):
    """Early stop ends most rungs that a uniform width is as good as."""
    ladder = Ladder(tiny_problem(upper=8, **options), np.array([[8, 8, 8]]), lambda: 100.0)
    ladder.ask()
    rungs = ladder.ask()
    ladder.tell([Evaluation(tuple(rung), num_samples=10, **told) for rung in rungs.tolist()])
    assert (len(rungs), len(ladder.ask()) > 0) == (8, goes_on)


def test_candidates_of_ones_own_are_measured_first():
    problem = tiny_problem(upper=8)
    own = [[3, 4, 5], [4, 4, 4], [8, 2, 3]]
    explored(problem, max_evaluations=9, initial=own)
    assert [e.candidate for e in problem.evaluations][-2:] == [(3, 4, 5), (8, 2, 3)]
    assert len(problem.evaluations) == 9
    explored(problem, max_evaluations=9, initial=np.array([3, 4, 5]))  # one candidate


@pytest.mark.parametrize(
    ("initial", "sentence"),
    [
        ([[3, 4, 9]], r"candidate 0 has 9 at 'relu2', which may have 2-8"),
        ([[3, 4, 5], [1, 4, 5]], r"candidate 1 has 1 at 'input', which may have 2-8"),
        ([[3, 4, "E4M3"]], r"candidate 0 has E4M3 at 'relu2', which may have 2-8"),
        ([[3, 4]], r"must be candidates of 3 choices each, shape \[N, 3\], got \[\[3, 4\]\]"),
        ([[3, 4, 5.5]], "must hold whole numbers or formats, got 5.5 in candidate 0 at 'relu2'"),
        ([[3, 4, float("nan")]], "whole numbers or formats, got nan"),
        ("abc", "must be candidates of 3 choices each"),
        ([[3, 4], [3, 4, 5]], "must be candidates of 3 choices each"),
    ],
)
def test_candidates_that_cannot_be_are_refused(initial, sentence):
    with pytest.raises(ProblemError, match=sentence):
        explored(tiny_problem(upper=8), initial=initial)


def test_points_that_were_disabled_after_the_problem_was_posed_stay_off_whatever_is_tied_to_them():
    model = tiny_model()
    problem = tiny_problem(model=model, tied=[("input", "relu1")])
    model.fake_quantizers["input"].disable()
    found = explored(problem, initial=[[4, 4, 3], [2, 3, 2]], racing=False)
    assert found.stopped_by == "exhausted"
    assert {one.candidate for one in problem.evaluations} == {(0, a, b) for a in (2, 3, 4) for b in (2, 3, 4)}


def test_a_population_smaller_than_the_objectives_is_searched_in_as_many_directions():
    problem = tiny_problem(costs=("total_bits", "activation_bytes"))
    assert len(explored(problem, algorithm="nsga3", population_size=2, max_evaluations=9).front)


def test_a_search_ends_after_so_many_seconds():
    exploration = qx.explore(tiny_problem(upper=8), max_seconds=1e-3, seed=1, progress=False)
    assert exploration.stopped_by == "max_seconds"
    assert exploration.front.verified
    assert len(exploration.front) > 0


def test_a_search_ends_when_nothing_gets_better():
    exploration = qx.explore(tiny_problem(upper=8), patience=15, seed=1, progress=False)
    assert exploration.stopped_by == "stagnation"
    last = exploration.history[-1]
    as_good = next(s for s in exploration.history if s.hypervolume >= last.hypervolume / 1.001)
    assert last.num_passes - as_good.num_passes >= 15 - 1e-9
    assert exploration.num_evaluations < 343


def test_patience_waits_for_the_sensitivity_table():
    exploration = qx.explore(tiny_problem(upper=8), patience=2, seed=1, progress=False)
    assert exploration.stopped_by == "stagnation"
    assert exploration.num_evaluations > 7  # the uniform widths, and then a table of more than two passes


@pytest.mark.parametrize("budget", [7, 8, 11])
def test_a_small_budget_is_spent_on_candidates_a_table_takes_half_of_what_is_left_at_most(budget):
    exploration = explored(tiny_problem(upper=8), max_evaluations=budget, racing=False)
    assert budget - 1 < exploration.num_passes <= budget
    assert exploration.num_evaluations - 7 >= (budget - 7) // 2
    assert exploration.stopped_by == "max_evaluations"


@pytest.mark.parametrize("algorithm", ["random", "nsga2-plain", NSGA2(pop_size=10)], ids=["random", "plain", "object"])
def test_candidates_that_an_algorithm_would_not_measure_are_refused(algorithm):
    with pytest.raises(ProblemError, match="`initial` is for guided algorithms and the ladder"):
        explored(tiny_problem(upper=8), algorithm=algorithm, initial=[[3, 4, 5]])


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ({}, "a search needs an end: give `max_evaluations`, `max_seconds` or `patience`"),
        ({"max_seconds": 0}, "`max_seconds` must be a positive number"),
        ({"max_seconds": True}, "`max_seconds` must be a positive number"),
        ({"patience": 0}, "`patience` must be an int of at least 1"),
    ],
)
def test_a_search_without_a_proper_end_is_refused(limits, sentence):
    with pytest.raises(ProblemError, match=sentence):
        qx.explore(tiny_problem(), seed=1, **limits)


def test_the_gap_between_search_and_report_set_is_counted_from_float_and_reported():
    exploration = explored(tiny_problem(upper=8, min_accuracy=0.9), report_loader=batches(digits().report))
    front, lost_by_float = exploration.front, exploration.float_accuracy - exploration.report_float_accuracy
    gap = float((front.accuracy - front.report_accuracy).mean()) - lost_by_float
    assert exploration.optimism_gap == pytest.approx(gap)
    low, high = exploration.optimism_interval
    assert low < gap < high
    assert exploration.num_report_violations == int((front.report_accuracy < 0.9).sum())
    assert f"better on the search set by accuracy {gap:+.4f} ({low:+.4f} to {high:+.4f})" in str(exploration)
    missing = exploration.num_report_violations
    miss = "misses" if missing == 1 else "miss"
    assert f"{missing} of {len(front)} points {miss} min_accuracy 0.9" in str(exploration)
    unknown = explored(tiny_problem())
    assert unknown.optimism_gap is unknown.optimism_interval is unknown.num_report_violations is None


def test_a_point_that_misses_a_further_minimum_on_the_report_set_is_a_violation():
    front = qx.Front(
        num_bits=[[2], [4], [6], [8]],
        accuracy=[0.9, 0.91, 0.92, 0.93],
        costs=[[2], [4], [6], [8]],
        point_names=("input",),
        min_accuracy=0.8,
        report_accuracy=[0.7, 0.9, 0.9, math.nan],
        further=(qx.FurtherMetric("error", higher_is_better=False, min_accuracy=0.5),),
        report_further_scores=[[0.4], [0.6], [0.4], [math.nan]],
    )
    exploration = replace(explored(tiny_problem()), front=front)
    assert exploration.num_report_violations == 2
    assert "2 of 4 points miss a minimum there" in str(exploration)
    loss = explored(tiny_problem(qx.negative_log_likelihood), report_loader=batches(digits().report))
    lost = loss.report_float_accuracy - loss.float_accuracy
    assert loss.optimism_gap == pytest.approx(float((loss.front.report_accuracy - loss.front.accuracy).mean()) - lost)


# ------------------------------------------------------------------------------------------------- hard to search

GUIDED = ("nsga2", "sms-emoa", "nsga3", "greedy")


@pytest.mark.parametrize("algorithm", GUIDED)
def test_a_constant_metric_has_a_front_of_the_narrowest_candidate(algorithm):
    constant = qx.Metric(lambda output, target: torch.full((len(target),), 0.5), "constant", range=(0.0, 1.0))
    exploration = explored(tiny_problem(constant), algorithm=algorithm)
    assert [point.num_bits for point in exploration.front] == [(2, 2, 2)]


@pytest.mark.parametrize("algorithm", GUIDED)
def test_a_metric_with_ties_everywhere_is_searched(algorithm):
    def coarse(output, target):
        share = (output.argmax(1) == target).float().mean()
        return torch.full((len(target),), float(torch.round(share * 4) / 4))

    problem = tiny_problem(qx.Metric(coarse, "coarse", range=(0.0, 1.0)), engine="direct")
    exploration = explored(problem, algorithm=algorithm)
    everything = np.array(list(itertools.product((2, 3, 4), repeat=3)))
    list(problem.measure(everything))
    if algorithm != "greedy":
        assert [(p.accuracy, p.total_bits) for p in exploration.front] == [
            (p.accuracy, p.total_bits) for p in problem.front()
        ]
    assert len(exploration.front) >= 1


@pytest.mark.parametrize("algorithm", GUIDED)
def test_one_feasible_point_is_a_front_of_one_point(algorithm):
    everything = np.array(list(itertools.product((2, 3, 4), repeat=3)))
    scores = {e.candidate: e.score for e in tiny_problem().measure(everything)}
    widest = scores.pop((4, 4, 4))
    if max(scores.values()) >= widest:  # then the limits are such that only the widest is left
        problem = tiny_problem(lower=4, upper=4, min_accuracy=widest)
    else:
        problem = tiny_problem(min_accuracy=widest)
    exploration = explored(problem, algorithm=algorithm)
    assert [point.num_bits for point in exploration.front] == [(4, 4, 4)]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_single_quantizer_is_searched_to_its_end(algorithm):
    model = qx.QuantizedActivationsModel(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)),
        predicates.by_type(torch.nn.Flatten),
        quantize_input=False,
    )
    model.calibrate([digits().calibration.x.clone()])
    exploration = explored(tiny_problem(model=model, upper=8, min_accuracy=0.0), algorithm=algorithm)
    assert exploration.num_evaluations == 7
    assert exploration.stopped_by == "exhausted"


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", GUIDED)
def test_a_hundred_and_twenty_quantizers_are_searched(algorithm):
    torch.manual_seed(0)
    layers = [layer for _ in range(119) for layer in (torch.nn.Linear(10, 10, bias=False), torch.nn.ReLU())]
    with torch.no_grad():
        for layer in layers[::2]:
            layer.weight.copy_(torch.eye(10) + 0.01 * torch.randn(10, 10))
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10), torch.nn.ReLU(), *layers[:-2])
    model = qx.QuantizedActivationsModel(network, predicates.by_type(torch.nn.ReLU))
    model.calibrate([digits().calibration.x.clone()])
    assert len(model.points) == 120
    loader = [(x, network(x).argmax(1)) for x, _ in search_loader(100)]
    model.num_bits = [8] * 120
    exploration = explored(tiny_problem(model=model, loader=loader, upper=8), max_evaluations=60, algorithm=algorithm)
    uniform = exploration.uniform
    assert exploration.front.hypervolume(exploration.reference_point) >= uniform.hypervolume(
        exploration.reference_point
    )
    assert exploration.num_evaluations > 10


def test_where_nothing_is_feasible_but_the_widest_the_front_is_not_empty():
    problem = tiny_problem(max_drop=0.0, lower=2, upper=8)
    exploration = explored(problem, max_evaluations=25)
    assert (exploration.front.accuracy >= problem.float_accuracy).all()
    assert len(exploration.front) >= 1


def test_a_model_whose_outputs_are_no_logits_is_searched():
    model = tiny_model()
    loader = [(x, model(x).detach()) for x, _ in search_loader(100)]
    exploration = explored(tiny_problem(qx.squared_error, model=model, loader=loader, upper=8))
    assert len(exploration.front) > 3
    assert exploration.front.higher_is_better is False


@pytest.mark.slow
def test_a_search_goes_on_as_long_as_its_budget_whatever_pymoo_takes_for_converged():
    problem = qx.LayerwiseQuantizationProblem(weighted_model(), search_loader(), max_drop=0.03)
    found = qx.explore(problem, max_evaluations=250, seed=0, progress=False)
    assert found.stopped_by == "max_evaluations"
    assert found.num_passes > 249
