"""Every call gets a module of its own, and nothing else changes."""

import pytest
import torch
import torchvision
from network_state import network_state
from networks import batches, digits, trained
from torch import nn

import qexplore as qx
from qexplore import predicates
from qexplore.errors import DataError, ModelError, TraceError


def called(network):
    """Modules in call order, by identity."""
    return [network.get_submodule(node.target) for node in network.graph.nodes if node.op == "call_module"]


@pytest.mark.parametrize("name", ["small_cnn", "resnet20", "mobilenet", "transformer", "lstm"])
def test_a_network_without_repeated_calls_comes_back_as_a_plain_copy(name):
    network = trained(name)
    report = qx.give_own_modules(network, digits().calibration.x[:4])
    assert report.network is not network and type(report.network) is type(network)
    assert not report.changed and not report.kept and report.difference == 0


def test_shared_relu_gets_three_modules_and_outputs_are_equal():
    network, x = trained("shared_relu"), digits().report.x
    before = network_state(network)

    report = qx.give_own_modules(network, x[:4])

    assert report.changed == {"relu": ("relu_2", "relu_3")}
    assert report.difference == 0 and torch.equal(report.network(x), network(x))
    modules = called(report.network)
    assert len(set(modules)) == len(modules) == 7
    assert report.network.state_dict().keys() == network.state_dict().keys()
    assert network_state(network) == before
    assert "relu_2, relu_3" in str(report)


def test_resnet18_of_torchvision_gets_a_second_relu_in_every_block():
    network, x = torchvision.models.resnet18(weights=None).eval(), torch.rand(2, 3, 32, 32)

    report = qx.give_own_modules(network, x)

    assert report.changed == {f"layer{i}.{j}.relu": (f"layer{i}.{j}.relu_2",) for i in range(1, 5) for j in range(2)}
    assert torch.equal(report.network(x), network(x))
    names = [name for name, _ in report.network.named_modules() if not name.endswith("relu_2")]
    assert names == [name for name, _ in network.named_modules()]
    assert type(report.network.get_submodule("layer1.0.conv1")) is nn.Conv2d


class Awkward(nn.Module):
    """What may not be copied, beside a pool and a dropout that may."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.hooked, self.dropout, self.drop = nn.ReLU(), nn.Dropout(0.5), nn.ReLU()
        self.hooked.register_forward_hook(lambda module, args, output: output + 1)
        self.dropout_2 = nn.Linear(4, 4)  # the name that a copy would get

    def forward(self, x, mask=None, scale=2.0, *, twice=True):
        x = self.hooked(self.norm(self.layer(self.dropout(x))))
        if mask is not None:
            x = x * mask
        x = self.hooked(self.norm(self.layer(self.dropout(x * scale))))
        return self.dropout_2(x + x if twice else x)


def test_weights_statistics_and_hooks_stay_shared_with_a_reason():
    network = Awkward()
    report = qx.give_own_modules(network, torch.rand(3, 4))
    assert report.changed == {"dropout": ("dropout_2_",)}
    assert report.kept.keys() == {"layer", "norm", "hooked"}
    assert "share weights" in report.kept["layer"] and "hooks" in report.kept["hooked"]
    assert report.network.training and all(one.training for one in report.network.modules())
    assert "stays: " in str(report)


def test_arguments_that_tracing_settled_keep_their_names_and_refuse_other_values():
    network, x = Awkward().eval(), torch.rand(3, 4)
    own = qx.give_own_modules(network, {"x": x, "twice": False}).network
    for given in ((x,), (x, None), (x, None, 2.0, False)):
        assert torch.equal(own(*given), network(x, twice=False))
    assert torch.equal(own(x=x, scale=2.0), network(x, twice=False))
    with pytest.raises(AssertionError, match="twice has been specialized to have value False"):
        own(x, twice=True)
    assert not any(one.training for one in own.modules())


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.relu(x)) if x.sum() > 0 else x


class Around(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.relu = Branching(), nn.ReLU()

    def forward(self, x):
        return self.relu(self.inner(self.relu(x)))


def test_untraceable_parts_are_listed_and_untraceable_networks_refused():
    report = qx.give_own_modules(Around(), torch.ones(2))
    assert report.changed == {"relu": ("relu_2",)}
    assert "cannot be looked into: " in report.kept["inner"]
    with pytest.raises(TraceError, match="Branching is not: .*control flow"):
        qx.give_own_modules(Branching())


class Rest(nn.Module):
    def forward(self, *tensors):
        return sum(tensors)


class Listed(nn.Module):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x, factors=(1, 2)):
        return self.relu(self.relu(x) * factors[0])


@pytest.mark.filterwarnings("ignore:Was not able to add assertion")
def test_bad_input_is_refused_by_name():
    x = digits().calibration.x[:4]
    with pytest.raises(TraceError, match=r"Rest must name its arguments"):
        qx.give_own_modules(Rest())
    with pytest.raises(TraceError, match=r"Listed that are no tensors must be single values, got .*\(1, 2\)"):
        qx.give_own_modules(Listed())
    hooked = trained("shared_relu")
    hooked.register_forward_hook(lambda module, args, output: output)
    with pytest.raises(TraceError, match="SharedReLU must carry no hooks"):
        qx.give_own_modules(hooked)
    with pytest.raises(DataError, match="of a loader give the inputs of one batch"):
        qx.give_own_modules(trained("shared_relu"), torch.utils.data.DataLoader(x))
    with pytest.raises(ModelError, match="wrapped already"):
        qx.give_own_modules(qx.QuantizedActivationsModel(trained("shared_relu"), predicates.by_type(nn.ReLU)).model)
    with pytest.raises(ModelError, match=r"must be a torch\.nn\.Module"):
        qx.give_own_modules("network")


def test_own_modules_bring_a_quantization_point_for_every_call():
    own = qx.give_own_modules(trained("shared_relu"), digits().calibration.x[:4]).network
    model = qx.QuantizedActivationsModel(own, predicates.by_type(nn.ReLU))
    model.calibrate(batches(digits().calibration))
    ranges = [float(model.activation_fake_quantizers[name].amax) for name in ("relu", "relu_2", "relu_3")]
    assert len(set(ranges)) == 3
