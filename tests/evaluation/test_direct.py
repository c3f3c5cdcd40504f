"""The direct evaluator: what it says about metrics that do not work, and about the float network."""

import math

import numpy as np
import pytest
import torch
from networks import digits
from problems import Watched, correct, raising, random_state, search_loader, state_of, tiny_model, tiny_network

import qexplore as qx
from qexplore.errors import MetricError, ModelError
from qexplore.metrics import as_metric
from qexplore.workflows import measure_accuracy


def evaluator(metric, loader=None, model=None):
    return qx.DirectEvaluator(model or tiny_model(), loader or search_loader(), as_metric(metric))


def test_the_float_network_is_measured_with_every_quantizer_off():
    model = tiny_model()
    model.num_bits = [2, 2, 2]
    with torch.no_grad():
        expected = int((tiny_network()(digits().search.x).argmax(1) == digits().search.y).sum())
    built = evaluator(qx.top1_accuracy, model=model)
    assert built.float_evaluation.scores.sum() == expected
    assert model.num_bits.tolist() == [2, 2, 2]


REFUSED = {
    "a mean": (
        lambda output, target: (output.argmax(1) == target).float().mean(),
        r"shape \[400\].*shape \(\).*whole_set",
    ),
    "one score a class": (lambda output, target: output, r"shape \(400, 10\)"),
    "too few": (lambda output, target: output[:7, 0], r"shape \(7,\)"),
    "a list": (lambda output, target: [1.0] * len(output), "one score per sample"),
    "a float": (lambda output, target: 0.5, "got 0.5"),
    "nothing": (lambda output, target: None, "got None"),
    "NaN": (lambda output, target: output[:, 0] * torch.nan, "NaN for 400 of 400 samples"),
    "one NaN": (
        lambda output, target: output[:, 0].index_fill(0, torch.tensor(3), torch.nan),
        "NaN for 1 of 400 samples",
    ),
    "infinity": (lambda output, target: output[:, 0] / 0, "infinity for 400 of 400 samples"),
    "beyond its range": (
        qx.Metric(lambda output, target: output[:, 0] * 0 + 2, "share", range=(0.0, 1.0)),
        "400 of 400 samples score better, the best 2",
    ),
    "below its range": (qx.Metric(lambda output, target: output[:, 0] * 0 - 1, "share", range=(0.0, 1.0)), "got -1.0"),
    "whole set, NaN": (qx.whole_set(lambda model, loader: math.nan), "finite"),
    "whole set, nothing": (qx.whole_set(lambda model, loader: None), "must return a number, got None"),
    "whole set, scores": (qx.whole_set(lambda model, loader: [0.5, 0.5]), "must return a number"),
    "whole set, out of range": (qx.whole_set(lambda model, loader: 50, range=(0, 1)), "got 50.0"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_a_metric_that_gives_something_else_is_refused_and_the_model_is_as_it_was(case):
    metric, sentence = case
    model = tiny_model().train()
    model.num_bits = [3, 0, 4]
    before, drawn = state_of(model), random_state()
    with pytest.raises(MetricError, match=sentence):
        evaluator(metric, model=model)
    assert state_of(model) == before
    assert random_state() == drawn


def test_a_metric_that_raises_on_the_float_network_is_told_with_its_cause():
    error = KeyError("weights")
    with pytest.raises(MetricError, match="the metric 'watched' raised KeyError") as raised:
        evaluator(Watched(at=[1], do=raising(error)))
    assert raised.value.__cause__ is error


def test_a_score_that_passes_its_range_by_rounding_only_is_accepted():
    metric = qx.Metric(lambda output, target: torch.full((len(output),), 1.0000001), "share", range=(0.0, 1.0))
    assert evaluator(metric).float_evaluation.is_complete


@pytest.mark.parametrize("convert", [torch.Tensor.bool, torch.Tensor.int, torch.Tensor.double, torch.Tensor.half])
def test_scores_of_any_numeric_type_will_do(convert):
    metric = qx.Metric(lambda output, target: convert(qx.top1_accuracy(output, target)), "hits")
    assert evaluator(metric).float_evaluation.score == evaluator(qx.top1_accuracy).float_evaluation.score


def test_scores_that_carry_gradients_will_do():
    model = tiny_model(tiny_network().requires_grad_(True))
    weight = torch.ones((), requires_grad=True)
    metric = qx.Metric(lambda output, target: qx.top1_accuracy(output, target) * weight, "hits")
    (evaluation,) = evaluator(metric, model=model).evaluate(np.array([(3, 3, 3)]))
    assert evaluation.scores.sum() == correct(model, (3, 3, 3))
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.model.parameters())


def test_a_whole_set_metric_gets_the_quantized_model_in_eval_mode_and_the_users_loader():
    loader, seen = search_loader(100), []

    def error_rate(model, given):
        seen.append((given is loader, model.training, torch.is_grad_enabled(), model.num_bits.tolist()))
        hits = sum(int((model(x).argmax(1) == y).sum()) for x, y in given)
        return torch.tensor(1 - hits / 400, dtype=torch.float64)

    model = tiny_model().train()
    built = evaluator(qx.whole_set(error_rate, higher_is_better=False, range=(0, 1)), loader, model)
    (evaluation,) = built.evaluate(np.array([(2, 3, 4)]))
    assert seen == [(True, False, False, [0, 0, 0]), (True, False, False, [2, 3, 4])]
    assert evaluation.score == 1 - correct(model, (2, 3, 4)) / 400
    assert evaluation.scores is None and evaluation.interval is None
    assert model.training


def test_a_whole_set_metric_may_take_whatever_its_function_takes():
    metric = qx.whole_set(lambda model, question: float(len(question)))
    assert evaluator(metric, loader="how well?").float_evaluation.score == 9.0
    assert qx.DirectEvaluator(tiny_model(), None, qx.whole_set(lambda model, _: 0.5)).float_evaluation.score == 0.5


def test_a_whole_set_metric_that_plays_with_the_model_leaves_no_trace():
    def careless(model, loader):
        model.train()
        model.num_bits = [7, 7, 7]
        torch.manual_seed(3)
        return 0.5

    model = tiny_model()
    model.num_bits = [5, 0, 6]
    before, drawn = state_of(model), random_state()
    list(evaluator(qx.whole_set(careless), model=model).evaluate(np.array([(2, 2, 2)])))
    assert state_of(model) == before
    assert random_state() == drawn


def test_a_network_without_parameters_is_measured():
    class Sign(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = torch.nn.ReLU()

        def forward(self, x):
            return self.relu(x).flatten(1)

    model = qx.QuantizedActivationsModel(Sign(), qx.predicates.by_type(torch.nn.ReLU))
    model.calibrate(search_loader())
    assert evaluator(qx.top1_accuracy, model=model).float_evaluation.num_samples == 400


def test_a_plain_function_is_a_metric_and_what_is_none_is_refused():
    def hits(output, target):
        return (output.argmax(1) == target).float()

    expected = qx.DirectEvaluator(tiny_model(), search_loader(), qx.top1_accuracy).float_evaluation.score
    assert qx.DirectEvaluator(tiny_model(), search_loader(), hits).float_evaluation.score == expected
    for metric in (None, "accuracy", 0.5):
        with pytest.raises(MetricError, match="a metric must be a qexplore.Metric or a function"):
            qx.DirectEvaluator(tiny_model(), search_loader(), metric)
    with pytest.raises(ModelError, match="an evaluator takes a QuantizedModel, got Tiny"):
        qx.DirectEvaluator(tiny_network(), search_loader(), hits)


@pytest.mark.parametrize("size", [30, 400])
def test_a_metric_over_labels_is_of_the_whole_set_whatever_the_batches(size):
    generator = torch.Generator().manual_seed(0)
    labels = [torch.where(torch.rand(len(y), generator=generator) < 0.3, -100, y) for _, y in search_loader(400)]
    data = list(zip(search_loader(400)[0][0].split(size), labels[0].split(size), strict=True))
    network, metric = tiny_network(), qx.over_labels(qx.negative_log_likelihood)
    with torch.no_grad():
        outputs = torch.cat([network(x) for x, _ in data])
    expected = pytest.approx(float(torch.nn.functional.cross_entropy(outputs, torch.cat(labels))), rel=1e-5)
    assert qx.DirectEvaluator(tiny_model(), data, metric).float_evaluation.score == expected
    assert measure_accuracy(network, data, metric) == expected
