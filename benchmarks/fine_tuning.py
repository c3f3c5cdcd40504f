"""What fine-tuning wins back at a point of few bits, straight through and with learned step sizes (LSQ).

    python benchmarks/fine_tuning.py

ResNet-20 on Fashion-MNIST with quantizers on activations and weights. The point is the most accurate one of a search's
front that has at most `--mean-bits` on average; nothing about it is picked by hand. Each way trains the same float
weights at that point, on the first `--images` of the training images; the best epoch is chosen on the images that the
search used, and accuracy is reported on the rest of the test images, which nothing else has seen. The network
was trained for two epochs only, so training goes on to improve it: the last line trains the float network alike, to
show how much of what is won that is.
"""

from __future__ import annotations

import argparse
import copy
import time

import numpy as np
import torch
from _workloads import BATCH_SIZE, Workload, correct
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import qexplore as qx
from qexplore import predicates
from qexplore.training import TrainingOptions, train


def main() -> None:
    """Search a front, pick the point, train it both ways."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--network", choices=("resnet20", "mobilenet"), default="resnet20")
    options.add_argument("--mean-bits", type=float, default=3.0)
    options.add_argument("--budget", type=int, default=150, help="full passes of the search")
    options.add_argument("--images", type=int, default=8192, help="training images of an epoch")
    options.add_argument("--epochs", type=int, default=2)
    options.add_argument("--seeds", type=int, nargs="+", default=[1])
    options.add_argument("--threads", type=int, default=2)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    workload = Workload(arguments.network)
    model = wrapped(workload)
    point = chosen_point(model, workload, arguments)
    print(f"point with {sum(point.num_bits) / len(point.num_bits):.2f} bits on average: {point}", flush=True)
    for seed in arguments.seeds:
        data = torch.utils.data.Subset(workload.train, range(arguments.images))
        for name, is_learned in (("straight through", False), ("learned steps", True)):
            tuned = qx.fine_tune(
                wrapped(workload),
                point,
                loader(data),
                F.cross_entropy,
                epochs=arguments.epochs,
                learn_step_sizes=is_learned,
                validation_loader=workload.search,
                report_loader=workload.report,
                seed=seed,
            )
            print(f"\nseed {seed}, {name}, {len(data)} images an epoch\n{tuned}", flush=True)
        print(
            f"\nseed {seed}, float network trained alike: {float_trained_alike(workload, data, arguments.epochs, seed)}"
        )


def wrapped(workload: Workload) -> qx.QuantizedModel:
    """The network with quantizers on activations and weights, calibrated as well as it gets without training."""
    model = qx.QuantizedModel(copy.deepcopy(workload.network), workload.predicate, predicates.weighted)
    model.calibrate(workload.calibration, method="mse", progress=False)
    return model


def chosen_point(model: qx.QuantizedModel, workload: Workload, arguments: argparse.Namespace) -> qx.FrontPoint:
    """Of the front of a search: the most accurate point within the mean bits."""
    start = time.perf_counter()
    problem = qx.LayerwiseQuantizationProblem(
        model, workload.search, num_bits_lower_limit=2, num_bits_upper_limit=8, max_drop=0.25
    )
    found = qx.explore(problem, max_evaluations=arguments.budget, seed=1, progress=False)
    print(f"front of {len(found.front)} points after {time.perf_counter() - start:.0f} s", flush=True)
    return found.front.most_accurate(max_total_bits=float(np.floor(arguments.mean_bits * len(model.points))))


def loader(data: Dataset) -> DataLoader:
    """Shuffled batches; a last one of a few images would spoil BatchNorm's statistics."""
    return DataLoader(data, batch_size=BATCH_SIZE, shuffle=True, drop_last=True)


def float_trained_alike(workload: Workload, data: Dataset, epochs: int, seed: int) -> str:
    """Accuracy on the report set before and after, trained by the same loop."""
    network = copy.deepcopy(workload.network)
    count = sum(len(labels) for _, labels in workload.report)
    before = correct(network, workload.report) / count
    train(
        network,
        loader(data),
        F.cross_entropy,
        TrainingOptions(epochs=epochs, seed=seed),
        evaluate=lambda: float(correct(network, workload.search)),
        baseline=float(correct(network, workload.search)),
    )
    return f"{before:.4f} before, {correct(network, workload.report) / count:.4f} after"


if __name__ == "__main__":
    main()
