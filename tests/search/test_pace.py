"""What a search computes between evaluations: the fast ways give what the plain ones give."""

from __future__ import annotations

import numpy as np
import pytest
from problems import tiny_problem
from pymoo.indicators.hv import HV

from qexplore.evaluation import Evaluation
from qexplore.search import Archive, LayerwiseQuantizationProblem
from qexplore.search import surrogate as surrogates
from qexplore.search.acquisition import Staircase
from qexplore.search.goals import WholeFront
from qexplore.search.guide import Guide
from qexplore.search.moves import distinct
from qexplore.search.sensitivity import SensitivityTable
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


def fitted(problem: LayerwiseQuantizationProblem, count: int) -> tuple[Surrogate, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    values = tuple(tuple(np.sort(rng.random(len(row)))[::-1].tolist()) for row in problem.space.choices)
    table = SensitivityTable(("a", "b", "c"), problem.space.choices, values, "made up", "", 1)
    candidates, gains = problem.space.random(count, rng), rng.random(count)
    return Surrogate(table, problem.space, 0.01).fit(candidates, gains, floor=0.1), candidates, gains


def kernel(features: surrogates._Features, one: int, other: int, scales: surrogates._Scales) -> float:
    """The covariance of two candidates, as it stands in the text."""
    apart = features.log_total[one] - features.log_total[other]
    shares, others = features.shares[one], features.shares[other]
    hellinger = 1 - np.sqrt(shares * others).sum()
    linear = shares @ others + features.by_width[one] @ features.by_width[other]
    near = np.exp(-hellinger / surrogates._LOCAL_LENGTH**2 - apart**2 / 2)
    link = 1 + np.exp(-(apart**2) / (2 * surrogates._LINK_LENGTH**2))
    return float(link + scales.shares * linear + scales.local * near)


def test_beliefs_are_those_of_a_gaussian_process_by_plain_algebra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surrogates, "_BLOCK", 7)
    problem = tiny_problem(upper=8)
    model, candidates, gains = fitted(problem, 25)
    others = problem.space.random(20, np.random.default_rng(2))
    features, scales = model._features(np.concatenate([candidates, others])), model._fit.scales
    whole = np.array([[kernel(features, one, other, scales) for other in range(45)] for one in range(45)])
    known = whole[:25, :25] + scales.noise * np.eye(25)
    roots = np.sqrt(np.maximum(gains.max() + 0.01 - np.maximum(gains, 0.1), 0))
    mean = roots.mean() + whole[25:, :25] @ np.linalg.solve(known, roots - roots.mean())
    covariance = whole[25:, 25:] - whole[25:, :25] @ np.linalg.solve(known, whole[:25, 25:])
    prediction = model.predict(others)
    assert prediction.mean == pytest.approx(mean, abs=1e-8)
    assert prediction.std == pytest.approx(roots.std() * np.sqrt(np.diag(covariance) + scales.noise), rel=1e-6)
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
        assert np.array_equal(guide._additive(), guide._additive_front())
        assert guide._additive() is guide._additive()
