"""The networks that the pipeline knows by name."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qexplore._optional import import_optional
from qexplore.errors import DataError, WorkflowError
from qexplore.pipeline.dialogue import Prefixed
from qexplore.pipeline.options import Options


class SimpleCNN(nn.Module):
    """conv1-bn1-relu-pool-conv2-bn2-relu-pool-flatten-fc1-relu-fc2; relu is a function, and there is one pool.

    Args:
        in_channels: of the images.
        size: their height and width, a multiple of 4.
        num_classes: outputs.
    """

    def __init__(self, in_channels: int = 3, size: int = 32, num_classes: int = 10) -> None:
        super().__init__()
        if size % 4:
            raise DataError(f"simplecnn pools images twice, so their size must be a multiple of 4, got {size}")
        self.conv1 = nn.Conv2d(in_channels, 32, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(2, 2)
        self.fc1 = nn.Linear(64 * (size // 4) ** 2, 128)
        self.fc2 = nn.Linear(128, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, num_classes]`` of images ``[B, in_channels, size, size]``."""
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        x = self.pool(F.relu(self.bn2(self.conv2(x))))
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        logits: Tensor = self.fc2(x)
        return logits


def resnet18(in_channels: int = 3, size: int = 32, num_classes: int = 10) -> nn.Module:
    """ResNet-18 of torchvision, its first convolution for ``in_channels``; untrained. ``size`` may be any."""
    models = import_optional("torchvision.models", extra="demo", purpose="the pipeline's resnet18")
    network: nn.Module = models.resnet18(weights=None, num_classes=num_classes)
    if in_channels != 3:
        network.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
    return network


IMAGE_NETWORKS = {"simplecnn": SimpleCNN, "resnet18": resnet18}


def load_weights(network: nn.Module, options: Options, dialogue: Prefixed) -> bool:
    """Load the state dict that ``options`` name into ``network``; whether they name one.

    Raises:
        WorkflowError: no such file, no state dict, or that of another network.
    """
    path = options.weights
    if path is None:
        return False
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state)
    except Exception as error:  # what a broken file raises has no other common base
        reason = " ".join(line.strip() for line in str(error).strip().splitlines()[:3])
        raise WorkflowError(
            f"'{path}' must hold a state dict of {type(network).__name__}, as torch.save(network.state_dict(), path) "
            f"writes it, but {type(error).__name__}: {reason}"
        ) from error
    dialogue.show(f"Weights: {path}")
    return True
