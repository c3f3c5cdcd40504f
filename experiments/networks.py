"""The networks of the experiments: ordinary PyTorch, nothing in them knows about quantization."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
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
    import torchvision  # here, so that the other networks can do without

    network = torchvision.models.resnet18(weights=None, num_classes=num_classes)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


class InvertedResidual(nn.Module):
    """A 1x1 convolution that widens, a depthwise 3x3 and a linear 1x1 that narrows again, beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expand = nn.Sequential(nn.Conv2d(in_channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6())
        self.depthwise = nn.Sequential(
            nn.Conv2d(hidden, hidden, 3, stride=stride, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
        )
        self.project = nn.Sequential(nn.Conv2d(hidden, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))
        self.is_residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.is_residual else y


class SmallMobileNetV2(nn.Module):
    """MobileNetV2 for 28x28 images: a stem, nine inverted residuals, a head; twenty ReLU6 modules."""

    def __init__(self, in_channels: int = 1, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        shapes = ((16, 1), (24, 2), (24, 1), (32, 2), (32, 1), (32, 1), (64, 2), (64, 1), (64, 1))  # channels, stride
        blocks, channels = [], 16
        for out_channels, stride in shapes:
            blocks.append(InvertedResidual(channels, out_channels, stride, expansion=4))
            channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.Conv2d(channels, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU6())
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(128, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.head(self.blocks(self.stem(x))))
        return self.classifier(x.flatten(1))


class TransformerBlock(nn.Module):
    """Attention and a two-layer perceptron, each normalized before and added to its input."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 2 * width)
        self.gelu = nn.GELU()
        self.fc2 = nn.Linear(2 * width, width)

    def attention(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, width // self.num_heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(self.gelu(self.fc1(self.norm2(x))))


class SmallVisionTransformer(nn.Module):
    """49 patches of 4x4 pixels, four blocks, the mean of the tokens; 22 Linear and GELU modules."""

    def __init__(self, num_classes: int = 10, width: int = 64) -> None:
        super().__init__()
        self.patches = nn.Unfold(4, stride=4)
        self.embed = nn.Linear(16, width)
        self.position = nn.Parameter(torch.zeros(49, width))
        self.blocks = nn.Sequential(*(TransformerBlock(width, num_heads=4) for _ in range(4)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).transpose(1, 2)
        return self.head(self.norm(self.blocks(self.embed(tokens) + self.position)).mean(dim=1))
