"""What equalization and bias correction bring: quantized weights alone, all at one width, activations in float.

    python benchmarks/preparation.py

Networks of the tests, trained on scikit-learn's digits: a small CNN, the same with the channels between its
convolutions scaled apart (which changes no output), and a MobileNetV2-like one. Per cell: accuracy on the 300 images of
the report set, and the signal to quantization noise of the logits there. Ranges of weights by least squared error.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from qexplore import predicates
from qexplore.model import QuantizedModel
from qexplore.preparation import correct_biases, equalize, fold_batchnorm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "shared"))

from networks import batches, digits, trained


def main() -> None:
    """Print one table for each network and granularity."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--widths", type=int, nargs="+", default=[8, 7, 6, 5, 4, 3])
    options.add_argument("--granularities", nargs="+", default=["tensor", "channel"])
    widths = options.parse_args().widths
    for granularity in options.parse_args().granularities:
        for name, network in gallery():
            accuracy, _ = measure(network, network)
            print(f"\n{name}, a scale per {granularity}, float {accuracy:.1%}")
            print(f"{'weights':24}" + "".join(f"{width:>18}" for width in widths))
            for steps, prepared, is_corrected in variants(network):
                model = QuantizedModel(prepared, weights=predicates.weighted, weight_granularity=granularity)
                model.calibrate()
                if is_corrected:
                    correct_biases(model, batches(digits().calibration))
                cells = []
                for width in widths:
                    model.num_bits = [width] * len(model.points)
                    accuracy, noise = measure(model, network)
                    cells.append(f"{accuracy:10.1%} {noise:4.1f} dB")
                model.detach()
                print(f"{steps:24}" + "".join(f"{cell:>18}" for cell in cells))


def gallery() -> Iterator[tuple[str, nn.Module]]:
    yield "small CNN", trained("small_cnn")
    yield "small CNN, channels scaled apart", scaled_apart(trained("small_cnn"))
    yield "MobileNetV2-like", trained("mobilenet")


def scaled_apart(network: nn.Module) -> nn.Module:
    scale = torch.logspace(-1, 1, 8)
    network.bn1.weight.data.div_(scale)
    network.bn1.bias.data.div_(scale)
    network.conv2.weight.data.mul_(scale.reshape(1, -1, 1, 1))
    return network


def variants(network: nn.Module) -> Iterator[tuple[str, nn.Module, bool]]:
    example = digits().calibration.x
    equalized = equalize(network, example, replace_relu6=True).network
    yield "plain", fold_batchnorm(network, example).network, False
    yield "equalized", equalized, False
    yield "corrected", fold_batchnorm(network, example).network, True
    yield "equalized and corrected", equalized, True


@torch.no_grad()
def measure(model: nn.Module, network: nn.Module) -> tuple[float, float]:
    """Accuracy, and SQNR in dB against the float ``network``."""
    data = digits().report
    expected, given = network(data.x), model(data.x)
    noise = float((given - expected).square().sum())
    sqnr = 10 * math.log10(float(expected.square().sum()) / noise) if noise else math.inf
    return float((given.argmax(dim=1) == data.y).float().mean()), sqnr


if __name__ == "__main__":
    main()
