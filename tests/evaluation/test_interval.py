"""The interval of a score, against formulas written out."""

import math

import numpy as np
import pytest
import torch
from networks import digits
from problems import tiny_model
from scipy import stats

import qexplore as qx
from qexplore.evaluation.interval import confidence_interval, mean_difference, paired_interval

Z = 1.959963984540054  # of the normal distribution at 97.5 %
T = {1: 12.706204736432095, 4: 2.7764451051977987, 99: 1.9842169515086827}  # of Student's, by degrees of freedom


def wilson(hits, number):
    share, weight = hits / number, Z**2 / number
    middle = (share + weight / 2) / (1 + weight)
    reach = Z / (1 + weight) * math.sqrt(share * (1 - share) / number + weight / (4 * number))
    return middle - reach, middle + reach


@pytest.mark.parametrize(("hits", "number"), [(0, 10), (1, 10), (9, 10), (10, 10), (1, 2), (372, 400), (9_999, 10_000)])
def test_hits_get_wilsons_interval(hits, number):
    scores = np.array([1.0] * hits + [0.0] * (number - hits), dtype=np.float32)
    np.testing.assert_allclose(
        confidence_interval(scores, qx.top1_accuracy), wilson(hits, number), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("number", [2, 5, 100])
def test_other_scores_get_students_interval_of_the_mean(number):
    scores = np.random.default_rng(0).gamma(2.0, size=number).astype(np.float32)
    values = scores.astype(float).tolist()
    mean = math.fsum(values) / number
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (number - 1))
    reach = T[number - 1] * deviation / math.sqrt(number)
    metric = qx.Metric(lambda output, target: output, "loss", higher_is_better=False)
    np.testing.assert_allclose(confidence_interval(scores, metric), (mean - reach, mean + reach), rtol=1e-9)


def test_the_interval_is_in_the_metrics_own_units():
    scores = np.array([1.0, 2.0, 3.0, 4.0, 5.0], dtype=np.float32)
    reach = T[4] * math.sqrt(2.5) / math.sqrt(5)
    low, high = confidence_interval(scores, qx.perplexity)
    assert (low, high) == pytest.approx((math.exp(3 - reach), math.exp(3 + reach)))


@pytest.mark.parametrize("number", [0, 1])
def test_fewer_than_two_samples_have_no_interval(number):
    assert confidence_interval(np.ones(number, dtype=np.float32), qx.top1_accuracy) is None


def test_equal_scores_have_an_interval_without_width():
    assert confidence_interval(np.full(5, 0.25, dtype=np.float32), qx.token_accuracy) == (0.25, 0.25)


def test_a_limit_beyond_all_numbers_is_no_reason_to_fail():
    losses = iter([torch.tensor([1.0, 120.0]), torch.tensor([1.0, 120.0])])
    metric = qx.Metric(lambda output, target: next(losses), "perplexity", False, (1.0, math.inf), math.exp)
    evaluator = qx.DirectEvaluator(tiny_model(), [(digits().search.x[:2], digits().search.y[:2])], metric)
    (evaluation,) = evaluator.evaluate(np.array([(8, 8, 8)]))
    assert evaluation.score == pytest.approx(math.exp(60.5))
    assert evaluation.interval is None
    for root in (math.sqrt, np.sqrt):  # numpy's warns and gives NaN where Python's raises
        rooted = qx.Metric(lambda output, target: output, "root of the squared error", of_mean=root)
        assert confidence_interval(np.array([0.0, 9.0], dtype=np.float32), rooted) is None


def test_an_evaluation_carries_the_interval_of_its_scores():
    evaluator = qx.DirectEvaluator(tiny_model(), [digits().search], qx.top1_accuracy)
    (evaluation,) = evaluator.evaluate(np.array([(3, 3, 3)]))
    np.testing.assert_allclose(evaluation.interval, wilson(int(evaluation.scores.sum()), 400), rtol=1e-9)
    low, high = evaluation.interval
    assert low < evaluation.score < high


@pytest.mark.parametrize(("hits", "number"), [(0, 5), (1, 2), (45, 50), (920, 1024), (7, 7)])
def test_wilsons_interval_agrees_with_scipy(hits, number):
    scores = np.array([1.0] * hits + [0.0] * (number - hits), dtype=np.float32)
    expected = stats.binomtest(hits, number).proportion_ci(0.95, "wilson")
    assert confidence_interval(scores, qx.top1_accuracy) == pytest.approx((expected.low, expected.high), abs=1e-12)


def drawn(number, seed=0):
    random = np.random.default_rng(seed)
    return [random.random(number).astype(np.float32), random.random(number).astype(np.float32)]


@pytest.mark.parametrize(("gained", "lost", "number"), [(0, 0, 450), (3, 9, 450), (20, 0, 40), (1, 1, 2)])
def test_paired_hits_get_the_interval_of_agresti_and_min(gained, lost, number):
    first, second = np.zeros((2, number), dtype=np.float32)
    first[:gained] = second[gained : gained + lost] = 1
    total, b, c = number + 2, gained + 0.5, lost + 0.5
    middle = (b - c) / total
    reach = Z * math.sqrt(((b + c) - (b - c) ** 2 / total) / total**2)
    low, high = paired_interval(first, second, qx.top1_accuracy)
    assert (low, high) == pytest.approx((max(middle - reach, -1), min(middle + reach, 1)))
    assert low <= (gained - lost) / number <= high
    assert low < high, "no sample that differs is no proof that none does"


def test_other_paired_scores_get_students_interval_of_their_differences():
    first, second = drawn(100)
    different = (first - second).astype(float)
    expected = stats.t.interval(0.95, 99, different.mean(), different.std(ddof=1) / 10)
    assert paired_interval(first, second, qx.token_accuracy) == pytest.approx(expected, rel=1e-6)
    assert paired_interval(first, second, qx.squared_error) == pytest.approx(expected, rel=1e-6)
    assert paired_interval(first, first, qx.squared_error) == (0.0, 0.0)


def test_a_paired_interval_is_in_the_metrics_own_units():
    first, second = drawn(400)
    low, high = paired_interval(first, second, qx.perplexity)
    influence = math.exp(first.mean()) * first - math.exp(second.mean()) * second
    reach = stats.t.ppf(0.975, 399) * influence.std(ddof=1) / 20
    assert (high - low) / 2 == pytest.approx(reach, rel=1e-4)
    assert (high + low) / 2 == pytest.approx(math.exp(first.mean()) - math.exp(second.mean()), rel=1e-5)


def test_a_pair_has_no_interval_where_there_is_no_difference_to_be_had():
    one = np.ones(1, dtype=np.float32)
    huge = np.full(3, 900.0, dtype=np.float32)
    assert paired_interval(one, one, qx.top1_accuracy) is None
    assert mean_difference([one], one, qx.top1_accuracy) is None
    assert paired_interval(huge, huge + 1, qx.perplexity) is None
    for root in (math.sqrt, np.sqrt):
        rooted = qx.Metric(lambda output, target: output, "root of the squared error", of_mean=root)
        assert paired_interval(huge * 0, huge * 0 + 0.5, rooted) is None


def test_the_mean_of_several_differences_from_one_has_the_error_of_the_mean_of_their_samples():
    rows, other = drawn(50), drawn(50, seed=1)[0]
    difference, error = mean_difference(rows, other, qx.token_accuracy)
    samples = np.mean(rows, axis=0) - other
    assert difference == pytest.approx(samples.mean(), rel=1e-5)
    assert error == pytest.approx(samples.std(ddof=1) / math.sqrt(50), rel=1e-5)


def test_the_error_of_a_mean_of_hits_is_that_of_agresti_and_min_though_none_differs():
    first, second = (np.array([1.0] * hits + [0.0] * (40 - hits), dtype=np.float32) for hits in (30, 36))
    for one, other in ((first, second), (first, first)):
        low, high = paired_interval(one, other, qx.top1_accuracy)
        error = mean_difference([one, one], other, qx.top1_accuracy)[1]
        assert error == pytest.approx((high - low) / 2 / Z)
        assert error > 0
