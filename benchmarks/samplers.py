"""Hypervolume at equal budgets: qexplore's search beside other samplers, on the same evaluator.

    python benchmarks/samplers.py --results samplers.json
    python benchmarks/samplers.py --networks digits-resnet20 --seeds 10 --samplers qexplore AMQ

Budgets are full passes over the search set. Early stop is on where a sampler can live with a bound instead of a score,
which is ours only; the others pay a pass for each new candidate and nothing for one that they propose again. What one
of them has measured in full is in memory for the others, who pay all the same: passes are compared, not seconds.

Every front is measured twice: on the search set, and on samples that nothing was trained, calibrated or chosen on: 300
of the digits beside 400 that are searched, or the test images of Fashion-MNIST beside those that are. Optuna is an
extra: pip install optuna.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from _amq import Amq
from _results import Results
from _unseen import hypervolume, unseen
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from scipy.stats import wilcoxon

import qexplore as qx
from qexplore.evaluation import Evaluation
from qexplore.model import Loader
from qexplore.search import Archive, LayerwiseQuantizationProblem, reference_point

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "shared"))

BUDGETS = (50, 100, 200, 500)
MIN_ACCURACY = 0.5
Candidate = tuple[int, ...]
Curve = list[tuple[float, list[Candidate]]]
"""Fronts, and the passes after which each was there."""
SETS = ("search set", "unseen")


def main() -> None:
    """Run every sampler with every seed and print medians and paired tests."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--networks", nargs="+", default=["digits-resnet20", "digits-mobilenet", "digits-transformer"])
    options.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    options.add_argument("--seeds", type=int, default=10)
    options.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS))
    options.add_argument("--samples", type=int, default=1024, help="of Fashion-MNIST; the digits have 400")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--results", type=Path, help="JSON that a rerun goes on from: what is in it is not run again")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    if find_spec("optuna") is None:
        arguments.samplers = [sampler for sampler in arguments.samplers if "Optuna" not in sampler]
        print("Optuna's samplers are left out, it is not installed: pip install optuna")
    results = Results(arguments.results)
    for name in arguments.networks:
        bench = Bench(name, arguments)
        print(
            f"\n{name}: {bench.shared.space.num_points} points, {bench.shared.num_samples} samples, "
            f"{bench.unseen.num_samples} unseen ones; within {arguments.budgets} passes",
            flush=True,
        )
        found: dict[str, np.ndarray] = {}
        for sampler in arguments.samplers:
            of = name, bench.shared.num_samples, *arguments.budgets
            rows = [results.get(of, bench.run, sampler, seed) for seed in range(1, arguments.seeds + 1)]
            found[sampler] = np.array(rows)
            for which, part in enumerate(SETS):
                print(line(found, sampler, which, f"{sampler}, {part}"), flush=True)


def line(found: dict[str, np.ndarray], sampler: str, which: int, label: str) -> str:
    """Medians over the seeds at every budget; ours ahead: in how many seeds, and Wilcoxon's one-sided p."""
    values, ours = found[sampler][:, :, which], found.get(OURS)
    medians = "  ".join(f"{value:8.3f}" for value in np.median(values, axis=0))
    if ours is None or sampler == OURS:
        return f"{label:36s} {medians}"
    parts = []
    for gains in (ours[:, :, which] - values).T:
        p = wilcoxon(gains, alternative="greater").pvalue if np.any(gains) else 1.0
        parts.append(f"{int((gains > 0).sum())}/{len(gains)} p={p:.3f}")
    return f"{label:36s} {medians}  ours ahead: {', '.join(parts)}"


class Bench:
    """All samplers on one network."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        self.pose, report = posed(name, arguments.samples)
        self.budgets = sorted(arguments.budgets)
        self.shared = self.pose()
        self.unseen = unseen(self.shared, report)
        self.reference = reference_point(self.shared, ())

    def run(self, sampler: str, seed: int) -> list[tuple[float, float]]:
        """At every budget the hypervolume on the search set and unseen."""
        races = sampler == OURS  # a score in memory would be paid for in full where early stop takes a part
        curve = SAMPLERS[sampler](self.pose() if races else self.shared, self.budgets, seed)
        return [self.hypervolumes(at(curve, budget)) for budget in self.budgets]

    def hypervolumes(self, front: list[Candidate]) -> tuple[float, float]:
        """Of one front, by the same engines for all samplers."""
        return hypervolume(self.shared, front, self.reference), hypervolume(self.unseen, front, self.reference)


def at(curve: Curve, budget: int) -> list[Candidate]:
    """The front within a budget."""
    return next((front for passes, front in reversed(curve) if passes <= budget + 1e-6), [])


def posed(name: str, num_samples: int) -> tuple[Callable[[], LayerwiseQuantizationProblem], Loader]:
    """Makes the problem of a network anew, of the tests' digits or of Fashion-MNIST; beside it what is unseen."""
    if name.startswith("digits-"):
        from networks import batches, digits, trained, wrapping

        entry = name.removeprefix("digits-")
        model = qx.QuantizedActivationsModel(trained(entry), **(wrapping(entry) | {"unsigned": False}))
        model.calibrate(batches(digits().calibration))
        loader, report = batches(digits().search, 200), batches(digits().report)
    else:
        from _workloads import Workload  # brings other networks of the same module's name

        workload = Workload(name, num_samples)
        model = qx.QuantizedActivationsModel(workload.network, workload.predicate, unsigned=False)
        model.calibrate(workload.calibration)
        loader, report = workload.search, workload.report
    return lambda: LayerwiseQuantizationProblem(model, loader, min_accuracy=MIN_ACCURACY), report


# ------------------------------------------------------------------------------------------------------- samplers


def explored(problem: LayerwiseQuantizationProblem, budgets: list[int], seed: int, **options: object) -> Curve:
    """`explore` with one of its algorithms: what it hands out at each budget, of a search with this budget."""
    curve = []
    for budget in budgets:
        found = qx.explore(problem, max_evaluations=budget, seed=seed, progress=False, **options)
        curve.append((float(budget), list(map(tuple, found.front.num_bits.tolist()))))
    return curve


def uniform_first(problem: LayerwiseQuantizationProblem, budgets: list[int], seed: int) -> Curve:
    """pymoo's NSGA-II with the uniform widths in its first population."""
    uniform = problem.space.uniform()
    others = problem.space.random(40 - len(uniform), np.random.default_rng(seed))
    algorithm = NSGA2(
        pop_size=40,
        sampling=np.concatenate([uniform, others]).astype(float),
        crossover=SBX(prob=0.9, eta=15, vtype=float, repair=RoundingRepair()),
        mutation=PM(eta=20, vtype=float, repair=RoundingRepair()),
    )
    return explored(problem, budgets, seed, algorithm=algorithm)


def optuna(problem: LayerwiseQuantizationProblem, budgets: list[int], seed: int, sampler: str) -> Curve:
    """A sampler of Optuna with both objectives and the constraint."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    grown, seen = Grown(problem), set()
    chosen = {
        "nsga2": lambda: optuna.samplers.NSGAIISampler(
            population_size=40, seed=seed, constraints_func=lambda trial: trial.user_attrs["violations"]
        ),
        "tpe": lambda: optuna.samplers.TPESampler(
            seed=seed, multivariate=True, constraints_func=lambda trial: trial.user_attrs["violations"]
        ),
    }[sampler]()

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        limits = zip(problem.space.lower.tolist(), problem.space.upper.tolist(), strict=True)
        row = [trial.suggest_int(str(point), low, high) for point, (low, high) in enumerate(limits)]
        evaluation = next(problem.measure(np.array([row])))
        seen.add(evaluation.candidate)
        grown.add(evaluation, len(seen))
        trial.set_user_attr("violations", problem.constraints([evaluation])[0].tolist())
        return evaluation.score, float(sum(row))

    study = optuna.create_study(directions=["maximize", "minimize"], sampler=chosen)
    study.optimize(objective, n_trials=budgets[-1])
    return grown.curve


def additive(problem: LayerwiseQuantizationProblem, budgets: list[int], seed: int) -> Curve:
    """The additive front of a whole table, measured from few bits to many; what is left goes to its neighbours."""
    grown = Grown(problem)
    table = qx.sensitivity(problem, num_samples=problem.num_samples // 2)
    passes = sum(map(len, table.values)) * table.num_samples / problem.num_samples
    for candidate in proposals(problem, qx.additive_front(table).num_bits, grown.archive, seed):
        if passes + 1 > budgets[-1]:
            break
        passes += 1
        grown.add(next(problem.measure(candidate[None])), passes)
    return grown.curve


def amq(problem: LayerwiseQuantizationProblem, budgets: list[int], seed: int) -> Curve:
    """AMQ, re-created; its table of single points is paid for too."""
    grown, search = Grown(problem), Amq(problem, seed)
    passes = search.passes
    for candidate in search.proposals():
        if passes + 1 > budgets[-1]:
            break
        passes += 1
        evaluation = next(problem.measure(np.array([candidate])))
        search.told(candidate, evaluation.score)
        grown.add(evaluation, passes)
    return grown.curve


class Grown:
    """The front of what was measured, each time it grew."""

    def __init__(self, problem: LayerwiseQuantizationProblem) -> None:
        self.archive = Archive(problem)
        self.curve: Curve = []

    def add(self, evaluation: Evaluation, passes: float) -> None:
        """Take in what was known after so many passes."""
        if self.archive.add(evaluation):
            self.curve.append((float(passes), [member.candidate for member in self.archive.members]))


def proposals(
    problem: LayerwiseQuantizationProblem, first: np.ndarray, archive: Archive, seed: int
) -> Iterator[np.ndarray]:
    """``first``, then moves of one to three widths around the front, none twice."""
    rng, seen = np.random.default_rng(seed), set()
    for candidate in first:
        seen.add(tuple(candidate))
        yield candidate
    while True:
        members = problem.candidates_of(archive.members)
        candidate = members[rng.integers(len(members))].copy()
        moved = rng.choice(len(candidate), size=rng.integers(1, 4), replace=False)
        candidate[moved] += rng.choice([-1, 1], size=len(moved))
        candidate = np.clip(candidate, problem.space.lower, problem.space.upper)
        if tuple(candidate) not in seen:
            seen.add(tuple(candidate))
            yield candidate


OURS = "qexplore"
SAMPLERS: dict[str, Callable[[LayerwiseQuantizationProblem, list[int], int], Curve]] = {
    OURS: explored,
    "qexplore, no early stop": partial(explored, racing=False),
    "AMQ": amq,
    "NSGA-II": partial(explored, algorithm="nsga2-plain"),
    "NSGA-II, uniform first": uniform_first,
    "Optuna NSGA-II": partial(optuna, sampler="nsga2"),
    "Optuna TPE": partial(optuna, sampler="tpe"),
    "random": partial(explored, algorithm="random"),
    "greedy": partial(explored, algorithm="greedy", racing=False),
    "additive front, moves": additive,
}

if __name__ == "__main__":
    main()
