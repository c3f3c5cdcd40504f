"""A part of the evaluation set: which samples it holds, what their scores are, and what they prove."""

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from networks import batches, digits, trained, wrapping
from problems import prefix_evaluator, search_loader, tiny_model, tiny_problem

import qexplore as qx
from qexplore.errors import EvaluationError
from qexplore.evaluation import DirectEvaluator, Screen
from qexplore.evaluation.samples import Samples
from qexplore.metrics import kl_divergence

EVALUATORS = (DirectEvaluator, prefix_evaluator)


def test_a_part_is_drawn_at_random_and_is_the_same_whatever_the_order():
    samples = Samples([(torch.arange(float(start), start + 50.0)[:, None], None) for start in (0, 50)], [50, 50])
    (part,) = samples.part_at_random(30)
    assert len(set(part.samples.tolist())) == 30
    assert part.inputs[:, 0].tolist() == part.samples.tolist()
    assert np.diff(part.samples).max() > 1
    samples.reorder(np.random.default_rng(0).permutation(100))
    (again,) = samples.part_at_random(30)
    assert again.inputs[:, 0].tolist() == part.inputs[:, 0].tolist()
    assert len(samples.part_at_random(1000)[0]) == 100


def test_a_part_has_of_each_class_its_share_and_holds_all_smaller_ones():
    labels = torch.from_numpy(np.random.default_rng(0).permutation(np.repeat([3, -100, 7, 8], [120, 50, 29, 1])))
    samples = Samples([(torch.zeros(len(y), 2), y) for y in labels.split(90)], [90, 90, 20])
    for count in (7, 40, 100, 200):
        (part,) = samples.part_at_random(count)
        assert part.target.tolist() == labels[part.samples].tolist()
        assert set(part.samples.tolist()) <= set(samples.part_at_random(count + 1)[0].samples.tolist())
        shares = [
            int((part.target == label).sum()) - count * size / 200 for label, size in ((3, 120), (-100, 50), (7, 29))
        ]
        assert np.abs(shares).max() <= 1
    assert samples.part_at_random(300)[0].samples.tolist() == list(range(200))


def test_batches_that_cannot_be_cut_are_taken_whole():
    uneven = [
        (torch.zeros(3, 2), torch.zeros(3)),
        (torch.zeros(3, 4), torch.zeros(3)),
        (torch.zeros(3, 2), torch.zeros(3)),
    ]
    parts = Samples(uneven, [3, 3, 3]).part_at_random(4)
    assert [len(part) for part in parts] == [3, 3]
    few = [(torch.zeros(size, 2 + size), torch.zeros(size)) for size in (1, 1, 1, 90, 1)]
    for count in (2, 50):
        assert sum(map(len, Samples(few, [1, 1, 1, 90, 1]).part_at_random(count))) >= count


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("name", ["small_cnn", "resnet20", "transformer"])
def test_scores_on_all_samples_are_those_of_a_loop_by_hand(evaluator, name):
    model = qx.QuantizedActivationsModel(trained(name), **wrapping(name))
    model.calibrate(batches(digits().calibration))
    loader = batches(digits().search)
    candidates = np.stack([np.full(len(model.points), 4), 3 + np.arange(len(model.points)) % 4])
    built = evaluator(model, loader, qx.top1_accuracy)
    scores = built.scores_on_subset(candidates, kl_divergence, 400, against_float=True)
    assert scores.shape == (2, 400)
    for row, candidate in zip(scores, candidates, strict=True):
        with torch.no_grad():
            with model.using([0] * len(candidate)):
                floats = [model(x) for x, _ in loader]
            with model.using(candidate):
                outputs = [model(x) for x, _ in loader]
        expected = torch.cat([kl_divergence(a, b) for a, b in zip(outputs, floats, strict=True)])
        assert row.mean() == pytest.approx(float(expected.mean()), rel=2e-2)


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_the_metric_gets_the_target_unless_told_otherwise(evaluator):
    built = evaluator(tiny_model(), search_loader(90), qx.top1_accuracy)
    scores = built.scores_on_subset(np.array([[4, 4, 4], [2, 2, 2], [4, 4, 4]]), qx.top1_accuracy, 64)
    assert scores.shape == (3, 64)
    assert (scores[0] == scores[2]).all()
    whole = built.scores_on_subset(np.array([[4, 4, 4]]), qx.top1_accuracy, 400)
    assert whole.mean() == pytest.approx(next(iter(built.evaluate(np.array([[4, 4, 4]])))).score, abs=1 / 400)


def test_both_evaluators_look_at_the_same_samples():
    candidates = np.array([[3, 3, 3], [2, 4, 8]])
    scores = [
        one(tiny_model(), search_loader(90), qx.top1_accuracy).scores_on_subset(
            candidates, kl_divergence, 50, against_float=True
        )
        for one in EVALUATORS
    ]
    assert np.allclose(*scores, atol=1e-5)


def test_a_whole_set_metric_has_no_parts():
    problem = tiny_problem(qx.whole_set(lambda model, loader: 0.5))
    with pytest.raises(EvaluationError, match="no part of it can be run"):
        problem.scores_on_subset(np.array([[2, 2, 2]]), kl_divergence, 10)


def test_the_bound_holds_for_nearly_all_parts_of_a_set():
    rng = np.random.default_rng(0)
    everything = (rng.random(2000) < 0.8).astype(np.float32)
    screen = Screen(100, error=0.05)
    parts = np.stack([rng.choice(everything, 100, replace=False) for _ in range(4000)])
    upper = screen.bounds(parts, qx.top1_accuracy, 2000)
    assert (upper < everything.mean()).mean() <= 0.05
    assert upper.mean() < 0.95  # and it says something


def test_the_bound_is_the_published_one_and_turns_with_the_direction():
    scores = np.array([[0.0, 1.0, 1.0, 0.0]], dtype=np.float32)
    slack = math.sqrt((1 - 3 / 40) * math.log(1000) / 8)
    lower_is_better = qx.Metric(lambda output, target: output, "loss", higher_is_better=False, range=(-4.0, 4.0))
    assert Screen(4).bounds(scores, qx.top1_accuracy, 40) == pytest.approx(min(1.0, 0.5 + slack))
    assert Screen(4).bounds(scores, lower_is_better, 40) == pytest.approx(max(-4.0, 0.5 - 8 * slack))
    # What holds for a mean holds for no sample.
    wide = replace(qx.top1_accuracy, range=(0.0, 60.0), sample_range=(-1.0, 10.0))
    assert Screen(4).bounds(scores, wide, 40) == pytest.approx(0.5 + 11 * slack)


@pytest.mark.parametrize(
    ("metric", "size", "expected"),
    [
        (qx.top1_accuracy, 8192, 256),
        (qx.top1_accuracy, 8191, None),
        (qx.negative_log_likelihood, 10**6, None),
        (qx.perplexity, 10**6, None),
        (qx.whole_set(lambda model, loader: 0.5), 10**6, None),
    ],
)
def test_large_sets_with_bounded_scores_are_screened(metric, size, expected):
    screen = Screen.of(metric, size)
    assert (screen and screen.num_samples) == expected


def test_a_screened_candidate_is_stopped_and_no_better_one_is_lost(monkeypatch):
    monkeypatch.setattr("qexplore.evaluation.screening._LEAST_SET", 400)
    monkeypatch.setattr("qexplore.evaluation.screening._SHARE", 4)
    problem = tiny_problem(upper=6)
    everything = np.array(list(itertools.product(range(2, 7), repeat=3)))
    truth = {e.candidate: e.score for e in tiny_problem(upper=6).measure(everything)}
    limits = np.full(len(everything), 0.9)
    stopped = 0
    for evaluation in problem.measure(everything, must_beat=limits, screened=True):
        if evaluation.state == "stopped" and "chance" in evaluation.reason:
            stopped += 1
            assert evaluation.num_samples == 100
            assert truth[evaluation.candidate] <= evaluation.bound <= 0.9
        elif evaluation.is_complete and evaluation.candidate != (6, 6, 6):  # measured when the problem was built
            assert evaluation.num_samples == 500
            assert evaluation.score == truth[evaluation.candidate]
    assert stopped > 0


def test_a_search_with_screening_counts_what_it_looked_at(monkeypatch):
    monkeypatch.setattr("qexplore.evaluation.screening._LEAST_SET", 400)
    monkeypatch.setattr("qexplore.evaluation.screening._SHARE", 4)
    exploration = qx.explore(tiny_problem(upper=8, min_accuracy=0.85), max_evaluations=40, seed=1, progress=False)
    assert 38 <= exploration.num_passes <= 40
    assert exploration.front.verified
    for point in exploration.front:
        assert point.accuracy >= 0.85


def test_outputs_that_would_take_too_much_memory_are_taken_of_fewer_samples():
    built = prefix_evaluator(tiny_model(), search_loader(), qx.top1_accuracy, budget_bytes=4 * 10 * 4 * 100)
    scores = built.scores_on_subset(np.array([[4, 4, 4]]), kl_divergence, 400, against_float=True)
    assert 100 <= scores.shape[1] < 200
    assert np.isfinite(scores).all()


@pytest.mark.parametrize(("batch", "num_run"), [(128, 256), (300, 300), (2048, 2048), (2049, None), (8192, None)])
def test_a_screen_counts_the_whole_batches_that_are_run_and_is_none_where_they_are_much_of_the_set(batch, num_run):
    sizes = [min(batch, 8192 - start) for start in range(0, 8192, batch)]
    samples = Samples([(torch.zeros(size, 2), torch.zeros(size)) for size in sizes], sizes)
    samples.keep_batches()
    screen = Screen.of(qx.top1_accuracy, 8192, SimpleNamespace(subset_size=samples.part_size))
    assert (screen and screen.num_run) == num_run
