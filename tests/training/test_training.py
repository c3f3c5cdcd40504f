"""The training loop: what it keeps, what it gives back, and what it refuses."""

import dataclasses
import math

import pytest
import torch
from networks import batches, digits, trained
from problems import tiny_network
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import qexplore as qx
from qexplore.errors import DataError, WorkflowError
from qexplore.predicates import weighted
from qexplore.training import EpochRecord, TrainingOptions, loop
from qexplore.training.loop import best_epoch


def train(network, loader, loss, **given):
    """The loop, its options given by keyword."""
    options = {name: given.pop(name) for name in list(given) if name in TrainingOptions.__dataclass_fields__}
    return loop.train(network, loader, loss, TrainingOptions(**options), **given)


def untrained(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))


def loader(shuffle=True):
    return DataLoader(TensorDataset(*digits().train), batch_size=60, shuffle=shuffle)


def accuracy(network):
    with torch.no_grad():
        return float((network(digits().search.x).argmax(1) == digits().search.y).float().mean())


def state(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_network_learns_and_each_epoch_has_a_record():
    network = untrained()
    seen = []
    records = train(
        network,
        loader(),
        F.cross_entropy,
        epochs=4,
        learning_rate=0.02,
        evaluate=lambda: accuracy(network),
        on_epoch=seen.append,
    )

    assert [record.epoch for record in records] == [1, 2, 3, 4]
    assert tuple(seen) == records
    assert records[-1].loss < records[0].loss / 2
    assert accuracy(network.eval()) == max(record.score for record in records) > 0.85


def test_mean_loss_is_that_of_the_samples():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    parts = [(digits().train.x[:30], digits().train.y[:30]), (digits().train.x[30:40], digits().train.y[30:40])]
    expected = float(F.cross_entropy(network(digits().train.x[:40]), digits().train.y[:40]).detach())

    (record,) = train(network, parts, F.cross_entropy, epochs=1, optimizer=lambda given: torch.optim.SGD(given, lr=0.0))

    assert record.loss == pytest.approx(expected, rel=1e-5)
    assert record.score is None


@pytest.mark.parametrize(
    ("scores", "baseline", "kept"), [((0.3, 0.9, 0.5), None, 2), ((0.3, 0.9, 0.5), 0.95, 0), ((0.3, math.nan), 0.1, 1)]
)
def test_state_of_the_best_epoch_is_kept(scores, baseline, kept):
    network = untrained()
    states = [state(network)]
    answers = iter(scores)

    def evaluate():
        states.append(state(network))
        return next(answers)

    records = train(network, loader(), F.cross_entropy, epochs=len(scores), evaluate=evaluate, baseline=baseline)

    assert same(state(network), states[kept])
    assert not same(states[kept], states[kept - 1])
    assert best_epoch(records, baseline) == kept


def test_without_evaluation_the_least_loss_decides():
    records = [EpochRecord(1, 2.0, None, 0.0), EpochRecord(2, 1.0, None, 0.0), EpochRecord(3, 1.5, None, 0.0)]
    assert best_epoch(records) == 2


def test_optimizer_is_given_the_models_own_parameters():
    network = untrained()
    given = []

    def make(parameters):
        given.extend(parameters)
        return torch.optim.SGD(parameters, lr=0.1)

    train(network, loader(), F.cross_entropy, epochs=1, optimizer=make)

    assert [id(one) for one in given] == [id(one) for one in network.parameters()]


def test_frozen_parameters_are_neither_given_nor_changed():
    network = untrained()
    network[1].weight.requires_grad_(False)
    before = network[1].weight.clone()
    train(network, loader(), F.cross_entropy, epochs=1)
    assert torch.equal(network[1].weight, before)


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.SGD([nn.Parameter(torch.zeros(3))], lr=0.1),
        lambda parameters: torch.optim.SGD(parameters[:1], lr=0.1),
        lambda parameters: None,
    ],
)
def test_optimizer_of_other_parameters_is_refused(make):
    with pytest.raises(WorkflowError, match="the model's own"):
        train(untrained(), loader(), F.cross_entropy, epochs=1, optimizer=make)


def test_freeze_is_called_once_at_its_share_of_the_steps():
    network, calls, steps = untrained(), [], []

    def loss(output, target):
        steps.append(1)
        return F.cross_entropy(output, target)

    train(
        network, batches(digits().train, 90), loss, epochs=2, freeze=lambda: calls.append(len(steps)), freeze_after=0.4
    )
    assert calls == [8]  # of 20


def test_what_freeze_put_into_eval_mode_stays_so_through_evaluations():
    network = untrained()
    seen = []

    def evaluate():
        assert not network.training
        seen.append(network[2].running_mean.clone())
        return 0.0

    train(network, loader(), F.cross_entropy, epochs=4, evaluate=evaluate, freeze=network[2].eval, freeze_after=0.5)

    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[2], seen[1])
    assert torch.equal(seen[3], seen[1])


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_error_in_the_second_epoch_leaves_the_first_ones_state(error):
    network = untrained()
    kept = []

    def loss(output, target):
        if kept:
            raise error
        return F.cross_entropy(output, target)

    with pytest.raises(type(error)):
        train(network, loader(), loss, epochs=3, on_epoch=lambda record: kept.append(state(network)))

    assert same(state(network), kept[0])
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_loss_that_is_not_finite_is_an_error_and_the_first_state_comes_back(value):
    network = untrained()
    before = state(network)
    calls = []

    def loss(output, target):
        calls.append(1)
        return F.cross_entropy(output, target) * (value if len(calls) == 3 else 1)

    with pytest.raises(WorkflowError, match="step 3"):
        train(network, loader(), loss, epochs=1)
    assert same(state(network), before)


def test_modes_and_random_state_come_back():
    network = untrained()
    network.eval()
    network[2].train()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)

    train(network, loader(), F.cross_entropy, epochs=1)

    assert torch.equal(torch.rand(1), expected)
    assert [module.training for module in network] == [False, False, True, False, False]


def test_same_seed_gives_the_same_weights_and_another_seed_others():
    networks = [untrained() for _ in range(3)]
    for network, seed in zip(networks, (1, 1, 2), strict=True):
        train(network, loader(), F.cross_entropy, epochs=1, seed=seed)
    assert same(state(networks[0]), state(networks[1]))
    assert not same(state(networks[0]), state(networks[2]))


def test_trains_also_where_gradients_are_switched_off_outside():
    network = untrained()
    before = state(network)
    with torch.no_grad():
        train(network, loader(), F.cross_entropy, epochs=1)
        assert not torch.is_grad_enabled()
    assert not same(state(network), before)


def test_loader_without_a_length_is_counted():
    class Stream:
        def __iter__(self):
            return iter(batches(digits().train, 90))

    calls = []
    train(untrained(), Stream(), F.cross_entropy, epochs=2, freeze=lambda: calls.append(1))
    assert calls == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "`epochs`.*got 0"),
        ({"epochs": 1.5}, "`epochs`.*got 1.5"),
        ({"learning_rate": 0}, "`learning_rate`.*got 0"),
        ({"learning_rate": math.inf}, "`learning_rate`.*got inf"),
        ({"learning_rate": 0.1, "optimizer": torch.optim.SGD}, "`learning_rate` is of the default"),
        ({"optimizer": 3}, "`optimizer` must be a function"),
        ({"freeze_after": 2}, "to freeze after.*got 2"),
    ],
)
def test_bad_arguments_are_refused_by_name(options, message):
    with pytest.raises(WorkflowError, match=message):
        train(untrained(), loader(), F.cross_entropy, **{"epochs": 1, **options})


def test_loss_must_be_one_number():
    with pytest.raises(WorkflowError, match=r"`loss`.*\(60, 10\)"):
        train(untrained(), loader(), lambda output, target: output, epochs=1)


@pytest.mark.parametrize("empty", [[], iter(batches(digits().train))])
def test_empty_loaders_and_iterators_are_refused(empty):
    with pytest.raises(DataError, match="training loader"):
        train(untrained(), empty, F.cross_entropy, epochs=1)


def test_network_without_trainable_parameters_is_refused():
    with pytest.raises(WorkflowError, match="nothing to train"):
        train(tiny_network(), loader(), F.cross_entropy, epochs=1)


def test_wrapped_network_keeps_its_trained_weights_after_detaching():
    model = qx.QuantizedModel(trained("small_cnn"), weights=qx.predicates.weighted)
    before = model.model.conv1.parametrizations.weight.original.clone()
    train(model, loader(), F.cross_entropy, epochs=1)
    assert not torch.equal(model.detach().conv1.weight, before)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        y = self.fc(x)
        return y, 2 * y


def test_a_loss_that_stops_at_several_outputs_is_told_to_choose_by_what_the_call_takes():
    data = [(torch.randn(4, 8), torch.zeros(4, 8))]
    got = r"got 0 of shape \(4, 8\), 1 of shape \(4, 8\), at which it stops .*: "
    with pytest.raises(WorkflowError, match=got + "choose it in your loss, such as lambda"):
        qx.quantize_qat(Two().eval(), data, F.mse_loss)
    model = qx.QuantizedModel(Two().eval(), weights=weighted)
    model.calibrate(data)
    with pytest.raises(WorkflowError, match=got + "pass output= with its place or its name"):
        qx.fine_tune(model, None, data, F.mse_loss)
    assert qx.fine_tune(model, None, data, F.mse_loss, output=1, epochs=1).epochs


def of_the_second(output, target):
    _, second = output
    return F.mse_loss(second, target)


def test_a_loss_that_chooses_by_itself_where_output_does_is_told_how_both_go():
    data = [(torch.randn(4, 8), torch.zeros(4, 8))]
    model = qx.QuantizedModel(Two().eval(), weights=weighted)
    model.calibrate(data)
    judged = {"report_loader": data, "epochs": 1}
    with pytest.raises(WorkflowError, match=r"with output=1 the loss is given that output alone, .* leave output= out"):
        qx.fine_tune(model, None, data, of_the_second, metric=qx.squared_error, output=1, **judged)
    own = dataclasses.replace(qx.squared_error, output=1)
    assert qx.fine_tune(model, None, data, of_the_second, metric=own, **judged).epochs
    with pytest.raises(ZeroDivisionError):  # a mistake of the loss itself is told as it is
        qx.fine_tune(model, None, data, lambda output, target: 1 / 0, output=1, epochs=1)
