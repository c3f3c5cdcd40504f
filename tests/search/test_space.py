"""The space of candidates, and the archive of the best."""

import itertools

import numpy as np
import pytest
from problems import every_candidate, raising, tiny_model, tiny_problem, true_front
from pymoo.indicators.hv import HV

import qexplore as qx
from qexplore.cost import TotalBits
from qexplore.evaluation import Evaluation
from qexplore.search import ALGORITHMS, Archive, Generations, SearchSettings, SearchSpace, reference_point
from qexplore.search.algorithms import first_population


def space(lower, upper):
    return SearchSpace.between(lower, upper)


def rows(candidates):
    return [tuple(row) for row in candidates.tolist()]


@pytest.mark.parametrize(
    ("lower", "upper", "expected"),
    [
        ([2, 2], [4, 4], [(4, 4), (3, 3), (2, 2)]),
        ([2, 4], [3, 6], [(3, 6), (3, 5), (3, 4), (2, 4)]),
        ([5, 5], [5, 5], [(5, 5)]),
        ([0, 2], [0, 3], [(0, 3), (0, 2)]),
        ([0, 0], [0, 0], [(0, 0)]),
    ],
)
def test_uniform_widths_are_kept_within_each_points_limits(lower, upper, expected):
    assert rows(space(lower, upper).uniform()) == expected
    assert rows(space(lower, upper).widest) == [tuple(upper)]


def test_the_size_counts_every_candidate():
    limits = space([2, 3, 0], [4, 6, 0])
    assert limits.size == 3 * 4 * 1
    assert space([1] * 60, [16] * 60).size == 16**60


@pytest.mark.parametrize("is_large", [False, True], ids=["listed", "drawn"])
def test_unseen_candidates_are_new_and_different(monkeypatch, is_large):
    if is_large:
        monkeypatch.setattr("qexplore.search.space._LISTABLE", 0)
    limits = space([2, 2, 2], [5, 5, 5])
    everything = set(itertools.product(range(2, 6), repeat=3))
    seen = set(list(everything)[:40])
    found = rows(limits.unseen(24, seen, np.random.default_rng(0)))
    assert sorted(found) == sorted(everything - seen)
    assert rows(limits.unseen(0, seen, np.random.default_rng(0))) == []


def test_fewer_unseen_candidates_come_when_no_more_are_left():
    limits = space([2, 2], [3, 3])
    assert rows(limits.unseen(40, {(2, 2), (3, 3), (2, 3)}, np.random.default_rng(0))) == [(3, 2)]
    assert limits.unseen(40, set(itertools.product((2, 3), repeat=2)), np.random.default_rng(0)).shape == (0, 2)


def test_total_bits_are_the_sum_of_widths_where_off_counts_a_float():
    candidates = np.array([(2, 3, 4), (0, 8, 8), (0, 0, 0)])
    assert TotalBits().cost(candidates).tolist() == [9.0, 48.0, 96.0]
    assert TotalBits().cost(np.empty((0, 3), dtype=np.int64)).shape == (0,)


def test_the_first_population_holds_every_uniform_width_and_then_the_users_candidates():
    own = np.array([[2, 3, 4, 5], [8, 8, 8, 8], [3, 3, 3, 4]])
    population = rows(first_population(space([2] * 4, [8] * 4), own))
    assert population == [(width,) * 4 for width in range(8, 1, -1)] + [(2, 3, 4, 5), (3, 3, 3, 4)]


@pytest.mark.parametrize(
    "algorithm", [pytest.param(one, marks=[pytest.mark.slow] * (one == "nsga2-plain")) for one in ALGORITHMS]
)
def test_generations_propose_every_candidate_once(monkeypatch, algorithm):
    # Plain NSGA-II looks long for its last few candidates.
    monkeypatch.setattr("qexplore.search.algorithms._IDLE_GENERATIONS", 2)
    problem = tiny_problem()
    proposed = []
    settings = SearchSettings(3, algorithm, population_size=6)
    generations = Generations(problem, settings, reference_point(problem, ()))
    while (generation := generations.ask()) is not None:
        proposed += rows(generation.candidates)
        generations.tell(list(problem.measure(generation.candidates)))
    assert len(proposed) == len(set(proposed)) <= 27
    assert set(proposed) <= set(every_candidate(problem))
    if algorithm not in ("nsga2-plain", "greedy"):  # one repeats itself, the other ends at the foot of its ladder
        assert len(proposed) == 27


def complete(score, candidate):
    return Evaluation(candidate, "complete", score=score)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("metric", [qx.top1_accuracy, qx.negative_log_likelihood], ids=lambda metric: metric.name)
def test_the_archive_holds_the_front_of_all_that_came_and_says_when_it_grew(metric, seed):
    sign = 1 if metric.higher_is_better else -1
    limit = 0.4 if metric.higher_is_better else 1.0
    problem = tiny_problem(metric, min_accuracy=limit)
    archive, rng, seen = Archive(problem), np.random.default_rng(seed), []
    for candidate in rng.integers(2, 5, size=(60, 3)):
        score = round(float(rng.random()), 1) * (1 if metric.higher_is_better else 2)
        before = true_front((sign * s, c) for s, c in seen)
        if sign * score >= sign * limit:
            seen.append((score, int(candidate.sum())))
        after = true_front((sign * s, c) for s, c in seen)
        assert archive.add(complete(score, tuple(candidate.tolist()))) == (after != before)
        assert sorted((sign * e.score, sum(e.candidate)) for e in archive.members) == sorted(after)
    points = np.array([(-score, cost) for score, cost in after])
    reference = (limit, 12.0)
    expected = HV(ref_point=np.array([-sign * limit, 12.0]))(points)
    assert archive.hypervolume(reference) == pytest.approx(expected, rel=1e-12)


def test_of_equal_candidates_the_archive_keeps_the_first():
    archive = Archive(tiny_problem(), [complete(0.5, (2, 3, 3)), complete(0.5, (3, 3, 2)), complete(0.5, (3, 2, 3))])
    assert [member.candidate for member in archive.members] == [(2, 3, 3)]


def test_failed_and_unacceptable_candidates_never_enter_the_archive():
    archive = Archive(tiny_problem(min_accuracy=0.8))
    assert not archive.add(Evaluation((2, 2, 2), "failed", reason="broken"))
    assert not archive.add(Evaluation((2, 2, 2), "stopped", bound=0.9))
    assert not archive.add(complete(0.79, (2, 2, 2)))
    assert archive.members == ()
    assert len(archive.front()) == 0
    assert archive.hypervolume((0.8, 12.0)) == 0.0


def test_a_network_broken_at_every_candidate_fails_each_of_them():
    network = tiny_model()
    problem = tiny_problem(model=network)
    network.model.relu2.register_forward_hook(lambda *_: raising(RuntimeError("broken"))(None))
    assert {e.state for e in problem.measure(every_candidate(problem)[:-1])} == {"failed"}
