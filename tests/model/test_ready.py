"""Whether a model is wrapped, attached and calibrated, asked in one place."""

from typing import Any

import pytest
import torch
from torch import nn

import qexplore as qx
from qexplore import predicates
from qexplore.errors import CalibrationError, ModelError, ProblemError, QExploreError, WorkflowError
from qexplore.model import require_wrapped

X = torch.rand(4, 3)


def wrapped() -> qx.QuantizedModel:
    return qx.QuantizedModel(
        nn.Sequential(nn.Linear(3, 3), nn.ReLU()), predicates.by_type(nn.ReLU), predicates.weighted
    )


def calibrated() -> qx.QuantizedModel:
    model = wrapped()
    model.calibrate([X])
    return model


def test_a_model_that_is_ready_is_given_back() -> None:
    model = calibrated()
    assert require_wrapped("this", model) is model


@pytest.mark.parametrize("error", [ModelError, ProblemError, WorkflowError])
@pytest.mark.parametrize("model", [nn.ReLU(), None, 3], ids=repr)
def test_what_is_not_wrapped_is_refused_by_the_callers_error(error: type[QExploreError], model: Any) -> None:
    sentence = f"^this takes a QuantizedModel, got {type(model).__name__}: wrap it"
    with pytest.raises(error, match=f"{sentence} and calibrate it first$"):
        require_wrapped("this", model, error)
    with pytest.raises(error, match=f"{sentence} first$"):
        require_wrapped("this", model, error, calibrated=False)


def test_a_network_that_has_to_do_with_a_wrapper_is_told_apart_from_a_float_one() -> None:
    model = calibrated()
    problem = qx.LayerwiseQuantizationProblem(model, [(X, torch.zeros(len(X), dtype=torch.long))], qx.top1_accuracy)
    for given, way in (
        (model.model, "got Sequential: it is the network inside of one, give the QuantizedModel itself"),
        (nn.Sequential(model), "got Sequential: it holds a QuantizedModel, give that alone"),
        (problem, "got LayerwiseQuantizationProblem: give its `model`, which is one"),
    ):
        with pytest.raises(ModelError, match=way):
            require_wrapped("this", given)


def test_points_without_a_range_are_named_unless_they_may_be() -> None:
    model = wrapped()
    with pytest.raises(CalibrationError, match=r"no `amax`: input, 1\. Call model\.calibrate"):
        require_wrapped("this", model)
    assert require_wrapped("this", model, calibrated=False) is model


@pytest.mark.parametrize("detach", [lambda model: model.detach(), lambda model: qx.detach(model.model)])
def test_a_detached_model_is_refused_also_by_those_who_need_no_range(detach: Any) -> None:
    model = calibrated()
    detach(model)
    with pytest.raises(ModelError, match="detached"):
        require_wrapped("this", model)
    with pytest.raises(ModelError, match="detached"):
        require_wrapped("this", model, WorkflowError, calibrated=False)


class TestWhoAsks:
    def test_analysis(self) -> None:
        with pytest.raises(ModelError, match="analyze takes a QuantizedModel, got ReLU"):
            qx.analyze(nn.ReLU(), [X])  # type: ignore[arg-type]

    def test_problem_of_a_detached_model(self) -> None:
        model = calibrated()
        model.detach()
        with pytest.raises(ModelError, match="detached"):
            qx.LayerwiseQuantizationProblem(model, [(X, torch.zeros(4))], qx.top1_accuracy)

    def test_bias_correction_says_first_that_there_are_no_weights(self) -> None:
        model = qx.QuantizedActivationsModel(nn.Sequential(nn.ReLU()), predicates.by_type(nn.ReLU))
        with pytest.raises(ModelError, match="must have quantized weights"):
            qx.correct_biases(model, [X])
        with pytest.raises(ModelError, match="correct_biases takes a QuantizedModel, got ReLU"):
            qx.correct_biases(nn.ReLU(), [X])  # type: ignore[arg-type]
