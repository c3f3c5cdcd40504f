"""Trained networks with every operand in integers: coverage, uniform widths, a front, and what a candidate costs.

    python benchmarks/schemes.py --threads 1 --results schemes.json

Points are those of a scheme, on what operations read, and of the weights. A front's members are held against the float
network on a report set, on which nothing was chosen. What a candidate costs is processor time, beside the same network
with points on the outputs of modules and the same weights; both take turns on the same random candidates' widths, in
each evaluator that serves.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from _results import Results
from _subjects import SUBJECTS, Subject

import qexplore as qx
from qexplore import predicates
from qexplore.errors import EvaluationError
from qexplore.evaluation import PrefixEvaluator

POINT = 0.01
WIDTHS = (2, 8)
Found = dict[str, Any]


def main() -> None:
    """Measure every network and print what was found, as it is found."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--networks", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    options.add_argument("--scheme", default="all-int8")
    options.add_argument("--samples", type=int, default=256, help="to search on")
    options.add_argument("--report-samples", type=int, default=512)
    options.add_argument("--budget", type=int, default=60, help="full passes over the search set")
    options.add_argument("--rounds", type=int, default=3, help="turns of each side, one more to warm up")
    options.add_argument("--candidates", type=int, default=2, help="in a turn")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--results", type=Path, help="JSON that a rerun goes on from")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    results = Results(arguments.results)
    for name in arguments.networks:
        bench = Bench(name, arguments)
        of = name, arguments.scheme, arguments.samples, arguments.report_samples
        print(f"\n{name}", flush=True)
        for line in lines(bench, of, results, arguments):
            print(line, flush=True)


def lines(bench: Bench, of: tuple[object, ...], results: Results, arguments: argparse.Namespace) -> Iterator[str]:
    """What is known of a network, a line each."""
    yield covered(results.get((*of, "coverage"), bench.coverage))
    yield scored(results.get((*of, "uniform"), bench.uniform))
    if bench.subject.wide:
        yield scored(results.get((*of, "mixed"), bench.mixed))
    yield searched(results.get((*of, "front"), bench.front, arguments.budget))
    found = results.get((*of, "seconds"), bench.seconds, arguments.rounds, arguments.candidates)
    yield from (timed(engine, one) for engine, one in found.items())


class Bench:
    """One network, wrapped when it is needed."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        self._name, self._arguments = name, arguments

    @cached_property
    def subject(self) -> Subject:
        """The network and its data."""
        return SUBJECTS[self._name](self._arguments.samples, self._arguments.report_samples)

    @cached_property
    def model(self) -> qx.QuantizedModel:
        """Under the scheme."""
        return self._wrapped(self.subject.calibrating, scheme=self._arguments.scheme, **self.subject.wrapping)

    @cached_property
    def outputs_model(self) -> qx.QuantizedModel:
        """With points on outputs and weights, of which only the time is measured: any ranges will do."""
        quick = {"weight_method": "max"}
        return self._wrapped(quick, activations=self.subject.outputs, weights=predicates.weighted)

    def _wrapped(self, calibrating: Mapping[str, Any], **points: Any) -> qx.QuantizedModel:
        model = qx.QuantizedModel(copy.deepcopy(self.subject.network), **points)
        model.calibrate(self.subject.calibration, unpack=as_it_is, progress=False, **calibrating)
        return model

    def _direct(self, model: qx.QuantizedModel, batches: list[Any], metric: Any = None) -> qx.DirectEvaluator:
        return qx.DirectEvaluator(model, batches, metric or self.subject.metric, unpack=as_it_is)

    def coverage(self) -> Found:
        """Points by kind, and which share of the network is at them."""
        kinds = Counter(point.kind for point in self.model.points)
        return {"points": dict(kinds), "coverage": self.model.coverage().line}

    def uniform(self) -> Found:
        """Scores of the float network and of uniform widths, on the report set."""
        length = len(self.model.points)
        return self._reported(
            self.model,
            {"float": [0] * length} | {f"{width} bits": [width] * length for width in (8, 6, 4)},
        )

    def mixed(self) -> Found:
        """Likewise of 8 bits with 16 at some points, whose ranges leave nothing out."""
        whole = {"weight_method": "max"}
        model = self._wrapped(whole, scheme=self._arguments.scheme, **self.subject.wrapping)
        is_wide = [any(fnmatchcase(point.name, glob) for glob in self.subject.wide) for point in model.points]
        label = f"8 bits, 16 at {sum(is_wide)} points"
        return self._reported(model, {label: [16 if wide else 8 for wide in is_wide]})

    def _reported(self, model: qx.QuantizedModel, rows: Mapping[str, list[int]]) -> Found:
        metrics = {"scores": self.subject.metric, "beside": self.subject.beside}
        found: Found = {"samples": num_samples(self.subject.report)}
        for name, metric in metrics.items():
            if metric is not None:
                evaluated = self._direct(model, self.subject.report, metric).evaluate([*rows.values()])
                found[name] = dict(zip(rows, [one.score for one in evaluated], strict=True))
        return found

    def front(self, budget: int) -> Found:
        """What a search finds, above five points below the float network, and what of it holds on the report set."""
        problem = qx.LayerwiseQuantizationProblem(
            self.model,
            self.subject.search,
            self.subject.metric,
            choices=self.model.scheme.choices,
            tied=self.model.scheme.tied,
            max_drop=5 * POINT,
            unpack=as_it_is,
        )
        found = qx.explore(problem, max_evaluations=budget, seed=1, report_loader=self.subject.report, progress=False)
        assert found.report_float_accuracy is not None and found.front.report_accuracy is not None
        near = found.front.report_accuracy >= found.report_float_accuracy - POINT
        widest = found.reference_point[1]
        return {
            "engine": found.engine,
            "points": len(found.front),
            "hypervolume": found.history[-1].hypervolume / (POINT * widest),
            "widest": widest,
            "fewest": float(found.front.total_bits[near].min()) if near.any() else None,
            "seconds": found.seconds,
        }

    def seconds(self, rounds: int, candidates: int) -> Found:
        """Processor seconds of a float pass, and of a candidate on both sides, by the evaluator."""
        sides = {"scheme": self.model, "outputs": self.outputs_model}
        direct = {side: self._direct(model, self.subject.search) for side, model in sides.items()}
        engines = {"direct": direct, "prefix": {side: shared(one) for side, one in direct.items()}}
        serving = {name: both for name, both in engines.items() if all(both.values())}
        random = np.random.default_rng(0)
        spent: dict[str, dict[str, list[float]]] = {
            name: {"float": [], "scheme": [], "outputs": []} for name in serving
        }
        for _ in range(rounds + 1):
            for name, both in serving.items():
                spent[name]["float"].append(processor_seconds(self._float_pass))
                for side, evaluator in both.items():
                    rows = random.integers(WIDTHS[0], WIDTHS[1] + 1, (candidates, len(sides[side].points)))
                    work = processor_seconds(lambda one=evaluator, rows=rows: list(one.evaluate(rows)))
                    spent[name][side].append(work / candidates)
        return {name: {side: median(each[1:]) for side, each in both.items()} for name, both in spent.items()}

    def _float_pass(self) -> None:
        with torch.no_grad():
            for inputs, _ in self.subject.search:
                self.subject.network(*inputs) if isinstance(inputs, tuple) else self.subject.network(inputs)


def as_it_is(batch: Any) -> Any:
    """Batches hold inputs and target already."""
    return batch


def shared(direct: qx.DirectEvaluator) -> PrefixEvaluator | None:
    """The evaluator that shares work between candidates, where it serves."""
    try:
        return PrefixEvaluator(direct, required=True)
    except EvaluationError:
        return None


def processor_seconds(work: Callable[[], object]) -> float:
    """That ``work`` takes: others on the machine do not count."""
    start = time.process_time()
    work()
    return time.process_time() - start


def num_samples(batches: list[Any]) -> int:
    """Of all ``batches``."""
    return sum(len(target) for _, target in batches)


# ------------------------------------------------------------------------------------------------------ lines


def covered(found: Found) -> str:
    """Points and coverage in a line."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in found["points"].items())
    return f"  {sum(found['points'].values())} points ({kinds}); at points: {found['coverage']}"


def scored(found: Found) -> str:
    """Uniform widths in a line, of each figure."""
    lines = [f"  report set of {found['samples']}: {_shown(found['scores'])}"]
    return "\n".join([*lines, *([f"  beside: {_shown(found['beside'])}"] if "beside" in found else [])])


def _shown(scores: Mapping[str, float]) -> str:
    return "; ".join(f"{widths} {100 * score:.2f}" for widths, score in scores.items())


def searched(found: Found) -> str:
    """A front in a line."""
    fewest = "no point" if found["fewest"] is None else f"{found['fewest']:.0f} bits"
    return (
        f"  front of {found['points']} points in {found['seconds']:.0f} s, hypervolume {found['hypervolume']:.2f} "
        f"(points times share of {found['widest']:.0f} bits); within one point of float on the report set: {fewest}; "
        f"{found['engine']}"
    )


def timed(engine: str, found: Found) -> str:
    """Both sides' costs in a line."""
    scheme, outputs = found["scheme"], found["outputs"]
    return (
        f"  {engine}: a candidate {scheme:.3f} s ({scheme / found['float']:.2f} float passes), outputs and weights "
        f"alone {outputs:.3f} s ({outputs / found['float']:.2f}), ratio {scheme / outputs:.2f}"
    )


if __name__ == "__main__":
    main()
