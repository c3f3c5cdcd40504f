"""Data and network of the notebooks: small images that are on the machine already."""

import gzip
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

FASHION_MNIST = (Path("/usr/share/datasets/fashion-mnist"), Path("../../experiments/fashion_mnist/data"))
"""Where Debian's package dataset-fashion-mnist puts its four files, and where torchvision downloads them."""


def images_and_labels() -> tuple[Tensor, Tensor, str]:
    """Images of 28 x 28 and their classes: Fashion-MNIST where it is found, else scikit-learn's digits made larger."""
    for folder in FASHION_MNIST:
        if (folder / "train-images-idx3-ubyte.gz").is_file():
            images, labels = (
                np.frombuffer(gzip.decompress((folder / name).read_bytes()), np.uint8, offset=offset)
                for name, offset in (("train-images-idx3-ubyte.gz", 16), ("train-labels-idx1-ubyte.gz", 8))
            )
            return torch.tensor(images.reshape(-1, 1, 28, 28)) / 255, torch.tensor(labels).long(), "Fashion-MNIST"
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = nn.functional.interpolate(torch.tensor(digits.images)[:, None].float() / 16, (28, 28), mode="bilinear")
    return images, torch.tensor(digits.target), "scikit-learn's digits, for want of Fashion-MNIST"


def loaders(batch_size: int = 128) -> dict[str, DataLoader]:
    """Disjoint loaders to train, to calibrate, to search and to report; says what the data is."""
    images, labels, name = images_and_labels()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:12288]
    shares = {"train": 0.65, "calibration": 0.05, "search": 0.15, "report": 0.15}
    sizes = [int(share * len(order)) for share in shares.values()]
    parts = dict(zip(shares, order[: sum(sizes)].split(sizes), strict=True))
    print(f"{name}:", ", ".join(f"{len(part)} {use} images" for use, part in parts.items()))
    return {
        use: DataLoader(TensorDataset(images[part], labels[part]), batch_size, shuffle=use == "train")
        for use, part in parts.items()
    }


def small_network() -> nn.Module:
    """Two strided convolutions and two linear layers: the small network of the Fashion-MNIST experiment, to logits."""
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 8, 3, stride=2),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(8, 64, 3, stride=2),
            relu2=nn.ReLU(),
            pool=nn.AvgPool2d(3, 2),
            flatten=nn.Flatten(),
            linear1=nn.Linear(256, 128),
            relu3=nn.ReLU(),
            linear2=nn.Linear(128, 10),
        )
    )


def trained(network: nn.Module, loader: DataLoader, epochs: int = 10) -> nn.Module:
    """Train with Adam and a one-cycle learning rate, ready to evaluate afterwards."""
    optimizer = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, epochs=epochs, steps_per_epoch=len(loader))
    for _ in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()
            schedule.step()
    return network.eval()
