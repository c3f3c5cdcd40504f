"""Between points that the search set cannot tell apart the one that diverges less stands."""

from __future__ import annotations

import numpy as np
import pytest
from problems import Scaled, tiny_model, tiny_problem

import qexplore as qx
from qexplore.evaluation import Evaluation
from qexplore.search import is_contradicted, judged


def measured(problem, candidate, wrong, divergence):
    """An evaluation that gets the samples ``wrong`` wrong."""
    scores = np.ones(400, dtype=np.float32)
    scores[list(wrong)] = 0
    return Evaluation(candidate, "complete", float(scores.mean()), scores, divergence=divergence, num_samples=400)


def members(problem, evaluations):
    found, gave_way = judged(problem, evaluations)
    return [one.candidate for one in found], [one.candidate for one in gave_way]


def test_a_point_that_is_better_by_chance_gives_way_and_one_that_is_better_beyond_chance_does_not():
    problem = tiny_problem(upper=8)
    near = measured(problem, (3, 3, 4), range(40), 0.10)
    lucky = measured(problem, (3, 4, 3), range(3, 40), 0.30)  # three samples fewer
    better = measured(problem, (4, 3, 3), range(20, 40), 0.20)  # twenty fewer
    assert members(problem, [near, lucky]) == ([near.candidate], [lucky.candidate])
    assert members(problem, [lucky, near]) == ([near.candidate], [lucky.candidate])
    assert members(problem, [near, lucky, better]) == ([better.candidate], [])
    cheaper = measured(problem, (3, 3, 3), range(3, 40), 0.30)  # as lucky, and a bit less
    assert members(problem, [near, cheaper]) == ([cheaper.candidate], [])


def test_what_is_infeasible_or_has_no_divergence_takes_no_part():
    problem = tiny_problem(upper=8, min_accuracy=0.9)
    far = measured(problem, (3, 3, 3), range(60), 0.01)
    unknown = measured(problem, (4, 3, 3), range(10), None)
    good = measured(problem, (4, 4, 4), range(20), 0.1)
    assert members(problem, [far, unknown, good]) == ([good.candidate], [])
    assert judged(problem, [unknown]) == ([], [])


@pytest.mark.parametrize("costs", [("total_bits",), ("total_bits", "bops")])
def test_the_front_of_a_search_is_judged_and_says_so(costs):
    runs = {}
    for judge in ("divergence", "accuracy"):
        problem = tiny_problem(upper=8, min_accuracy=0.5, costs=costs)
        runs[judge] = qx.explore(problem, max_evaluations=60, seed=1, judge=judge, racing=False, progress=False)
        known = {one.candidate: one for one in problem.evaluations}
        told = [known[point.num_bits].divergence for point in runs[judge].front]
        runs[judge, "mean"] = np.mean(np.log(told))
    assert runs["divergence"].history[-1].hypervolume == runs["accuracy"].history[-1].hypervolume
    volumes = [runs[judge].hypervolume for judge in ("divergence", "accuracy")]
    assert f"hypervolume {volumes[0]:.4g} (of all that the search found, by score alone, {volumes[1]:.4g})" in str(
        runs["divergence"]
    )
    assert f"hypervolume {volumes[1]:.4g}\n" in str(runs["accuracy"])
    assert runs["accuracy"].judge == "accuracy"
    assert "gave way to points that it cannot tell from them" in str(runs["divergence"])
    front = runs["divergence"].front
    assert front.verified
    assert front.nondominated().all()
    best = {point.total_bits: point.accuracy for point in runs["accuracy"].front}
    assert all(point.accuracy <= best.get(point.total_bits, 1.0) for point in front) or len(costs) > 1


def test_accuracy_decides_where_no_divergence_is_told():
    whole = qx.whole_set(lambda model, loader: 0.5)
    found = qx.explore(tiny_problem(whole), max_evaluations=9, seed=1, progress=False)
    assert found.judge.startswith("accuracy: no divergence decides, ")


@pytest.mark.parametrize(
    ("divergences", "found"),
    [
        ((0.1, 0.1, 0.2), None),
        ((0.1, 0.3, 0.2), None),  # three of twelve: as many by chance in one of nine cases
        ((0.2, 0.2, 0.1), (12, 12)),
    ],
)
def test_scores_that_can_be_told_apart_say_whether_divergence_may_judge(divergences, found):
    problem = tiny_problem(upper=8)
    good, odd, bad = divergences
    known = [measured(problem, one, range(10), good) for one in ((2, 6, 5), (3, 5, 5), (4, 4, 5))]
    known += [measured(problem, (5, 3, 5), range(10), odd)]
    known += [measured(problem, one, range(60), bad) for one in ((6, 2, 5), (2, 5, 6), (5, 2, 6))]
    known += [measured(problem, (8, 8, 8), range(5), 0.5)]  # of no equal's cost
    assert is_contradicted(problem, known) == found
    assert is_contradicted(problem, known[:6]) is None  # too few to say so


def test_a_divergence_that_misleads_does_not_judge():
    problem = tiny_problem(model=tiny_model(Scaled().eval()), upper=8, min_accuracy=0.5)
    ours = qx.explore(problem, max_evaluations=100, seed=1, progress=False, racing=False)
    assert "pairs of about equal cost whose scores differ beyond chance contradict it" in ours.judge
    other = qx.explore(problem, max_evaluations=100, seed=1, progress=False, racing=False, judge="accuracy")
    assert ours.front.num_bits.tolist() == other.front.num_bits.tolist()
