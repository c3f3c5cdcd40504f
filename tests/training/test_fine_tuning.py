"""Fine-tuning of a point: what it wins back, whose parameters it trains, and the state it leaves."""

import copy
import math

import pytest
import torch
from fine_tuned import correct, loader, low_point, parameters, tune, wrapped
from networks import batches, digits, trained
from problems import tiny_network
from torch import nn
from torch.nn import functional as F

import qexplore as qx
from qexplore import predicates
from qexplore.errors import CalibrationError, DataError, ModelError, NumBitsError, WorkflowError


@pytest.mark.parametrize("learned", [False, True])
def test_half_of_what_few_bits_lose_is_won_back_in_two_epochs(learned):
    model = wrapped()
    result = tune(model, learn_step_sizes=learned)

    assert result.float_accuracy - result.accuracy_before > 0.1
    assert result.recovered > 0.5
    assert result.accuracy_after == correct(model.eval(), digits().report) / 300
    assert result.num_bits == tuple(model.num_bits) == tuple(low_point(model))
    assert [record.epoch for record in result.epochs] == [1, 2]
    assert result.learned_step_sizes is learned
    assert f"{result.recovered:.0%} of the loss won back" in str(result)
    assert str(result).count("kept") == 1


@pytest.mark.parametrize("learned", [False, True])
def test_what_a_quantizer_gives_may_be_written_into(learned):
    """By an activation in place, right behind a quantized convolution."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU6(inplace=True), nn.Flatten(), nn.Linear(144, 10)).eval()
    plain = copy.deepcopy(network)
    plain[1].inplace = False
    tuned = []
    for one in (network, plain):
        model = qx.QuantizedModel(one, predicates.by_type(nn.Conv2d), predicates.weighted)
        model.calibrate(batches(digits().calibration))
        fine_tuned = tune(model, [4] * len(model.points), learn_step_sizes=learned, epochs=1)
        tuned.append((fine_tuned.epochs[0].loss, fine_tuned.accuracy_after))
    assert tuned[0] == tuned[1]


def test_optimizer_holds_the_networks_own_parameters():
    model = wrapped()
    network = model.model
    given = []

    def make(held):
        given.extend(held)
        return torch.optim.Adam(held, lr=0.003)

    tune(model, optimizer=make, learn_step_sizes=True, epochs=1)

    originals = [network.conv1.parametrizations.weight.original, network.fc1.parametrizations.weight.original]
    assert all(any(one is held for held in given) for one in originals)
    assert {id(one) for one in given} == {id(one) for one in network.parameters()}
    # What was trained is what the float network has after detaching.
    detached = model.detach()
    assert any(detached.conv1.weight is held for held in given)


@pytest.mark.parametrize("make", [lambda held: None, lambda held: torch.optim.SGD([nn.Parameter(torch.ones(1))])])
def test_optimizer_of_other_parameters_is_refused_and_the_model_is_as_it_was(make):
    model = wrapped()
    before = parameters(model)
    with pytest.raises(WorkflowError, match="the model's own"):
        tune(model, optimizer=make)
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())


def test_steps_have_a_group_without_weight_decay():
    model = wrapped()
    held = []

    def make(own):
        held.append(torch.optim.AdamW(own, lr=0.003, weight_decay=0.1))
        return held[0]

    tune(model, optimizer=make, learn_step_sizes=True, epochs=1)
    first, *steps = held[0].param_groups
    assert first["weight_decay"] == 0.1
    assert [group["weight_decay"] for group in steps] == [0.0] * len(model.points)
    assert len(first["params"]) == len(list(model.parameters()))


def test_only_learned_steps_move_the_ranges_of_activations():
    for learned in (False, True):
        model = wrapped()
        model.num_bits = low_point(model)
        amax = [float(quantizer.amax) for quantizer in model.activation_fake_quantizers.values()]
        tune(model, learn_step_sizes=learned, epochs=1)
        moved = [
            float(quantizer.amax) != before
            for quantizer, before in zip(model.activation_fake_quantizers.values(), amax, strict=True)
        ]
        assert moved == [learned] * len(amax)


def test_ranges_of_weights_are_not_stale_after_training():
    model = wrapped()
    model.num_bits = low_point(model)
    quantizer, weight = model.fake_quantizers["conv1.weight"], model.weight_points[0].parameter
    share = quantizer.amax / weight.detach().flatten(1).abs().amax(1, keepdim=True)
    before = weight.detach().clone()

    tune(model, epochs=1, learning_rate=0.02)

    assert (weight.detach() - before).abs().max() > 0.02
    torch.testing.assert_close(quantizer.amax / weight.detach().flatten(1).abs().amax(1, keepdim=True), share)
    # At eight bits too, the range that fits the trained weights is the one that calibration would find anew.
    model.num_bits = [8] * len(model.points)
    kept = quantizer.amax.clone()
    model.calibrate(batches(digits().calibration), method="mse", weight_method="mse")
    torch.testing.assert_close(quantizer.amax, kept, rtol=0.35, atol=0.0)


def test_batchnorm_keeps_its_statistics_after_its_share_of_the_steps():
    means = []
    model = wrapped()
    layer = model.model.bn1
    tune(model, epochs=4, freeze_batchnorm_after=0.5, on_epoch=lambda record: means.append(layer.running_mean.clone()))
    assert not torch.equal(means[0], means[1])
    assert torch.equal(means[1], means[2])
    assert torch.equal(means[2], means[3])


def test_interrupt_keeps_the_best_epoch_and_the_model_goes_on_working():
    model, steps = wrapped(), []

    def loss(output, target):
        steps.append(1)
        if len(steps) == 20:  # in the second epoch
            raise KeyboardInterrupt
        return F.cross_entropy(output, target)

    states = []
    result = tune(
        model, loss=loss, epochs=3, learn_step_sizes=True, on_epoch=lambda record: states.append(parameters(model))
    )
    assert result.interrupted
    assert [record.epoch for record in result.epochs] == [1]
    assert result.best_epoch == 1
    assert all(torch.equal(states[0][name], value) for name, value in model.named_parameters())
    assert result.accuracy_after == correct(model.eval(), digits().report) / 300
    assert "interrupted" in str(result)
    assert all(quantizer.step_size is None for quantizer in model.fake_quantizers.values())


def test_loss_that_is_not_finite_is_an_error_that_leaves_a_working_model():
    model = wrapped()
    before = parameters(model)
    with pytest.raises(WorkflowError, match="loss became nan"):
        tune(model, loss=lambda output, target: output.sum() * math.nan, learn_step_sizes=True)
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())
    assert all(quantizer.step_size is None for quantizer in model.fake_quantizers.values())
    model(digits().search.x)


def test_flags_and_random_state_come_back_and_nothing_is_left_on_the_network():
    model = wrapped().eval()
    model.model.bn2.train()
    names = set(model.state_dict())
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    tune(model, epochs=1, learn_step_sizes=True, validation_loader=batches(digits().search))
    assert torch.equal(torch.rand(1), expected)
    assert [name for name, module in model.named_modules() if module.training] == ["model.bn2"]
    assert set(model.state_dict()) == names
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_model_on_the_cpu_is_trained_on_the_gpu_and_comes_back():
    model = wrapped()
    held = [id(parameter) for parameter in model.parameters()]
    result = tune(model, learn_step_sizes=True, validation_loader=batches(digits().search))
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}
    assert [id(parameter) for parameter in model.parameters()] == held
    assert result.recovered > 0.5


def test_same_seed_gives_the_same_weights():
    models = [wrapped() for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        tune(model, epochs=1, seed=seed, learn_step_sizes=True)
    first, second, third = (model.model.conv1.parametrizations.weight.original for model in models)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_points_of_fronts_and_mappings_and_present_widths_are_taken():
    problem_model = wrapped()
    names = list(problem_model.fake_quantizers)
    for point in (dict.fromkeys(names, 3), [3] * len(names)):
        model = wrapped()
        assert tune(model, point, epochs=1).num_bits == (3,) * len(names)
    model = wrapped()
    model.num_bits = [5] * len(names)
    result = qx.fine_tune(model, None, loader(), F.cross_entropy, epochs=1)
    assert result.num_bits == (5,) * len(names)
    assert result.accuracy_after is None
    assert result.recovered is None
    assert "report set" not in str(result)


def test_float_formats_are_trained_too():
    model = wrapped()
    model.num_bits = ["E2M1"] * len(model.points)
    before = {name: quantizer.amax.clone() for name, quantizer in model.fake_quantizers.items()}
    result = tune(model, None, learn_step_sizes=True)
    assert result.accuracy_after > 0.9
    assert all(not torch.equal(before[name], quantizer.amax) for name, quantizer in model.fake_quantizers.items())


def test_state_dict_of_a_fine_tuned_model_loads_into_a_model_wrapped_alike():
    model = wrapped()
    tune(model, epochs=1, learn_step_sizes=True)
    other = qx.QuantizedModel(trained("small_cnn"), predicates.by_type(nn.ReLU), predicates.weighted)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(digits().search.x), model.eval()(digits().search.x))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": 0}, WorkflowError, "`epochs`"),
        ({"learning_rate": -1}, WorkflowError, "`learning_rate`"),
        ({"freeze_batchnorm_after": 1.5}, WorkflowError, "got 1.5"),
        ({"learn_step_sizes": "yes"}, WorkflowError, "`learn_step_sizes`"),
        ({"step_learning_rate": 0.1}, WorkflowError, "`step_learning_rate` is for"),
        ({"learn_step_sizes": True, "step_learning_rate": -1}, WorkflowError, "at least 0"),
        ({"point": [3]}, NumBitsError, "one width for each"),
        ({"report_loader": []}, DataError, "at least one"),
    ],
)
def test_bad_arguments_are_refused_before_anything_changes(options, error, message):
    model = wrapped()
    widths, before = model.num_bits.tolist(), parameters(model)
    with pytest.raises(error, match=message):
        tune(model, **options)
    assert model.num_bits.tolist() == widths
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())


def test_models_that_cannot_be_trained_are_refused_by_name():
    with pytest.raises(WorkflowError, match="fine_tune takes a QuantizedModel, got SmallCNN"):
        tune(trained("small_cnn"), [2])
    with pytest.raises(CalibrationError, match="relu1"):
        tune(qx.QuantizedModel(trained("small_cnn"), predicates.by_type(nn.ReLU)))
    model = wrapped()
    model.detach()
    with pytest.raises(ModelError, match="detached"):
        tune(model)
    frozen = qx.QuantizedModel(tiny_network(), weights=predicates.weighted)
    with pytest.raises(WorkflowError, match="nothing to train"):
        tune(frozen, [4] * 3, learn_step_sizes=True)
