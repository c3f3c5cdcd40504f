"""AMQ (EMNLP 2025, arXiv:2509.12019), re-created from its paper's description for the problems of this package.

The space is pruned by what single points do, a predictor of quality is fitted to what was measured, NSGA-II searches
the predicted trade-off, a subset of the front that it finds is measured, and the predictor is fitted anew, until the
budget is spent. As in the paper: Jensen-Shannon divergence of one point at a time on 128 samples, with twice the median
as the limit; radial basis functions as the predictor; NSGA-II with crossover 0.9 and mutation 0.1. The paper has three
widths, fixes a point beyond the limit at the widest, and measures 250 candidates at random and 50 in each of 200
iterations; here a point loses its choices beyond the limit and keeps the others, starts and iterations are as small as
the budgets, starts are drawn around every width in turn (of evenly drawn ones hardly any is accurate enough), and the
quality is the problem's score, higher being better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem
from pymoo.operators.crossover.pntx import TwoPointCrossover
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.optimize import minimize
from scipy.interpolate import RBFInterpolator
from torch import Tensor

from qexplore.metrics import loss
from qexplore.search import LayerwiseQuantizationProblem

TABLE_SAMPLES = 128
LIMIT = 2.0
"""Times the median divergence of the narrowest choices: what a single point may do."""
EXTRA_STARTS = 10
"""Candidates at random beyond those that a linear model needs."""
SPREAD = 0.2
"""Of the widths within one of them, as a share of the range."""
PER_ITERATION = 10
POPULATION, GENERATIONS = 100, 20


def _jensen_shannon(output: Tensor, reference: Tensor) -> Tensor:
    p, q = torch.softmax(output.float(), 1), torch.softmax(reference.float(), 1)
    middle = ((p + q) / 2).log()
    return (torch.xlogy(p, p) - p * middle + torch.xlogy(q, q) - q * middle).sum(1) / 2


jensen_shannon = loss(_jensen_shannon, "Jensen-Shannon divergence")
Candidate = tuple[int, ...]
Predict = Callable[[np.ndarray], np.ndarray]


class Amq:
    """One search, of widths in whole ranges: it proposes, and whoever measures tells it what it is to know.

    Args:
        problem: posed; only its table of single points is measured here.
        seed: of starts and of every NSGA-II.
    """

    def __init__(self, problem: LayerwiseQuantizationProblem, seed: int) -> None:
        self._problem = problem
        self._rng = np.random.default_rng(seed)
        self._upper = problem.space.upper.astype(np.int64)
        self._known: dict[Candidate, float] = {}
        self.passes = 0.0
        """What the table of single points has cost."""
        self._lower = self._pruned()

    def proposals(self) -> Iterator[Candidate]:
        """Candidates until there are no new ones; each is to be `told` before the next is asked for."""
        yield from map(tuple, self._starts().tolist())
        while chosen := self._chosen(self._searched()):
            yield from chosen

    def told(self, candidate: Candidate, score: float) -> None:
        """Take in what a candidate scores."""
        self._known[candidate] = score

    def _pruned(self) -> np.ndarray:
        """The narrowest width of each point that does not diverge beyond the limit on its own."""
        lower = self._problem.space.lower.astype(np.int64)
        divergence = self._alone(lower, np.arange(len(lower)))
        limit = LIMIT * np.median(divergence)
        while len(beyond := np.flatnonzero((divergence > limit) & (lower < self._upper))):
            lower[beyond] += 1
            divergence[beyond] = self._alone(lower, beyond)
        return lower

    def _alone(self, lower: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Divergence with one point at its narrowest and all others at their widest."""
        rows = np.repeat(self._upper[None], len(points), axis=0)
        rows[np.arange(len(points)), points] = lower[points]
        scores = self._problem.scores_on_subset(rows, jensen_shannon, TABLE_SAMPLES, against_float=True)
        self.passes += scores.size / self._problem.num_samples
        return scores.mean(axis=1)

    def _random(self, count: int) -> np.ndarray:
        return self._rng.integers(self._lower, self._upper + 1, size=(count, len(self._lower)))

    def _starts(self) -> np.ndarray:
        """The ends of the pruned space, and candidates at random, from narrow to wide ones."""
        levels = np.linspace(0, 1, len(self._lower) + 1 + EXTRA_STARTS)
        about = self._rng.normal(levels[:, None], SPREAD, size=(len(levels), len(self._lower))).clip(0, 1)
        some = np.rint(self._lower + about * (self._upper - self._lower)).astype(np.int64)
        return np.array(list(dict.fromkeys(map(tuple, [self._lower, self._upper, *some]))))

    def _searched(self) -> np.ndarray:
        """The front of NSGA-II on the predictor's word, begun from all that is known, shape ``[N, L]``."""
        known, scores = np.array(list(self._known)), np.array(list(self._known.values()))
        algorithm = NSGA2(
            pop_size=POPULATION,
            sampling=np.concatenate([known, self._random(max(0, POPULATION - len(known)))]).astype(float),
            crossover=TwoPointCrossover(prob=0.9),
            mutation=PM(prob=1.0, prob_var=0.1, eta=3, vtype=float, repair=RoundingRepair()),
        )
        predicted = Predicted(self._problem, predictor(known, scores), self._lower, self._upper)
        seed = int(self._rng.integers(2**31))
        return minimize(predicted, algorithm, ("n_gen", GENERATIONS), seed=seed).opt.get("X").astype(np.int64)

    def _chosen(self, front: np.ndarray) -> list[Candidate]:
        """A subset of the new ones in ``front``, each as far in cost as can be from those before it."""
        left = [row for row in dict.fromkeys(map(tuple, front.tolist())) if row not in self._known]
        costs = {row: self._problem.costs_of(np.array([row]))[0, 0] for row in left}
        chosen: list[Candidate] = []
        while left and len(chosen) < PER_ITERATION:
            at = [costs[row] for row in chosen] or [min(costs.values())]
            chosen.append(max(left, key=lambda row: min(abs(costs[row] - cost) for cost in at)))
            left.remove(chosen[-1])
        return chosen


class Predicted(Problem):  # type: ignore[misc]
    """The trade-off as the predictor has it."""

    def __init__(
        self, problem: LayerwiseQuantizationProblem, predict: Predict, lower: np.ndarray, upper: np.ndarray
    ) -> None:
        required = problem.min_accuracy is not None
        super().__init__(n_var=len(lower), n_obj=2, n_ieq_constr=int(required), xl=lower, xu=upper, vtype=int)
        self._problem, self._predict = problem, predict

    def _evaluate(self, x: np.ndarray, out: dict[str, np.ndarray], *args: object, **kwargs: object) -> None:
        candidates = np.asarray(x, dtype=np.int64)
        scores = self._predict(candidates)
        out["F"] = np.column_stack([-scores, self._problem.costs_of(candidates)[:, 0]])
        if self._problem.min_accuracy is not None:
            out["G"] = (self._problem.min_accuracy - scores)[:, None]


def predictor(known: np.ndarray, scores: np.ndarray) -> Predict:
    """Cubic radial basis functions with a linear part through ``scores``; linear ones while points vary too little."""
    has_slopes = np.linalg.matrix_rank(known - known.mean(axis=0)) == known.shape[1]
    return RBFInterpolator(known, scores, kernel="cubic" if has_slopes else "linear", degree=int(has_slopes))
