"""Integers, small floats, and both in one search: hypervolumes of fronts found with the same budget.

    python benchmarks/formats.py

Widths 2 to 8, the six float formats, and all of them together, at every point that the experiment quantizes. The last
network has outliers: a few channels behind each LayerNorm of the transformer are made larger, and the next layer's
weights for them as much smaller, which changes nothing in float (as in large language models, where such channels keep
integers wide). Hypervolumes are of accuracy times bits, against five points below the float network's accuracy at 8
bits everywhere.
"""

from __future__ import annotations

import argparse
import copy
from statistics import median

import torch
from _workloads import EPOCHS, Workload
from torch import nn

import qexplore as qx
from qexplore import predicates

INTEGERS = tuple(range(2, 9))
FLOATS = ("E2M1", "E2M3", "E3M2", "E4M3", "E3M4", "E5M2")
SPACES = {"integers": INTEGERS, "floats": FLOATS, "both": (*INTEGERS, *FLOATS)}
DROP = 0.05
OUTLIER_CHANNELS, OUTLIER_FACTOR = 2, 40.0


def main() -> None:
    """Search each space on each network."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--networks", nargs="+", choices=[*EPOCHS, "outliers"], default=[*EPOCHS, "outliers"])
    options.add_argument("--samples", type=int, default=1024)
    options.add_argument("--budget", type=int, default=150, help="full passes over the search set")
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--threads", type=int, default=2)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.networks:
        model, workload = wrapped(name, arguments.samples)
        volumes = {}
        for label, choices in SPACES.items():
            found = [volume(model, workload, choices, arguments.budget, seed) for seed in arguments.seeds]
            volumes[label] = median(found)
            print(f"{name:12s} {label:9s} {volumes[label]:8.3f}  {[round(one, 3) for one in found]}", flush=True)
        best = max(volumes["integers"], volumes["floats"])
        print(f"{name:12s} both / the better of the others: {volumes['both'] / best:.3f}", flush=True)


def wrapped(name: str, num_samples: int) -> tuple[qx.QuantizedModel, Workload]:
    """The network, wrapped and calibrated by least squared error."""
    workload = Workload("transformer" if name == "outliers" else name, num_samples)
    network, predicate = copy.deepcopy(workload.network), workload.predicate
    if name == "outliers":
        add_outliers(network)
        predicate = predicates.by_type(nn.LayerNorm, nn.GELU)
    model = qx.QuantizedActivationsModel(network, predicate)
    model.calibrate(workload.calibration, method="mse", progress=False)
    return model, workload


@torch.no_grad()
def add_outliers(network: nn.Module) -> None:
    """Make channels behind every LayerNorm of a block larger, and their weights in the next layer smaller."""
    for block in network.blocks:
        for norm, layer in ((block.norm1, block.qkv), (block.norm2, block.fc1)):
            channels = norm.weight.abs().topk(OUTLIER_CHANNELS).indices
            norm.weight[channels] *= OUTLIER_FACTOR
            norm.bias[channels] *= OUTLIER_FACTOR
            layer.weight[:, channels] /= OUTLIER_FACTOR


def volume(model: qx.QuantizedModel, workload: Workload, choices: tuple, budget: int, seed: int) -> float:
    """Hypervolume of the verified front."""
    problem = qx.LayerwiseQuantizationProblem(model, workload.search, choices=choices, max_drop=DROP)
    found = qx.explore(problem, max_evaluations=budget, seed=seed, progress=False)
    return found.front.hypervolume((problem.float_accuracy - DROP, 8.0 * len(model.points)))


if __name__ == "__main__":
    main()
