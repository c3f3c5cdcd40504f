"""Images with classes: CIFAR-10, a folder of the user's own, Fashion-MNIST or digits, whatever is there."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qexplore._optional import import_optional
from qexplore._random import stream
from qexplore.errors import DataError, first_line
from qexplore.pipeline.downloads import cache_folder, in_words, is_reachable

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts its files."""

_FASHION = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_CIFAR_HOST = "www.cs.toronto.edu"
_SIZE = 32
"""Height and width that the images of a folder are brought to."""


@dataclass(frozen=True)
class Images:
    """Pixels from -1 to 1, ``[N, C, S, S]``, and classes ``[N]``.

    Attributes:
        name: such as "CIFAR-10".
        place: where they come from.
        train: to train on, pixels and classes.
        test: the rest.
        num_classes: how many classes.
    """

    name: str
    place: str
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    num_classes: int

    @property
    def shape(self) -> tuple[int, int]:
        """Channels, and height or width."""
        return int(self.train[0].shape[1]), int(self.train[0].shape[2])

    def __str__(self) -> str:
        channels, size = self.shape
        counts = f"{len(self.train[1]):,} images to train on and {len(self.test[1]):,} more"
        return f"{self.name} ({self.place}): {counts}, {channels}x{size}x{size}, {self.num_classes} classes"


def read_images(folder: Path, seed: int = 0) -> Images:
    """The images in ``folder``: CIFAR-10's or Fashion-MNIST's files, or one folder of image files for each class.

    Args:
        folder: of one of these.
        seed: of the split of a folder of classes, of which a fifth is held out.

    Raises:
        DataError: none of these, or a file that cannot be read.
        MissingPackageError: torchvision, which reads folders of classes and CIFAR-10's pickled files, is not installed.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder '{folder}'")
    for read in (_read_cifar10, _read_fashion):
        found = read(folder)
        if found is not None:
            return found
    return _read_classes(folder, seed)


def find_images(want_download: Callable[[], bool], say: Callable[[str], None]) -> Images:
    """CIFAR-10 where it is or can be downloaded, else Fashion-MNIST, else scikit-learn's digits; says which and why.

    Args:
        want_download: asked where CIFAR-10 could be downloaded.
        say: told what is not there.

    Raises:
        MissingPackageError: nothing is there, and scikit-learn is not installed either.
    """
    cache = cache_folder()
    found = _read_cifar10(Path("data")) or _read_cifar10(cache) or _downloaded_cifar10(cache, want_download, say)
    for place in (DEBIAN, Path("data/FashionMNIST/raw"), cache / "FashionMNIST" / "raw"):
        found = found or _read_fashion(place)
    if found is not None:
        return found
    say(f"No Fashion-MNIST in {DEBIAN} nor in data/FashionMNIST/raw: taking scikit-learn's handwritten digits.")
    return _digits()


def _downloaded_cifar10(folder: Path, want: Callable[[], bool], say: Callable[[str], None]) -> Images | None:
    if not is_reachable(_CIFAR_HOST):
        say(f"No CIFAR-10 in data nor in {in_words(folder)}, and {_CIFAR_HOST} cannot be reached.")
        return None
    if not want():
        return None
    torchvision: Any = import_optional("torchvision", extra="demo", purpose="downloading CIFAR-10")
    try:
        torchvision.datasets.CIFAR10(str(folder), download=True)
    except (RuntimeError, OSError) as error:
        say(f"The download of CIFAR-10 failed: {first_line(error)}.")
        return None
    return _read_cifar10(folder)


def _read_cifar10(folder: Path) -> Images | None:
    for place in (folder, folder / "cifar-10-batches-bin"):
        if (place / "test_batch.bin").exists() and (place / "data_batch_1.bin").exists():
            train, test = (_read_records(sorted(place.glob(name))) for name in ("data_batch_*.bin", "test_batch.bin"))
            return Images("CIFAR-10", str(place), train, test, 10)
    for root in (folder, folder.parent):
        if (root / "cifar-10-batches-py").is_dir() and folder.name in (root.name, "cifar-10-batches-py"):
            return _read_pickled(root)
    return None


def _read_records(files: list[Path]) -> tuple[Tensor, Tensor]:
    """Every record is the label's byte and 3072 bytes of red, green and blue pixels, row by row."""
    parts = [np.fromfile(file, dtype=np.uint8) for file in files]
    if any(not len(part) or len(part) % 3073 for part in parts):
        raise DataError(f"the binary files of CIFAR-10 in '{files[0].parent}' must hold records of 3073 bytes")
    records = np.concatenate(parts).reshape(-1, 3073)
    return _pixels(records[:, 1:].reshape(-1, 3, 32, 32)), torch.from_numpy(records[:, 0]).long()


def _read_pickled(root: Path) -> Images:
    datasets = import_optional("torchvision.datasets", extra="demo", purpose="reading CIFAR-10's pickled files")
    try:
        parts = [datasets.CIFAR10(str(root), train=train) for train in (True, False)]
    except Exception as error:  # what a broken file raises has no other common base
        raise DataError(
            f"torchvision refuses the files in '{root / 'cifar-10-batches-py'}': {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error
    train, test = (
        (_pixels(part.data.transpose(0, 3, 1, 2)), torch.tensor(part.targets, dtype=torch.int64)) for part in parts
    )
    return Images("CIFAR-10", str(root / "cifar-10-batches-py"), train, test, 10)


def _read_fashion(folder: Path) -> Images | None:
    if not all((folder / part).exists() or (folder / f"{part}.gz").exists() for part in _FASHION):
        return None
    images, labels, test_images, test_labels = (_read_idx(folder, part) for part in _FASHION)
    if (len(images), len(test_images)) != (len(labels), len(test_labels)):
        raise DataError(
            f"the files of Fashion-MNIST in '{folder}' must hold a label for each image, got {len(labels)} and "
            f"{len(test_labels)} labels for {len(images)} and {len(test_images)} images"
        )
    train = _pixels(images[:, None]), torch.from_numpy(labels).long()
    test = _pixels(test_images[:, None]), torch.from_numpy(test_labels).long()
    return Images("Fashion-MNIST", str(folder), train, test, 10)


def _read_idx(folder: Path, part: str) -> NDArray[np.uint8]:
    """An idx file holds zero, zero, the type (8: bytes), the number of dimensions, each of them, and the bytes."""
    file, num_dims = folder / part, 3 if "images" in part else 1
    try:
        if not file.exists():
            file = folder / f"{part}.gz"
        content = file.read_bytes() if file.suffix != ".gz" else gzip.decompress(file.read_bytes())
        if tuple(content[:4]) != (0, 0, 8, num_dims):
            raise ValueError(f"it begins with the bytes {tuple(content[:4])}")
        shape = np.frombuffer(content, dtype=">i4", count=num_dims, offset=4)
        return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * num_dims).reshape(shape).copy()
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(
            f"'{file}' must be a whole idx file of bytes in {num_dims} dimensions, as Fashion-MNIST's is, but "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error


def _read_classes(folder: Path, seed: int) -> Images:
    purpose = "reading a folder of images"
    datasets: Any = import_optional("torchvision.datasets", extra="demo", purpose=purpose)
    try:
        found = datasets.ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise DataError(
            f"'{folder}' must hold CIFAR-10 (cifar-10-batches-py or -bin), the four files of Fashion-MNIST, or one "
            f"folder of images for each class, but {first_line(error)}"
        ) from error
    if len(found) < 20:
        raise DataError(f"'{folder}' must hold at least 20 images, got {len(found)}")
    transforms = import_optional("torchvision.transforms.functional", extra="demo", purpose=purpose)
    images = [transforms.resize(_read_image(file, found.loader), [_SIZE, _SIZE]) for file, _ in found.samples]
    pixels = _pixels(np.stack([np.asarray(image) for image in images]).transpose(0, 3, 1, 2))
    labels = torch.tensor([label for _, label in found.samples])
    order = torch.from_numpy(stream(seed, "image folder").permutation(len(labels)))
    test, train = order[: len(order) // 5], order[len(order) // 5 :]
    parts = (pixels[train], labels[train]), (pixels[test], labels[test])
    return Images(f"images of {folder.name}", str(folder), *parts, num_classes=len(found.classes))


def _read_image(file: str, load: Callable[[str], Any]) -> Any:
    try:
        return load(file)
    except Exception as error:  # what a broken file raises has no other common base
        raise DataError(f"'{file}' must be an image, but {type(error).__name__}: {first_line(error)}") from error


def _digits() -> Images:
    purpose = "the pipeline without CIFAR-10 or Fashion-MNIST (name a folder with --data DIR)"
    data = import_optional("sklearn.datasets", extra="demo", purpose=purpose).load_digits()
    pixels = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(data.target, dtype=torch.int64)
    order = torch.from_numpy(stream(0, "digits").permutation(len(labels)))
    train, test = order[:1197], order[1197:]
    return Images(
        "handwritten digits", "scikit-learn", (pixels[train], labels[train]), (pixels[test], labels[test]), 10
    )


def batches_of(part: tuple[Tensor, Tensor], size: int) -> list[tuple[Tensor, Tensor]]:
    """Pixels and classes as a loader: a list of batches of ``size``, in the order given."""
    return list(zip(*(torch.split(tensor, size) for tensor in part), strict=True))


def _pixels(values: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).float().div_(127.5).sub_(1)
