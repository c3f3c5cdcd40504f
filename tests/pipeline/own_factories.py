"""Factories as users write them; the command line finds them from this folder."""

import torch
from networks import batches, digits, trained
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from qexplore.pipeline import Subject


class Tiny(nn.Module):
    """A convolution with its BatchNorm, a pool, and a linear layer; relu is a function."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.pool = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.MaxPool2d(2)
        self.drop, self.fc = nn.Dropout(0.2), nn.Linear(64, 10)

    def forward(self, x):
        return self.fc(self.drop(self.pool(F.relu(self.norm(self.conv(x)))).flatten(1)))


class Branching(nn.Module):
    """Cannot be taken apart into a graph."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        return self.fc(x.flatten(1)) if float(x.sum()) > 0 else x.flatten(1)[:, :10]


def example():
    return Tiny(), digits().calibration.x[:16]


def on_digits():
    return trained("small_cnn"), batches(digits().train, 64), batches(digits().report, 50)


def shuffled():
    """The network and both loaders differ from call to call, but for the seed."""
    data = [TensorDataset(*part) for part in (digits().train, digits().report)]
    return Tiny(), *(DataLoader(part, batch_size=50, shuffle=True) for part in data)


def alone():
    return Tiny()


def for_photos():
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2))


def untraceable():
    return Branching(), digits().calibration.x[:16]


def failing():
    return Tiny(1, 2, 3)


def text():
    return "a network"


def with_iterator():
    return Tiny(), iter([]), iter([])


def whole_subject():
    few = batches(digits().report, 50)[:1]
    return Subject("mine", trained("small_cnn"), few, few, few)


def without_batches():
    return Tiny(), [], []


def random_network():
    return nn.Linear(3, 2), torch.randn(4, 3)


not_callable = 3
