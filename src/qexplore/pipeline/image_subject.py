"""`simplecnn` and `resnet18`, with images that are there, trained a little where no weights are given."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from qexplore._random import isolated, stream
from qexplore._table import counted
from qexplore.metrics import top1_accuracy
from qexplore.pipeline.dialogue import Prefixed
from qexplore.pipeline.images import Images, batches_of, find_images, read_images
from qexplore.pipeline.networks import IMAGE_NETWORKS, load_weights
from qexplore.pipeline.options import Options
from qexplore.pipeline.subject import Subject
from qexplore.training import TrainingOptions, train

_BATCH = 64
_NUM_TRAIN, _NUM_FINE_TUNING, _NUM_CALIBRATION, _NUM_HELD_OUT = 6144, 2048, 512, 1024
"""Samples at most: minutes on two cores, not hours."""

_TRAIN_EPOCHS = {"simplecnn": 2, "resnet18": 3}


def image_subject(name: str, options: Options, dialogue: Prefixed) -> Subject:
    """The network ``name`` with its data.

    Raises:
        DataError: no images in the folder that was named, or of a size that the network does not take.
        WorkflowError: weights of another network.
    """
    images = _images(options, dialogue)
    dialogue.show(f"Data: {images}")
    channels, size = images.shape
    with isolated(torch.device("cpu"), options.seed):
        network = IMAGE_NETWORKS[name](channels, size, images.num_classes)
    train_set, held_out = (
        _taken(images.train, _NUM_TRAIN, options.seed),
        _taken(images.test, _NUM_HELD_OUT, options.seed),
    )
    if not load_weights(network, options, dialogue):
        _train_a_little(name, network, train_set, options, dialogue)
    train_batches = batches_of(train_set, _BATCH)
    return Subject(
        name=name,
        network=network.eval(),
        calibration=train_batches[: _NUM_CALIBRATION // _BATCH],
        held_out=batches_of(held_out, _BATCH),
        train=train_batches[: _NUM_FINE_TUNING // _BATCH],
        metric=top1_accuracy,
        task_loss=F.cross_entropy,
    )


def _images(options: Options, dialogue: Prefixed) -> Images:
    if options.data is not None:
        return read_images(options.data, options.seed)
    question = "Download CIFAR-10 (170 MB)?"
    return find_images(lambda: dialogue.settle(options.download, question, "download"), dialogue.show)


def _train_a_little(
    name: str, network: nn.Module, data: tuple[Tensor, Tensor], options: Options, dialogue: Prefixed
) -> None:
    epochs = options.train_epochs or _TRAIN_EPOCHS[name]
    passes = counted(epochs, "epoch")
    dialogue.show(f"No --weights: training the float network a little, {passes} of {len(data[1]):,} images.")
    loader = DataLoader(TensorDataset(*data), batch_size=_BATCH, shuffle=True, drop_last=len(data[1]) >= _BATCH)
    how = TrainingOptions(
        epochs=epochs, seed=options.seed, progress=options.progress,
        on_epoch=lambda record: dialogue.show(f"  {record}"),
    )  # fmt: skip
    train(network, loader, F.cross_entropy, how)


def _taken(part: tuple[Tensor, Tensor], count: int, seed: int) -> tuple[Tensor, Tensor]:
    order = torch.from_numpy(stream(seed, "pipeline samples").permutation(len(part[1]))[:count])
    return part[0][order], part[1][order]
