"""What a search computes between evaluations: the fast ways give what the plain ones give."""

from __future__ import annotations

import numpy as np
import pytest
from problems import tiny_problem
from pymoo.indicators.hv import HV

from qexplore.evaluation import Evaluation
from qexplore.search import Archive, LayerwiseQuantizationProblem
from qexplore.search import process as processes
from qexplore.search.acquisition import Staircase
from qexplore.search.goals import WholeFront
from qexplore.search.guide import Guide
from qexplore.search.moves import distinct
from qexplore.search.process import Scales, Totals
from qexplore.search.sensitivity import SensitivityTable
from qexplore.search.space import SearchSpace
from qexplore.search.surrogate import Surrogate


@pytest.mark.parametrize("most", [3, 400, 65536])
@pytest.mark.parametrize("shape", [(300, 1), (300, 4), (1, 5), (0, 5)])
def test_distinct_candidates_are_numpys_unique_rows_in_its_order(most: int, shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(0).integers(0, most, size=shape)
    assert np.array_equal(distinct(rows), np.unique(rows, axis=0))
    assert distinct(rows).dtype == rows.dtype


def test_improvements_at_equal_costs_are_those_of_each_alone() -> None:
    rng = np.random.default_rng(0)
    stairs = Staircase(rng.random(30) * 50, rng.random(30), (0.2, 60.0))
    costs, gains = rng.integers(0, 65, size=200).astype(float), rng.random((200, 8))
    alone = [stairs.improvement(costs[[row]], gains[[row]])[0] for row in range(200)]
    assert np.array_equal(stairs.improvement(costs, gains), alone)


def fitted(problem: LayerwiseQuantizationProblem, values: np.ndarray) -> tuple[Surrogate, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    rows = tuple(tuple(row) for row in values.tolist())
    table = SensitivityTable(("a", "b", "c"), problem.space.choices, rows, "made up", "", 1)
    candidates = distinct(problem.space.random(30, rng))[:25]
    gains = rng.random(len(candidates))
    surrogate = Surrogate(Totals(table, problem.space).described, 0.01)
    return surrogate.fit(candidates, gains, floor=0.1), candidates, gains


def kernel(space: SearchSpace, values: np.ndarray, one: np.ndarray, other: np.ndarray, scales: Scales) -> float:
    """The covariance of two candidates, as it stands in the text."""
    places = [space.places(candidate[None])[0] for candidate in (one, other)]
    damages = [values[np.arange(len(row)), row] for row in places]
    totals = [damage.sum() for damage in damages]
    points = [
        np.sqrt(first / totals[0] * second / totals[1]) * np.exp(-abs(int(place) - int(at)) / processes._CHOICE_LENGTH)
        for first, second, place, at in zip(*damages, *places, strict=True)
    ]
    pairs = sum(points[i] * points[j] for i in range(len(points)) for j in range(len(points)) if i != j)
    link = 1 + np.exp(-((np.log(totals[0]) - np.log(totals[1])) ** 2) / (2 * processes._LINK_LENGTH**2))
    return float(link + scales.points * sum(points) + scales.pairs * pairs + scales.own * (one == other).all())


def test_beliefs_are_those_of_a_gaussian_process_by_plain_algebra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_BLOCK", 7)
    problem = tiny_problem(upper=8)
    values = np.sort(np.random.default_rng(5).random((3, 7)))[:, ::-1]
    model, candidates, gains = fitted(problem, values)
    others = problem.space.unseen(20, set(map(tuple, candidates.tolist())), np.random.default_rng(2))
    both, scales = np.concatenate([candidates, others]), model._process.scales
    whole = np.array([[kernel(problem.space, values, one, other, scales) for other in both] for one in both])
    known = whole[:25, :25]
    roots = np.sqrt(np.maximum(gains.max() + 0.01 - np.maximum(gains, 0.1), 0))
    mean = roots.mean() + whole[25:, :25] @ np.linalg.solve(known, roots - roots.mean())
    covariance = whole[25:, 25:] - whole[25:, :25] @ np.linalg.solve(known, whole[:25, 25:])
    prediction = model.predict(others)
    assert prediction.mean == pytest.approx(mean, abs=1e-8)
    assert prediction.std == pytest.approx(roots.std() * np.sqrt(np.diag(covariance)), rel=1e-5)
    assert len(model.predict(others[:0]).mean) == 0


def test_an_archive_has_what_is_non_dominated_and_feasible_of_all_it_saw() -> None:
    problem = tiny_problem(upper=8, min_accuracy=0.3)
    rng = np.random.default_rng(3)
    rows = [tuple(row) for row in problem.space.random(120, rng).tolist()]
    seen = [Evaluation(row, "complete", score) for row, score in zip(rows, rng.random(120).round(2), strict=True)]
    archive = Archive(problem, seen)
    front = problem.front_of(seen)
    order = np.argsort([sum(member.candidate) for member in archive.members])
    assert [archive.members[place].candidate for place in order] == [tuple(row) for row in front.num_bits.tolist()]
    assert [archive.members[place].score for place in order] == front.accuracy.tolist()
    assert all(score >= 0.3 for score in front.accuracy)
    expected = HV(ref_point=np.array([-0.3, 25.0]))(np.column_stack([-front.accuracy, front.costs]))
    assert archive.hypervolume((0.3, 25.0)) == pytest.approx(expected)


@pytest.mark.parametrize("costs", [("total_bits",), ("total_bits", "bops")])
def test_the_additive_front_is_of_the_present_weights(costs: tuple[str, ...]) -> None:
    problem = tiny_problem(upper=8, costs=costs)
    guide = Guide(problem, 1, WholeFront(), (0.0,) + (1e9,) * len(costs), lambda: 100.0)
    rng = np.random.default_rng(4)
    for _ in range(3):
        guide._trade_off.draw(rng)
        sums = guide.sensitivities
        assert np.array_equal(sums.front(), sums._front_of(sums.table))
        assert sums.front() is sums.front()
