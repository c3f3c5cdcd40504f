"""The algorithms by name, one generation at a time: they propose, whoever asks them measures and tells."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.moo.nsga3 import NSGA3
from pymoo.algorithms.moo.sms import SMSEMOA
from pymoo.core.population import Population
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.util.ref_dirs import get_reference_directions

from qexplore._random import stream
from qexplore.evaluation import Evaluation
from qexplore.model import Candidate, Candidates
from qexplore.search.goals import Goal, WholeFront
from qexplore.search.guide import Allowance, Guide
from qexplore.search.ladder import Ladder
from qexplore.search.problem import LayerwiseQuantizationProblem
from qexplore.search.pymoo_proposer import PymooProposer, require_suitable
from qexplore.search.sensitivity import Lacking
from qexplore.search.settings import SearchSettings
from qexplore.search.space import SearchSpace

_IDLE_GENERATIONS, _IDLE_CANDIDATES = 20, 200
"""Plain algorithms propose candidates again; one is taken to be at its end after so many generations of nothing new,
and of so many candidates, for some propose them one at a time."""

_FIRST_GUESSES = 3
"""Uniform choices alone teach the model little, so its first guesses are few, and so many of the additive front's."""

_SEEN_PER_OFFSPRING = 30
"""The more is known, the less one generation adds, and the more candidates the next one may hold."""

_SHARE_OF_OFFSPRING = 0.25
"""Fewer offspring than members of the population: what each generation teaches makes the next one better."""


@dataclass(frozen=True)
class Generation:
    """The candidates of one generation that this search has not asked for before.

    Attributes:
        index: counted from 1.
        candidates: shape ``[N, L]``, different from each other.
        num_passes: passes over the search set that were spent to find them, since the last generation.
    """

    index: int
    candidates: Candidates
    num_passes: float = 0.0


class Proposer(Protocol):
    """Says what to measure next, and is told what came of it; it measures nothing but a table that it is allowed."""

    @property
    def num_passes(self) -> float:
        """Passes over the search set that it has spent itself."""
        ...

    @property
    def lacking(self) -> Lacking | None:
        """What its sensitivity table left out."""
        ...

    def ask(self) -> Candidates:
        """Candidates, shape ``[N, L]``; none at its end."""
        ...

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """Take in the evaluations of what it asked for, in that order."""
        ...


class Generations:
    """What a search measures next, a generation at a time: it is asked, and told what came of it.

    The one place that knows what was asked before: a proposer may repeat itself, and nothing is measured twice.

    Args:
        problem: what is searched.
        settings: algorithm, population size and seed.
        reference_point: (score, each cost) that hypervolumes are measured against.
        initial: candidates to begin with besides, shape ``[N, L]``; of no use to plain algorithms.
        goal: what the guided algorithms work for; None is the whole front.
        allowance: says, when asked, how many passes over the search set a sensitivity table may cost.
        seconds: says likewise how many seconds it may take.
        progress: show the bar of that table; None on a terminal, and elsewhere a line every half minute.
    """

    def __init__(
        self,
        problem: LayerwiseQuantizationProblem,
        settings: SearchSettings,
        reference_point: tuple[float, ...],
        *,
        initial: Candidates | None = None,
        goal: Goal | None = None,
        allowance: Allowance = lambda: math.inf,
        seconds: Allowance = lambda: math.inf,
        progress: bool | None = False,
    ) -> None:
        self._problem = problem
        self._known: dict[Candidate, Evaluation] = {}
        self._asked: list[Candidate] = []
        self._new: list[Candidate] = []
        self._index = self._idle = self._repeated = 0
        self._spent = 0.0
        self._guide: Guide | None = None
        if settings.is_plain:
            self._proposer = _plain(problem, settings, self._known)
        elif settings.algorithm == "greedy":
            self._proposer = Ladder(problem, first_population(problem.space, initial), allowance, progress, seconds)
        else:
            self._guide = Guide(
                problem,
                settings.seed,
                goal or WholeFront(),
                reference_point,
                allowance,
                progress,
                seconds,
                looks=settings.low_fidelity,
            )
            self._proposer = _guided(problem, settings, self._guide, initial, self._known)

    @property
    def lacking(self) -> Lacking | None:
        """What the sensitivity table left out so far."""
        return self._proposer.lacking

    @property
    def num_look_passes(self) -> float:
        """Passes over the search set that looks at whole candidates took so far."""
        return 0.0 if self._guide is None else self._guide.num_look_passes

    @property
    def ended_by(self) -> str:
        """Once nothing new is proposed: ``"exhausted"`` where all within the limits were, else ``"nothing new"``."""
        return "exhausted" if self._is_exhausted or self._is_all_allowed_known else "nothing new"

    @property
    def _is_exhausted(self) -> bool:
        return len(self._known) >= self._problem.space.size

    @property
    def _is_all_allowed_known(self) -> bool:
        """Whether everything that keeps to the limits was asked for; it is counted at the end alone."""
        is_sure = self._problem.space.is_listable
        return is_sure and not len(_unseen(self._problem, 1, self._known, np.random.default_rng(0)))

    def ask(self) -> Generation | None:
        """The next generation; None where nothing new is left. Not to be asked again before it was told."""
        is_idle = self._idle >= _IDLE_GENERATIONS and self._repeated >= _IDLE_CANDIDATES
        if (self._is_exhausted or is_idle) and self._index:  # a first generation there is, be it of known candidates
            return None
        proposed = self._problem.effective(self._proposer.ask())
        if len(proposed) == 0:
            return None
        self._asked = [tuple(row) for row in proposed.tolist()]
        self._new = [key for key in dict.fromkeys(self._asked) if key not in self._known]
        self._idle = 0 if self._new else self._idle + 1
        self._repeated = 0 if self._new else self._repeated + len(proposed)
        self._index += 1
        self._spent, before = self._proposer.num_passes, self._spent
        candidates = np.array(self._new, dtype=np.int64).reshape(-1, self._problem.space.num_points)
        return Generation(self._index, candidates, self._spent - before)

    def guess(self) -> Generation | None:
        """A first generation before anything is known: what sensitivities alone say; None where none are asked.

        It is told by `know`.
        """
        if self._guide is None:
            return None
        seen = {*self._known, *map(tuple, self._problem.space.uniform().tolist())}  # these come next anyway
        guesses = self._guide.sensitivities.guesses(_FIRST_GUESSES, seen, roughly=True)
        self._spent = self._guide.num_passes
        return Generation(self._index + 1, guesses, self._spent)

    def know(self, evaluations: Sequence[Evaluation]) -> None:
        """Take in evaluations of what was not asked for, such as those of uniform choices."""
        self._known.update((evaluation.candidate, evaluation) for evaluation in evaluations)
        if self._guide is not None:
            self._guide.note(evaluations)

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """Take in the evaluations of the last generation's candidates, one each, in their order."""
        self._known.update(zip(self._new, evaluations, strict=True))
        self._proposer.tell([self._known[key] for key in self._asked])


def first_population(space: SearchSpace, initial: Candidates | None) -> Candidates:
    """Every uniform choice, then the user's own candidates."""
    uniform = space.uniform()
    both = uniform if initial is None else np.concatenate([uniform, initial])
    return np.array(list(dict.fromkeys(map(tuple, both.tolist()))), dtype=np.int64)


def _plain(problem: LayerwiseQuantizationProblem, settings: SearchSettings, seen: Collection[Candidate]) -> Proposer:
    if settings.algorithm == "random":
        return _Random(problem.space, settings, seen)
    if not isinstance(settings.algorithm, str):
        require_suitable(settings.algorithm, problem)
        return PymooProposer(problem, copy.deepcopy(settings.algorithm), settings.seed)
    searcher = NSGA2(
        pop_size=settings.population_size,
        sampling=IntegerRandomSampling(),
        crossover=SBX(prob=0.9, eta=15, vtype=float, repair=RoundingRepair()),
        mutation=PM(eta=20, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=True,
    )
    return PymooProposer(problem, searcher, settings.seed)


def _guided(
    problem: LayerwiseQuantizationProblem,
    settings: SearchSettings,
    guide: Guide,
    initial: Candidates | None,
    seen: Collection[Candidate],
) -> Proposer:
    size = settings.population_size
    options = {
        "pop_size": size,
        "sampling": problem.space.encode(first_population(problem.space, initial)).astype(float),
        "mating": _Mating(guide, problem, seen, stream(settings.seed, "unseen candidates")),
        "n_offsprings": settings.generation_size or max(1, round(_SHARE_OF_OFFSPRING * size)),
        "eliminate_duplicates": False,
    }
    if settings.algorithm == "nsga3":
        most = max(size, problem.n_obj)  # fewer directions than objectives reach nowhere
        searcher = NSGA3(_directions(problem.n_obj, most), **options | {"pop_size": most})
    else:
        searcher = {"nsga2": NSGA2, "sms-emoa": SMSEMOA}[settings.algorithm](**options)
    return PymooProposer(problem, searcher, settings.seed, guide)


def _directions(num_objectives: int, count: int) -> Any:
    """Reference directions of NSGA-III."""
    if num_objectives == 2:
        return get_reference_directions("das-dennis", 2, n_partitions=count - 1)
    return get_reference_directions("energy", num_objectives, count, seed=1)


def _unseen(
    problem: LayerwiseQuantizationProblem, count: int, seen: Collection[Candidate], rng: np.random.Generator
) -> Candidates:
    """Up to ``count`` random candidates that are not in ``seen`` and keep to the limits: others are known to fail."""
    return problem.space.unseen(count, seen, rng, lambda rows: problem.limits.are_kept(problem.effective(rows)))


class _Mating:
    """What pymoo asks for offspring: the guide's proposals, filled up at random where it knows too few."""

    def __init__(
        self,
        guide: Guide,
        problem: LayerwiseQuantizationProblem,
        seen: Collection[Candidate],
        rng: np.random.Generator,
    ) -> None:
        self._guide = guide
        self._problem = problem
        self._space = problem.space
        self._seen = seen
        self._rng = rng
        self._is_first = True

    def do(self, problem: Any, pop: Any, n_offsprings: int, **_: Any) -> Any:
        """As `pymoo.core.mating.Mating.do`."""
        guesses = np.zeros((0, self._space.num_points), dtype=np.int64)
        if self._is_first:
            self._is_first, n_offsprings = False, min(n_offsprings, _FIRST_GUESSES)
            guesses = self._guide.sensitivities.guesses(n_offsprings, self._seen)
        n_offsprings = max(n_offsprings, len(self._seen) // _SEEN_PER_OFFSPRING)
        seen = {*self._seen, *map(tuple, guesses.tolist())}
        chosen = self._guide.propose(self._space.decode(pop.get("X")), n_offsprings, seen)
        if len(chosen) < n_offsprings:
            known = {*seen, *map(tuple, chosen.tolist())}
            others = _unseen(self._problem, n_offsprings - len(chosen), known, self._rng)
            chosen = np.concatenate([chosen, others])
        return Population.new("X", self._space.encode(np.concatenate([guesses, chosen])).astype(float))


class _Random:
    """Every candidate equally likely, none twice."""

    num_passes = 0.0
    lacking = None

    def __init__(self, space: SearchSpace, settings: SearchSettings, seen: Collection[Candidate]) -> None:
        self._space = space
        self._count = settings.population_size
        self._seen = seen
        self._rng = stream(settings.seed, "random search")

    def ask(self) -> Candidates:
        """So many that nobody has seen."""
        return self._space.unseen(self._count, self._seen, self._rng)

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """Nothing is learnt."""
