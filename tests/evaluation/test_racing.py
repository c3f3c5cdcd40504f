"""A candidate is stopped only when that changes nothing: replayed many thousand times, and in real searches."""

import re

import numpy as np
import pytest
from networks import batches, digits
from problems import prefix_evaluator, search_loader, tiny_model, tiny_problem

import qexplore as qx
from qexplore.evaluation import why_not
from qexplore.evaluation.racing import Race, SampleOrder
from qexplore.search import Archive

GRADED = qx.Metric(lambda output, target: None, "graded", range=(0.0, 1.0))


def random_trace(rng, metric):
    """Scores ``[N, num_samples]`` of candidates that are right more or less often on easy and hard samples."""
    num_candidates, num_samples = int(rng.integers(1, 12)), int(rng.integers(1, 60))
    skill, ease = rng.normal(1, 1.5, (num_candidates, 1)), rng.normal(0, 1.5, num_samples)
    chance = 1 / (1 + np.exp(-(skill + ease)))
    if metric is qx.top1_accuracy:
        return (rng.random(chance.shape) < chance).astype(np.float32)
    if metric is GRADED:
        return chance.astype(np.float32)
    return -np.log(chance).astype(np.float32)


def cost_of(rng, count):
    return rng.integers(4, 12, count)


RACED = [qx.top1_accuracy, GRADED, qx.negative_log_likelihood, qx.perplexity, qx.over_labels(qx.perplexity)]


@pytest.mark.parametrize("replays", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("metric", RACED, ids=lambda m: m.name)
def test_replays_stop_nothing_that_mattered(metric, replays):
    rng = np.random.default_rng(0)
    sign = 1 if metric.higher_is_better else -1
    stopped = wrong = 0
    for _ in range(replays):
        scores = random_trace(rng, metric)
        count, num_samples = scores.shape
        full = np.array([metric.summarize(row) for row in scores])
        costs = cost_of(rng, count)
        floor = sign * float(np.quantile(sign * full, 0.3))
        # The archive: some of the candidates, known before the others run.
        known = rng.random(count) < 0.4
        least = np.nextafter(sign * floor, -np.inf)
        limits = [
            max(
                [sign * full[k] for k in np.flatnonzero(known) if costs[k] <= cost and sign * full[k] >= sign * floor],
                default=least,
            )
            for cost in costs
        ]
        must_beat = sign * np.maximum(limits, least)
        race, alive = Race(metric, num_samples, must_beat), np.arange(count)
        order = rng.permutation(num_samples)
        for part in np.array_split(order, int(rng.integers(1, num_samples + 1))):
            race.add(alive, scores[np.ix_(alive, part)])
            decided = race.is_decided()
            for row in alive[decided[alive]]:
                stopped += 1
                is_feasible = sign * full[row] >= sign * floor
                beats = sign * full[row] > sign * must_beat[row]
                within = sign * full[row] <= sign * race.bounds()[row] + 1e-6
                wrong += (is_feasible and beats) or not within
            alive = alive[~decided[alive]]
    assert wrong == 0
    assert stopped > 1000


def test_a_score_beyond_the_metrics_range_and_nan_prove_nothing():
    for odd in (1.5, np.nan):
        race = Race(GRADED, 4, np.array([0.9, 0.9]))
        race.add(np.array([0, 1]), np.array([[odd, 0.0], [0.0, 0.0]], dtype=np.float32))
        assert race.is_decided().tolist() == [False, True]


def test_a_mean_at_which_the_metric_has_no_value_proves_nothing():
    race = Race(qx.perplexity, 2, np.array([9.0, 9.0]))
    race.add(np.array([0, 1]), np.array([[2000.0], [5.0]], dtype=np.float32))
    assert race.is_decided().tolist() == [False, True]
    assert race.bounds()[1] == np.exp(2.5)


def test_a_candidate_that_has_run_to_its_end_is_not_stopped():
    race = Race(qx.top1_accuracy, 2, np.array([0.9]))
    race.add(np.array([0]), np.zeros((1, 2), dtype=np.float32))
    assert race.is_decided().tolist() == [False]


def test_samples_that_were_wrong_most_often_come_first():
    order = SampleOrder(qx.top1_accuracy, np.array([True] * 4))
    assert order.changed() is None
    order.note(np.array([1, 0, 1, 1], dtype=np.float32))
    assert order.changed().tolist() == [1, 0, 2, 3]
    assert order.changed() is None
    order.note(np.array([1, 0, 0, 1], dtype=np.float32))
    assert order.changed().tolist() == [1, 2, 0, 3]
    lower = SampleOrder(qx.negative_log_likelihood, np.array([True, False, True]))
    lower.note(np.array([0.1, 3.0], dtype=np.float32))  # of those that count
    assert lower.changed().tolist() == [2, 0, 1]


REASONS = {
    "function of a mean": (qx.Metric(len, "root", of_mean=np.sqrt), "no plain mean .* give it `sample_range`"),
    "weighed accuracy": (qx.over_labels(qx.token_accuracy), "weighs samples by the whole set"),
    "unknown range": (qx.Metric(lambda output, target: None, "odd"), "best score .* is not known .* 'odd'"),
    "whole set": (qx.whole_set(lambda model, loader: 0.0), "no score per sample"),
}


@pytest.mark.parametrize("case", REASONS.values(), ids=REASONS)
def test_where_nothing_can_be_proved_it_is_off_and_says_so(case):
    metric, sentence = case
    assert re.search(sentence, why_not(metric))


def test_a_metric_without_a_known_range_is_never_stopped_and_the_result_says_why():
    free = qx.Metric(qx.top1_accuracy.function, "free")
    exploration = qx.explore(tiny_problem(free, upper=8), max_evaluations=20, seed=1, progress=False)
    table = 21 * 64 / 400  # of sensitivities
    assert exploration.num_evaluations == exploration.num_passes - table == 16
    assert "the best score that a sample can have is not known for the metric 'free'" in exploration.early_stop
    assert "early stop: off" in str(exploration)


@pytest.fixture(params=[1, 2], ids=["one worker", "two workers"])
def threads(request):
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_a_stopped_candidate_says_what_it_cannot_beat_and_that_is_true(threads):
    evaluator = prefix_evaluator(tiny_model(), search_loader(), qx.top1_accuracy)
    candidates = np.random.default_rng(0).integers(2, 9, size=(200, 3))
    full = list(prefix_evaluator(tiny_model(), search_loader(), qx.top1_accuracy).evaluate(candidates))
    for seed in range(3):
        limits, order = [0.9] * len(candidates), np.random.default_rng(seed).permutation(400)
        answers = list(evaluator.evaluate(candidates, must_beat=limits, order=order))
        states = [answer.state for answer in answers]
        assert states.count("stopped") > 20 and states.count("complete") > 5
        for answer, whole in zip(answers, full, strict=True):
            if answer.state == "stopped":
                assert whole.score <= answer.bound <= 0.9
                assert 0 < answer.num_samples < 400
                assert answer.scores is None and np.isnan(answer.score)
                assert "proved not to beat 0.9" in answer.reason
            else:
                assert (answer.score, answer.scores.tobytes()) == (whole.score, whole.scores.tobytes())
        for whole in full[:20]:
            if whole.score > 0.9:
                assert answers[full.index(whole)].is_complete


def archive_driven(problem, racing, rounds=12):
    """Neighbours of the archive's members, drawn from a fixed stream: what it proposes depends on the archive alone."""
    rng = np.random.default_rng(3)
    archive = Archive(problem, problem.measure(problem.space.uniform()))
    used = 0.0
    for _ in range(rounds):
        parents = [archive.members[i].candidate for i in rng.integers(0, len(archive.members), 10)]
        moved = np.clip(np.array(parents) + rng.integers(-1, 2, (10, 3)), problem.space.lower, problem.space.upper)
        limits = archive.must_beat(moved) if racing else None
        for evaluation in problem.measure(moved, must_beat=limits):
            used += evaluation.num_samples / 400
            archive.add(evaluation)
    return archive.front(), used


FLOORS = [(qx.top1_accuracy, 0.85), (qx.negative_log_likelihood, 0.6), (qx.perplexity, 1.8)]


@pytest.mark.parametrize(("metric", "limit"), FLOORS + [(metric, None) for metric, _ in FLOORS])
def test_an_archive_driven_search_finds_the_same_front_with_and_without_it(metric, limit):
    fronts, costs = zip(
        *(archive_driven(tiny_problem(metric, upper=8, min_accuracy=limit), racing) for racing in (True, False)),
        strict=True,
    )
    assert fronts[0].num_bits.tolist() == fronts[1].num_bits.tolist()
    assert fronts[0].accuracy.tolist() == fronts[1].accuracy.tolist()
    assert costs[0] < costs[1]


def test_an_exploration_spends_its_budget_on_more_candidates_and_reports_real_evaluations():
    problem = tiny_problem(upper=8, min_accuracy=0.85)
    exploration = qx.explore(
        problem, max_evaluations=60, seed=1, progress=False, report_loader=batches(digits().report)
    )
    assert exploration.early_stop == "on"
    assert exploration.num_evaluations > exploration.num_passes
    assert 50 < exploration.num_passes <= 60
    assert not exploration.failures
    direct = qx.DirectEvaluator(tiny_model(), search_loader(), qx.top1_accuracy)
    scores = [evaluation.score for evaluation in direct.evaluate(exploration.front.num_bits)]
    assert exploration.front.verified
    assert exploration.front.accuracy.tolist() == scores
    stopped = {e.candidate for e in problem.evaluations if e.state == "stopped"}
    assert stopped and not stopped & {point.num_bits for point in exploration.front}
    assert len(problem.front()) and not stopped & {point.num_bits for point in problem.front()}


def test_pymoos_own_door_never_stops_early():
    problem = tiny_problem(upper=8, min_accuracy=0.85)
    problem.evaluate(problem.space.random(50, np.random.default_rng(0)))
    assert {evaluation.state for evaluation in problem.evaluations} == {"complete"}


def test_a_stopped_candidate_is_measured_again_when_less_has_to_be_beaten():
    problem = tiny_problem(upper=8)
    (stopped,) = problem.measure([(2, 2, 2)], must_beat=[0.99])
    (same,) = problem.measure([(2, 2, 2)], must_beat=[0.995])
    (full,) = problem.measure([(2, 2, 2)])
    (known,) = problem.measure([(2, 2, 2)], must_beat=[0.99])
    assert (stopped.state, full.state) == ("stopped", "complete")
    assert same is stopped and known is full
    assert full.score <= stopped.bound
    assert problem.constraints([stopped]).shape == (1, 0)
    assert problem.objectives([stopped])[0, 0] == -stopped.bound
