"""What the benchmarks measure on: networks trained on Fashion-MNIST, and the plain script to compare with."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"
sys.path.insert(0, str(EXPERIMENTS))

import networks  # noqa: E402
import recipe  # noqa: E402

__all__ = ["BATCH_SIZE", "EPOCHS", "Batches", "PlainScript", "Workload", "correct", "named", "networks"]

BATCH_SIZE = 128
Batches = list[tuple[Tensor, Tensor]]
EPOCHS = {"small": 10, "transformer": 3, "mobilenet": 3, "resnet20": 2}
"""Enough for a network that is worth quantizing; the experiments train longer."""
TRAIN_IMAGES = {"mobilenet": 16_384}
"""Of 58,976, for the network that is slowest to train."""


def named(text: str) -> tuple[str, int | None]:
    """Of ``NAME`` or ``NAME:SEEDS`` on a command line the network, and how many of the seeds it takes; None for all."""
    name, _, count = text.partition(":")
    if name not in EPOCHS or not (count or "1").isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} names none of {', '.join(EPOCHS)}, with or without a number behind")
    return name, int(count) if count else None


def _fashion_mnist() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fashion_mnist", EXPERIMENTS / "fashion_mnist" / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Workload:
    """A trained network, how it is wrapped, and data that it was not trained on."""

    def __init__(self, name: str, num_samples: int = 1024) -> None:
        fashion = _fashion_mnist()
        folder = fashion.data_folder(None)
        first = fashion.images_and_labels(folder, *fashion.PARTS[:2])
        second = fashion.images_and_labels(folder, *fashion.PARTS[2:])
        chosen = fashion.NETWORKS[name]
        arguments = argparse.Namespace(seed=1, device="cpu", weights_dir=EXPERIMENTS / "fashion_mnist" / "weights")
        sizes = [recipe.CALIBRATION_SIZE, len(first) - recipe.CALIBRATION_SIZE]
        calibration, train = recipe.stratified_parts(first.tensors[1], sizes, seed=1)
        training = chosen["training"] | {"epochs": EPOCHS[name]}
        data = TensorDataset(*first[train[: TRAIN_IMAGES.get(name)]])
        self.name = name
        self.train = data
        """What the network was trained on."""
        self.network: nn.Module = recipe.trained(name, chosen["build"], data, arguments, **training)
        self.predicate = chosen["predicate"]
        self.calibration = _batches(*first[calibration])
        (search,) = recipe.stratified_parts(second.tensors[1], [num_samples], seed=1)
        self.search = _batches(*second[search])
        is_left = torch.ones(len(second), dtype=torch.bool)
        is_left[search] = False
        self.report = _batches(*second[is_left.nonzero()[:, 0]])


def _batches(images: Tensor, labels: Tensor) -> Batches:
    return list(zip(images.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True))


class PlainScript:
    """The recipe with pytorch-quantization alone: its TensorQuantizer in hooks, and on weights once a candidate.

    Args:
        network: hooked, and its weights are written over.
        amax: ranges of the input and of module outputs.
        weights: ranges per output channel, by names of weights; their widths come behind the others.
    """

    def __init__(self, network: nn.Module, amax: dict[str, float], weights: dict[str, Tensor] | None = None) -> None:
        from pytorch_quantization.nn import TensorQuantizer
        from pytorch_quantization.tensor_quant import QuantDescriptor

        self.network = network
        parameters = dict(network.named_parameters())
        self.weights = {name: (parameters[name], parameters[name].detach().clone()) for name in weights or {}}
        self.weight_quantizers = {name: TensorQuantizer(QuantDescriptor(axis=0)) for name in self.weights}
        for name, quantizer in self.weight_quantizers.items():
            quantizer.amax = (weights or {})[name].reshape(-1, *[1] * (parameters[name].dim() - 1))
        self.quantizers = {name: TensorQuantizer() for name in amax}
        for name, quantizer in self.quantizers.items():
            quantizer.amax = amax[name]
        if "input" in self.quantizers:
            at_input = self.quantizers["input"]
            network.register_forward_pre_hook(lambda module, args: (at_input(args[0]), *args[1:]))
        modules = dict(network.named_modules())
        for name, quantizer in self.quantizers.items():
            if name != "input":
                modules[name].register_forward_hook(lambda module, args, output, q=quantizer: q(output))

    def correct(self, candidate: np.ndarray, batches: Batches) -> int:
        """Correct predictions with the widths of ``candidate``."""
        quantizers = [*self.quantizers.values(), *self.weight_quantizers.values()]
        for quantizer, num_bits in zip(quantizers, candidate.tolist(), strict=True):
            quantizer.num_bits = num_bits
        with torch.no_grad():
            for (parameter, exact), quantizer in zip(
                self.weights.values(), self.weight_quantizers.values(), strict=True
            ):
                parameter.copy_(quantizer(exact))
        return correct(self.network, batches)


@torch.no_grad()
def correct(network: nn.Module, batches: Batches) -> int:
    """Correct predictions of ``network``."""
    return sum(int((network(images).argmax(1) == labels).sum()) for images, labels in batches)


if __name__ == "__main__":  # trains what is not trained yet
    for workload in map(Workload, EPOCHS):
        hits = correct(workload.network, workload.search)
        print(f"{workload.name}: {hits} of 1024 search images right")
