"""What one candidate costs, in float forwards over the same data: the plain script beside qexplore.

    python benchmarks/candidate_cost.py

The plain script is the recipe written with pytorch-quantization alone: its TensorQuantizer in forward hooks, batches
of 128 built beforehand. Both sides run in one process and take turns; figures are medians, and both sides must count
the same correct predictions. Images are scikit-learn's digits enlarged to 28 x 28; weights are random, which changes
the counts but not the cost.
"""

from __future__ import annotations

import argparse
import copy
import platform
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from _workloads import BATCH_SIZE, Batches, PlainScript, correct, networks
from sklearn.datasets import load_digits
from torch import nn

import qexplore as qx
from qexplore import predicates


def main() -> None:
    """Measure every network and print one row for each."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--samples", type=int, default=1024)
    options.add_argument("--rounds", type=int, default=5, help="how often both sides take their turn")
    options.add_argument("--candidates", type=int, default=4, help="random candidates per turn")
    options.add_argument("--threads", type=int, default=2)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    digits = load_digits()
    small = torch.from_numpy(digits.images[: arguments.samples]).float().unsqueeze(1) / 16
    images = F.interpolate(small, size=28, mode="bilinear")
    labels = torch.from_numpy(digits.target[: arguments.samples])
    batches = list(zip(images.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True))
    print(
        f"{len(images)} images of 28 x 28, batches of {BATCH_SIZE}, {arguments.threads} threads, "
        f"torch {torch.__version__}, {platform.machine()}; medians of {arguments.rounds} rounds"
    )
    print(f"{'network':10s} {'points':>6s} {'float s':>8s} {'plain':>7s} {'qexplore':>9s} {'plain / qexplore':>17s}")
    for name, build in (("small", networks.small_fashion_network), ("ResNet-20", networks.ResNet20)):
        torch.manual_seed(0)
        num_points, float_seconds, plain, ours = measure(build().eval(), batches, arguments)
        print(
            f"{name:10s} {num_points:6d} {float_seconds:8.3f} {plain:7.2f} {ours:9.2f} {plain / ours:17.2f}", flush=True
        )
    print("plain and qexplore: one candidate in float forwards, eager, over the same batches")


def measure(network: nn.Module, batches: Batches, arguments: argparse.Namespace) -> tuple[int, float, float, float]:
    """Number of points, seconds of a float forward, and a candidate's cost in float forwards on both sides."""
    model = qx.QuantizedActivationsModel(copy.deepcopy(network), predicates.by_type(nn.ReLU), unsigned=False)
    model.calibrate(batches)
    evaluator = qx.DirectEvaluator(model, batches, qx.top1_accuracy)
    amax = {name: float(quantizer.amax) for name, quantizer in model.activation_fake_quantizers.items()}
    script = PlainScript(copy.deepcopy(network), amax)
    candidates = np.random.default_rng(0).integers(2, 9, size=(arguments.candidates, len(amax)))
    num_samples = sum(len(labels) for _, labels in batches)

    def ours() -> list[int]:
        return [round(evaluation.score * num_samples) for evaluation in evaluator.evaluate(candidates)]

    def plain() -> list[int]:
        return [script.correct(candidate, batches) for candidate in candidates]

    float_times, plain_times, our_times = [], [], []
    for _ in range(arguments.rounds + 1):
        float_times.append(timed(lambda: correct(network, batches))[0])
        plain_time, plain_counts = timed(plain)
        our_time, our_counts = timed(ours)
        if plain_counts != our_counts:
            raise SystemExit(f"both sides must count the same, got {plain_counts} and {our_counts}")
        plain_times.append(plain_time / len(candidates))
        our_times.append(our_time / len(candidates))
    # The first round warms up.
    float_seconds = median(float_times[1:])
    return len(amax), float_seconds, median(plain_times[1:]) / float_seconds, median(our_times[1:]) / float_seconds


def timed(work: Callable[[], object]) -> tuple[float, object]:
    """Seconds that ``work`` took, and what it returned."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    main()
