"""What candidates cost: qexplore's engine beside the plain script, for the kinds of work a search brings.

    python benchmarks/engine.py                       # every network, about half an hour on two cores
    python benchmarks/engine.py --networks resnet20 --repeats 5
    python benchmarks/engine.py --points weights      # or: both

The plain script is pytorch-quantization's TensorQuantizer in forward hooks over batches of 128 built beforehand, and on
weights, which it quantizes once a candidate, one range a channel; what a candidate costs it does not depend on the
candidate, so it runs a few of each lot, in turns with ours, in the same process. Its correct predictions and ours are
compared on those: they may differ by one in a thousand, for ours has BatchNorm folded. Networks are trained on
Fashion-MNIST, once, with weights kept beside the experiment.
"""

from __future__ import annotations

import argparse
import copy
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np
import torch
from _workloads import EPOCHS, Batches, PlainScript, Workload, correct
from torch import nn
from torch.fx.experimental.optimization import fuse

import qexplore as qx
from qexplore import predicates
from qexplore.evaluation import Evaluation, PrefixEvaluator
from qexplore.search import Archive, Generations, LayerwiseQuantizationProblem, SearchSettings, reference_point

WIDTHS = (2, 8)
MAX_DROP = 0.05


def main() -> None:
    """Measure the rows that were asked for and print one table for each network."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--networks", nargs="+", choices=EPOCHS, default=list(EPOCHS))
    options.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    options.add_argument("--points", choices=("activations", "weights", "both"), default="activations")
    options.add_argument("--samples", type=int, default=1024)
    options.add_argument("--repeats", type=int, default=5, help="turns of each side; medians are reported")
    options.add_argument("--generations", type=int, default=20)
    options.add_argument("--population", type=int, default=20)
    options.add_argument("--threads", type=int, default=2)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"{arguments.samples} images of 28 x 28, {arguments.threads} threads, torch {torch.__version__}, "
        f"{platform.machine()}; medians of {arguments.repeats}"
    )
    for name in arguments.networks:
        bench = Bench(Workload(name, arguments.samples), arguments)
        print(f"\n{bench.title}", flush=True)
        print(
            f"{'work':34s} {'candidates':>10s} {'plain s':>8s} {'ours s':>8s} {'plain / ours':>13s}  "
            "ours in float forwards"
        )
        for row in arguments.rows:
            for line in ROWS[row](bench):
                print(line, flush=True)


@dataclass
class Lot:
    """Seconds per candidate on both sides, one entry for each turn."""

    plain: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    floats: list[float] = field(default_factory=list)

    def line(self, work: str, count: int) -> str:
        """One row of the table."""
        plain, ours, eager = median(self.plain), median(self.ours), median(self.floats)
        return f"{work:34s} {count:10d} {plain:8.4f} {ours:8.4f} {plain / ours:13.2f}  {ours / eager:.2f}"


class Bench:
    """Both sides of the comparison for one network."""

    def __init__(self, workload: Workload, arguments: argparse.Namespace, predicate: object = None) -> None:
        self.workload, self.arguments = workload, arguments
        self.repeats = arguments.repeats
        self.batches: Batches = workload.search
        network = workload.network
        self.float_network = copy.deepcopy(network)
        self.folded = fuse(copy.deepcopy(network)).to(memory_format=torch.channels_last)
        self.model = qx.QuantizedModel(
            copy.deepcopy(network),
            activations=None if arguments.points == "weights" else predicate or workload.predicate,
            weights=None if arguments.points == "activations" else predicates.weighted,
            unsigned=False,
        )
        self.model.calibrate(workload.calibration, weight_method="max")
        amax = {name: float(quantizer.amax) for name, quantizer in self.model.activation_fake_quantizers.items()}
        weights = {name: quantizer.amax for name, quantizer in self.model.weight_fake_quantizers.items()}
        self.script = PlainScript(copy.deepcopy(network), amax, weights)
        self.num_points = len(self.model.points)
        started = time.perf_counter()
        self.problem = self.new_problem()
        self.setup = time.perf_counter() - started
        self.rng = np.random.default_rng(0)

    @property
    def title(self) -> str:
        """The network and how it is evaluated."""
        return (
            f"{self.workload.name}: {self.num_points} points, float accuracy {self.problem.float_accuracy:.4f}, set-up "
            f"{self.setup:.2f} s\n{self.problem.evaluator.description}"
        )

    def new_problem(self) -> LayerwiseQuantizationProblem:
        """A problem that has measured nothing but its widest candidate."""
        floor = correct(self.float_network, self.batches) / sum(len(labels) for _, labels in self.batches) - MAX_DROP
        return LayerwiseQuantizationProblem(
            self.model,
            self.batches,
            num_bits_lower_limit=WIDTHS[0],
            num_bits_upper_limit=WIDTHS[1],
            min_accuracy=floor,
            engine="prefix",
        )

    def evaluator(self) -> PrefixEvaluator:
        """One that keeps nothing from earlier calls."""
        return PrefixEvaluator(qx.DirectEvaluator(self.model, self.batches, qx.top1_accuracy), required=True)

    def random(self, count: int) -> np.ndarray:
        """Candidates with every width equally likely."""
        return self.rng.integers(WIDTHS[0], WIDTHS[1] + 1, size=(count, self.num_points))

    def turn(
        self, lot: Lot, candidates: np.ndarray, ours: Callable[[], Sequence[Evaluation]], plain: int = 2
    ) -> Sequence[Evaluation]:
        """One turn of each side: ours over all ``candidates``, the plain script over ``plain`` of them; our answers."""
        lot.floats.append(timed(lambda: correct(self.float_network, self.batches))[0])
        chosen = self.rng.choice(len(candidates), size=min(plain, len(candidates)), replace=False)
        seconds, counts = timed(lambda: [self.script.correct(candidates[row], self.batches) for row in chosen])
        lot.plain.append(seconds / len(chosen))
        seconds, evaluations = timed(ours)
        lot.ours.append(seconds / len(candidates))
        for row, count in zip(chosen, counts, strict=True):
            self.check(evaluations[row], count)
        return evaluations

    def check(self, evaluation: Evaluation, count: int) -> None:
        """Stop the benchmark when ours contradicts the plain script by more than one sample in a thousand."""
        total = self.problem.num_samples
        allowed = -(-total // 1000)
        if evaluation.is_complete and abs(round(evaluation.score * total) - count) > allowed:
            raise SystemExit(f"{evaluation.candidate}: {evaluation.score * total:.0f} right, the plain script {count}")
        if evaluation.bound is not None and count > evaluation.bound * total + allowed:
            raise SystemExit(f"{evaluation.candidate}: bound {evaluation.bound * total:.0f}, the plain script {count}")


def timed(work: Callable[[], object]) -> tuple[float, object]:
    """Seconds that ``work`` took, and what it returned."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


# ---------------------------------------------------------------------------------------------------------- rows


def random_candidates(bench: Bench) -> list[str]:
    """40 random candidates, and the folded channels-last float forward in the same run."""
    lot, folded = Lot(), []
    layout = [(images.contiguous(memory_format=torch.channels_last), labels) for images, labels in bench.batches]
    for _ in range(bench.repeats + 1):  # the first turn warms up
        candidates, evaluator = bench.random(40), bench.evaluator()
        folded.append(timed(lambda: correct(bench.folded, layout))[0])
        bench.turn(lot, candidates, lambda e=evaluator, c=candidates: list(e.evaluate(c)), plain=3)
    for times in (lot.plain, lot.ours, lot.floats, folded):
        del times[0]
    share = median(lot.ours) / median(folded)
    return [lot.line("40 random", 40), f"{'':34s} ours in folded channels-last float forwards: {share:.2f}"]


def searches(bench: Bench) -> list[str]:
    """The candidates of a real NSGA-II run, evaluated in full and with early stop."""
    arguments = bench.arguments
    trace: list[np.ndarray] = []
    full, raced = Lot(), Lot()
    used: list[float] = []
    problem = bench.new_problem()
    settings = SearchSettings(1, "nsga2-plain", arguments.population)
    generations = Generations(problem, settings, reference_point(problem, ()))
    while len(trace) < arguments.generations and (generation := generations.ask()) is not None:
        trace.append(generation.candidates)
        candidates = generation.candidates
        generations.tell(bench.turn(full, candidates, lambda c=candidates: list(problem.measure(c)), plain=1))
    problem = bench.new_problem()
    seconds, uniform = timed(lambda: list(problem.measure(problem.space.uniform())))
    archive = Archive(problem, uniform)
    for candidates in trace:

        def race(candidates: np.ndarray = candidates) -> list[Evaluation]:
            evaluations = list(problem.measure(candidates, must_beat=archive.must_beat(candidates)))
            for evaluation in evaluations:
                archive.add(evaluation)
            return evaluations

        used += [e.num_samples / problem.num_samples for e in bench.turn(raced, candidates, race, plain=1)]
    count = sum(map(len, trace))
    return [
        total(full, trace).line(f"NSGA-II, {len(trace)} generations", count),
        total(raced, trace, extra=seconds).line("the same, stopped early", count),
        f"{'':34s} share of the samples that ran: {np.mean(used):.2f}; the {len(uniform)} uniform widths are counted",
    ]


def total(lot: Lot, trace: list[np.ndarray], extra: float = 0.0) -> Lot:
    """Means over all candidates of a run, whose generations differ in cost."""
    sizes = np.array([len(candidates) for candidates in trace])
    ours = (float(np.dot(lot.ours, sizes)) + extra) / sizes.sum()
    return Lot([median(lot.plain)], [ours], [median(lot.floats)])


def one_at_a_time(bench: Bench) -> list[str]:
    """Every other width at one point at a time, all others widest."""
    low, high = WIDTHS
    base = np.full(bench.num_points, high)
    rows = [base]
    for point in range(bench.num_points):
        for width in range(low, high):
            rows.append(base.copy())
            rows[-1][point] = width
    lot, candidates = Lot(), np.array(rows)
    for _ in range(bench.repeats):
        evaluator = bench.evaluator()
        bench.turn(lot, candidates, lambda e=evaluator: list(e.evaluate(candidates)))
    return [lot.line("one at a time", len(candidates))]


def exhaustive(bench: Bench) -> list[str]:
    """Every candidate of the small network with five points."""
    if bench.workload.name != "small" or bench.arguments.points == "both":  # too many to run them all
        return []
    five = Bench(bench.workload, bench.arguments, predicates.by_type(nn.Conv2d, nn.Linear))
    widths = np.arange(WIDTHS[0], WIDTHS[1] + 1)
    candidates = np.stack(np.meshgrid(*[widths] * five.num_points, indexing="ij"), axis=-1).reshape(-1, five.num_points)
    lot = Lot()
    for _ in range(bench.repeats):
        evaluator = five.evaluator()
        five.turn(lot, candidates, lambda e=evaluator: list(e.evaluate(candidates)), plain=20)
    return [lot.line(f"exhaustive, {five.num_points} points", len(candidates))]


ROWS = {"random": random_candidates, "one": one_at_a_time, "exhaustive": exhaustive, "search": searches}

if __name__ == "__main__":
    main()
