"""The algorithms by name, one generation at a time: they propose, the problem measures."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.moo.nsga3 import NSGA3
from pymoo.algorithms.moo.sms import SMSEMOA
from pymoo.core.algorithm import Algorithm
from pymoo.core.evaluator import Evaluator as PymooEvaluator
from pymoo.core.population import Population
from pymoo.core.termination import NoTermination
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.problems.static import StaticProblem
from pymoo.util.ref_dirs import get_reference_directions

from qexplore._random import stream
from qexplore.evaluation import Evaluation
from qexplore.model import Candidates
from qexplore.search.goals import Goal, WholeFront
from qexplore.search.guide import Allowance, Guide
from qexplore.search.ladder import Ladder
from qexplore.search.problem import LayerwiseQuantizationProblem
from qexplore.search.space import SearchSpace

GUIDED = ("nsga2", "sms-emoa", "nsga3")
"""pymoo's algorithms with qexplore's first population and offspring: uniform widths and the user's candidates first,
then what a model of everything measured so far finds most promising."""

PLAIN = ("nsga2-plain", "random")
"""Baselines that begin at random and know nothing but scores."""

ALGORITHMS = (*GUIDED, "greedy", *PLAIN)
"""``"greedy"`` goes down from the widest candidate, a bit at a time where the sensitivity table says it costs least."""

_IDLE_GENERATIONS = 20
"""Plain algorithms propose candidates again; after so many generations of nothing new one is taken to be at its end."""

_FIRST_GUESSES = 3
"""Uniform widths alone teach the model little, so its first guesses are few, and so many of the additive front's."""

_SEEN_PER_OFFSPRING = 30
"""The more is known, the less one generation adds, and the more candidates the next one may hold."""

_SHARE_OF_OFFSPRING = 0.25
"""Fewer offspring than members of the population: what each generation teaches makes the next one better."""

Key = tuple[int, ...]
Seen = dict[Key, None]


@dataclass(frozen=True)
class Generation:
    """The candidates of one generation that this run has not measured before.

    Attributes:
        index: counted from 1.
        candidates: shape ``[N, L]``, different from each other.
        num_passes: passes over the search set that were spent to find them, since the last generation.
    """

    index: int
    candidates: Candidates
    num_passes: float = 0.0


class Proposer(Protocol):
    """Says what to measure next, and is told what came of it."""

    @property
    def num_passes(self) -> float:
        """Passes over the search set that it has spent itself."""
        ...

    def ask(self) -> Candidates:
        """Candidates, shape ``[N, L]``; none at its end."""
        ...

    def tell(self, candidates: Candidates, evaluations: Sequence[Evaluation]) -> None:
        """Take in the evaluations of what it asked for."""
        ...


def generations(
    problem: LayerwiseQuantizationProblem,
    *,
    algorithm: str | Algorithm,
    population_size: int,
    seed: int,
    initial: Candidates | None = None,
    goal: Goal | None = None,
    allowance: Allowance = lambda: math.inf,
) -> Iterator[Generation]:
    """Propose candidates, a generation at a time, until nothing new is left.

    The caller measures a generation's candidates with ``problem.measure`` before it asks for the next; what it has
    measured is then taken from the problem's memory. ``goal`` is what the guided algorithms work for; None is the whole
    front. ``allowance`` says, when asked, how many passes over the search set a sensitivity table may cost.
    """
    seen: Seen = {}
    proposer = _proposer(problem, algorithm, population_size, seed, initial, goal or WholeFront(), seen, allowance)
    index = idle = 0
    spent = 0.0
    while len(seen) < problem.space.size and idle < _IDLE_GENERATIONS:
        index += 1
        proposed = proposer.ask()
        if len(proposed) == 0:
            return
        new = [key for key in dict.fromkeys(map(tuple, proposed.tolist())) if key not in seen]
        idle = 0 if new else idle + 1
        seen.update(dict.fromkeys(new))
        spent, before = proposer.num_passes, spent
        yield Generation(index, np.array(new, dtype=np.int64).reshape(-1, problem.space.num_points), spent - before)
        proposer.tell(proposed, problem.remembered(proposed))


def is_pymoo_algorithm(value: object) -> bool:
    """Whether ``value`` is an algorithm object of pymoo."""
    return isinstance(value, Algorithm)


def first_population(space: SearchSpace, initial: Candidates | None) -> Candidates:
    """Every uniform width, then the user's own candidates."""
    uniform = space.uniform()
    both = uniform if initial is None else np.concatenate([uniform, initial])
    return np.array(list(dict.fromkeys(map(tuple, both.tolist()))), dtype=np.int64)


def _proposer(
    problem: LayerwiseQuantizationProblem,
    algorithm: str | Algorithm,
    population_size: int,
    seed: int,
    initial: Candidates | None,
    goal: Goal,
    seen: Seen,
    allowance: Allowance,
) -> Proposer:
    if algorithm == "random":
        return _Random(problem.space, population_size, seed, seen)
    if algorithm == "greedy":
        return Ladder(problem, first_population(problem.space, initial), allowance)
    if algorithm not in GUIDED:
        searcher = _plain(population_size) if isinstance(algorithm, str) else copy.deepcopy(algorithm)
        return _Pymoo(problem, searcher, seed)
    guide = Guide(problem, seed, goal, allowance)
    options = {
        "sampling": problem.space.encode(first_population(problem.space, initial)).astype(float),
        "mating": _Mating(guide, problem.space, seen, stream(seed, "unseen candidates")),
        "n_offsprings": max(1, round(_SHARE_OF_OFFSPRING * population_size)),
        "eliminate_duplicates": False,
    }
    if algorithm == "nsga3":
        directions = _directions(problem.n_obj, population_size)
        searcher = NSGA3(directions, pop_size=population_size, **options)
    else:
        searcher = {"nsga2": NSGA2, "sms-emoa": SMSEMOA}[str(algorithm)](pop_size=population_size, **options)
    return _Pymoo(problem, searcher, seed, guide)


def _directions(num_objectives: int, count: int) -> Any:
    """Reference directions of NSGA-III."""
    if num_objectives == 2:
        return get_reference_directions("das-dennis", 2, n_partitions=count - 1)
    return get_reference_directions("energy", num_objectives, count, seed=1)


def _plain(population_size: int) -> NSGA2:
    """NSGA-II of pymoo, with operators for integers."""
    return NSGA2(
        pop_size=population_size,
        sampling=IntegerRandomSampling(),
        crossover=SBX(prob=0.9, eta=15, vtype=float, repair=RoundingRepair()),
        mutation=PM(eta=20, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=True,
    )


class _Mating:
    """What pymoo asks for offspring: the guide's proposals, filled up at random where it knows too few."""

    def __init__(self, guide: Guide, space: SearchSpace, seen: Seen, rng: np.random.Generator) -> None:
        self._guide = guide
        self._space = space
        self._seen = seen
        self._rng = rng
        self._is_first = True

    def do(self, problem: Any, pop: Any, n_offsprings: int, **_: Any) -> Any:
        """As `pymoo.core.mating.Mating.do`."""
        guesses = np.zeros((0, self._space.num_points), dtype=np.int64)
        if self._is_first:
            self._is_first, n_offsprings = False, min(n_offsprings, _FIRST_GUESSES)
            guesses = self._guide.guess(n_offsprings, self._seen)
        n_offsprings = max(n_offsprings, len(self._seen) // _SEEN_PER_OFFSPRING)
        seen = {**self._seen, **dict.fromkeys(map(tuple, guesses.tolist()))}
        chosen = self._guide.propose(self._space.decode(pop.get("X")), n_offsprings, seen)
        if len(chosen) < n_offsprings:
            known = {**seen, **dict.fromkeys(map(tuple, chosen.tolist()))}
            chosen = np.concatenate([chosen, self._space.unseen(n_offsprings - len(chosen), known, self._rng)])
        return Population.new("X", self._space.encode(np.concatenate([guesses, chosen])).astype(float))


class _Pymoo:
    """An algorithm of pymoo, asked and told."""

    def __init__(
        self, problem: LayerwiseQuantizationProblem, searcher: Algorithm, seed: int, guide: Guide | None = None
    ) -> None:
        self._problem = problem
        self._searcher = searcher
        self._guide = guide
        self._population: Any = None
        searcher.setup(problem, termination=NoTermination(), seed=seed, verbose=False)

    @property
    def num_passes(self) -> float:
        """Spent on sensitivities."""
        return self._guide.num_passes if self._guide else 0.0

    def ask(self) -> Candidates:
        """The searcher's infills, as widths."""
        self._population = self._searcher.ask()
        genes = [] if self._population is None else self._population.get("X")
        return self._problem.space.decode(genes).reshape(-1, self._problem.space.num_points)

    def tell(self, candidates: Candidates, evaluations: Sequence[Evaluation]) -> None:
        """Hand objectives to the searcher, and evaluations to the guide."""
        problem = self._problem
        known = StaticProblem(problem, F=problem.objectives(evaluations), G=problem.constraints(evaluations))
        PymooEvaluator().eval(known, self._population)
        self._searcher.tell(infills=self._population)
        if self._guide is not None:
            self._guide.note(evaluations)


class _Random:
    """Every candidate equally likely, none twice."""

    num_passes = 0.0

    def __init__(self, space: SearchSpace, count: int, seed: int, seen: Seen) -> None:
        self._space = space
        self._count = count
        self._seen = seen
        self._rng = stream(seed, "random search")

    def ask(self) -> Candidates:
        """So many that nobody has seen."""
        return self._space.unseen(self._count, self._seen, self._rng)

    def tell(self, candidates: Candidates, evaluations: Sequence[Evaluation]) -> None:
        """Nothing is learnt."""
