"""What choosing the ranges of weights by the network's output costs: beside "max", and with all run again each time.

    python benchmarks/calibration.py

Both ways of comparing take turns in one process, and must choose the same ranges. Networks are torchvision's with
random weights, which changes what is chosen but not the cost.
"""

from __future__ import annotations

import argparse
import platform
import time
from statistics import median
from unittest import mock

import torch
import torchvision
from torch import Tensor

from qexplore import predicates
from qexplore.model import QuantizedModel, replaying


def main() -> None:
    """Measure every network and print one row for each."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--networks", nargs="+", default=["resnet18", "squeezenet1_1", "mobilenet_v2"])
    options.add_argument("--size", type=int, default=64, help="of the images")
    options.add_argument("--samples", type=int, default=8)
    options.add_argument("--rounds", type=int, default=3, help="how often both sides take their turn")
    options.add_argument("--threads", type=int, default=1)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"{arguments.samples} images of {arguments.size} x {arguments.size}, {arguments.threads} threads, "
        f"torch {torch.__version__}, {platform.machine()}; seconds, medians of {arguments.rounds} rounds"
    )
    print(f"{'network':14s} {'weights':>7s} {'max':>6s} {'all again':>10s} {'remembered':>11s} {'ratio':>6s}")
    for name in arguments.networks:
        num_weights, largest, plain, quick = measure(name, arguments)
        print(
            f"{name:14s} {num_weights:7d} {largest:6.2f} {plain:10.2f} {quick:11.2f} {plain / quick:6.2f}", flush=True
        )


def measure(name: str, arguments: argparse.Namespace) -> tuple[int, float, float, float]:
    """Number of weights, and median seconds of "max", of "auto" with all run again, and of "auto" as it is."""
    torch.manual_seed(0)
    network = getattr(torchvision.models, name)(weights=None).eval()
    model = QuantizedModel(network, weights=predicates.weighted)
    loader = [torch.randn(arguments.samples, 3, arguments.size, arguments.size)]
    times: list[tuple[float, float, float]] = []
    for _ in range(arguments.rounds):
        largest, _ = calibrated(model, loader, "max")
        with mock.patch.object(replaying, "can_be_noted", lambda network: False):
            plain, expected = calibrated(model, loader, "auto")
        quick, found = calibrated(model, loader, "auto")
        if not all(torch.equal(expected[key], found[key]) for key in expected):
            raise SystemExit(f"both ways must choose the same ranges, but do not for {name}")
        times.append((largest, plain, quick))
    largest, plain, quick = map(median, zip(*times, strict=True))
    return len(model.weight_points), largest, plain, quick


def calibrated(model: QuantizedModel, loader: list[Tensor], method: str) -> tuple[float, dict[str, Tensor]]:
    """Seconds that a calibration took, and the ranges that it found."""
    start = time.process_time()
    model.calibrate(loader, weight_method=method)
    seconds = time.process_time() - start
    return seconds, {key: tensor.clone() for key, tensor in model.quantizers.state_dict().items()}


if __name__ == "__main__":
    main()
