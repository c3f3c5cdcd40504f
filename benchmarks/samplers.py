"""Hypervolume at equal budgets: qexplore's search beside other samplers, on the same evaluator.

    python benchmarks/samplers.py --networks digits-resnet20 --seeds 10

Budgets are full passes over the search set. Early stop is on where a sampler can live with a bound instead of a score,
which is ours only; the others pay a pass for each new candidate and nothing for one that they propose again. Optuna is
an extra: pip install optuna.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from scipy.stats import wilcoxon

import qexplore as qx
from qexplore.search import Archive, LayerwiseQuantizationProblem, reference_point

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "shared"))

BUDGETS = (50, 100, 200, 500)
MIN_ACCURACY = 0.5
Curve = list[tuple[float, float]]


def main() -> None:
    """Run every sampler with every seed and print medians and paired tests."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--networks", nargs="+", default=["digits-resnet20", "digits-mobilenet", "digits-transformer"])
    options.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    options.add_argument("--seeds", type=int, default=10)
    options.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS))
    options.add_argument("--samples", type=int, default=1024)
    options.add_argument("--threads", type=int, default=1)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    for name in arguments.networks:
        pose = posed(name, arguments.samples)
        problem = pose()
        print(f"\n{name}: {problem.space.num_points} points, {problem.num_samples} samples", flush=True)
        results: dict[str, np.ndarray] = {}
        for sampler in arguments.samplers:
            rows = [
                at(SAMPLERS[sampler](pose(), max(arguments.budgets), seed), arguments.budgets)
                for seed in range(1, arguments.seeds + 1)
            ]
            results[sampler] = np.array(rows)
            medians = "  ".join(f"{value:9.3f}" for value in np.median(results[sampler], axis=0))
            print(f"{sampler:22s} {medians}  {against(results, sampler)}", flush=True)


def against(results: dict[str, np.ndarray], sampler: str) -> str:
    """How ours compares with a sampler at every budget: seeds won, and Wilcoxon's one-sided p."""
    ours = results.get("qexplore")
    if ours is None or sampler == "qexplore":
        return ""
    parts = []
    for column in range(ours.shape[1]):
        gains = ours[:, column] - results[sampler][:, column]
        p = wilcoxon(gains, alternative="greater").pvalue if np.any(gains) else 1.0
        parts.append(f"{int((gains > 0).sum())}/{len(gains)} p={p:.3f}")
    return "ours ahead: " + ", ".join(parts)


def at(curve: Curve, budgets: list[int]) -> list[float]:
    """Hypervolume within each budget."""
    return [max((h for passes, h in curve if passes <= budget + 1e-6), default=0.0) for budget in budgets]


def posed(name: str, num_samples: int) -> Callable[[], LayerwiseQuantizationProblem]:
    """Makes the problem of a network anew: of the tests' digits, or of the experiments' Fashion-MNIST."""
    if name.startswith("digits-"):
        from networks import batches, digits, trained, wrapping

        entry = name.removeprefix("digits-")
        model = qx.QuantizedActivationsModel(trained(entry), **(wrapping(entry) | {"unsigned": False}))
        model.calibrate(batches(digits().calibration))
        loader = batches(digits().search, 200)
    else:
        from _workloads import Workload

        workload = Workload(name, num_samples)
        model = qx.QuantizedActivationsModel(workload.network, workload.predicate, unsigned=False)
        model.calibrate(workload.calibration)
        loader = workload.search
    return lambda: LayerwiseQuantizationProblem(model, loader, min_accuracy=MIN_ACCURACY)


# ------------------------------------------------------------------------------------------------------- samplers


def explored(problem: LayerwiseQuantizationProblem, budget: int, seed: int, **options: object) -> Curve:
    """`explore` with one of its algorithms."""
    found = qx.explore(problem, max_evaluations=budget, seed=seed, progress=False, **options)
    return [(snapshot.num_passes, snapshot.hypervolume) for snapshot in found.history]


def uniform_first(problem: LayerwiseQuantizationProblem, budget: int, seed: int) -> Curve:
    """pymoo's NSGA-II with the uniform widths in its first population."""
    uniform = problem.space.uniform()
    others = problem.space.random(40 - len(uniform), np.random.default_rng(seed))
    algorithm = NSGA2(
        pop_size=40,
        sampling=np.concatenate([uniform, others]).astype(float),
        crossover=SBX(prob=0.9, eta=15, vtype=float, repair=RoundingRepair()),
        mutation=PM(eta=20, vtype=float, repair=RoundingRepair()),
    )
    return explored(problem, budget, seed, algorithm=algorithm)


def optuna(problem: LayerwiseQuantizationProblem, budget: int, seed: int, sampler: str) -> Curve:
    """A sampler of Optuna with both objectives and the constraint."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    archive, curve, seen = Archive(problem), [], set()
    reference = reference_point(problem, ())
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
        archive.add(evaluation)
        curve.append((float(len(seen)), archive.hypervolume(reference)))
        trial.set_user_attr("violations", problem.constraints([evaluation])[0].tolist())
        return evaluation.score, float(sum(row))

    study = optuna.create_study(directions=["maximize", "minimize"], sampler=chosen)
    study.optimize(objective, n_trials=budget)
    return curve


def additive(problem: LayerwiseQuantizationProblem, budget: int, seed: int) -> Curve:
    """The additive front of a whole table, measured from few bits to many; what is left goes to its neighbours."""
    archive, curve = Archive(problem), []
    reference = reference_point(problem, ())
    table = qx.sensitivity(problem, num_samples=problem.num_samples // 2)
    passes = sum(map(len, table.values)) * table.num_samples / problem.num_samples
    for candidate in proposals(problem, qx.additive_front(table).num_bits, archive, seed):
        if passes + 1 > budget:
            break
        passes += 1
        archive.add(next(problem.measure(candidate[None])))
        curve.append((passes, archive.hypervolume(reference)))
    return curve


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


SAMPLERS: dict[str, Callable[[LayerwiseQuantizationProblem, int, int], Curve]] = {
    "qexplore": explored,
    "qexplore, no early stop": lambda p, b, s: explored(p, b, s, racing=False),
    "NSGA-II": lambda p, b, s: explored(p, b, s, algorithm="nsga2-plain"),
    "NSGA-II, uniform first": uniform_first,
    "Optuna NSGA-II": lambda p, b, s: optuna(p, b, s, "nsga2"),
    "Optuna TPE": lambda p, b, s: optuna(p, b, s, "tpe"),
    "random": lambda p, b, s: explored(p, b, s, algorithm="random"),
    "greedy": lambda p, b, s: explored(p, b, s, algorithm="greedy"),
    "additive front, moves": additive,
}

if __name__ == "__main__":
    main()
