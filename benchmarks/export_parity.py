"""Exported front points beside the models that they were written from: predictions that differ, at every level.

Six networks, five points of an additive front each (activations and weights, widths 2 to 16), 1,000 real samples. What
float rounding alone does is shown by the same model in double precision.

python benchmarks/export_parity.py [--networks small lstm] [--samples 1000]
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

import qexplore as qx
from qexplore import predicates
from qexplore._onnx import OPTIMIZATIONS
from qexplore._table import text_table
from qexplore.export.parity import compare_each

TESTS = Path(__file__).resolve().parent.parent / "tests" / "shared"

WIDTHS = (2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 15, 16)
MEAN_BITS = (4, 5.5, 7, 9.5, 12)
TRAINED_ON_FASHION = ("small", "resnet20", "mobilenet", "transformer")
TRAINED_ON_DIGITS = ("lstm", "shared_relu")
SENSITIVITY_SAMPLES = 64
BATCH_SIZE = 100
Batches = list[tuple[Tensor, Tensor]]


def main() -> None:
    """Print a row for each front point."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--networks", nargs="+", default=[*TRAINED_ON_FASHION, *TRAINED_ON_DIGITS])
    options.add_argument("--samples", type=int, default=1000)
    arguments = options.parse_args()
    torch.set_num_threads(1)
    header = ("network", "mean bits", "widths", "accuracy", *(f"differ ({level})" for level in OPTIMIZATIONS))
    header = (*header, "largest difference", "of outputs up to", "double: differ", "largest", "KiB")
    rows = []
    for name in arguments.networks:
        model, data = prepared(name, arguments.samples)
        for num_bits in front_points(model, data):
            start = time.perf_counter()
            rows.append(measured(name, model, num_bits, data))
            print(f"{'  '.join(rows[-1])}  ({time.perf_counter() - start:.0f} s)", file=sys.stderr, flush=True)
    print(text_table(header, rows, numeric=range(1, len(header))))
    column = slice(4, 4 + len(OPTIMIZATIONS))
    total = sum(int(cell) for row in rows for cell in row[column])
    print(f"{len(rows)} files of opset 21, all pass onnx.checker; {total} predictions differ in all of them together")


def prepared(name: str, samples: int) -> tuple[qx.QuantizedModel, Batches]:
    """A calibrated model with points on activations and weights, and data that it was not calibrated on."""
    network, predicate, wrapping, calibration, data = (on_digits if name in TRAINED_ON_DIGITS else on_fashion)(name)
    model = qx.QuantizedModel(network, predicate, predicates.weighted, asymmetric="auto", **wrapping)
    model.calibrate(calibration, method="mse", weight_method="mse", progress=False)
    x, y = (torch.cat(parts)[:samples] for parts in zip(*data, strict=True))
    return model, list(zip(x.split(BATCH_SIZE), y.split(BATCH_SIZE), strict=True))


def on_fashion(name: str) -> tuple[Any, Callable[..., Any], dict[str, Any], Batches, Batches]:
    """A network of the experiments."""
    from _workloads import Workload

    work = Workload(name)
    return work.network, work.predicate, {}, work.calibration[:2], work.report


def on_digits(name: str) -> tuple[Any, Callable[..., Any], dict[str, Any], Batches, Batches]:
    """A network of the tests; there are too few digits to leave out those that it was trained on."""
    # Under a name of its own: the experiments have a module of this name too.
    sys.path.append(str(TESTS))
    spec = importlib.util.spec_from_file_location("gallery", TESTS / "networks.py")
    assert spec is not None and spec.loader is not None
    gallery = importlib.util.module_from_spec(spec)
    sys.modules["gallery"] = gallery
    spec.loader.exec_module(gallery)
    entry, split = gallery.TRAINABLE[name], gallery.digits()
    data = [pair for part in (split.search, split.report, split.train) for pair in gallery.batches(part)]
    return gallery.trained(name), entry.predicate, entry.options, gallery.batches(split.calibration), data


def front_points(model: qx.QuantizedModel, data: Batches) -> Iterator[np.ndarray]:
    """The points of the additive front next to each of the mean widths."""
    problem = qx.LayerwiseQuantizationProblem(model, data[:3], qx.top1_accuracy, choices=WIDTHS, min_accuracy=0.0)
    front = qx.additive_front(qx.sensitivity(problem, num_samples=SENSITIVITY_SAMPLES))
    for mean in MEAN_BITS:
        yield front.num_bits[np.abs(front.cost - mean * len(model.points)).argmin()]


def measured(name: str, model: qx.QuantizedModel, num_bits: np.ndarray, data: Batches) -> tuple[str, ...]:
    """One front point: exported, checked, run at every level."""
    model.num_bits = num_bits
    with tempfile.TemporaryDirectory() as folder:
        report = qx.export_onnx(model, Path(folder, "model.onnx"), data[0][0][:1])
        onnx.checker.check_model(str(report.path), full_check=True)
        found = [
            compare_each([model], report.path, data, optimization=level, progress=False)[0] for level in OPTIMIZATIONS
        ]
    expected = outputs(model, data)
    double = outputs(copy.deepcopy(model).double(), [(x.double(), y) for x, y in data])
    labels = torch.cat([y for _, y in data])
    return (
        name,
        f"{num_bits.mean():.1f}",
        " ".join(map(str, sorted(set(num_bits.tolist())))),
        f"{(expected.argmax(1) == labels).float().mean():.3f}",
        *(str(one.num_different) for one in found),
        f"{max(one.largest_difference for one in found):.1e}",
        f"{found[0].largest_output:.1f}",
        str(int((expected.argmax(1) != double.argmax(1)).sum())),
        f"{(expected - double).abs().max():.1e}",
        f"{report.size / 1024:.0f}",
    )


@torch.no_grad()
def outputs(model: qx.QuantizedModel, data: Batches) -> Tensor:
    """The model's outputs on all of ``data``."""
    return torch.cat([model.eval()(x) for x, _ in data])


if __name__ == "__main__":
    main()
