"""The eager stack makes a network ready: own modules, functions as modules, fused layers, stubs around the rest."""

import copy

import pytest
import torch
from eager_runs import data_of, error, kinds, run, static
from networks import digits, trained
from torch import nn
from torch.nn import functional as F

from qexplore._quiet import quiet
from qexplore.stacks.eager_graph import fuse_layers, graph_of
from qexplore.stacks.eager_nodes import choose_layers
from qexplore.stacks.float_functional import swap_functions
from qexplore.stacks.torch_ao import require


def test_plain_fusing_drops_a_relu_that_is_used_twice_and_ours_does_not():
    network, x = trained("shared_relu"), digits().calibration.x
    with quiet():
        plain = require("fuse_modules")(network, [["conv1", "relu"]])
    assert error(network, plain, x) > 0.3  # without a word, and before anything is quantized
    assert error(network, static(network).model, x) < 0.03


class Functions(nn.Module):
    """Sums, products and concatenations in all their forms, and activations that are functions."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(1, 4, 3, padding="same"), nn.Conv2d(4, 4, 1), nn.Linear(8, 3)

    def forward(self, x):
        x = F.relu(self.first(x))
        y = self.second(x)
        y += x
        z = torch.add(y, x).relu()
        z = z * torch.sigmoid(self.second(z))
        z = torch.mul(z, 0.5).add_(1)
        z = torch.cat([F.relu6(z, inplace=True), F.dropout(y, 0.3, self.training)], dim=1)
        return self.last(F.adaptive_avg_pool2d(z, 1).flatten(1))


def test_functions_become_modules_with_a_range():
    network, x = Functions().eval(), digits().calibration.x[:16]
    converted = static(network, data_of(x), engine="x86")
    assert error(network, converted.model, x) < 0.05
    swapped = {row.name: row.type for row in converted.strategy if row.activations}
    assert swapped["add"] == "add" and swapped["add_1"] == "add_relu" and swapped["cat"] == "cat"
    assert swapped["mul"] == "mul" and swapped["mul_1"] == "mul_scalar" and "add_" not in swapped
    assert kinds(converted.model)["QFunctional"] == 5
    (note,) = [one for one in converted.notes if "left float" in one]
    assert "'sigmoid', 'add_'" in note and "rounded in 7 bits" in note


def prepared(network, x):
    """The graph, and what `swap_functions` does to all of its additions, products and concatenations."""
    graph = graph_of(network, (x,)).network
    return graph, swap_functions(graph, [node.name for node in graph.graph.nodes])


def test_swapping_functions_does_not_change_the_output():
    network, x = Functions().eval(), digits().calibration.x[:16]
    graph, swapped = prepared(network, x)
    assert torch.equal(graph(x), network(x))
    assert [one.method for one in swapped] == ["add", "add_relu", "mul", "mul_scalar", "add_scalar", "cat"]
    assert kinds(graph)["FloatFunctional"] == 6
    graph, swapped = prepared(trained("resnet20"), x)
    assert [one.method for one in swapped] == ["add_relu"] * 9
    assert torch.equal(graph(x), trained("resnet20")(x))


@pytest.mark.parametrize("method", ["__add__", "__radd__", "add"])
def test_additions_with_other_arguments_stay_as_they_are(method):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.add(getattr(x, method)(x), x, alpha=2) - x + True

    x = torch.ones(2)
    graph, swapped = prepared(Odd(), x)
    assert len(swapped) == 1
    assert torch.equal(graph(x), Odd()(x))


@pytest.mark.parametrize("name", ["small_cnn", "resnet20", "mobilenet", "shared_relu"])
def test_fusing_does_not_change_the_output(name):
    network, x = trained(name), digits().calibration.x[:16]
    graph = graph_of(network, (x,)).network
    layers, refused = choose_layers(graph, None)
    fused = fuse_layers(graph, layers, is_qat=False)
    assert not refused and fused
    assert torch.allclose(run(graph, x), run(network, x), atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in graph.modules())


class Aliased(nn.Module):
    """The shortcut reads what an in-place ReLU has written."""

    def __init__(self):
        super().__init__()
        self.stem, self.relu, self.conv = nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.conv(self.relu(x)) + x


def test_what_an_operation_writes_in_place_is_read_behind_it():
    network, x = Aliased().eval(), torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    assert error(network, static(network, data_of(x)).model, x) < 0.05


class Attention(nn.Module):
    """Linear layers around what has no integer kernel."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.norm, self.silu, self.softmax = nn.LayerNorm(8), nn.SiLU(), nn.Softmax(dim=-1)

    def forward(self, x):
        x = x[:, 0]
        weights = self.softmax(self.q(x) @ self.k(x).transpose(-2, -1))
        return self.out(self.silu(self.norm(x + weights @ self.v(x)))).mean(1)


def test_what_has_no_integer_kernel_stays_float_and_is_listed():
    network, x = Attention().eval(), digits().calibration.x[:16]
    converted = static(network, data_of(x))
    assert error(network, converted.model, x) < 0.03
    floats = {row.name: row.reason for row in converted.strategy if not row.is_quantized}
    assert floats.keys() == {"matmul", "softmax", "matmul_1", "add", "norm", "silu"}
    assert floats["matmul"] == "torch has no integer kernel for it" and floats["softmax"] == "what it reads is float"
    assert any("'matmul'" in note and "no integer kernel" in note for note in converted.notes)


def test_softmax_at_the_end_stays_float():
    network, x = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(dim=1)).eval(), digits().calibration.x[:16]
    converted = static(network, data_of(x))
    assert torch.allclose(run(converted.model, x).sum(1), torch.ones(16))
    assert converted.notes == ("left float: '2' (torch has no integer kernel for it)",)


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ([nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU()], (4, 3, 9)),
        ([nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4), nn.ReLU()], (4, 3, 5, 5, 5)),
        ([nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1)], (4, 3, 5, 5)),
        ([nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU()], (16, 6)),
        ([nn.Conv2d(3, 4, 3, padding_mode="reflect", padding=1), nn.LeakyReLU()], (4, 3, 5, 5)),
        ([nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3, dilation=2), nn.Hardswish()], (4, 3, 7, 7)),
        ([nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, affine=False), nn.ELU(), nn.Upsample(scale_factor=2)], (4, 4, 5, 5)),
    ],
)
def test_every_kind_of_layer_passes(layers, shape):
    torch.manual_seed(0)
    network, x = nn.Sequential(*copy.deepcopy(layers)), torch.randn(shape)
    network.train()(x)
    network.eval()
    assert error(network, static(network, data_of(x)).model, x) < 0.03


def test_a_weight_that_is_used_twice_has_a_range_for_each_call():
    network, x = Twice().eval(), digits().calibration.x[:16]
    converted = static(network, data_of(x))
    assert error(network, converted.model, x) < 0.05
    assert any("called more than once, so every call" in note and "'layer'" in note for note in converted.notes)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.relu = nn.Linear(64, 64), nn.ReLU()

    def forward(self, x):
        return self.relu(self.layer(self.relu(self.layer(x.flatten(1)))))
