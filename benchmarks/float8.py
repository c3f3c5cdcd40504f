"""8-bit floats after training: E4M3, E5M2, E3M4 and mixed (E4M3 activations, E3M4 weights) beside int8.

    python benchmarks/float8.py

Post-training, ranges of the largest magnitude on 1,024 images, one scale per output channel of a weight and one per
activation, BatchNorm statistics recalibrated on the same images; accuracy on 2,048 test images that nothing else has
seen. int8 is symmetric, at the same points with the same ranges, so that the columns differ by the grid alone. The
last network has outliers, as large language models have: a few channels behind each LayerNorm of the transformer are
made larger, and the next layer's weights for them as much smaller, which changes nothing in float. SQNR is that of the
network's output over the first batch, in dB: it tells formats apart where accuracy does not.
"""

from __future__ import annotations

import argparse
import copy

import torch
from _workloads import EPOCHS, Batches, Workload, correct
from formats import add_outliers
from torch import nn

import qexplore as qx
from qexplore import predicates
from qexplore.predicates import select_modules

FORMATS = ("E4M3", "E5M2", "E3M4", "mixed")
WAYS = ("", "BatchNorm as trained", "ends in float")
"""The last leaves the first and the last layer with weights as they are."""


def main() -> None:
    """One line a network and way of calibrating BatchNorm."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--networks", nargs="+", choices=[*EPOCHS, "outliers"], default=[*EPOCHS, "outliers"])
    options.add_argument("--batches", type=int, default=16, help="of 128 report images")
    options.add_argument("--threads", type=int, default=2)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{'':34s} float  " + "".join(f"{name:>16s}" for name in (*FORMATS, "int8")))
    for name in arguments.networks:
        workload = Workload("transformer" if name == "outliers" else name)
        network = copy.deepcopy(workload.network)
        if name == "outliers":
            add_outliers(network)
        report = workload.report[: arguments.batches]
        has_batchnorm = any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
        exact = correct(network, report) / sum(len(labels) for _, labels in report)
        for way in WAYS if has_batchnorm else (WAYS[0], WAYS[2]):
            cells = [measured(network, workload, report, one, way) for one in (*FORMATS, "int8")]
            label = f"{name}{way and ', '}{way}"
            print(f"{label:34s} {exact:.4f} " + "".join(f"{cell:>16s}" for cell in cells), flush=True)


def measured(network: nn.Module, workload: Workload, report: Batches, name: str, way: str) -> str:
    """Accuracy and SQNR in one format."""
    format = "E4M3" if name == "int8" else name
    layers = list(select_modules(network, predicates.weighted))
    modules = predicates.by_name(*layers[1:-1]) if way == WAYS[2] else None
    options = {"format": format, "modules": modules, "recalibrate": False, "progress": False}
    model = qx.quantize_float8(network, workload.calibration, **options).model
    if name == "int8":
        model.num_bits = [8] * len(model.points)
    if way != WAYS[1]:
        qx.recalibrate_batchnorm(model, workload.calibration, progress=False)
    with torch.no_grad():
        exact, found = network(report[0][0]), model(report[0][0])
    sqnr = 10 * torch.log10(exact.square().sum() / (exact - found).square().sum())
    accuracy = correct(model, report) / sum(len(labels) for _, labels in report)
    return f"{accuracy:.4f} {float(sqnr):5.1f} dB"


if __name__ == "__main__":
    main()
