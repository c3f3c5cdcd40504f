"""How long a search would take on 8 to 512 workers: real searches, given to a simulated cluster at measured costs.

    python benchmarks/cluster_simulation.py --results cluster.json --picture docs/images/clusters.png

Searches of the digits' ResNet-20 run here with generations of 10 to 320 candidates, with early stop and looks as ever,
and write down what they ask of their evaluators, how long the driver's own work takes between two questions, and how
the hypervolume grows. What Ray takes to start workers, to give them tasks and to take in their answers is measured
beside it, with two workers on this machine. Then the searches are dealt out to as many workers as one likes, each of
which would take 0.1, 1 or 10 seconds for a candidate on the whole set.

Assumed: workers are alike, and none is lost; a worker measures a candidate alone; every point of the network costs the
same; what candidates of a task have in common is computed once, and nothing is kept from one to the next; messages
between machines take NETWORK seconds more than on this one, and share one link of BANDWIDTH bytes a second at the
driver; its own work is as long on a cluster as here, and nothing is done beside it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from _cluster_costs import measured, timed
from _cluster_model import Costs, Taken, simulated
from _cluster_traces import Step, Trace, traced
from _results import Results

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "shared"))

NETWORK, BANDWIDTH = 0.5e-3, 1.25e9
GENERATIONS = (10, 20, 40, 80, 160, 320)
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
PASS_SECONDS = (0.1, 1.0, 10.0)
PASSES = (60, 100, 200, 300, 450, 600)
NUM_SAMPLES = 10_000
"""Of the search set whose answers are sent: a score each."""


class Bench(NamedTuple):
    """What was recorded and measured.

    Attributes:
        traces: by the size of generations, one for each seed.
        costs: of a cluster.
        goal: the hypervolume that is to be reached.
    """

    traces: dict[int, list[Trace]]
    costs: Costs
    goal: float

    @property
    def num_seeds(self) -> int:
        """Of every size."""
        return len(self.traces[self.default])

    @property
    def default(self) -> int:
        """The size of generations that is compared with."""
        return min(self.traces)

    def seconds(self, size: int, workers: int, each: float) -> float:
        """Until a front as good as the goal is found and verified, median over the seeds; infinite where it is not."""
        return median(taken.seconds if taken else np.inf for taken in self.taken(size, workers, each, self.costs))

    def alone(self, each: float) -> float:
        """The same of one process without a cluster."""
        return median(
            taken.seconds if taken else np.inf
            for taken in self.taken(self.default, 1, each, Costs(verify=self.costs.verify))
        )

    def taken(self, size: int, workers: int, each: float, costs: Costs) -> list[Taken | None]:
        """Of every seed; None where the goal is not reached."""
        whole = [until(trace, self.goal) for trace in self.traces[size]]
        return [simulated(steps, workers, each, costs) if steps else None for steps in whole]

    def best(self, workers: int, each: float) -> int:
        """The size of generations that is there first."""
        return min(self.traces, key=lambda size: self.seconds(size, workers, each))


def main() -> None:
    """Record what is not recorded yet, print the tables, draw the picture."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--network", default="digits-resnet20", help="as benchmarks/samplers.py names them")
    options.add_argument("--budget", type=int, default=600)
    options.add_argument("--goal", type=int, default=300, help="passes of the default whose front is to be reached")
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--generations", type=int, nargs="+", default=list(GENERATIONS))
    options.add_argument("--results", type=Path, help="JSON that a rerun goes on from")
    options.add_argument("--picture", type=Path, metavar="FILE")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    bench = recorded(arguments)
    for table in (of_costs, of_quality, of_budget, of_losses, of_time):
        for line in table(bench):
            print(line, flush=True)
    if arguments.picture is not None:
        draw(bench, arguments.picture)


def recorded(arguments: argparse.Namespace) -> Bench:
    """Searches that went before, or go now; costs likewise."""
    from samplers import posed

    results, problems = Results(arguments.results), list[Any]()

    def pose() -> Any:
        problems[:] = problems or [posed(arguments.network, NUM_SAMPLES)[0]]
        return problems[0]()

    def run(budget: int, seed: int, size: int) -> Trace:
        return traced(pose(), budget, seed, size)

    traces: dict[int, list[Trace]] = {size: [] for size in arguments.generations}
    for seed in range(1, arguments.seeds + 1):
        for size in arguments.generations:
            steps, curve = results.get((arguments.network,), run, arguments.budget, seed, size)
            traces[size].append(Trace([Step(*step) for step in steps], [tuple(point) for point in curve]))
    by_ray = results.get(("what Ray takes",), measured, NUM_SAMPLES, 20)
    verify = results.get((arguments.network, "direct over engine"), lambda: direct_over_engine(pose()))
    sent = by_ray.pop("answer_bytes") / BANDWIDTH
    by_ray |= {"per_answer": by_ray["per_answer"] + sent, "latency": by_ray["latency"] + NETWORK}
    costs = Costs(**by_ray, verify=verify)
    goal = median(reached(trace, arguments.goal) for trace in traces[min(traces)])
    return Bench(traces, costs, goal)


def direct_over_engine(problem: Any) -> float:
    """Seconds of a candidate by the direct evaluator over those by the engine."""
    candidates = problem.space.random(5, np.random.default_rng(0))
    pairs = [
        [timed(lambda of=of, row=row: list(of.evaluate(row[None]))) for of in (problem.direct, problem.evaluator)]
        for row in candidates
    ]
    direct, engine = np.median(pairs, axis=0)
    return float(direct / engine)


def reached(trace: Trace, passes: float) -> float:
    """Hypervolume within so many passes."""
    return max((volume for _, spent, volume in trace.curve if spent <= passes + 1e-6), default=0.0)


def until(trace: Trace, goal: float) -> list[Step]:
    """Steps of a search that ends with its hypervolume at ``goal``, and of the last word; none if it never is."""
    steps = next((count for count, _, volume in trace.curve if volume >= goal), None)
    return (
        []
        if steps is None
        else [*trace.steps[:steps], *(step for step in trace.steps[steps:] if step.kind == "verify")]
    )


def passes_to(trace: Trace, goal: float) -> float:
    """Until the hypervolume is ``goal``; infinite where it never is."""
    return next((passes for _, passes, volume in trace.curve if volume >= goal), np.inf)


# ---------------------------------------------------------------------------------------------------------- tables


def of_costs(bench: Bench) -> Iterator[str]:
    """What was measured, and where a driver has no more to give."""
    costs = bench.costs
    yield "measured: " + ", ".join(f"{name} {1e3 * value:.3g} ms" for name, value in vars(costs).items())


def of_quality(bench: Bench) -> Iterator[str]:
    """What larger generations cost in the quality of the front per pass."""
    yield f"\nhypervolume at passes, median of {bench.num_seeds} seeds; to {bench.goal:.3f}: passes, seeds"
    yield "generation " + " ".join(f"{passes:8d}" for passes in PASSES)
    for size, traces in bench.traces.items():
        volumes = " ".join(f"{median(reached(trace, passes) for trace in traces):8.3f}" for passes in PASSES)
        needed = [passes_to(trace, bench.goal) for trace in traces]
        yield f"{size:10d} {volumes}   {median(needed):6.0f} {int(np.isfinite(needed).sum())}/{len(needed)}"


def of_budget(bench: Bench) -> Iterator[str]:
    """How much faster the same search is: no other candidates, no other front."""
    for each in PASS_SECONDS:
        yield f"\n{each:g} s a pass: how many times faster the same search is, and how busy workers are"
        yield "workers    " + " ".join(f"{f'{size} each':>14s}" for size in bench.traces)
        for workers in WORKERS:
            cells = [faster(traces, workers, each, bench.costs) for traces in bench.traces.values()]
            yield f"{workers:7d}    " + "  ".join(f"{times:7.1f} {100 * busy:4.0f} %" for times, busy in cells)


def faster(traces: list[Trace], workers: int, each: float, costs: Costs) -> tuple[float, float]:
    """Than one process without a cluster, and the share of workers' time in which they measure: medians over seeds."""
    many = [simulated(trace.steps, workers, each, costs) for trace in traces]
    alone = [simulated(trace.steps, 1, each, Costs(verify=costs.verify)).seconds for trace in traces]
    times = median(one / taken.seconds for one, taken in zip(alone, many, strict=True))
    return times, median(taken.busy for taken in many)


def of_losses(bench: Bench) -> Iterator[str]:
    """What workers' time goes to, of the first seed, a second for a pass."""
    yield "\n1 s a pass: per cent of the workers' time"
    heads = ("measuring", "not shared", "last answer", "thinking", "handing", "start")
    yield "workers  generation " + " ".join(f"{head:>12s}" for head in heads)
    for workers in (8, 64, 512):
        for size, traces in bench.traces.items():
            shares = losses(traces[0].steps, workers, bench.costs)
            yield f"{workers:7d} {size:11d} " + " ".join(f"{100 * share:12.1f}" for share in shares)


def losses(steps: list[Step], workers: int, costs: Costs) -> list[float]:
    """Shares of the time of ``workers``: what one would need, what division adds to it, and what they wait for."""
    alone, many = simulated(steps, 1, 1.0, costs), simulated(steps, workers, 1.0, costs)
    there = workers * many.seconds
    shares = [alone.worked / there, (many.worked - alone.worked) / there]
    waits = [many.own / many.seconds, many.handing / many.seconds, costs.start / many.seconds]
    return [*shares, 1.0 - sum(shares) - sum(waits), *waits]


def of_time(bench: Bench) -> Iterator[str]:
    """How much sooner the same quality is reached than by one process with the default."""
    for each in PASS_SECONDS:
        alone = bench.alone(each)
        yield f"\n{each:g} s a pass: how many times sooner than {alone:.0f} s, by size of generations; the best"
        for workers in WORKERS:
            sooner = {size: alone / bench.seconds(size, workers, each) for size in bench.traces}
            best = max(sooner, key=lambda size: sooner[size])
            yield f"{workers:7d}    " + " ".join(f"{value:8.2f}" for value in sooner.values()) + f"   {best}"


# --------------------------------------------------------------------------------------------------------- picture


def draw(bench: Bench, file: Path) -> None:
    """Quality per pass, sooner by generation, sooner by the best one."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    colors = dict(zip(bench.traces, pyplot.get_cmap("viridis")(np.linspace(0, 0.9, len(bench.traces))), strict=True))
    passes = np.arange(40, 1 + max(int(trace.curve[-1][1]) for trace in bench.traces[bench.default]), 5)
    for size, traces in bench.traces.items():
        left.plot(passes, [median(reached(trace, at) for trace in traces) for at in passes], color=colors[size])
        sooner = [bench.alone(1.0) / bench.seconds(size, workers, 1.0) for workers in WORKERS]
        middle.plot(WORKERS, sooner, "o-", markersize=3, color=colors[size], label=f"{size} a generation")
    left.axhline(bench.goal, color="tab:gray", linewidth=0.8)
    left.set(xlabel="passes over the search set", ylabel="hypervolume, median", title="Quality per pass")
    for each, style in zip(PASS_SECONDS, ("o:", "o--", "o-"), strict=True):
        best = [bench.alone(each) / bench.seconds(bench.best(workers, each), workers, each) for workers in WORKERS]
        right.plot(WORKERS, best, style, markersize=3, color="tab:blue", label=f"{each:g} s a pass")
    for axes, title in ((middle, "To the same front, 1 s a pass"), (right, "To the same front, best generation")):
        axes.plot(WORKERS, WORKERS, color="tab:gray", linewidth=0.8)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xticks(WORKERS, [str(workers) for workers in WORKERS])
        axes.set_yticks(WORKERS, [str(workers) for workers in WORKERS])
        axes.minorticks_off()
        axes.set(xlabel="workers", ylabel="times faster than one process", title=title)
        axes.legend(fontsize=8)
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
    figure.savefig(file, dpi=100)
    print(f"Written: {file}")


if __name__ == "__main__":
    main()
