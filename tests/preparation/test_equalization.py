"""Equalization: ranges come together, outputs stay."""

import copy

import pytest
import torch
from networks import digits, trained
from torch import nn

from qexplore.model.layers import grouped
from qexplore.preparation import equalize


@torch.no_grad()
def moved(before, after, x):
    expected = before(x)
    return float((after(x) - expected).abs().max() / expected.abs().max())


def ranges(weight, axis):
    return weight.detach().abs().transpose(0, axis).flatten(1).amax(dim=1)


def test_two_layers_by_hand():
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[8.0, -2.0], [0.5, 0.25]]))
        network[0].bias.copy_(torch.tensor([4.0, 1.0]))
        network[2].weight.copy_(torch.tensor([[0.5, 8.0], [-0.25, 2.0]]))

    report = equalize(network)

    # s = sqrt(r1 r2) / r2: sqrt(8 * 0.5) / 0.5 = 4 and sqrt(0.5 * 8) / 8 = 1/4.
    assert report.pairs == (("0", "2"),)
    assert torch.allclose(report.network[0].weight, torch.tensor([[2.0, -0.5], [2.0, 1.0]]))
    assert torch.allclose(report.network[0].bias, torch.tensor([1.0, 4.0]))
    assert torch.allclose(report.network[2].weight, torch.tensor([[2.0, 2.0], [-1.0, 0.5]]))
    first, _second = report.ranges
    assert (first.before, first.after) == (16.0, 1.0)
    assert network[0].bias.tolist() == [4.0, 1.0]
    assert report.skipped == {"2": "its output is the network's"}


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        # Depthwise, in a chain of three.
        (
            nn.Sequential(
                nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.LeakyReLU(0.1), nn.Conv2d(6, 4, 1)
            ),
            (2, 3, 8, 8),
        ),
        # Depthwise with two outputs a channel, then groups.
        (
            nn.Sequential(
                nn.Conv1d(3, 4, 1),
                nn.PReLU(4),
                nn.Conv1d(4, 8, 3, groups=4),
                nn.MaxPool1d(2),
                nn.Conv1d(8, 6, 3, groups=2, padding=1),
            ),
            (2, 3, 20),
        ),
        # A flattened map: each channel is nine inputs of the linear layer.
        (nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(45, 3)), (2, 2, 5, 5)),
        # Transposed, in groups.
        (
            nn.Sequential(
                nn.ConvTranspose2d(4, 6, 2, groups=2), nn.ReLU(), nn.ConvTranspose2d(6, 4, 3, groups=2, stride=2)
            ),
            (2, 4, 5, 5),
        ),
        (nn.Sequential(nn.Linear(4, 6), nn.Identity(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)), (2, 7, 4)),
    ],
)
def test_ranges_meet_in_every_kind_of_layer_and_outputs_stay(network, shape):
    generator = torch.Generator().manual_seed(0)
    for layer in network:
        if hasattr(layer, "weight") and layer.weight.dim() > 1:
            factors = torch.exp(2 * torch.randn(layer.weight.shape[0], generator=generator))
            layer.weight.data.mul_(factors.reshape(-1, *(1 for _ in layer.weight.shape[1:])))
    x = torch.randn(shape, generator=generator)

    report = equalize(network, x)

    layers = sum(isinstance(one, nn.Linear) or "Conv" in type(one).__name__ for one in network)
    assert len(report.pairs) == layers - 1
    assert moved(network.eval(), report.network.eval(), torch.randn(shape, generator=generator)) < 1e-4
    for first, second in report.pairs:
        given, read = report.network.get_submodule(first), report.network.get_submodule(second)
        outputs = grouped(given, given.weight).abs().amax(dim=(2, 3)).flatten()
        inputs = grouped(read, read.weight).abs().amax(dim=(1, 3)).reshape(len(outputs), -1).amax(dim=1)
        assert torch.allclose(outputs, inputs, rtol=1e-2)


def test_a_depthwise_chain_ends_with_three_equal_ranges_a_channel():
    network = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), nn.Conv2d(6, 4, 1))
    network[0].weight.data.mul_(torch.logspace(-2, 2, 6).reshape(-1, 1, 1, 1))

    equalized = equalize(network).network

    first, middle, last = ranges(equalized[0].weight, 0), ranges(equalized[2].weight, 0), ranges(equalized[4].weight, 1)
    assert torch.allclose(first, middle, rtol=5e-3)
    assert torch.allclose(middle, last, rtol=5e-3)
    assert torch.allclose(
        first**3, ranges(network[0].weight, 0) * ranges(network[2].weight, 0) * ranges(network[4].weight, 1), rtol=5e-2
    )


def test_weights_of_unlike_channels_come_back_to_what_equal_ones_give():
    """A network whose channels were scaled apart, which changes no output, is equalized to the same weights."""
    network, x = trained("small_cnn"), digits().calibration.x
    apart = copy.deepcopy(network)
    scale = torch.logspace(-1.5, 1.5, 8)
    apart.bn1.weight.data.div_(scale)
    apart.bn1.bias.data.div_(scale)
    apart.conv2.weight.data.mul_(scale.reshape(1, -1, 1, 1))
    assert moved(network, apart, x) < 1e-5

    plain, recovered = equalize(network, x), equalize(apart, x)

    assert len(recovered.pairs) == 3
    for before, after in zip(plain.network.parameters(), recovered.network.parameters(), strict=True):
        assert torch.allclose(before, after, rtol=2e-2, atol=2e-3)
    assert recovered.sqnr[4][0] < 5 < recovered.sqnr[4][1]
    assert recovered.sqnr[4][1] == pytest.approx(plain.sqnr[4][1], abs=1)
    assert "SQNR" in str(recovered) and "conv1" in str(recovered)


def test_relu6_is_in_the_way_until_it_may_be_replaced():
    network, x = trained("mobilenet"), digits().calibration.x[:32]

    kept = equalize(network, x)
    replaced = equalize(network, x, replace_relu6=True)

    assert kept.pairs == () and kept.num_sweeps == 0
    assert "replace_relu6=True" in kept.skipped["head.0"]
    assert len(replaced.pairs) == 7
    assert ("blocks.0.layers.0", "blocks.0.layers.3") in replaced.pairs
    assert "blocks.0.layers.2" in replaced.replaced and "stem.2" not in replaced.replaced
    assert type(replaced.network.blocks[0].layers[2]) is nn.ReLU
    assert type(network.blocks[0].layers[2]) is nn.ReLU6
    assert 0 <= replaced.replacement_difference < 0.2
    assert replaced.difference < 1e-5
    assert "ReLU6 replaced by ReLU" in str(replaced)
    assert "classifier.1" in dict(replaced.pairs).values()  # behind x.mean(dim=(2, 3))


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (nn.GELU(), "not known to be positive homogeneous"),
        (nn.Softmax(dim=1), "not known to be positive homogeneous"),
        (nn.Hardtanh(), "not known to be positive homogeneous"),
        (nn.LayerNorm(4), "not known to be positive homogeneous"),
        (nn.Flatten(2), "not known to be positive homogeneous"),
    ],
)
def test_what_minds_a_scale_keeps_layers_apart(between, reason):
    report = equalize(nn.Sequential(nn.Linear(4, 4), between, nn.Linear(4, 2)))
    assert report.pairs == ()
    assert reason in report.skipped["0"]


class Forked(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.left, self.right = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(4 * 9, 3)

    def forward(self, x):
        x = self.conv(x).relu()
        x = self.left(x) * self.right(x)
        return self.fc(x.view(x.size(0), -1))


class Lengthwise(nn.Module):
    """The linear layer reads positions, not channels."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv1d(2, 6, 1), nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(self.conv(x).relu())


def test_forks_products_and_other_axes_keep_layers_apart():
    forked = equalize(Forked(), torch.randn(2, 2, 3, 3))
    assert forked.pairs == ()
    assert "goes to 'left' (Conv2d), 'right' (Conv2d)" in forked.skipped["conv"]
    assert "the operation mul" in forked.skipped["left"]
    assert "another axis" in equalize(Lengthwise(), torch.randn(2, 2, 6)).skipped["conv"]
    # Linear on [N, T, C]: flattened, its channels are spread over the inputs of the next one.
    spread = equalize(nn.Sequential(nn.Linear(4, 4), nn.Flatten(), nn.Linear(12, 2)), torch.randn(2, 3, 4))
    assert "not those that '2' (Linear) reads" in spread.skipped["0"]


class Viewing(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(2, 4, 1), nn.Linear(36, 3)

    def forward(self, x):
        x = self.conv(x).relu()
        return self.fc(x.view(x.shape[0], -1))


def test_a_view_by_the_number_of_samples_is_a_flatten():
    network, x = Viewing(), torch.randn(2, 2, 3, 3)
    report = equalize(network, x)
    assert report.pairs == (("conv", "fc"),)
    assert moved(network, report.network, x) < 1e-5


def test_dead_channels_stay_as_they_are():
    network = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    network[0].weight.data[1] = 0
    network[2].weight.data[:, 2] = 1e-9

    equalized = equalize(network, torch.randn(4, 3)).network

    assert torch.equal(equalized[0].weight[1:], network[0].weight[1:])
    assert torch.equal(equalized[0].bias[1:], network[0].bias[1:])
    assert all(torch.isfinite(one).all() for one in equalized.parameters())
