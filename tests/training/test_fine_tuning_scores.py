"""How fine-tuning scores a point: by which metric, which epoch it keeps, and what it calls won back."""

import pickle
from dataclasses import replace

import pytest
import torch
from fine_tuned import correct, low_point, parameters, tune, wrapped
from networks import batches, digits

import qexplore as qx
from qexplore.errors import WorkflowError


def test_best_epoch_on_the_validation_set_is_kept():
    seen, states = [], []
    model = wrapped()

    def note(record):
        seen.append(record.score)
        states.append(parameters(model))

        if len(seen) == 2:  # spoils the network again
            optimizers[0].param_groups[0]["lr"] = 3.0

    optimizers = []

    def make(held):
        optimizers.append(torch.optim.SGD(held, lr=0.02))
        return optimizers[0]

    result = tune(model, optimizer=make, epochs=3, validation_loader=batches(digits().search), on_epoch=note)
    assert max(seen) > seen[-1]
    assert result.best_epoch == 1 + seen.index(max(seen))
    assert [record.score for record in result.epochs] == seen
    assert correct(model.eval(), digits().search) / 400 == max(seen)
    kept = states[result.best_epoch - 1]
    assert all(torch.equal(kept[name], value) for name, value in model.named_parameters())


def test_state_before_training_stays_where_no_epoch_is_better():
    model = wrapped()
    before = parameters(model)
    result = tune(
        model,
        [8] * len(model.points),
        optimizer=lambda held: torch.optim.SGD(held, lr=3.0),
        validation_loader=batches(digits().search),
    )
    assert result.best_epoch == 0
    assert result.accuracy_after == result.accuracy_before
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())
    assert "before training kept" in str(result)


def test_metric_of_which_less_is_better_is_told_in_its_own_direction():
    model = wrapped()
    result = tune(model, metric=qx.negative_log_likelihood, validation_loader=batches(digits().search), epochs=3)
    scores = [record.score for record in result.epochs]
    assert result.epochs[result.best_epoch - 1].score == min(scores) > 0
    assert result.accuracy_after < result.accuracy_before
    assert result.recovered > 0.5


def margin(output, target):
    """Of the right class over the best other one: no metric of qexplore's."""
    right = output.gather(1, target[:, None])[:, 0]
    return (right > output.scatter(1, target[:, None], -torch.inf).amax(dim=1) + 0.5).float()


def a_point(model, metric, **fields):
    known = {"num_bits": [low_point(model)], "accuracy": [0.5], "costs": [[9.0]], "metric_name": metric}
    return qx.Front(**known, point_names=tuple(model.fake_quantizers), **fields)[0]


def by_hand(model, function, split):
    with torch.no_grad():
        return float(function(model.eval()(split.x.clone()), split.y).double().mean())


@pytest.mark.parametrize("metric", [qx.negative_log_likelihood, qx.Metric(margin), margin, qx.topk_accuracy(2)])
def test_a_point_is_judged_by_the_metric_that_it_was_found_by(metric):
    model = wrapped()
    problem = qx.LayerwiseQuantizationProblem(model, batches(digits().search), metric, num_bits_upper_limit=3)
    list(problem.measure([[3] * len(model.points)]))
    result = tune(model, problem.front()[0], epochs=1)

    assert (result.metric_name, result.higher_is_better) == (problem.metric.name, problem.metric.higher_is_better)
    function = getattr(metric, "function", metric)
    assert result.accuracy_after == pytest.approx(by_hand(model, function, digits().report), abs=1e-6)


def test_a_point_from_a_file_is_judged_by_the_metric_of_its_name():
    model = wrapped()
    point = a_point(model, "negative log-likelihood", higher_is_better=False)
    for known in (point, pickle.loads(pickle.dumps(point))):
        assert tune(wrapped(), known, epochs=1).metric_name == "negative log-likelihood"
    with pytest.raises(WorkflowError, match="of 'dice', a metric of your own .* give it as metric="):
        tune(model, a_point(model, "dice"))
    assert tune(wrapped(), a_point(model, "dice"), epochs=1, metric=margin).metric_name == "margin"
    assert tune(wrapped(), a_point(model, "dice"), epochs=1, report_loader=None).metric_name == "dice"


def test_a_loss_within_noise_is_not_said_to_be_won_back():
    model = wrapped()
    result = tune(model, [8] * len(model.points), epochs=1)
    low, high = result.loss_interval
    assert low < result.accuracy_before - result.float_accuracy < high
    assert low < 0 < high
    assert result.recovered is None
    assert "won back" not in str(result)
    assert f"nothing was lost beyond noise before, {result.accuracy_before - result.float_accuracy:+.4f}" in str(result)
    slight = replace(result, float_accuracy=0.9, accuracy_before=0.89, accuracy_after=0.895)
    assert replace(slight, loss_interval=None).recovered == pytest.approx(0.5)
    assert replace(slight, loss_interval=(-0.02, -0.001)).recovered == pytest.approx(0.5)
    assert replace(slight, loss_interval=(-0.02, 0.001)).recovered is None
    worse = replace(slight, higher_is_better=False, float_accuracy=0.89, accuracy_before=0.9)
    assert [replace(worse, loss_interval=ends).recovered is None for ends in ((0.001, 0.02), (-0.001, 0.02))] == [0, 1]


def test_training_that_made_the_point_worse_says_so():
    model = wrapped()
    with pytest.warns(UserWarning, match="fine_tune: training made accuracy worse on the report set, -0.* from before"):
        result = tune(model, [8] * len(model.points), optimizer=lambda held: torch.optim.SGD(held, lr=3.0), epochs=1)
    low, high = result.change_interval
    assert low < result.accuracy_after - result.accuracy_before < high < 0
    assert result.is_worse
    assert "! training made accuracy worse on the report set" in str(result)
    assert "noise" not in str(result)
    assert not replace(result, change_interval=(-0.1, 0.1)).is_worse
    assert not replace(result, higher_is_better=False).is_worse
