"""What an exploration answers: the same for the same seed, within its budget, and true."""

import numpy as np
import pytest
import torch
from networks import batches, digits, trained, wrapping
from problems import (
    Watched,
    correct,
    every_candidate,
    random_state,
    search_loader,
    state_of,
    tiny_model,
    tiny_problem,
    true_front,
)
from pymoo.indicators.hv import HV

import qexplore as qx

ALGORITHMS = ("nsga2", "nsga2-plain")
TABLE = 3 * 7 * 64 / 400
"""Passes of the sensitivity table: seven widths of three points on 64 of 400 samples."""


def explored(problem=None, *, max_evaluations=30, population_size=8, **options):
    problem = problem or tiny_problem(upper=8, min_accuracy=0.8)
    options = {"seed": 1, "progress": False, "judge": "accuracy", **options}
    return qx.explore(problem, max_evaluations=max_evaluations, population_size=population_size, **options)


def arrays(front):
    """All that a front holds, to the last bit."""
    parts = (front.num_bits, front.accuracy, front.costs, front.interval, front.report_accuracy, front.report_interval)
    return [None if part is None else (part.dtype, part.shape, part.tobytes()) for part in parts]


def everything(exploration):
    """All of an exploration but times."""
    steps = [(arrays(s.front), s.num_evaluations, s.hypervolume, s.generation) for s in exploration.history]
    return (
        arrays(exploration.front),
        arrays(exploration.uniform),
        steps,
        exploration.reference_point,
        exploration.num_evaluations,
        exploration.num_passes,
        exploration.num_verifications,
        exploration.stopped_by,
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_same_seed_gives_the_same_to_the_last_bit_and_another_differs(algorithm):
    def run(seed):
        return explored(seed=seed, algorithm=algorithm, report_loader=batches(digits().report))

    torch.manual_seed(5)
    first = run(1)
    torch.rand(3)
    np.random.default_rng().random()
    assert everything(first) == everything(run(1))
    # With so few candidates two seeds may come to the same.
    assert any(everything(first) != everything(run(seed)) for seed in (2, 3, 4))
    assert (first.seed, first.algorithm) == (1, algorithm)


def test_numpy_and_large_seeds_are_seeds():
    assert everything(explored(seed=np.int64(7))) == everything(explored(seed=7))
    assert explored(seed=2**40, racing=False).num_evaluations == 25


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_users_random_state_and_model_are_untouched(algorithm):
    model = tiny_model().train()
    model.num_bits = [5, 0, 7]
    before = state_of(model)
    problem = tiny_problem(model=model, upper=8)
    drawn = random_state()
    explored(problem, algorithm=algorithm, report_loader=batches(digits().report))
    assert random_state() == drawn
    assert state_of(model) == before


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("budget", [1, 3, 9, 50])
def test_the_budget_counts_different_candidates_and_is_never_exceeded(algorithm, budget):
    problem = tiny_problem(upper=8)
    asked = []
    inner = problem.measure
    problem.measure = lambda candidates, **limits: asked.append(np.array(candidates)) or inner(candidates, **limits)
    exploration = explored(problem, max_evaluations=budget, algorithm=algorithm, racing=False)
    spent_on_table = exploration.num_passes - exploration.num_evaluations
    most = TABLE if budget == 50 else max(0.0, (budget - 7) / 2)  # a table takes at most half of what is left
    assert 0 <= spent_on_table <= most * (algorithm == "nsga2")
    assert min(budget, 7) <= exploration.num_passes <= budget
    assert exploration.stopped_by == "max_evaluations"
    widths = {tuple(row) for row in problem.space.uniform().tolist()}
    different = {tuple(row) for rows in asked for row in problem.space.decode(rows).tolist()}
    if algorithm == "nsga2-plain":  # the uniform widths stand beside the plain search
        assert budget <= len(different) <= budget + len(widths)
    else:
        assert len(different) == exploration.num_evaluations
    # Beside them the problem remembers the widest candidate, measured when it was built.
    assert {e.candidate for e in problem.evaluations} == different | {(8, 8, 8)}


def test_every_uniform_width_is_in_the_first_population():
    problem = tiny_problem(upper=8)
    exploration = explored(problem, max_evaluations=7, population_size=8)
    assert {(width,) * 3 for width in range(2, 9)} <= {e.candidate for e in problem.evaluations}
    assert exploration.history[-1].generation == 1
    assert [point.num_bits for point in exploration.uniform] == [(width,) * 3 for width in range(2, 9)]
    for point in exploration.uniform:
        assert point.accuracy == correct(problem.model, point.num_bits) / 400


def test_the_plain_recipe_starts_at_random_and_measures_the_uniform_widths_beside_it():
    problem = tiny_problem(upper=8)
    exploration = explored(problem, max_evaluations=8, algorithm="nsga2-plain")
    assert exploration.num_evaluations == 8
    assert len(exploration.uniform) == 7
    snapshot = exploration.history[0]
    assert snapshot.num_evaluations == 1
    assert len(set(snapshot.front[0].num_bits)) > 1


@pytest.mark.parametrize("population_size", [2, 5, 40])
@pytest.mark.parametrize("min_accuracy", [None, 0.85])
def test_an_exhausted_space_ends_the_search_with_the_true_front(population_size, min_accuracy):
    problem = tiny_problem(min_accuracy=min_accuracy)
    exploration = explored(problem, max_evaluations=1000, population_size=population_size)
    assert (exploration.stopped_by, exploration.num_evaluations) == ("exhausted", 27)
    scored = [(correct(problem.model, c) / 400, sum(c)) for c in every_candidate(problem)]
    acceptable = [pair for pair in scored if pair[0] >= (min_accuracy or 0)]
    assert {(point.accuracy, point.total_bits) for point in exploration.front} == true_front(acceptable)


def test_the_plain_recipe_ends_when_nothing_new_comes(monkeypatch):
    monkeypatch.setattr("qexplore.search.algorithms._IDLE_GENERATIONS", 2)
    exploration = explored(tiny_problem(upper=3), max_evaluations=1000, algorithm="nsga2-plain", population_size=4)
    assert exploration.stopped_by == "exhausted"
    assert exploration.num_evaluations <= 8


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("metric", [qx.top1_accuracy, qx.negative_log_likelihood], ids=lambda metric: metric.name)
def test_the_front_is_feasible_and_non_dominated_and_its_hypervolume_that_of_pymoo(metric, algorithm):
    limit = 0.8 if metric.higher_is_better else 0.7
    sign = 1 if metric.higher_is_better else -1
    problem = tiny_problem(metric, upper=8, min_accuracy=limit)
    exploration = explored(problem, algorithm=algorithm)
    front = exploration.front
    assert (front.metric_name, front.higher_is_better, front.min_accuracy) == (
        metric.name,
        metric.higher_is_better,
        limit,
    )
    pairs = [(sign * point.accuracy, point.total_bits) for point in front]
    assert len(front) > 1
    assert set(pairs) == true_front(pairs)
    assert all(score >= sign * limit for score, _ in pairs)
    assert exploration.reference_point == (limit, 24.0)
    pymoos = HV(ref_point=np.array([-sign * limit, 24.0]))
    curve = [snapshot.hypervolume for snapshot in exploration.history]
    assert curve == sorted(curve)
    for snapshot in exploration.history:
        points = np.column_stack([-sign * snapshot.front.accuracy, snapshot.front.total_bits])
        assert snapshot.hypervolume == pytest.approx(float(pymoos(points)), rel=1e-9)
    assert [s.num_evaluations for s in exploration.history] == sorted(s.num_evaluations for s in exploration.history)


def test_without_a_min_accuracy_the_reference_is_the_worst_uniform_width():
    exploration = explored(tiny_problem())
    assert exploration.reference_point == (exploration.uniform.accuracy.min(), 12.0)
    lower_is_better = explored(tiny_problem(qx.negative_log_likelihood))
    assert lower_is_better.reference_point == (lower_is_better.uniform.accuracy.max(), 12.0)


def test_every_point_of_the_front_is_measured_again():
    metric = Watched()
    problem = tiny_problem(metric, engine="direct")
    exploration = explored(problem, max_evaluations=20)
    assert exploration.front.verified
    assert exploration.num_verifications == len(exploration.front)
    # The float network and, when the problem was built, the widest candidate are measured too.
    assert metric.calls == 1 + exploration.num_evaluations + exploration.num_verifications
    for point in exploration.front:
        assert point.accuracy == correct(problem.model, point.num_bits) / 400


def test_what_verification_finds_replaces_what_was_known():
    problem = tiny_problem()
    list(problem.measure(np.array(every_candidate(problem))))
    for evaluation in problem.evaluations:  # a memory gone wrong
        object.__setattr__(evaluation, "score", 0.001 * sum(evaluation.candidate))
    exploration = explored(problem, max_evaluations=27, racing=False)
    assert exploration.history[-1].front.accuracy.max() == 0.012
    for point in exploration.front:
        assert point.accuracy == correct(problem.model, point.num_bits) / 400


def test_a_report_set_gives_each_point_a_second_accuracy():
    problem = tiny_problem(upper=8, min_accuracy=0.8)
    exploration = explored(problem, report_loader=batches(digits().report, 64))
    for point in exploration.front:
        hits = correct(problem.model, point.num_bits, digits().report)
        assert point.report_accuracy == hits / 300
        low, high = point.report_interval
        assert low < hits / 300 < high
    assert exploration.report_float_accuracy == correct(problem.model, (0, 0, 0), digits().report) / 300
    assert exploration.float_accuracy == correct(problem.model, (0, 0, 0)) / 400
    assert explored(problem).report_float_accuracy is None
    assert explored(problem).front.report_accuracy is None


def test_a_network_of_the_gallery_is_explored():
    model = qx.QuantizedActivationsModel(trained("small_cnn"), **wrapping("small_cnn"))
    model.calibrate(batches(digits().calibration))
    problem = qx.LayerwiseQuantizationProblem(model, search_loader(100), min_accuracy=0.9)
    exploration = explored(problem, max_evaluations=35, population_size=20)
    best = exploration.front.most_accurate()
    assert best.accuracy == correct(model, best.num_bits) / 400 >= 0.9
    cheapest_uniform = min(p.total_bits for p in exploration.uniform if p.accuracy >= 0.9)
    assert exploration.front.cheapest().total_bits <= cheapest_uniform


SPACES = {
    "one candidate": ({"lower": 3, "upper": 3}, 1),
    "one free point": ({"lower": [2, 3, 3], "upper": [6, 3, 3]}, 5),
    "two candidates": ({"lower": [2, 3, 3], "upper": [3, 3, 3]}, 2),
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("case", SPACES.values(), ids=SPACES)
def test_spaces_with_next_to_nothing_in_them(monkeypatch, case, algorithm):
    monkeypatch.setattr("qexplore.search.algorithms._IDLE_GENERATIONS", 2)
    limits, size = case
    problem = tiny_problem(**limits)
    exploration = explored(problem, algorithm=algorithm)
    assert (exploration.num_evaluations, exploration.stopped_by) == (size, "exhausted")
    scored = [(correct(problem.model, c) / 400, sum(c)) for c in every_candidate(problem)]
    assert {(p.accuracy, p.total_bits) for p in exploration.front} == true_front(scored)


def test_a_network_with_one_quantizer_is_explored():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10), torch.nn.ReLU())
    model = qx.QuantizedActivationsModel(network, qx.predicates.by_type(torch.nn.ReLU), quantize_input=False)
    model.calibrate(batches(digits().calibration))
    exploration = explored(tiny_problem(model=model, upper=8), max_evaluations=100)
    assert (exploration.num_evaluations, exploration.stopped_by) == (7, "exhausted")


def test_all_quantizers_disabled_leave_one_candidate():
    model = tiny_model()
    for quantizer in model.activation_fake_quantizers.values():
        quantizer.disable()
    exploration = explored(tiny_problem(model=model))
    assert [point.num_bits for point in exploration.front] == [(0, 0, 0)]
    assert exploration.front.accuracy[0] == exploration.float_accuracy


def test_a_constant_metric_has_one_best_candidate():
    constant = qx.Metric(lambda output, target: torch.full((len(output),), 0.5), "constant", range=(0.0, 1.0))
    exploration = explored(tiny_problem(constant), max_evaluations=100)
    assert [(p.num_bits, p.accuracy) for p in exploration.front] == [((2, 2, 2), 0.5)]


def test_ties_leave_one_point_for_each_pair_of_objectives():
    coarse = qx.Metric(
        lambda output, target: qx.top1_accuracy(output, target).mean().round().expand(len(output)), "tied"
    )
    exploration = explored(tiny_problem(coarse), max_evaluations=1000)
    pairs = [(p.accuracy, p.total_bits) for p in exploration.front]
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == true_front(pairs)


def test_a_whole_set_metric_is_searched():
    def balanced_accuracy(model, loader):
        hits = torch.zeros(10)
        for x, y in loader:
            hits.index_add_(0, y, (model(x).argmax(1) == y).float())
        return float((hits / digits().search.y.bincount()).mean())

    metric = qx.whole_set(balanced_accuracy, range=(0, 1))
    problem = tiny_problem(metric, loader=search_loader(100), min_accuracy=0.7)
    exploration = explored(problem, max_evaluations=100, report_loader=search_loader(50))
    assert exploration.stopped_by == "exhausted"
    assert exploration.front.metric_name == "balanced_accuracy"
    for point in exploration.front:
        with problem.model.using(point.num_bits):
            assert point.accuracy == pytest.approx(balanced_accuracy(problem.model, search_loader()), abs=1e-7)
        assert point.report_accuracy == pytest.approx(point.accuracy, abs=1e-7)
        assert point.interval is None


def test_the_result_says_in_words_what_it_is():
    text = str(explored(racing=False))
    head = "nsga2, seed 1: 25 candidates for 29 full evaluations (4.4 of them on sensitivities, none on looks"
    assert text.startswith(head)
    assert "engine: prefix: 8 steps" in text
    assert "early stop: off: racing=False" in text
    assert "stopped by max_evaluations" in text
    assert "verified" in text


def test_the_same_problem_explored_again_is_answered_from_memory():
    metric = Watched()
    problem = tiny_problem(metric)
    first = explored(problem, max_evaluations=20)
    calls = metric.calls
    second = explored(problem, max_evaluations=20)
    assert everything(first) == everything(second)
    assert metric.calls - calls == second.num_verifications
