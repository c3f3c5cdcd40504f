"""The model of scores, and what it says is worth measuring."""

import itertools

import numpy as np
import pytest
from problems import tiny_problem
from pymoo.indicators.hv import HV
from scipy.stats import spearmanr

import qexplore as qx
from qexplore.search.acquisition import Staircase, choose, expected_improvement
from qexplore.search.goals import Cheapest, MostAccurate, WholeFront
from qexplore.search.process import Totals
from qexplore.search.surrogate import Prediction, Surrogate


def below(best):
    return lambda root: best - np.maximum(root, 0.0) ** 2


def hypervolume(costs, gains, reference):
    points = np.column_stack([costs, -np.asarray(gains)])
    return float(HV(ref_point=np.array([reference[1], -reference[0]]))(points)) if len(points) else 0.0


@pytest.mark.parametrize("seed", range(10))
def test_the_improvement_is_the_growth_of_pymoos_hypervolume(seed):
    rng = np.random.default_rng(seed)
    reference = (0.3, 30.0)
    costs, gains = rng.integers(5, 35, size=seed).astype(float), rng.random(seed)
    stairs = Staircase(costs, gains, reference)
    new_costs, new_gains = rng.integers(3, 36, size=20).astype(float), rng.random((20, 3))
    before = hypervolume(costs, gains, reference)
    for row, cost in enumerate(new_costs):
        for column, gain in enumerate(new_gains[row]):
            after = hypervolume([*costs, cost], [*gains, gain], reference)
            assert stairs.improvement(new_costs, new_gains)[row, column] == pytest.approx(after - before, abs=1e-9)
    grown = stairs.with_points(new_costs, new_gains[:, 0])
    together = hypervolume([*costs, *new_costs], [*gains, *new_gains[:, 0]], reference)
    probe = np.array([3.0]), np.array([[0.99]])
    expected = hypervolume([*costs, *new_costs, 3.0], [*gains, *new_gains[:, 0], 0.99], reference) - together
    assert grown.improvement(*probe)[0, 0] == pytest.approx(expected, abs=1e-9)


def test_heights_are_the_best_at_no_more_cost():
    stairs = Staircase(np.array([5.0, 8.0, 9.0]), np.array([0.5, 0.4, 0.9]), (0.2, 20.0))
    assert stairs.heights(np.array([4.0, 5.0, 8.5, 9.0, 30.0])).tolist() == [0.2, 0.5, 0.5, 0.9, 0.9]


def test_the_expectation_is_that_of_many_draws():
    rng = np.random.default_rng(0)
    stairs = Staircase(np.array([10.0, 14.0]), np.array([0.6, 0.8]), (0.5, 20.0))
    prediction = Prediction(rng.uniform(0.2, 0.7, 6), rng.uniform(0.02, 0.1, 6), below(0.95))
    costs = np.array([8.0, 10.0, 12.0, 14.0, 16.0, 19.0])
    drawn = below(0.95)(rng.normal(prediction.mean[:, None], prediction.std[:, None], (6, 200_000)))
    expected = stairs.improvement(costs, drawn).mean(axis=1)
    assert expected_improvement(stairs, WholeFront(), costs, prediction) == pytest.approx(expected, rel=0.03, abs=0.003)


def test_candidates_are_chosen_for_gaps_and_none_twice():
    stairs = Staircase(np.zeros(0), np.zeros(0), (0.0, 100.0))
    costs = np.array([10.0, 10.0, 50.0, 50.0, 90.0])
    prediction = Prediction(np.sqrt(1 - np.array([0.5, 0.49, 0.8, 0.79, 0.95])), np.full(5, 1e-6), below(1.0))
    chosen = choose(stairs, WholeFront(), costs, prediction, 3)
    assert sorted(chosen) == [0, 2, 4]
    assert len(set(choose(stairs, WholeFront(), costs, prediction, 9))) == 5


def test_a_goal_of_one_point_looks_for_that_point_only():
    costs = np.array([10.0, 20.0, 30.0, 40.0])
    gains = np.array([0.6, 0.7, 0.8, 0.9])
    prediction = Prediction(np.sqrt(1 - gains), np.full(4, 1e-6), below(1.0))
    cheapest = Cheapest(0.75)
    stairs = Staircase(*cheapest.view(np.array([45.0]), np.array([0.9])), cheapest.reference(0.75, 50.0))
    assert expected_improvement(stairs, cheapest, costs, prediction) == pytest.approx([0, 0, 15, 5])
    most = MostAccurate(25.0)
    stairs = Staircase(*most.view(np.array([15.0]), np.array([0.65])), most.reference(0.5, 26.0))
    assert expected_improvement(stairs, most, costs, prediction) == pytest.approx([0, 0.05, 0, 0], abs=1e-6)


def known(problem, count, seed):
    candidates = problem.space.random(count, np.random.default_rng(seed))
    return candidates, np.array([evaluation.score for evaluation in problem.measure(candidates)])


def test_the_model_ranks_candidates_that_it_has_not_seen():
    problem = tiny_problem(upper=8)
    table = qx.sensitivity(problem, num_samples=64)
    candidates, scores = known(problem, 60, seed=0)
    surrogate = Surrogate(Totals(table, problem.space).described, 0.005).fit(candidates, scores, floor=0.0)
    others, truth = known(problem, 150, seed=1)
    prediction = surrogate.predict(others)
    assert spearmanr(prediction.gain(), truth).statistic > 0.9
    within = np.abs(prediction.gain() - truth) <= np.abs(prediction.gain(2.5) - prediction.gain(-2.5)) / 2 + 0.01
    assert within.mean() > 0.9
    again = surrogate.predict(candidates)
    assert np.abs(again.gain() - scores).mean() < 0.03


def test_bounds_lower_what_is_expected_where_they_contradict_it_and_are_no_values():
    problem = tiny_problem(upper=8)
    table = qx.sensitivity(problem, num_samples=64)
    candidates, scores = known(problem, 40, seed=0)
    probe = np.array([[4, 4, 4]])
    fitted = Surrogate(Totals(table, problem.space).described, 0.005).fit(candidates, scores, floor=0.0)
    before = fitted.predict(probe).gain()[0]
    fitted.add_bounds(probe, np.array([before + 0.2]))  # no news
    assert fitted.predict(probe).gain()[0] == pytest.approx(before, abs=1e-3)
    fitted.add_bounds(probe, np.array([before - 0.1]))
    assert fitted.predict(probe).gain()[0] < before - 0.02


def test_a_constant_score_is_no_trouble():
    problem = tiny_problem()
    table = qx.sensitivity(problem, num_samples=50)
    candidates = np.array(list(itertools.product((2, 3, 4), repeat=3)))
    prediction = (
        Surrogate(Totals(table, problem.space).described, 0.0)
        .fit(candidates, np.full(27, 0.5), floor=0.5)
        .predict(candidates)
    )
    assert np.isfinite(prediction.gain()).all()
    assert prediction.gain() == pytest.approx(0.5, abs=1e-6)
