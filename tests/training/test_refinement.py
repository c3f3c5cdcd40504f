"""Refining the cheap end of a front: real measurements before and after, and weights for every point."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import batches, digits, trained
from torch import nn
from torch.nn import functional as F

import qexplore as qx
from qexplore import predicates
from qexplore.errors import FrontError, WorkflowError
from qexplore.evaluation import DirectEvaluator

WIDTHS = ([4, 2, 2, 2], [4, 2, 2, 3], [4, 3, 3, 3], [6, 5, 5, 5])


def wrapped():
    model = qx.QuantizedActivationsModel(trained("small_cnn"), predicates.by_type(nn.ReLU), unsigned=False)
    model.calibrate(batches(digits().calibration))
    return model


def front_of(model, **fields):
    problem = qx.LayerwiseQuantizationProblem(model, batches(digits().search), num_bits_lower_limit=2)
    scores = [one.score for one in problem.direct.evaluate(np.array(WIDTHS))]
    return qx.Front(
        num_bits=WIDTHS,
        accuracy=scores,
        costs=np.sum(WIDTHS, axis=1)[:, None],
        point_names=tuple(model.fake_quantizers),
        **fields,
    )


def loader():
    return batches(digits().train, 69)


def refined(model, front, **options):
    options = {"epochs": 3, "learning_rate": 0.003, "report_loader": batches(digits().report), "count": 2, **options}
    return qx.refine(front, model, loader(), options.pop("loss", F.cross_entropy), **options)


@functools.cache
def refinement():
    model = wrapped()
    return refined(model, front_of(model))


def correct(model):
    with torch.no_grad():
        return int((model.eval()(digits().report.x).argmax(1) == digits().report.y).sum())


def test_both_fronts_are_measured_on_the_report_set():
    result = refinement()
    scores = [
        one.score
        for one in DirectEvaluator(wrapped(), batches(digits().report), qx.top1_accuracy).evaluate(np.array(WIDTHS))
    ]
    assert result.before.accuracy.tolist() == scores
    assert result.before.num_bits.tolist() == list(map(list, WIDTHS))
    assert result.before.verified
    assert result.after.verified
    assert result.before.float_accuracy == result.after.float_accuracy > 0.95


def test_cheap_points_get_better_and_the_front_moves():
    result = refinement()
    assert [list(one.num_bits) for one in result.refined] == [WIDTHS[0], WIDTHS[1]]
    assert all(one.accuracy_after > one.accuracy_before + 0.03 for one in result.refined)
    reference = (0.3, 40.0)
    assert result.after.hypervolume(reference) > result.before.hypervolume(reference)
    assert "2 of 4 points fine-tuned" in str(result)


def test_every_point_of_the_new_front_is_applied_with_its_own_weights():
    result = refinement()
    model = wrapped()
    for point in result.after:
        result.apply(model, point)
        assert model.num_bits.tolist() == list(point.num_bits)
        assert correct(model) / 300 == point.accuracy
    assert [result.is_refined(point) for point in result.after].count(True) >= 1


def test_each_point_starts_from_the_same_weights():
    model = wrapped()
    front = front_of(model)
    alone = refined(model, front, count=1).refined[0]
    second = refinement().refined[0]
    key = "model.conv1.weight"
    assert torch.equal(alone.state[key], second.state[key])
    assert not torch.equal(refinement().refined[0].state[key], refinement().refined[1].state[key])


def test_model_comes_back_as_it_was():
    model = wrapped()
    model.num_bits = [7, 7, 7, 7]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    refined(model, front_of(model), count=1)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_model_comes_back_as_it_was_after_an_error():
    model = wrapped()
    front = front_of(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ZeroDivisionError):
        refined(model, front, loss=lambda output, target: 1 / 0)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_points_below_an_accuracy_are_chosen():
    model = wrapped()
    front = front_of(model)
    least = float(front.accuracy.min())
    result = refined(model, front, count=None, below=least + 1e-9)
    assert [one.num_bits for one in result.refined] == [tuple(WIDTHS[int(front.accuracy.argmin())])]
    with pytest.raises(WorkflowError, match="selects no point"):
        refined(model, front, count=None, below=0.0)


def test_interrupt_keeps_the_points_refined_so_far():
    model, steps = wrapped(), []
    front = front_of(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def loss(output, target):
        steps.append(1)
        if len(steps) == 42:  # in the second point
            raise KeyboardInterrupt
        return F.cross_entropy(output, target)

    result = refined(model, front, loss=loss, count=3)
    assert result.interrupted
    assert len(result.refined) == 2
    assert result.refined[0].accuracy_after > result.refined[0].accuracy_before
    assert result.refined[1].fine_tuning.best_epoch == 0
    assert result.refined[1].accuracy_after == result.refined[1].accuracy_before
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_scores_by_further_metrics_of_other_weights_or_sets_are_not_handed_on():
    model = wrapped()
    loss = qx.FurtherMetric("loss", higher_is_better=False, min_accuracy=2.0, float_accuracy=0.1)
    known = {"further_scores": [[0.9], [0.8], [0.7], [0.6]], "report_further_scores": [[0.5], [0.4], [np.nan], [0.2]]}
    result = refined(model, front_of(model, further=(loss,), **known), count=1)
    assert result.after.num_bits[0].tolist() == WIDTHS[0]
    for front in (result.before, result.after):
        assert front.further == () and front.further_scores is front.report_further_scores is None
    assert "loss" not in str(result)


@pytest.mark.parametrize(
    ("typed", "meant"), [("cuont", "count"), ("learn_step_size", "learn_step_sizes"), ("epoch", "epochs")]
)
def test_misspelt_keyword_is_refused_with_the_nearest_one_of_refine_and_of_fine_tune(typed, meant):
    model = wrapped()
    with pytest.raises(TypeError, match=rf"refine\(\) got .*'{typed}', did you mean '{meant}'\?"):
        refined(model, front_of(model), **{typed: 1})


def test_points_that_are_no_members_cannot_be_applied():
    with pytest.raises(FrontError, match="no point"):
        refinement().apply(wrapped(), [8, 8, 8, 8])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"count": 2, "below": 0.5}, WorkflowError, "got both"),
        ({"count": 0}, WorkflowError, "`count`"),
        ({"cost": "bops"}, FrontError, "bops"),
        ({"metric": qx.negative_log_likelihood}, FrontError, "the front is of 'accuracy'"),
        ({"epochs": 0}, WorkflowError, "`epochs`"),
        ({"epoch": 2}, TypeError, r"refine\(\) got an unexpected keyword argument .epoch., did you mean .epochs."),
    ],
)
def test_bad_arguments_are_refused(options, error, message):
    model = wrapped()
    with pytest.raises(error, match=message):
        refined(model, front_of(model), **options)


def test_fronts_of_something_else_are_refused():
    model = wrapped()
    other = qx.Front(num_bits=[[3]], accuracy=[0.5], costs=[[3]], point_names=("fc",))
    with pytest.raises(FrontError, match="got one of fc"):
        refined(model, other)
    with pytest.raises(FrontError, match="needs a Front, got list"):
        refined(model, [])
    with pytest.raises(WorkflowError, match="refine takes a QuantizedModel"):
        refined(trained("small_cnn"), front_of(model))


def test_a_front_is_refined_by_its_own_metric():
    model = wrapped()
    front = replace(front_of(model), metric_name="negative log-likelihood", higher_is_better=False)
    result = refined(model, front, count=1, epochs=1)
    assert result.before.metric_name == "negative log-likelihood"
    assert result.refined[0].accuracy_after < result.refined[0].accuracy_before
    with pytest.raises(WorkflowError, match="refine: these scores are of 'dice'"):
        refined(model, replace(front, metric_name="dice"))


def test_what_was_claimed_on_another_set_is_not_handed_on():
    model = wrapped()
    front = front_of(model)
    uniform = replace(front, report_accuracy=front.accuracy, report_float_accuracy=0.9)
    known = replace(uniform, uniform=uniform, report_from_float=[[0.0, 0.1]] * len(front))
    for found in (refined(model, known, count=1, epochs=1).before, refined(model, known, count=1, epochs=1).after):
        assert found.uniform is found.report_float_accuracy is found.report_from_float is found.report_accuracy is None
