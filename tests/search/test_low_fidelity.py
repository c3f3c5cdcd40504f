"""Looks at whole candidates: what they cost, what is believed from them, and when they are left."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import tiny_problem
from torch import nn

import qexplore as qx
from qexplore import predicates
from qexplore.evaluation import Evaluation
from qexplore.metrics import kl_divergence
from qexplore.search.low_fidelity import LowFidelity
from qexplore.search.process import Totals
from qexplore.search.sensitivity import quick_table

SAMPLES = 20


def low_fidelity(problem):
    table, _ = quick_table(problem)
    return LowFidelity(problem, Totals(table, problem.space), problem.divergence, SAMPLES)


def chained_problem():
    """Points behind each other, a set of which looks are cheap, and a minimum."""
    torch.manual_seed(0)
    layers = [module for _ in range(3) for module in (nn.Linear(8, 8), nn.ReLU())]
    network = nn.Sequential(*layers, nn.Linear(8, 4)).eval().requires_grad_(False)
    x = torch.randn(1000, 8)
    data = [(x, network(x).argmax(1))]
    model = qx.QuantizedActivationsModel(network, predicates.by_type(nn.Linear, nn.ReLU), unsigned=False)
    model.calibrate(data)
    return qx.LayerwiseQuantizationProblem(model, data, min_accuracy=0.4)


def test_a_look_is_the_divergence_on_the_part_and_is_paid_once():
    problem = tiny_problem(upper=8)
    low, rows = low_fidelity(problem), problem.space.random(6, np.random.default_rng(0))
    low.look(np.concatenate([rows, rows[:2]]))
    low.look(rows)
    assert low.num_passes == pytest.approx(len(np.unique(rows, axis=0)) * SAMPLES / 400)
    part = problem.direct.scores_on_subset(rows, kl_divergence, SAMPLES, against_float=True)
    features, spread = low.described(rows)
    assert np.exp(features.log_total) == pytest.approx(part.mean(axis=1), rel=1e-4)
    assert (spread == 0).all()


def test_the_divergence_on_the_whole_set_is_taken_where_it_is_known_and_believed_elsewhere():
    problem = tiny_problem(upper=8)
    low, rng = low_fidelity(problem), np.random.default_rng(1)
    known = list(problem.measure(problem.space.unseen(30, set(), rng)))
    others = list(problem.measure(problem.space.unseen(40, {one.candidate for one in known}, rng)))
    low.look(problem.candidates_of(known))
    low.note(known, 1.0)
    truth = [np.log([one.divergence for one in rows]) for rows in (known, others)]
    features, spread = low.described(problem.candidates_of(known))
    assert features.log_total == pytest.approx(truth[0], abs=1e-6)
    assert (spread == 0).all()
    features, spread = low.described(problem.candidates_of(others))
    summed = low._totals.features(problem.candidates_of(others)).log_total
    off, off_summed = np.abs(features.log_total - truth[1]), np.abs(summed - truth[1])
    assert off.mean() < 0.8 * off_summed.mean()
    assert (off <= 3 * spread + 0.05).mean() > 0.9


@pytest.mark.parametrize(("noise", "useful"), [(0.02, True), (3.0, False)])
def test_looks_that_say_less_than_sums_are_left(noise, useful, monkeypatch):
    problem = tiny_problem(upper=8)
    low, rng = low_fidelity(problem), np.random.default_rng(2)
    rows = problem.space.unseen(20, set(), rng)
    sums = np.exp(low._totals.features(rows).log_total)
    whole = sums * np.exp(rng.normal(0, 0.4, 20))  # what single points do not tell
    looks = whole * np.exp(rng.normal(0, noise, 20))
    monkeypatch.setattr(problem, "scores_on_subset", lambda *_, **__: np.repeat(looks[:, None], SAMPLES, axis=1))
    low.look(rows)
    told = zip(map(tuple, rows.tolist()), whole, strict=True)
    low.note([Evaluation(row, "complete", 0.5, divergence=float(one)) for row, one in told], 1.0)
    assert low.is_useful == useful
    assert low.worth_a_look(problem.space.widest).any() == useful


@pytest.mark.parametrize(
    "options", [pytest.param({}, marks=pytest.mark.slow), {"low_fidelity": False}, {"max_evaluations": 14}]
)
def test_looks_are_counted_and_can_be_left_out(options, monkeypatch):
    problem, ran = chained_problem(), []
    asked = problem.scores_on_subset

    def watched(candidates, *arguments, **keywords):
        scores = asked(candidates, *arguments, **keywords)
        ran.append((candidates.all(), scores.size / problem.num_samples))
        return scores

    monkeypatch.setattr(problem, "scores_on_subset", watched)
    options = {"max_evaluations": 60, **options}
    found = qx.explore(problem, seed=1, progress=False, **options)
    # In a table all other points are off; a small budget is for evaluations.
    assert any(is_whole for is_whole, _ in ran) == (options == {"max_evaluations": 60})
    evaluated = sum(problem.num_passes(one) for one in problem.evaluations)
    assert found.num_passes == pytest.approx(evaluated + sum(passes for _, passes in ran))
    assert found.num_passes <= options["max_evaluations"]
