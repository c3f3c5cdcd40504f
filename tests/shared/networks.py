"""The gallery: networks that the tests share, and the real data they run on.

`trained(name)` hands out copies of small networks trained on scikit-learn's handwritten digits, once per session;
`TRAINABLE[name]` says how each is wrapped. `AWKWARD[name]` are untrained networks with habits that hooks must survive.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from awkward_networks import AWKWARD, Case
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from qexplore import predicates

__all__ = [
    "AWKWARD", "EACH", "KEPT_IN", "TRAINABLE",
    "Case", "Digits", "Entry", "Split", "batches", "digits", "trained", "wrapping",
]  # fmt: skip

KEPT_IN = "QEXPLORE_TESTS_KEPT_IN"
"""The variable that says where processes of one run of the tests find the networks that one of them has trained."""


class Split(NamedTuple):
    """Images [N, 1, 8, 8] in [0, 1] and classes [N]."""

    x: Tensor
    y: Tensor


class Digits(NamedTuple):
    """Disjoint splits of the 1797 digits."""

    train: Split
    calibration: Split
    search: Split
    report: Split


@functools.cache
def digits() -> Digits:
    """897 images to train on, 200 to calibrate, 400 to search and 300 to report with; always the same split."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(data.images, dtype=torch.float32)[order, None] / 16
    y = torch.tensor(data.target, dtype=torch.int64)[order]
    sizes = (897, 200, 400, 300)
    return Digits(*(Split(*both) for both in zip(x.split(sizes), y.split(sizes), strict=True)))


def batches(split: Split, size: int = 100) -> list[tuple[Tensor, Tensor]]:
    """``split`` as a loader: a list of (x, y), never shuffled."""
    return list(zip(split.x.split(size), split.y.split(size), strict=True))


class SmallCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu1 = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.relu2 = nn.ReLU()
        self.fc1 = nn.Linear(16 * 4 * 4, 32)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu1(self.bn1(self.conv1(x))))
        x = self.relu2(self.bn2(self.conv2(x)))
        return self.fc2(self.relu3(self.fc1(x.flatten(1))))


class BasicBlock(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.downsample: nn.Module | None = None
        if stride != 1 or channels_in != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + (x if self.downsample is None else self.downsample(x)))


class ResNet20(nn.Module):
    """Twenty layers of 4, 8 and 16 channels, added by the ``+`` operator; 19 ReLU modules."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.layer1 = nn.Sequential(*(BasicBlock(4, 4, 1) for _ in range(3)))
        self.layer2 = nn.Sequential(BasicBlock(4, 8, 2), BasicBlock(8, 8, 1), BasicBlock(8, 8, 1))
        self.layer3 = nn.Sequential(BasicBlock(8, 16, 2), BasicBlock(16, 16, 1), BasicBlock(16, 16, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))


class InvertedResidual(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels_in * expansion
        self.is_residual = stride == 1 and channels_in == channels
        self.layers = nn.Sequential(
            nn.Conv2d(channels_in, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, hidden, 3, stride=stride, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.is_residual else self.layers(x)


class MobileNetV2Like(nn.Module):
    """Inverted residuals with depthwise convolutions and in-place ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True))
        self.blocks = nn.Sequential(
            InvertedResidual(8, 8, 1, 2), InvertedResidual(8, 16, 2, 3), InvertedResidual(16, 16, 1, 3)
        )
        self.head = nn.Sequential(nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6(inplace=True))
        self.classifier = nn.Sequential(nn.Dropout(0.1), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.blocks(self.stem(x)))
        return self.classifier(x.mean(dim=(2, 3)))


class SharedReLU(nn.Module):
    """One ReLU object behind three layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.fc1 = nn.Linear(8 * 4 * 4, 32)
        self.fc2 = nn.Linear(32, 10)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv2(self.relu(self.conv1(x))))
        return self.fc2(self.relu(self.fc1(x.flatten(1))))


class Transformer(nn.Module):
    """The eight rows of an image are the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 24)
        self.position = nn.Parameter(torch.randn(8, 24) * 0.1)
        layer = nn.TransformerEncoderLayer(24, 4, dim_feedforward=48, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x[:, 0]) + self.position).mean(dim=1))


class LSTM(nn.Module):
    """Reads an image row by row; ``nn.LSTM`` returns a nested tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 24, batch_first=True)
        self.fc1 = nn.Linear(24, 24)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        outputs, (hidden, _) = self.lstm(x[:, 0])
        return self.head(torch.tanh(self.fc1(outputs[:, -1] + hidden[-1])))


@dataclass(frozen=True)
class Entry:
    """A network that can be trained, and how it is wrapped: by ``predicate``, with ``options``."""

    build: Callable[[], nn.Module]
    predicate: Callable[..., bool]
    options: dict[str, Any] = field(default_factory=dict)
    epochs: int = 6
    learning_rate: float = 0.01


_NORM_OR_LINEAR = predicates.by_type(nn.Linear, nn.LayerNorm) & ~predicates.by_name("*.out_proj")

TRAINABLE = {
    "small_cnn": Entry(SmallCNN, predicates.by_type(nn.ReLU)),
    "resnet20": Entry(ResNet20, predicates.by_type(nn.ReLU)),
    "mobilenet": Entry(MobileNetV2Like, predicates.by_type(nn.ReLU6, nn.Conv2d), epochs=8),
    "shared_relu": Entry(SharedReLU, predicates.by_type(nn.ReLU)),
    "transformer": Entry(Transformer, _NORM_OR_LINEAR, epochs=14),
    "lstm": Entry(LSTM, predicates.by_type(nn.LSTM, nn.Linear), {"outputs": "all"}, epochs=20),
}


EACH = [pytest.param(name, marks=[pytest.mark.slow] * (name in ("resnet20", "shared_relu"))) for name in TRAINABLE]
"""All names, for what must hold on each: those that go the way of another one are tried with the slow tests."""


def wrapping(name: str, **options: Any) -> dict[str, Any]:
    """Keyword arguments that wrap the network ``name``: its predicate and what it needs besides."""
    entry = TRAINABLE[name]
    return {"predicate": entry.predicate, **entry.options, **options}


def trained(name: str) -> nn.Module:
    """A copy of the network ``name``, trained on the digits with a fixed seed, in eval mode."""
    return copy.deepcopy(_trained(name))


@functools.cache
def _trained(name: str) -> nn.Module:
    if KEPT_IN not in os.environ:
        return _train(name)
    kept = Path(os.environ[KEPT_IN]) / f"{name}.pt"
    if not kept.exists():
        part = kept.with_suffix(f".{os.getpid()}")
        torch.save(_train(name), part)
        part.replace(kept)
    network: nn.Module = torch.load(kept, weights_only=False)
    return network


def _train(name: str) -> nn.Module:
    entry = TRAINABLE[name]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = entry.build()
        data = digits().train
        steps = entry.epochs * len(data.x.split(64))
        optimizer = torch.optim.Adam(network.parameters(), lr=entry.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, entry.learning_rate, total_steps=steps)
        for _ in range(entry.epochs):
            order = torch.randperm(len(data.x))
            for chosen in order.split(64):
                loss = F.cross_entropy(network(data.x[chosen]), data.y[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return network.eval()
