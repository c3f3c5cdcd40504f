"""Networks that are awkward about their weights, with these quantized, and what tests ask of evaluators of them."""

import numpy as np
import torch
from controlled_networks import TiedEmbedding
from networks import batches, digits, trained, wrapping
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

from qexplore import predicates
from qexplore.model import QuantizedModel, call

RELU, LINEAR = predicates.by_type(nn.ReLU, nn.ReLU6), predicates.by_type(nn.Linear) & ~predicates.by_name("*.out_proj")
MIXED = [0, 2, 3, 4, 5, 6, 8, 16, 403, 502, 304, 201, 1201, 1403]


class TiedByFunction(nn.Module):
    """The embedding's weight is also read by itself, for the last layer."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.fc = nn.Linear(8, 8)
        self.relu = nn.ReLU()

    def forward(self, tokens):
        return F.linear(self.relu(self.fc(self.embedding(tokens).mean(dim=1))), self.embedding.weight)


class ReadByHand(nn.Module):
    """Calls no layer: reads the weights, and a bias that is parametrized."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)
        self.relu = nn.ReLU()
        self.head = nn.Linear(64, 5)
        parametrize.register_parametrization(self.conv, "bias", nn.Tanh())
        parametrize.register_parametrization(self.head, "bias", nn.Tanh())

    def forward(self, x):
        x = self.relu(F.conv2d(x, 2 * self.conv.weight, self.conv.bias))
        return self.head(x.flatten(1))


class CalledTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.head = nn.Linear(144, 5)

    def forward(self, x):
        x = self.relu(self.conv(self.relu(self.norm(self.conv(x)))))
        return self.head(x.flatten(1))


class Own(nn.Module):
    """A weight of the user's own beside a layer inside."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))
        self.inner = nn.Linear(8, 5)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.inner(self.relu(x @ self.weight.t()))


class Encoder(nn.Module):
    """Torch's encoder layer, run as a whole: all of its points are inside."""

    def __init__(self, norm_first=False):
        super().__init__()
        self.embed = nn.Linear(8, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=norm_first)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.layer(self.embed(x)).mean(dim=1))


def convolutions():
    """Every kind of layer that BatchNorm is folded into, and one that it is not."""
    body = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
    body.extend([nn.ConvTranspose2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU()])
    body.extend([nn.ConvTranspose2d(8, 8, 3, groups=2), nn.BatchNorm2d(8), nn.ReLU6()])
    body.extend([nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten()])
    return body.extend([nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5)])


def volumes():
    return nn.Sequential(nn.Conv3d(2, 6, 3), nn.BatchNorm3d(6), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5))


def signals():
    body = nn.Sequential(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.ConvTranspose1d(6, 4, 3), nn.Flatten())
    return body.append(nn.Linear(32, 5))


def numbers(*shape):
    return torch.randn(40, *shape, generator=torch.Generator().manual_seed(1))


def tokens(count=11):
    return torch.randint(0, count, (40, 6), generator=torch.Generator().manual_seed(0))


NETWORKS = {
    "tied": (TiedEmbedding, None, lambda: tokens(16)),
    "tied by function": (TiedByFunction, RELU, tokens),
    "read by hand": (ReadByHand, RELU, lambda: numbers(4, 6, 6)),
    "called twice": (CalledTwice, RELU, lambda: numbers(4, 6, 6)),
    "own": (Own, RELU, lambda: numbers(8)),
    "encoder layer": (Encoder, LINEAR, lambda: numbers(4, 8)),
    "encoder layer, norm first": (lambda: Encoder(norm_first=True), LINEAR, lambda: numbers(4, 8)),
    "encoder layer, weights alone": (Encoder, None, lambda: numbers(4, 8)),
    "convolutions": (convolutions, RELU, lambda: numbers(4, 8, 8)),
    "volumes": (volumes, RELU, lambda: numbers(2, 4, 4, 4)),
    "signals": (signals, RELU, lambda: numbers(4, 8)),
}


def wrapped(name, granularity="channel"):
    """The network with BatchNorm that has seen something, calibrated; and its inputs."""
    build, activations, inputs = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = build().eval()
        for module in network.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 2)
    model = QuantizedModel(network, activations, predicates.weighted, weight_granularity=granularity)
    model.calibrate([inputs()], weight_method="max", unpack=lambda batch: (batch, None))
    return model, inputs()


def vectors(model, count=4, seed=0):
    """Some of every kind, mixed ones and everything off."""
    length = len(model.points)
    mixed = np.random.default_rng(seed).choice(MIXED, size=(count, length))
    same = [np.full(length, code) for code in (0, 4, 403, 1201)]
    return np.array([*same, *mixed])


def cloned(tree):
    return pytree.tree_map_only(torch.Tensor, torch.clone, tree)


def scores(evaluations):
    return [(evaluation.state, evaluation.score) for evaluation in evaluations]


def of_trained(name, **options):
    entry = {"activations" if key == "predicate" else key: value for key, value in wrapping(name).items()}
    model = QuantizedModel(trained(name), weights=predicates.weighted, **entry, **options)
    model.calibrate(batches(digits().calibration), weight_method="max")
    return model


def of_untrained(name, granularity="channel"):
    """The network, and a loader whose targets are its own answers."""
    model, inputs = wrapped(name, granularity)
    with torch.no_grad(), model.using([0] * len(model.points)):
        targets = call(model.eval(), cloned(inputs)).flatten(1).argmax(dim=1)
    return model, list(zip(inputs.split(10), targets.split(10), strict=True))


def top1_flat(output, target):
    return (output.flatten(1).argmax(dim=1) == target).float()
