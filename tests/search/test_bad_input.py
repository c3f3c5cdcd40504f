"""What a problem refuses when it is built: by name, and with the model as it was."""

import math

import numpy as np
import pytest
import torch
from networks import digits
from problems import (
    Watched,
    correct,
    raising,
    random_state,
    search_loader,
    state_of,
    tiny_model,
    tiny_network,
    tiny_problem,
)

import qexplore as qx
from qexplore import predicates
from qexplore.errors import CalibrationError, DataError, EvaluationError, MetricError, ProblemError


def spoil(scores):
    return scores * torch.nan


WIDEST = correct(tiny_model(), (4, 4, 4)) / 400
FLOAT = correct(tiny_model(), (0, 0, 0)) / 400

LIMITS = {
    "lower above upper": ({"lower": 5, "upper": 4}, r"num_bits_lower_limit \(5\) must not be above .*\(4\)"),
    "lower above upper at one point": ({"lower": [2, 5, 2], "upper": 4}, r"\(5\) must not be above"),
    "one signed bit": (
        {"lower": 1, "model": tiny_model(unsigned=False)},
        "at least 2 at 'input', which is signed, got 1",
    ),
    "no unsigned bit": ({"lower": 0}, "at least 1 at 'input', which is unsigned, got 0"),
    "negative": ({"lower": -2}, "got -2"),
    "too wide": ({"upper": 17}, "at most 16, got 17 at 'input'"),
    "too wide at one point": ({"upper": [8, 8, 40]}, "got 40 at 'relu2'"),
    "float lower": ({"lower": 2.0}, "num_bits_lower_limit must be an int, got 2.0"),
    "float upper": ({"upper": 8.5}, "num_bits_upper_limit must be an int, got 8.5"),
    "bool": ({"lower": True}, "must be an int, got True"),
    "numpy bool": ({"upper": np.True_}, "must be an int"),
    "text": ({"upper": "8"}, "must be an int, got '8'"),
    "None at one point": ({"upper": [8, None, 8]}, "must be an int, got None"),
    "float at one point": ({"upper": [8, 8.0, 8]}, "must be an int, got 8.0"),
    "too few": ({"lower": [2, 2]}, "one for each of 3 points, got 2"),
    "too many": ({"upper": np.array([8, 8, 8, 8])}, "one for each of 3 points, got 4"),
    "none at all": ({"upper": []}, "one for each of 3 points, got 0"),
    "array of no axis": ({"upper": np.array(8)}, r"must be an int, got array\(8\)"),
}

MIN_ACCURACY = {
    "a percentage": ({"min_accuracy": 90}, r"within the range of the metric 'accuracy', \[0, 1\], got 90"),
    "negative": ({"min_accuracy": -0.1}, "got -0.1"),
    "NaN": ({"min_accuracy": math.nan}, "got nan"),
    "bool": ({"min_accuracy": True}, "got True"),
    "text": ({"min_accuracy": "0.9"}, "got '0.9'"),
    "unreachable": (
        {"min_accuracy": 0.99},
        rf"min_accuracy \(0.99\) is above .* reached: the float network itself has accuracy {FLOAT:.4f}. Relax[^.]*$",
    ),
    "just out of reach": (
        {"min_accuracy": WIDEST + 1e-6},
        rf"is above .*: the widest candidate \(4 bits\) has accuracy {WIDEST:.4f}, the float network {FLOAT:.4f}",
    ),
    "unreachable from above": (
        {"min_accuracy": 0.01, "metric": qx.negative_log_likelihood},
        r"min_accuracy \(0.01\) is below .*: the float network itself has negative log-likelihood 0\.\d{4}. Relax",
    ),
    "beyond where lower is better": ({"min_accuracy": 0.5, "metric": qx.perplexity}, r"\[1, inf\], got 0.5"),
}


def refused(error, sentence, *, model=None, **options):
    model = model or tiny_model()
    model.train()
    model.num_bits = [5, 0, 7]
    before, drawn = state_of(model), random_state()
    with pytest.raises(error, match=sentence) as raised:
        tiny_problem(model=model, **options)
    assert state_of(model) == before
    assert random_state() == drawn
    return raised.value


@pytest.mark.parametrize("case", [*LIMITS.values(), *MIN_ACCURACY.values()], ids=[*LIMITS, *MIN_ACCURACY])
def test_limits_that_cannot_be_are_refused(case):
    options, sentence = case
    refused(ProblemError, sentence, **options)


def test_a_float_network_that_misses_the_minimum_itself_is_not_sent_to_wider_choices():
    with pytest.raises(ProblemError, match="Relax min_accuracy$"):
        tiny_problem(min_accuracy=min(1.0, FLOAT + 0.01))
    with pytest.raises(ProblemError, match="or raise num_bits_upper_limit$"):
        tiny_problem(min_accuracy=FLOAT, upper=2)


METRICS = {
    "NaN on the float network": (Watched(at=[1], do=spoil), MetricError, "NaN for 400 of 400"),
    "NaN on the widest": (Watched(at=[2], do=spoil), EvaluationError, r"widest candidate \(4, 4, 4\).*NaN"),
    "wrong shape": (lambda output, target: output.mean(), MetricError, "one score per sample"),
    "wrong shape on the widest": (Watched(at=[2], do=torch.mean), EvaluationError, "widest.*one score per sample"),
    "raises": (
        Watched(at=[1], do=raising(OSError("no disk"))),
        MetricError,
        "metric 'watched' raised OSError: no disk",
    ),
    "raises on the widest": (Watched(at=[2], do=raising(OSError("no disk"))), EvaluationError, "widest.*no disk"),
    "no metric": ("accuracy", MetricError, "got 'accuracy'"),
    "whole set, NaN": (qx.whole_set(lambda model, loader: math.nan), MetricError, "finite"),
    "whole set, raises": (qx.whole_set(lambda model, loader: 1 / 0), MetricError, "raised ZeroDivisionError"),
}


@pytest.mark.parametrize("case", METRICS.values(), ids=METRICS)
def test_metrics_that_do_not_work_are_refused(case):
    metric, error, sentence = case
    if isinstance(metric, Watched):
        metric.calls = 0
    refused(error, sentence, metric=metric, engine="direct")


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(1)])
@pytest.mark.parametrize("call", [1, 2])
def test_an_interrupt_while_a_problem_is_built_leaves_the_model_as_it_was(stop, call):
    refused(type(stop), None, metric=Watched(at=[call], do=raising(stop)))
    refused(type(stop), None, metric=Watched(at=[call], do=raising(stop)), engine="direct")


LOADERS = {
    "empty": ([], DataError, "at least one batch"),
    "no loader": (5, DataError, "got int"),
    "other samples each time": (
        torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(*digits().search), batch_size=150, shuffle=True, drop_last=True
        ),
        DataError,
        "same samples in every pass",
    ),
    "batches of another form": (["text"], DataError, "unpack="),
    "no targets": ([digits().search.x], MetricError, "got NoneType: batches must hold targets"),
}


@pytest.mark.parametrize("case", LOADERS.values(), ids=LOADERS)
def test_data_that_cannot_be_measured_on_is_refused(case):
    loader, error, sentence = case
    refused(error, sentence, loader=loader)


def test_an_uncalibrated_model_is_refused_and_its_points_named():
    model = qx.QuantizedActivationsModel(tiny_network(), predicates.by_type(torch.nn.ReLU))
    error = refused(CalibrationError, r"no `amax`: input, relu1, relu2\. Call model.calibrate", model=model)
    assert isinstance(error, ValueError)


def test_a_model_of_which_one_point_is_not_calibrated_is_refused():
    model = qx.QuantizedActivationsModel(tiny_network(), predicates.by_type(torch.nn.ReLU))
    model.activation_fake_quantizers["input"].amax = 1.0
    model.activation_fake_quantizers["relu2"].amax = 4.0
    refused(CalibrationError, r"no `amax`: relu1\.", model=model)


@pytest.mark.parametrize("model", [tiny_network(), None, "model"])
def test_what_is_not_wrapped_is_refused(model):
    with pytest.raises(ProblemError, match=f"got {type(model).__name__}: wrap it"):
        qx.LayerwiseQuantizationProblem(model, search_loader())


def test_scores_to_beat_are_one_for_each_candidate():
    with pytest.raises(ProblemError, match=r"must_beat must hold a score for each of 2 candidates, got \[0.5\]"):
        tiny_problem().measure([[2, 2, 2], [3, 3, 3]], must_beat=[0.5])


def test_numpy_limits_are_limits():
    problem = tiny_problem(lower=np.int64(3), upper=np.array([4, 4, 3]))
    assert (problem.xl.tolist(), problem.xu.tolist()) == ([3, 3, 3], [4, 4, 3])


def test_a_min_accuracy_that_the_widest_candidate_just_reaches_is_accepted():
    assert tiny_problem(min_accuracy=WIDEST).min_accuracy == WIDEST
    assert tiny_problem(min_accuracy=0).min_accuracy == 0.0


def test_a_min_accuracy_out_of_reach_names_the_point_that_makes_it_so():
    model = tiny_model()
    model.activation_fake_quantizers["relu1"].amax = 0.01
    error = refused(ProblemError, "is above what can be reached", model=model, min_accuracy=0.8, upper=8)
    assert "'relu1' costs most: alone at 8, all others in float, 0." in str(error)
    assert "on 256 samples; give it wider choices or off, or calibrate it otherwise" in str(error)
