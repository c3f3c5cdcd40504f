"""Folding BatchNorm changes a copy's modules, never its outputs."""

import copy

import pytest
import torch
from networks import digits, trained
from torch import nn
from torch.nn import functional as F

from qexplore import predicates
from qexplore.errors import DataError, ModelError
from qexplore.model import QuantizedModel
from qexplore.preparation import equalize, fold_batchnorm


def lively(network):
    """``network`` with statistics and parameters of BatchNorm that are not those it was born with."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.running_mean, module.weight, module.bias):
                if tensor is not None:
                    tensor.data.copy_(torch.randn(tensor.shape, generator=generator))
            if module.running_var is not None:
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.2)
    return network.eval()


@torch.no_grad()
def moved(before, after, x):
    expected = before(x)
    return float((after(x) - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("name", "count"), [("small_cnn", 2), ("resnet20", 21), ("mobilenet", 11), ("lstm", 0)])
def test_gallery_networks_give_the_same_without_batchnorm(name, count):
    network, x = trained(name), digits().report.x[:64]
    before = copy.deepcopy(network.state_dict())

    report = fold_batchnorm(network, digits().calibration.x[:8])

    assert len(report.pairs) == len(report.new_biases) == count and not report.skipped
    assert type(report.network) is type(network)
    assert [n for n, _ in report.network.named_modules()] == [n for n, _ in network.named_modules()]
    assert not any(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in report.network.modules())
    assert moved(network, report.network, x) < 1e-5
    assert report.difference < 1e-5
    after = network.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[key], before[key]) for key in before)
    assert f"Folded {count} of {count}" in str(report)


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Conv1d(4, 6, 3, padding=1, groups=2), nn.BatchNorm1d(6), (3, 4, 9)),
        (nn.Conv2d(4, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6, affine=False), (3, 4, 9, 9)),
        (nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4), (2, 2, 5, 5, 5)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2), nn.BatchNorm2d(6), (3, 4, 5, 5)),
        (nn.Linear(5, 7), nn.BatchNorm1d(7), (4, 5)),
        (nn.Linear(5, 7, bias=False), nn.BatchNorm1d(7, affine=False), (4, 5)),
        (nn.Conv2d(4, 6, 1), nn.SyncBatchNorm(6), (3, 4, 5, 5)),
    ],
)
def test_every_kind_of_layer_takes_its_batchnorm_in(layer, norm, shape):
    network, x = lively(nn.Sequential(layer, norm, nn.ReLU())), torch.randn(shape)
    network[0].weight.requires_grad_(False)

    report = fold_batchnorm(network, x)

    assert report.pairs == (("0", "1"),)
    assert moved(network, report.network, torch.randn(shape)) < 1e-5
    assert not report.network[0].weight.requires_grad


def test_two_batchnorms_in_a_row_and_training_mode():
    network = lively(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.BatchNorm2d(3))).train()
    x = torch.randn(4, 2, 6, 6)

    report = fold_batchnorm(network, x)

    assert report.pairs == (("0", "1"),)
    assert "no convolution or linear layer" in report.skipped["2"]
    assert report.network.training and report.network[1].training
    assert moved(copy.deepcopy(network).eval(), report.network.eval(), x) < 1e-5


class Tangled(nn.Module):
    """Every BatchNorm here must stay, for a reason each."""

    def __init__(self):
        super().__init__()
        self.read_twice, self.norm1 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.called_twice, self.norm2 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.hooked, self.norm3 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.hooked.register_forward_hook(lambda module, args, output: output + 1)
        self.borrowed, self.norm4 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.tied, self.norm5 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.other = nn.Conv2d(3, 3, 1)
        self.other.weight = self.tied.weight
        self.unseen, self.norm6 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)
        self.transposed, self.norm7 = nn.ConvTranspose2d(3, 3, 1, groups=3), nn.BatchNorm2d(3)
        self.normed, self.norm8 = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1)), nn.BatchNorm2d(3)
        self.norm9, self.unused = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.read_twice(self.norm9(x))
        x = y + self.norm1(y)
        x = self.norm2(self.called_twice(self.called_twice(x)))
        x = self.norm3(self.hooked(x))
        x = F.conv2d(self.norm4(self.borrowed(x)), self.borrowed.weight)
        x = self.norm5(self.tied(self.other(x)))
        x = self.norm6(self.unseen(x))
        return self.norm8(self.normed(self.norm7(self.transposed(x))))


def test_what_cannot_be_folded_stays_and_says_why():
    network, x = lively(Tangled()), torch.randn(4, 3, 5, 5)

    report = fold_batchnorm(network, x)

    assert report.pairs == ()
    reasons = {
        "norm1": "the output of 'read_twice' also goes to the operation add",
        "norm2": "called 2 times",
        "norm3": "carries hooks",
        "norm4": "reads its parameters without calling it",
        "norm5": "shares a parameter",
        "norm6": "no running statistics",
        "norm7": "transposed convolution in groups",
        "norm8": "parametrized",
        "norm9": "the network's input",
        "unused": "never called",
    }
    assert report.skipped.keys() == reasons.keys()
    assert all(reason in report.skipped[name] for name, reason in reasons.items())
    assert moved(network, report.network, x) == 0
    assert "stays: " in str(report)


def test_linear_layers_are_folded_only_where_their_channels_are_batchnorms():
    network = lively(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)))
    assert "pass example_input" in fold_batchnorm(network).skipped["1"]
    # Three axes: BatchNorm's channels are the second one here.
    report = fold_batchnorm(network, torch.randn(4, 5, 6))
    assert "another axis" in report.skipped["1"]
    assert fold_batchnorm(network, torch.randn(4, 6)).pairs == (("0", "1"),)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)

    def forward(self, x, flip=None):
        if flip is not None:
            x = x.flip(-1)
        return self.norm(self.conv(x)) if x.sum() > 0 else x


class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.inner = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), Branching()

    def forward(self, x):
        return self.norm(self.conv(self.inner(x)[:, :1]))


def test_control_flow_is_named_and_does_not_spoil_what_is_around_it():
    with pytest.raises(ModelError, match=r"Branching is not: .*control flow"):
        fold_batchnorm(Branching(), torch.ones(1, 1, 2, 2))
    network = lively(Holder())
    report = fold_batchnorm(network, torch.ones(1, 1, 2, 2))
    assert report.pairs == (("conv", "norm"),)
    assert "inside 'inner'" in report.skipped["inner.norm"]
    assert moved(network, report.network, torch.ones(1, 1, 2, 2)) < 1e-6


class OnlyOnSmall(nn.Module):
    """Uses BatchNorm's buffers behind its back."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)

    def forward(self, x):
        return self.norm(self.conv(x)) * (1.0 if isinstance(self.norm, nn.BatchNorm2d) else 2.0)


def test_a_changed_output_is_refused():
    with pytest.raises(ModelError, match="folding BatchNorm must not change the network's output"):
        fold_batchnorm(lively(OnlyOnSmall()), torch.randn(2, 1, 3, 3))


def test_wrapped_and_foreign_objects_are_refused():
    model = QuantizedModel(trained("small_cnn"), weights=predicates.weighted)
    with pytest.raises(ModelError, match="wrapped already"):
        fold_batchnorm(model.model)
    with pytest.raises(ModelError, match=r"must be a torch\.nn\.Module"):
        fold_batchnorm("network")


@pytest.mark.parametrize("prepare", [fold_batchnorm, equalize])
def test_an_example_of_another_form_is_refused_with_what_it_must_be(prepare):
    network, x = trained("small_cnn"), digits().calibration.x[:4]
    for wrong, said in [
        (torch.utils.data.DataLoader(x), "got DataLoader: of a loader give the inputs of one batch"),
        (x.numpy(), "got ndarray"),
        ((x, torch.zeros(4)), "but too many positional arguments: .* without the target"),
        ({"x": x, "labels": x}, "but .*argument 'labels'"),
    ]:
        with pytest.raises(DataError, match=f"`example_input` must be a tensor, a tuple .*{said}"):
            prepare(network, wrong)
    assert len(prepare(network, (x,)).pairs) == len(prepare(network, x).pairs) > 0


def test_one_of_a_thing_is_no_plural():
    network = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 3)).eval()
    assert "Folded 1 of 1 BatchNorm module; 1 layer got a bias" in str(fold_batchnorm(network))
    assert "Equalized 1 pair of layers in" in str(equalize(network))
    assert "Folded 0 of 0 BatchNorm modules; 0 layers got a bias" in str(fold_batchnorm(nn.ReLU()))
