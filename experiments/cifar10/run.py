"""Explore a simple convolutional network or torchvision's ResNet-18 on CIFAR-10.

python experiments/cifar10/run.py --network resnet18 --data DIR
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import nn
from torch.utils.data import TensorDataset

from qexplore import predicates

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

import networks  # noqa: E402
import recipe  # noqa: E402

DOWNLOADED = FOLDER / "data"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10's training images, per channel


# ------------------------------------------------------------------------------------------------------- data


def read_cifar10(folder: Path, download: bool) -> tuple[TensorDataset, TensorDataset]:
    """Training and test images, from the binary or the Python version of the files."""
    for binary in (folder, folder / "cifar-10-batches-bin"):
        if (binary / "test_batch.bin").exists() and (binary / "data_batch_1.bin").exists():
            print(f"CIFAR-10, binary version, from {binary}")
            return read_binary(sorted(binary.glob("data_batch_*.bin"))), read_binary([binary / "test_batch.bin"])
    for root in (folder, folder.parent):  # torchvision wants the folder that holds cifar-10-batches-py
        if (root / "cifar-10-batches-py").is_dir():
            return read_python(root)
    if download:
        try:
            torchvision.datasets.CIFAR10(str(folder), download=True)
        except (RuntimeError, OSError) as error:
            recipe.stop(f"The download of CIFAR-10 to {folder} failed ({str(error).splitlines()[0]}).")
        return read_python(folder)
    recipe.stop(
        f"No CIFAR-10 in {folder}: it must hold cifar-10-batches-bin (the binary version) or cifar-10-batches-py "
        f"(the Python version). Name the folder with --data DIR, or let torchvision download it: --download."
    )


def read_binary(files: list[Path]) -> TensorDataset:
    """Every record is the label's byte and 3072 bytes of red, green and blue pixels, row by row."""
    records = np.concatenate([np.fromfile(file, dtype=np.uint8).reshape(-1, 3073) for file in files])
    return normalised(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0])


def read_python(root: Path) -> tuple[TensorDataset, TensorDataset]:
    """The pickled version through torchvision, which compares its checksums."""
    print(f"CIFAR-10, Python version, from {root / 'cifar-10-batches-py'}")
    try:
        parts = [torchvision.datasets.CIFAR10(str(root), train=train) for train in (True, False)]
    except RuntimeError as error:
        recipe.stop(f"torchvision refuses the files in {root / 'cifar-10-batches-py'}: {error}")
    train, test = (normalised(part.data.transpose(0, 3, 1, 2), np.asarray(part.targets)) for part in parts)
    return train, test


def normalised(pixels: np.ndarray, labels: np.ndarray) -> TensorDataset:
    images = torch.from_numpy(pixels).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return TensorDataset((images - mean) / std, torch.from_numpy(labels).long())


def write_digits_as_cifar10(folder: Path) -> None:
    """scikit-learn's handwritten digits, enlarged to 32x32 and grey in all channels, in CIFAR's binary format."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = (digits.images * 255 / 16).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    colours = np.stack([pixels] * 3, axis=1).reshape(len(pixels), 3072)
    records = np.concatenate([digits.target[:, None].astype(np.uint8), colours], axis=1)
    records[:1100].tofile(folder / "data_batch_1.bin")
    records[1100:].tofile(folder / "test_batch.bin")


# --------------------------------------------------------------------------------------------------- networks


NETWORKS = {
    "simple": {
        "build": networks.SimpleCifarNetwork,
        # ReLU is a function in this network, no module; what can be selected is what surrounds it.
        "predicate": predicates.by_type(nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.Linear),
        "training": {"epochs": 15, "learning_rate": 0.005, "flip": True, "shift": 4},
    },
    "resnet18": {
        "build": networks.cifar_resnet18,
        # torchvision calls one ReLU module twice in a block; both calls then have the same width.
        "predicate": predicates.by_type(nn.ReLU),
        "training": {"epochs": 15, "learning_rate": 0.005, "flip": True, "shift": 4},
    },
}


def main() -> None:
    options = recipe.parser(__doc__.splitlines()[0], evaluations=450)
    recipe.training_options(options, FOLDER)
    options.add_argument("--network", choices=NETWORKS, default="simple", help="which network to train and explore")
    options.add_argument("--data", type=Path, metavar="DIR", default=DOWNLOADED, help="folder with CIFAR-10's files")
    options.add_argument(
        "--download", action="store_true", help="download CIFAR-10 into that folder if it is not there"
    )
    options.add_argument("--search-size", type=int, metavar="N", default=4096, help="test images that the search uses")
    arguments = recipe.finish_options(options.parse_args(), FOLDER)

    if arguments.smoke:
        with tempfile.TemporaryDirectory() as folder:
            print("Smoke run: not CIFAR-10, but handwritten digits written in CIFAR's binary format")
            write_digits_as_cifar10(Path(folder))
            first, second = read_cifar10(Path(folder), download=False)
    else:
        first, second = read_cifar10(arguments.data, arguments.download)
    recipe.train_and_explore(NETWORKS[arguments.network], first, second, [64, 256, 64, 64], arguments)


if __name__ == "__main__":
    main()
