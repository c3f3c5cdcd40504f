"""Labels that do not count and labels that are no class: every metric of labels against plain numpy."""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import batches, digits
from problems import tiny_model

import qexplore as qx
from qexplore import predicates
from qexplore.errors import MetricError

TOKENS, PIXELS = -100, 255
METRICS = {
    "top-1": (qx.top1_accuracy, (4,), TOKENS),
    "top-2": (qx.topk_accuracy(2), (4,), TOKENS),
    "nll": (qx.negative_log_likelihood, (4,), TOKENS),
    "token accuracy": (qx.token_accuracy, (3, 4), TOKENS),
    "nll of tokens": (qx.negative_log_likelihood, (3, 4), TOKENS),
    "perplexity": (qx.perplexity, (3, 4), TOKENS),
    "pixel accuracy": (qx.pixel_accuracy, (4, 2, 2), PIXELS),
}


def label_scores(metric, logits, target):
    """Score of every label ``[B, labels]``, in numpy."""
    if metric is qx.pixel_accuracy:
        logits = np.moveaxis(logits, 1, -1)
    logits, target = logits.reshape(len(logits), -1, logits.shape[-1]), target.reshape(len(target), -1)
    if metric.name in ("negative log-likelihood", "perplexity"):
        wide = logits.astype(np.float64)
        log_p = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
        return -np.take_along_axis(log_p, np.maximum(target, 0)[..., None] % logits.shape[-1], -1)[..., 0]
    best = np.argsort(-logits, axis=-1, kind="stable")[..., : 2 if metric.name == "top-2 accuracy" else 1]
    return (best == target[..., None]).any(-1).astype(float)


@pytest.mark.parametrize("case", METRICS.values(), ids=METRICS)
@given(seed=st.integers(0, 10_000), share=st.floats(0, 1), size=st.integers(1, 7))
@settings(max_examples=25, deadline=None)
def test_what_is_ignored_is_left_out_with_its_weight(case, seed, share, size):
    metric, shape, ignored = case
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(7, *shape)).astype(np.float32)
    target_shape = (7, *shape[1:]) if metric is qx.pixel_accuracy else (7, *shape[:-1])
    target = rng.integers(0, 4, target_shape)
    target[rng.random(target_shape) < share] = ignored
    target[rng.random(7) < share / 2] = ignored
    counted = target.reshape(7, -1) != ignored
    parts = list(zip(torch.tensor(logits).split(size), torch.tensor(target).split(size), strict=True))
    everything = metric.summarize, torch.cat([metric(x, y) for x, y in parts]).numpy()
    over = qx.over_labels(metric).fitted(y for _, y in parts)
    over_all = over.summarize, torch.cat([over(x, y) for x, y in parts]).numpy()
    if not counted.any():
        for summarize, scores in (everything, over_all):
            with pytest.raises(MetricError, match=f"labels are all {ignored}, which it ignores"):
                summarize(scores)
        return
    values = label_scores(metric, logits, target)
    per_sample = [row[kept].mean() for row, kept in zip(values, counted, strict=True) if kept.any()]
    of_mean = math.exp if metric is qx.perplexity else float
    assert everything[0](everything[1]) == pytest.approx(of_mean(np.mean(per_sample)), rel=1e-5, abs=1e-7)
    assert over_all[0](over_all[1]) == pytest.approx(of_mean(values[counted].mean()), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("label", [-1, 4, 1000, -99])
@pytest.mark.parametrize("case", METRICS.values(), ids=METRICS)
def test_a_label_that_is_no_class_is_refused(case, label):
    metric, shape, ignored = case
    target = torch.zeros((2, *shape[1:]) if metric is qx.pixel_accuracy else (2, *shape[:-1]), dtype=torch.int64)
    target.view(-1)[-1] = label
    with pytest.raises(
        MetricError, match=rf"labels from 0 to 3, for outputs of 4 classes, or {ignored}.*got {label}: "
    ):
        metric(torch.zeros(2, *shape), target)


@pytest.mark.parametrize("case", METRICS.values(), ids=METRICS)
def test_outputs_of_a_single_class_are_refused(case):
    metric, shape, _ = case
    alone = (1, *shape[1:]) if metric is qx.pixel_accuracy else (*shape[:-1], 1)
    target = torch.zeros((2, *shape[1:]) if metric is qx.pixel_accuracy else (2, *shape[:-1]), dtype=torch.int64)
    with pytest.raises(MetricError, match=r"needs two classes or more|with C >= 2") as raised:
        metric(torch.zeros(2, *alone), target)
    offered = re.search(r"write qexplore\.Metric\((lambda .*?), range", str(raised.value))
    if offered:
        assert eval(offered[1])(torch.ones(2, *alone), target).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.uint16, torch.bool])
def test_labels_of_any_whole_dtype_are_read_alike(dtype):
    logits = torch.eye(2)
    assert qx.top1_accuracy(logits, torch.tensor([0, 1]).to(dtype)).tolist() == [1.0, 1.0]
    assert qx.top1_accuracy(logits, torch.tensor([1, 1]).to(dtype)).tolist() == [0.0, 1.0]


def test_nan_where_nothing_counts_does_not_fail_the_others():
    logits = torch.eye(4).repeat(2, 1, 1)
    logits[0] = torch.nan
    target = torch.stack([torch.full((4,), TOKENS), torch.arange(4)])
    assert qx.token_accuracy.summarize(qx.token_accuracy(logits, target).numpy()) == 1.0


def test_means_over_samples_and_over_labels_have_names_of_their_own():
    metric = qx.over_labels(qx.perplexity)
    assert metric.name == "perplexity over labels"
    assert (metric.range, metric.is_mean, metric.higher_is_better) == ((1.0, math.inf), False, False)
    for other in (qx.squared_error, metric, None):
        with pytest.raises(MetricError, match="over_labels takes a metric of labels"):
            qx.over_labels(other)


def test_a_mean_too_large_for_its_metric_is_said():
    with pytest.raises(MetricError, match="'perplexity' is too large for a float: a mean score of 1000"):
        qx.perplexity.summarize(np.array([1000.0], dtype=np.float32))


def half_ignored():
    return [(x, torch.where(torch.arange(len(y)) % 2 == 0, y, TOKENS)) for x, y in batches(digits().search, 60)]


@pytest.mark.parametrize("metric", [qx.top1_accuracy, qx.negative_log_likelihood, qx.over_labels(qx.perplexity)])
def test_both_engines_leave_ignored_samples_out_also_when_they_stop_early(metric):
    model = tiny_model()
    options = {"num_bits_lower_limit": 2, "num_bits_upper_limit": 6}
    direct = qx.LayerwiseQuantizationProblem(model, half_ignored(), metric, engine="direct", **options)
    fast = qx.LayerwiseQuantizationProblem(model, half_ignored(), metric, engine="prefix", **options)
    kept = [(x[y != TOKENS], y[y != TOKENS]) for x, y in half_ignored()]
    truth = qx.LayerwiseQuantizationProblem(model, kept, metric, engine="direct", **options)
    rows = np.array(list(itertools.product((2, 3, 4, 6), repeat=3)))
    expected = list(truth.measure_directly(rows))
    slow = list(direct.measure_directly(rows))
    assert [e.score for e in slow] == pytest.approx([e.score for e in expected], rel=1e-6)
    assert [e.interval for e in slow] == [pytest.approx(e.interval, rel=1e-5) for e in expected]
    assert {(len(e.scores), e.num_samples) for e in slow} == {(200, 400)}
    limit = float(np.median([e.score for e in expected]))
    for evaluation, right in zip(fast.measure(rows, must_beat=[limit] * len(rows)), expected, strict=True):
        if evaluation.is_complete:
            assert evaluation.score == pytest.approx(right.score, rel=1e-5)
        else:
            assert not metric.is_better(right.score, limit)
            assert not metric.is_better(right.score, evaluation.bound)
    assert sum(e.state == "stopped" for e in fast.evaluations) > 5


def test_a_set_of_nothing_but_ignored_samples_is_refused():
    data = [(digits().search.x, torch.full((400,), TOKENS))]
    with pytest.raises(MetricError, match="'accuracy' needs samples that count, got 400 whose labels are all -100"):
        qx.LayerwiseQuantizationProblem(tiny_model(), data)


class Copying(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(8, 8)
        self.relu = torch.nn.ReLU()

    def forward(self, input_ids):
        return self.relu(self.embedding(input_ids))


def test_labels_that_are_the_input_tokens_are_said_to_need_a_shift():
    ids = torch.randint(8, (6, 5), generator=torch.Generator().manual_seed(0))
    model = qx.QuantizedActivationsModel(Copying(), predicates.by_type(torch.nn.ReLU))
    model.calibrate([ids])
    padded = ids.clone()
    padded[0, 3:] = TOKENS
    for labels in (ids, padded):
        for batch in ({"input_ids": ids, "labels": labels}, (ids, labels)):
            with pytest.warns(UserWarning, match=r"'perplexity' are the input tokens.*unpack=") as warned:
                qx.DirectEvaluator(model, [batch], qx.perplexity)
            unpack = eval(str(warned[0].message).partition("unpack=")[2], {"torch": torch})
            qx.DirectEvaluator(model, [batch], qx.perplexity, unpack=unpack)
    shifted = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=TOKENS)
    qx.DirectEvaluator(model, [{"input_ids": ids, "labels": shifted}], qx.perplexity)
