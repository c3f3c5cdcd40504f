"""How far calibration moves the front: fewer bits at one point of accuracy, on data that was never searched on.

    python benchmarks/front_shift.py --results shift.json
    python benchmarks/front_shift.py --networks small resnet20:1 mobilenet:1 transformer:1 --seeds 1 2 3

For each network, the total bits of the cheapest front member whose accuracy on the report set is within one point of
the float network's there. Activations: pytorch-quantization's recipe (signed, the largest magnitude, one range for all
widths), then the sign decided by the data, then a range per width, by squared error or by the network's output, then
zero points; the recipe's own search beside ours, which all rows have in common. Weights: one range a tensor by its
largest magnitude, then one a channel by least squared error, then by the least error of the network's output. Uniform
widths stand beside every row; of several seeds the median.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _results import Results
from _workloads import BATCH_SIZE, EPOCHS, Workload, named

import qexplore as qx
from qexplore import predicates

POINT = 0.01
SIGN = "sign from the data"
Wrap = Callable[[Workload], qx.QuantizedModel]
Found = dict[str, tuple[float, float]]
"""Bits of the front and of uniform widths, by row."""


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
    Row(SIGN, activations("auto", "max"), range(1, 9)),
    Row("and a range per width (mse)", activations("auto", "mse"), range(1, 9)),
    Row("or by the output (auto)", activations("auto", "auto"), range(1, 9)),
    Row("and zero points (auto)", activations("auto", "auto", "auto"), range(1, 9)),
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
    options.add_argument(
        "--networks",
        nargs="+",
        type=named,
        default=[(name, None) for name in EPOCHS],
        metavar="NAME[:SEEDS]",
        help="with a number, only the first so many seeds",
    )
    options.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options.add_argument("--samples", type=int, default=2048)
    options.add_argument("--report-samples", type=int, default=10_000, help="at most so many, of what is left")
    options.add_argument("--budget", type=int, default=200, help="full passes over the search set, every row the same")
    options.add_argument("--seeds", type=int, nargs="+", default=[1])
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--results", type=Path, help="JSON that a rerun goes on from: what is in it is not run again")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    results = Results(arguments.results)
    for name, count in arguments.networks:
        workload = Workload(name, arguments.samples)
        del workload.report[arguments.report_samples // BATCH_SIZE :]
        for kind in arguments.kinds:
            of = name, arguments.samples, len(workload.report), arguments.budget
            found = {}
            for row in KINDS[kind]:
                run = partial(cheapest, workload, row, arguments)
                seeds = [results.get((*of, row.label), run, seed) for seed in arguments.seeds[:count]]
                found[row.label] = tuple(np.median(np.array(seeds), axis=0).tolist())
                print(f"{name:12s} {line(row, found)}", flush=True)
            if kind == "activations":
                print(f"{name:12s} {whole(found)}", flush=True)


def line(row: Row, found: Found) -> str:
    """Bits of a row, uniform widths beside them, and what was saved since the row before and since the first."""
    bits, uniform = found[row.label]
    others = [other for other, _ in found.values() if not np.isnan(other)]
    before = [others[-2], others[0]] if len(others) > 1 and not np.isnan(bits) else []
    saved = "".join(f" {1 - bits / other:6.1%}" for other in before)
    return f"{row.label:32s} {_text(bits)} bits, uniform {_text(uniform)} {saved}"


def whole(found: Found) -> str:
    """What the last row saves: of the recipe in its own search, of that in ours, of its uniform widths, of the sign."""
    last = list(found.values())[-1][0]
    recipe, searched = ACTIVATIONS[0].label, ACTIVATIONS[1].label
    since = {
        recipe: found[recipe][0],
        searched: found[searched][0],
        "its uniform widths": found[recipe][1],
        SIGN: found[SIGN][0],
    }
    saved = {what: 1 - last / bits for what, bits in since.items()}
    texts = (f"{what} {'cannot be said' if np.isnan(share) else f'{share:.1%}'}" for what, share in saved.items())
    return "the whole, fewer bits than: " + ", ".join(texts)


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
