"""How far calibration moves the front: fewer bits at one point of accuracy, on data that was never searched on.

    python benchmarks/front_shift.py

For each network, the total bits of the cheapest front member whose accuracy on the report set is within one point of
the float network's there. Activations: pytorch-quantization's recipe (signed, the largest magnitude, one range for all
widths), then the sign decided by the data, then a range per width; the recipe's own search beside ours, which all rows
have in common. Weights: one range a tensor by its largest magnitude, then one a channel by least squared error, then by
the least error of the network's output. Uniform widths stand beside every row.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from _workloads import BATCH_SIZE, EPOCHS, Workload

import qexplore as qx
from qexplore import predicates

POINT = 0.01
Wrap = Callable[[Workload], qx.QuantizedModel]


@dataclass(frozen=True)
class Row:
    """One way to quantize, and to search."""

    label: str
    wrap: Wrap
    choices: Iterable[int]
    algorithm: str = "nsga2"


def activations(unsigned: Any, method: str, asymmetric: Any = False) -> Wrap:
    """A wrapper of activations, calibrated."""

    def wrap(workload: Workload) -> qx.QuantizedModel:
        model = qx.QuantizedActivationsModel(
            copy.deepcopy(workload.network), workload.predicate, unsigned=unsigned, asymmetric=asymmetric
        )
        model.calibrate(workload.calibration, method=method, progress=False)
        return model

    return wrap


def weights(granularity: Any, method: str) -> Wrap:
    """A wrapper of weights, calibrated."""

    def wrap(workload: Workload) -> qx.QuantizedModel:
        model = qx.QuantizedModel(
            copy.deepcopy(workload.network), weights=predicates.weighted, weight_granularity=granularity
        )
        model.calibrate(workload.calibration, weight_method=method, progress=False)
        return model

    return wrap


ACTIVATIONS = (
    Row("plain recipe, its own search", activations(False, "max"), range(2, 9), "nsga2-plain"),
    Row("plain recipe", activations(False, "max"), range(2, 9)),
    Row("sign from the data", activations("auto", "max"), range(1, 9)),
    Row("and a range per width (mse)", activations("auto", "mse"), range(1, 9)),
    Row("and zero points (auto)", activations("auto", "mse", "auto"), range(1, 9)),
)
WEIGHTS = (
    Row("weights: per tensor, max", weights("tensor", "max"), range(2, 9)),
    Row("weights: per channel, mse", weights("channel", "mse"), range(2, 9)),
    Row("weights: per channel, auto", weights("channel", "auto"), range(2, 9)),
)
KINDS = {"activations": ACTIVATIONS, "weights": WEIGHTS}


def main() -> None:
    """Search every row of every network and print what it needs."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--networks", nargs="+", choices=EPOCHS, default=list(EPOCHS))
    options.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options.add_argument("--samples", type=int, default=2048)
    options.add_argument("--report-samples", type=int, default=10_000, help="at most so many, of what is left")
    options.add_argument("--budget", type=int, default=200, help="full passes over the search set, every row the same")
    options.add_argument("--seeds", type=int, nargs="+", default=[1])
    options.add_argument("--threads", type=int, default=2)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.networks:
        workload = Workload(name, arguments.samples)
        del workload.report[arguments.report_samples // BATCH_SIZE :]
        for kind in arguments.kinds:
            for line in table(workload, KINDS[kind], arguments):
                print(f"{name:12s} {line}", flush=True)


def table(workload: Workload, rows: Iterable[Row], arguments: argparse.Namespace) -> Iterator[str]:
    """A line a row: bits, uniform widths beside them, and what was saved since the rows before."""
    first = before = None
    for row in rows:
        found = [cheapest(workload, row, arguments, seed) for seed in arguments.seeds]
        bits, uniform = (float(np.median(column)) for column in zip(*found, strict=True))
        saved = "".join(f" {1 - bits / other:6.1%}" for other in (before, first) if other is not None)
        yield f"{row.label:32s} {_text(bits)} bits, uniform {_text(uniform)} {saved}"
        if not np.isnan(bits):
            first, before = first or bits, bits


def cheapest(workload: Workload, row: Row, arguments: argparse.Namespace, seed: int) -> tuple[float, float]:
    """Total bits within one point of the float network on the report set: of the front, and of uniform widths."""
    model = row.wrap(workload)
    problem = qx.LayerwiseQuantizationProblem(model, workload.search, choices=row.choices, max_drop=3 * POINT)
    found = qx.explore(
        problem,
        max_evaluations=arguments.budget,
        seed=seed,
        algorithm=row.algorithm,
        report_loader=workload.report,
        progress=False,
    )
    assert found.report_float_accuracy is not None and found.front.report_accuracy is not None
    floor = found.report_float_accuracy - POINT
    enough = found.front.report_accuracy >= floor
    reporter = qx.DirectEvaluator(model, workload.report, qx.top1_accuracy)
    scores = np.array([evaluation.score for evaluation in reporter.evaluate(found.uniform.num_bits)])
    return least(found.front.total_bits[enough]), least(found.uniform.total_bits[scores >= floor])


def _text(bits: float) -> str:
    return "  none" if np.isnan(bits) else f"{bits:6.0f}"


def least(bits: np.ndarray) -> float:
    """The fewest bits; NaN where nothing is accurate enough."""
    return float(bits.min()) if len(bits) else float("nan")


if __name__ == "__main__":
    main()
