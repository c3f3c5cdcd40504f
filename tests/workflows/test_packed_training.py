"""Packed layers are trained with rounded weights, and packed again without another rounding."""

import copy

import pytest
import torch
from networks import batches, digits, trained
from torch import nn
from torch.nn import functional as F

import qexplore as qx
from qexplore.errors import WorkflowError
from qexplore.stacks.packed_linear import PackedLinear
from qexplore.workflows.packed_training import TrainedPackedLinear, train_packed


class Outputs:
    """Inputs, with what the float network makes of them as targets."""

    def __init__(self, network):
        self.network = network

    def __iter__(self):
        for x, _ in batches(digits().train, 64):
            with torch.no_grad():
                output = self.network(x)
            yield x, output


@torch.no_grad()
def error(network, other):
    return float((network(digits().report.x) - other(digits().report.x)).square().mean())


@pytest.mark.parametrize("name", ["small_cnn", "transformer"])
def test_training_brings_the_packed_network_nearer_to_the_float_one(name):
    network = trained(name)
    packed = qx.pack_linear_weights(network, num_bits=3, calibration_loader=batches(digits().calibration)).network
    states = copy.deepcopy([network.state_dict(), packed.state_dict()])
    lines = []

    better = train_packed(network, packed, Outputs(network), F.mse_loss, epochs=4, on_epoch=lines.append)

    assert error(network, better) < 0.8 * error(network, packed)
    assert [record.epoch for record in lines] == [1, 2, 3, 4]
    names = [name for name, one in packed.named_modules() if isinstance(one, PackedLinear)]
    assert names and [name for name, one in better.named_modules() if isinstance(one, PackedLinear)] == names
    assert better.state_dict().keys() == packed.state_dict().keys()
    for given, before in zip((network, packed), states, strict=True):
        after = given.state_dict()
        assert all(torch.equal(after[key], before[key]) for key in before)


@torch.no_grad()
def test_before_a_step_the_trained_layer_computes_what_the_packed_one_does():
    linear, x = nn.Linear(12, 5), torch.randn(7, 12)
    packed = PackedLinear.from_float(linear, 4, 5)
    assert torch.allclose(TrainedPackedLinear(linear, packed)(x), packed(x), atol=1e-6)


def test_gradients_pass_rounding_and_stop_where_a_weight_is_clamped():
    linear = nn.Linear(2, 1, bias=False)
    linear.weight.data = torch.tensor([[0.31, 9.0]])
    packed = PackedLinear.from_float(linear, 4)
    packed.scales.fill_(0.1)
    layer = TrainedPackedLinear(linear, packed)
    layer(torch.tensor([[3.0, 5.0]])).sum().backward()
    assert layer.weight.grad.tolist() == [[3.0, 0.0]]


def test_a_network_that_is_one_packed_layer_is_trained():
    linear, x = nn.Linear(8, 3), torch.randn(4, 8)
    packed = qx.pack_linear_weights(linear).network
    better = train_packed(linear, packed, [(x, torch.zeros(4, 3))], F.mse_loss, learning_rate=0.1)
    assert isinstance(better, PackedLinear)
    assert not torch.equal(better.weight, packed.weight)


@pytest.mark.parametrize("other", [nn.Linear(8, 3), nn.Sequential(nn.ReLU()), nn.Sequential(nn.Linear(8, 4))])
def test_another_float_network_than_was_packed_is_refused(other):
    packed = qx.pack_linear_weights(nn.Sequential(nn.Linear(8, 3))).network
    with pytest.raises(WorkflowError, match="8 inputs and 3 outputs at '0', got .*that pack_linear_weights was given"):
        train_packed(other, packed, [(torch.randn(4, 8), torch.zeros(4, 3))], F.mse_loss)


def test_a_network_without_packed_layers_is_refused():
    network = trained("small_cnn")
    with pytest.raises(WorkflowError, match="pack_linear_weights first"):
        train_packed(network, network, Outputs(network), F.mse_loss, epochs=1)
