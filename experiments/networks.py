"""The networks of the experiments: ordinary PyTorch, nothing in them knows about quantization."""

from collections import OrderedDict

import torch.nn.functional as F
import torchvision
from torch import Tensor, nn


def digits_network() -> nn.Module:
    """Five convolutions and two linear layers for 8x8 images; six ReLU modules."""

    def block(in_channels: int, out_channels: int) -> list[nn.Module]:
        return [
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        ]

    layers = [*block(1, 8), *block(8, 8), nn.MaxPool2d(2)]
    layers += [*block(8, 16), *block(16, 16), nn.MaxPool2d(2), *block(16, 32)]
    layers += [nn.Flatten(), nn.Linear(32 * 2 * 2, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 10)]

    counts: dict[str, int] = {}
    named = OrderedDict()
    for layer in layers:  # conv1, batchnorm1, relu1, conv2, ...: names that read well in tables and pictures
        kind = type(layer).__name__.lower().replace("2d", "")
        counts[kind] = counts.get(kind, 0) + 1
        named[f"{kind}{counts[kind]}"] = layer
    return nn.Sequential(named)


def small_fashion_network() -> nn.Module:
    """Two strided convolutions and two linear layers for 1x28x28 images; returns probabilities, not logits."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 8, 3, stride=2),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(8, 64, 3, stride=2),
            relu2=nn.ReLU(),
            pool=nn.AvgPool2d(3, 2),
            flatten=nn.Flatten(),
            dropout1=nn.Dropout(0.1),
            linear1=nn.Linear(256, 128),
            dropout2=nn.Dropout(0.1),
            linear2=nn.Linear(128, 10),
            softmax=nn.Softmax(dim=1),
        )
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the two ReLUs are modules of their own, so each has its own width."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu2(y + self.shortcut(x))


class ResNet20(nn.Module):
    """The CIFAR-style residual network of 20 layers: three stages of 16, 32 and 64 channels, 19 ReLU modules."""

    def __init__(self, in_channels: int = 1, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = nn.Sequential(BasicBlock(16, 16, 1), BasicBlock(16, 16, 1), BasicBlock(16, 16, 1))
        self.layer2 = nn.Sequential(BasicBlock(16, 32, 2), BasicBlock(32, 32, 1), BasicBlock(32, 32, 1))
        self.layer3 = nn.Sequential(BasicBlock(32, 64, 2), BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.flatten(self.avgpool(x)))


class SimpleCifarNetwork(nn.Module):
    """ReLU as a function, and one pooling module that is used twice (its two outputs share one width)."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(64 * 8 * 8, 256)
        self.fc2 = nn.Linear(256, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        x = self.pool(F.relu(self.bn2(self.conv2(x))))
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc2(x)


def cifar_resnet18(num_classes: int = 10) -> nn.Module:
    """torchvision's ResNet-18 with its stem made for 32x32 images: a 3x3 convolution of stride 1, no max pooling."""
    network = torchvision.models.resnet18(weights=None, num_classes=num_classes)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network
