"""NSGA-II on the widths, one generation at a time: pymoo proposes and selects, the problem measures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.evaluator import Evaluator as PymooEvaluator
from pymoo.core.population import Population
from pymoo.core.termination import NoTermination
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.problems.static import StaticProblem

from qexplore._random import stream
from qexplore.model import Candidates
from qexplore.search.problem import LayerwiseQuantizationProblem
from qexplore.search.space import SearchSpace

ALGORITHMS = ("nsga2", "nsga2-plain")
"""``"nsga2"`` starts with every uniform width and never proposes a candidate twice; ``"nsga2-plain"`` is pymoo's own
from a random start."""

_IDLE_GENERATIONS = 20
"""Plain NSGA-II proposes candidates again; after so many generations of nothing new it is taken to be at its end."""

Seen = dict[tuple[int, ...], None]


@dataclass(frozen=True)
class Generation:
    """The candidates of one generation that this run has not measured before.

    Attributes:
        index: counted from 1.
        candidates: shape ``[N, L]``, different from each other.
    """

    index: int
    candidates: Candidates


class _UnseenOnly(DuplicateElimination):  # type: ignore[misc]
    """Drops offspring that this run has measured, or that stand twice in the same brood."""

    def __init__(self, space: SearchSpace, seen: Seen) -> None:
        super().__init__()
        self._space = space
        self._seen = seen

    def _do(self, pop: Any, other: Any, is_duplicate: Any) -> Any:
        known = set(self._seen) if other is None else set(_keys(self._space, other))
        for index, key in enumerate(_keys(self._space, pop)):
            is_duplicate[index] |= key in known
            if other is None:
                known.add(key)
        return is_duplicate


def _keys(space: SearchSpace, population: Any) -> list[tuple[int, ...]]:
    return [tuple(row) for row in space.decode(population.get("X")).tolist()]


def generations(
    problem: LayerwiseQuantizationProblem, *, algorithm: str, population_size: int, seed: int
) -> Iterator[Generation]:
    """Propose candidates, a generation at a time, until nothing new is left.

    The caller measures a generation's candidates with ``problem.measure`` before it asks for the next; what it has
    measured is then taken from the problem's memory.
    """
    seen: Seen = {}
    searcher = _build(algorithm, problem, population_size, seed, seen)
    rng = stream(seed, "unseen candidates")
    index = idle = 0
    while len(seen) < problem.space.size and idle < _IDLE_GENERATIONS:
        index += 1
        proposed = searcher.ask()
        if proposed is None or len(proposed) == 0:
            proposed = Population.new("X", problem.space.unseen(population_size, seen, rng))
        new = [key for key in dict.fromkeys(_keys(problem.space, proposed)) if key not in seen]
        idle = 0 if new else idle + 1
        seen.update(dict.fromkeys(new))
        yield Generation(index, np.array(new, dtype=np.int64).reshape(-1, problem.space.num_points))
        _tell(searcher, problem, proposed)


def _build(algorithm: str, problem: LayerwiseQuantizationProblem, population_size: int, seed: int, seen: Seen) -> NSGA2:
    plain = algorithm == "nsga2-plain"
    searcher = NSGA2(
        pop_size=population_size,
        sampling=IntegerRandomSampling() if plain else first_population(problem.space, population_size, seed),
        crossover=SBX(prob=0.9, eta=15, vtype=float, repair=RoundingRepair()),
        mutation=PM(eta=20, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=True if plain else _UnseenOnly(problem.space, seen),
    )
    searcher.setup(problem, termination=NoTermination(), seed=seed, verbose=False)
    return searcher


def first_population(space: SearchSpace, population_size: int, seed: int) -> Candidates:
    """Every uniform width, then random candidates up to ``population_size``."""
    uniform = space.uniform()
    known: Sequence[tuple[int, ...]] = [tuple(row) for row in uniform.tolist()]
    missing = max(0, population_size - len(uniform))
    return np.concatenate([uniform, space.unseen(missing, set(known), stream(seed, "first population"))])


def _tell(searcher: NSGA2, problem: LayerwiseQuantizationProblem, proposed: Any) -> None:
    evaluations = problem.remembered(proposed.get("X"))
    known = StaticProblem(problem, F=problem.objectives(evaluations), G=problem.constraints(evaluations))
    PymooEvaluator().eval(known, proposed)
    searcher.tell(infills=proposed)
