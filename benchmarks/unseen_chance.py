"""How far chance goes on unseen samples: our fronts against others', over samples drawn again from those.

    python benchmarks/unseen_chance.py --networks digits-resnet20 digits-transformer --results unseen_chance.json

`samplers.py` compares seeds on one set of unseen samples, so that seeds do not tell what another set would have said: a
front that no seed changes, such as the ladder's, keeps its luck in all of them. Here the samples are drawn again, with
replacement (B. Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7, 1979), all fronts
measured on the same ones. What is printed is the mean hypervolume of our fronts minus that of the other sampler's, and
the interval that 95 % of the draws lie in.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import moocore
import numpy as np
import torch
from _results import Results
from samplers import MIN_ACCURACY, OURS, SAMPLERS, Bench, Candidate, at

NUM_DRAWS = 2000


def main() -> None:
    """Search with every sampler and seed, and print differences with intervals at every budget."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--networks", nargs="+", default=["digits-resnet20", "digits-mobilenet", "digits-transformer"])
    options.add_argument("--others", nargs="+", choices=SAMPLERS, default=["greedy", "additive front, moves"])
    options.add_argument("--seeds", type=int, default=6)
    options.add_argument("--budgets", type=int, nargs="+", default=[100, 200, 500])
    options.add_argument("--samples", type=int, default=1024, help="of Fashion-MNIST; the digits have 400")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--results", type=Path, help="JSON that a rerun goes on from: what is in it is not run again")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    results = Results(arguments.results)
    for name in arguments.networks:
        chance = Chance(Bench(name, arguments))
        print(f"\n{name}: {chance.num_samples} unseen samples, {arguments.seeds} seeds, {NUM_DRAWS} draws", flush=True)
        of = name, chance.bench.shared.num_samples, *arguments.budgets
        fronts = {
            sampler: [results.get(of, chance.fronts, sampler, seed) for seed in range(1, arguments.seeds + 1)]
            for sampler in (OURS, *arguments.others)
        }
        for place, budget in enumerate(arguments.budgets):
            ours, *others = (chance.drawn([of_seed[place] for of_seed in each]) for each in fronts.values())
            print(f"{budget} passes: {OURS} {ours[0]:.3f}")
            for sampler, theirs in zip(arguments.others, others, strict=True):
                low, high = np.percentile(ours[1:] - theirs[1:], [2.5, 97.5])
                print(f"    against {sampler} {theirs[0]:.3f}: {ours[0] - theirs[0]:+.3f} ({low:+.3f} to {high:+.3f})")


class Chance:
    """Hypervolumes on unseen samples of a network, and on samples drawn again from them."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.num_samples = bench.unseen.num_samples
        draws = np.random.default_rng(0).multinomial(
            self.num_samples, np.full(self.num_samples, 1 / self.num_samples), NUM_DRAWS
        )
        self._weights = np.concatenate([np.ones((1, self.num_samples)), draws]) / self.num_samples

    def fronts(self, sampler: str, seed: int) -> list[list[Candidate]]:
        """What ``sampler`` has found, at every budget."""
        races = sampler == OURS  # as in `Bench.run`
        curve = SAMPLERS[sampler](self.bench.pose() if races else self.bench.shared, self.bench.budgets, seed)
        return [at(curve, budget) for budget in self.bench.budgets]

    def drawn(self, fronts: list[list[Candidate]]) -> np.ndarray:
        """The mean hypervolume of ``fronts``: first of all samples, then of every draw."""
        return np.mean([self._hypervolumes(front) for front in fronts], axis=0)

    def _hypervolumes(self, front: list[Candidate]) -> np.ndarray:
        rows = np.array(front, dtype=np.int64).reshape(-1, self.bench.shared.space.num_points)
        scores = np.array([evaluation.scores for evaluation in self.bench.unseen.measure(rows)])
        costs = self.bench.shared.costs_of(rows)[:, 0]
        if not len(rows):
            return np.zeros(len(self._weights))
        reference = -MIN_ACCURACY, self.bench.reference[1]
        points = (np.column_stack([-accuracy, costs]) for accuracy in self._weights @ scores.T)
        return np.array([moocore.hypervolume(each, ref=reference) for each in points])


if __name__ == "__main__":
    main()
