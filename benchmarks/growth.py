"""How the cost of a candidate grows with points, samples and candidates: the plain script beside qexplore's engine.

    python benchmarks/growth.py --picture docs/images/growth.png

Points: residual networks of 8, 16 and 32 channels and rising depth, with random weights, which change the counts but
not the cost. Samples and candidates: the small network, trained on Fashion-MNIST, with 5 points. Candidates are random
and different. The plain script, whose cost does not depend on the candidate, runs two of each lot.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from _workloads import Batches, PlainScript, Workload, networks
from torch import Tensor, nn

import qexplore as qx
from qexplore import predicates
from qexplore.evaluation import PrefixEvaluator

Curve = list[tuple[int, float, float]]
"""Size, plain and our seconds per candidate."""


def main() -> None:
    """Measure the three curves, print them as tables and draw them."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--picture", type=Path, metavar="FILE")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--threads", type=int, default=2)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    repeats = arguments.repeats
    large = Workload("small", 8192)
    by_five = predicates.by_type(nn.Conv2d, nn.Linear)
    first = large.search[: 1024 // 128]
    curves = {
        "points": [
            measure(ResNet(blocks).eval(), predicates.by_type(nn.ReLU), first[:2], 20, repeats, size=6 * blocks + 2)
            for blocks in (1, 3, 8, 18)
        ],
        "samples": [
            measure(large.network, by_five, large.search[: size // 128], 40, repeats, size=size)
            for size in (256, 1024, 4096, 8192)
        ],
        "candidates": [
            measure(large.network, by_five, first, count, repeats, size=count) for count in (10, 100, 1000, 10_000)
        ],
    }
    for name, curve in curves.items():
        print(f"\n{name:>12s} {'plain s':>10s} {'ours s':>10s} {'plain / ours':>13s}   per candidate")
        for size, plain, ours in curve:
            print(f"{size:12d} {plain:10.5f} {ours:10.5f} {plain / ours:13.1f}")
    if arguments.picture is not None:
        draw(curves, arguments.picture)


class ResNet(nn.Module):
    """Three stages of so many blocks each; 6 points a block and stage, one for the stem and one for the input."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers: list[nn.Module] = [nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
        channels = 8
        for stage, out_channels in enumerate((8, 16, 32)):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                layers.append(networks.BasicBlock(channels, out_channels, stride))
                channels = out_channels
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def measure(
    network: nn.Module, predicate: object, batches: Batches, count: int, repeats: int, *, size: int
) -> tuple[int, float, float]:
    """Seconds per candidate on both sides, medians over turns."""
    model = qx.QuantizedActivationsModel(copy.deepcopy(network), predicate, unsigned=False)
    model.calibrate(batches)
    amax = {name: float(quantizer.amax) for name, quantizer in model.activation_fake_quantizers.items()}
    script = PlainScript(copy.deepcopy(network), amax)
    rng = np.random.default_rng(0)
    plain, ours = [], []
    for _ in range(repeats):
        candidates = np.unique(rng.integers(2, 9, size=(3 * count, len(amax))), axis=0)
        candidates = rng.permutation(candidates)[:count]
        evaluator = PrefixEvaluator(qx.DirectEvaluator(model, batches, qx.top1_accuracy), required=True)
        plain.append(timed(lambda c=candidates: [script.correct(row, batches) for row in c[:2]]) / 2)
        ours.append(timed(lambda e=evaluator, c=candidates: list(e.evaluate(c))) / len(candidates))
    print(f"  {size}: {median(plain):.5f} s plain, {median(ours):.5f} s ours", flush=True)
    return size, median(plain), median(ours)


def timed(work: Callable[[], object]) -> float:
    """Seconds that ``work`` took."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def draw(curves: dict[str, Curve], file: Path) -> None:
    """Three panels, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(12, 4), layout="constrained")
    for axes, (name, curve) in zip(panels, curves.items(), strict=True):
        sizes, plain, ours = zip(*curve, strict=True)
        axes.loglog(sizes, plain, "o-", color="tab:gray", label="plain script")
        axes.loglog(sizes, ours, "o-", color="tab:blue", label="qexplore")
        axes.set_xlabel(name)
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("seconds per candidate")
    panels[0].legend()
    figure.savefig(file, dpi=100)
    print(f"\nWritten: {file}")


if __name__ == "__main__":
    main()
