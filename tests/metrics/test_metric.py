"""What a metric is: functions, directions, ranges, and metrics of a whole set."""

import math

import pytest
import torch

import qexplore as qx
from qexplore.errors import MetricError
from qexplore.metrics import WholeSetMetric, as_metric


def count_positive(output, target):
    return (output > 0).float()


def test_a_plain_function_is_a_metric_where_higher_is_better():
    metric = as_metric(count_positive)
    assert isinstance(metric, qx.Metric)
    assert (metric.name, metric.higher_is_better, metric.range) == ("count_positive", True, (-math.inf, math.inf))
    assert metric(torch.tensor([1.0, -1.0]), None).tolist() == [1.0, 0.0]


def test_a_callable_object_is_named_after_its_class():
    class Agreement:
        def __call__(self, output, target):
            return output

    assert as_metric(Agreement()).name == "Agreement"


@pytest.mark.parametrize("metric", [qx.top1_accuracy, qx.whole_set(lambda model, loader: 1.0)])
def test_a_metric_is_taken_as_it_is(metric):
    assert as_metric(metric) is metric


@pytest.mark.parametrize("metric", [None, "accuracy", 0.5, torch.tensor(1.0)])
def test_what_cannot_be_called_is_no_metric(metric):
    with pytest.raises(MetricError, match="function"):
        as_metric(metric)


@pytest.mark.parametrize("limits", [(1.0, 0.0), (0.0, 0.0), (math.nan, 1.0), (0.0, math.nan), (0.0,), 3, None])
def test_a_range_that_is_none_is_refused(limits):
    with pytest.raises(MetricError, match="low < high"):
        qx.Metric(count_positive, range=limits)
    with pytest.raises(MetricError, match="low < high"):
        qx.whole_set(count_positive, range=limits)


@pytest.mark.parametrize(
    ("metric", "worst", "best"),
    [
        (qx.top1_accuracy, 0.0, 1.0),
        (qx.perplexity, None, 1.0),
        (qx.Metric(count_positive), None, None),
        (qx.Metric(count_positive, higher_is_better=False, range=(-1, 2)), 2.0, -1.0),
        (qx.whole_set(count_positive, range=(-1.0, math.inf)), -1.0, None),
    ],
)
def test_the_worst_and_the_best_score_are_the_ends_of_the_range(metric, worst, best):
    assert (metric.worst, metric.best) == (worst, best)


def test_a_metric_cannot_be_changed():
    with pytest.raises(AttributeError):
        qx.top1_accuracy.range = (0.0, 2.0)


def test_of_mean_turns_the_mean_into_the_metric():
    root = qx.Metric(count_positive, of_mean=math.sqrt)
    assert root.summarize(torch.tensor([0.0, 0.5]).numpy()) == 0.5
    with pytest.raises(MetricError, match="'accuracy' has no value at a mean score of -1: math domain error"):
        root.summarize(torch.tensor([-1.0, -1.0]).numpy())


def test_a_fit_that_fails_is_said_with_the_metric_and_with_what_targets_lack():
    metric = qx.Metric(count_positive, fit=lambda targets: targets[0])
    with pytest.raises(MetricError, match="'accuracy' could not be fitted to the set's targets: TypeError"):
        metric.fitted(iter([]))
    for target, got in ((None, "NoneType: batches must hold targets"), ({}, "dict"), (torch.zeros(2), "torch.float32")):
        with pytest.raises(MetricError, match=f"perplexity over labels needs class indices as target, got {got}"):
            qx.over_labels(qx.perplexity).fitted([target])


@pytest.mark.parametrize("field", ["function", "of_mean", "fit"])
def test_what_a_metric_calls_can_be_called(field):
    with pytest.raises(MetricError, match=f"`{field}` of the metric 'mine' must be a function, got 3"):
        qx.Metric(**{"function": count_positive, "name": "mine", field: 3})


def test_whole_set_marks_a_function_of_model_and_loader():
    def agreement(model, loader):
        return model + loader

    metric = qx.whole_set(agreement, higher_is_better=False, range=(0, 10))
    assert isinstance(metric, WholeSetMetric)
    assert (metric.name, metric.higher_is_better, metric.range) == ("agreement", False, (0, 10))
    assert metric(1, 2) == 3
    assert qx.whole_set(agreement, name="other").name == "other"


@pytest.mark.parametrize("function", [None, 1.0, "f"])
def test_whole_set_takes_a_function_only(function):
    with pytest.raises(MetricError, match="whole_set takes a function"):
        qx.whole_set(function)


def test_a_metric_of_which_less_is_better_is_not_called_an_accuracy():
    names = [qx.Metric(one, higher_is_better=False).name for one in (count_positive, lambda output, target: output)]
    assert names == ["count_positive", "loss"]
    assert qx.Metric(count_positive).name == "accuracy"
    assert qx.Metric(count_positive, "mine", higher_is_better=False).name == "mine"
