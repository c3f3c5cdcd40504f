"""Explore a small convolutional network or a ResNet-20 on Fashion-MNIST.

python experiments/fashion_mnist/run.py --network resnet20
"""

import gzip
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from qexplore import predicates

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

import networks  # noqa: E402
import recipe  # noqa: E402

DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # where the package dataset-fashion-mnist puts the files
DOWNLOADED = FOLDER / "data"
PARTS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


# ------------------------------------------------------------------------------------------------------- data


def data_folder(given: Path | None) -> Path:
    """The given folder, or Debian's, or the one that torchvision downloads into."""
    if given is not None:
        if not has_all_parts(given):
            recipe.stop(
                f"No Fashion-MNIST in {given}: --data must name a folder with the four files "
                f"{', '.join(PARTS)}, each as it is or with .gz at the end."
            )
        return given
    downloaded = DOWNLOADED / "FashionMNIST" / "raw"
    for folder in (DEBIAN, downloaded):
        if has_all_parts(folder):
            return folder
    try:
        torchvision.datasets.FashionMNIST(str(DOWNLOADED), download=True)
    except (RuntimeError, OSError) as error:
        recipe.stop(
            f"No Fashion-MNIST in {DEBIAN} nor in {downloaded}, and its download failed "
            f"({str(error).splitlines()[0]}). Install Debian's package dataset-fashion-mnist, or name a folder with "
            "its four files: --data DIR."
        )
    return downloaded


def has_all_parts(folder: Path) -> bool:
    return all((folder / part).exists() or (folder / f"{part}.gz").exists() for part in PARTS)


def read_idx(folder: Path, part: str) -> Tensor:
    """An idx file holds zero, zero, the type (8: bytes), the number of dimensions, each of them, and the bytes."""
    plain = folder / part
    content = plain.read_bytes() if plain.exists() else gzip.decompress((folder / f"{part}.gz").read_bytes())
    dimensions = content[3]
    shape = np.frombuffer(content, dtype=">i4", count=dimensions, offset=4)
    values = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * dimensions)
    return torch.from_numpy(values.reshape(shape).copy())


def images_and_labels(folder: Path, images: str, labels: str) -> TensorDataset:
    pixels = read_idx(folder, images).unsqueeze(1).float() / 255
    return TensorDataset(pixels, read_idx(folder, labels).long())


# --------------------------------------------------------------------------------------------------- networks


def loss_of_probabilities(probabilities: Tensor, labels: Tensor) -> Tensor:
    """The small network ends in a softmax, so its loss is the negative logarithm of the right class's output."""
    return F.nll_loss(probabilities.clamp_min(1e-9).log(), labels)


NETWORKS = {
    "small": {
        "build": networks.small_fashion_network,
        "predicate": predicates.by_type(nn.ReLU, nn.AvgPool2d, nn.Linear),
        "training": {"epochs": 10, "learning_rate": 0.01, "loss": loss_of_probabilities},
    },
    "resnet20": {
        "build": networks.ResNet20,
        "predicate": predicates.by_type(nn.ReLU),
        "training": {"epochs": 5, "learning_rate": 0.01, "flip": True},
    },
    "mobilenet": {
        "build": networks.SmallMobileNetV2,
        "predicate": predicates.by_type(nn.ReLU6),
        "training": {"epochs": 6, "learning_rate": 0.01, "flip": True},
    },
    "transformer": {
        "build": networks.SmallVisionTransformer,
        "predicate": predicates.by_type(nn.Linear, nn.GELU),
        "training": {"epochs": 10, "learning_rate": 0.002, "flip": True},
    },
}


def main() -> None:
    options = recipe.parser(__doc__.splitlines()[0], evaluations=450)
    recipe.training_options(options, FOLDER)
    options.add_argument("--network", choices=NETWORKS, default="small", help="which network to train and explore")
    options.add_argument("--data", type=Path, metavar="DIR", help="folder with the four files of Fashion-MNIST")
    options.add_argument("--search-size", type=int, metavar="N", default=4096, help="test images that the search uses")
    arguments = recipe.finish_options(options.parse_args(), FOLDER)

    folder = data_folder(arguments.data)
    print(f"Fashion-MNIST from {folder}")
    first = images_and_labels(folder, PARTS[0], PARTS[1])  # 60,000 images to train, a slice of them to calibrate
    second = images_and_labels(folder, PARTS[2], PARTS[3])  # 10,000 test images to search and to report
    smoke_sizes = [128, min(4096, len(first) - 128), 256, 256]
    recipe.train_and_explore(NETWORKS[arguments.network], first, second, smoke_sizes, arguments)


if __name__ == "__main__":
    main()
