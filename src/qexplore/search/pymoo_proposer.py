"""An algorithm of pymoo, asked and told, with random numbers of its own."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pymoo.util
import torch
from pymoo.core.algorithm import Algorithm
from pymoo.core.evaluator import Evaluator as PymooEvaluator
from pymoo.core.termination import NoTermination
from pymoo.problems.static import StaticProblem
from pymoo.termination.default import DefaultTermination

from qexplore._random import isolated, stream
from qexplore.errors import ProblemError, QExploreError, first_line
from qexplore.evaluation import Evaluation
from qexplore.model import Candidates
from qexplore.search.guide import Guide
from qexplore.search.problem import LayerwiseQuantizationProblem
from qexplore.search.sensitivity import Lacking

_CPU = torch.device("cpu")
_MEASURES_ITSELF = "it hands out no candidates"
_TRIED = 2
"""Generations of made-up scores that an algorithm object has to get through before anything is measured for it."""


class PymooProposer:
    """Asks an algorithm of pymoo for candidates, and tells it what came of them.

    Args:
        problem: what is searched.
        searcher: is set up here, and changes.
        seed: of the search.
        guide: learns with it, where there is one.
    """

    def __init__(
        self, problem: LayerwiseQuantizationProblem, searcher: Algorithm, seed: int, guide: Guide | None = None
    ) -> None:
        self._problem = problem
        self._searcher = searcher
        self._guide = guide
        self._population: Any = None
        self._rng = stream(seed, "steps of pymoo")
        # RVEA counts on an end of its own. What pymoo gives to others is nobody's wish: a budget is to be spent.
        is_given = searcher.termination is not None and not isinstance(searcher.termination, DefaultTermination)
        termination = searcher.termination if is_given else NoTermination()
        with self._stepping():
            searcher.setup(problem, termination=termination, seed=seed, verbose=False)

    @property
    def num_passes(self) -> float:
        """Spent on sensitivities."""
        return self._guide.num_passes if self._guide else 0.0

    @property
    def lacking(self) -> Lacking | None:
        """What the guide's table left out."""
        return self._guide.lacking if self._guide else None

    def ask(self) -> Candidates:
        """The searcher's infills, decoded; none once it has come to an end of its own."""
        if not self._searcher.has_next():
            return self._problem.space.decode([])
        with self._stepping():
            self._population = self._searcher.ask()
            if self._population is None:
                if not self._searcher.termination.force_termination:
                    raise NotImplementedError(_MEASURES_ITSELF)
                return self._problem.space.decode([])  # it found nothing new
        return self._problem.space.decode(self._population.get("X"))

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """Hand objectives to the searcher, and evaluations to the guide."""
        self.tell_arrays(self._problem.objectives(evaluations), self._problem.constraints(evaluations))
        if self._guide is not None:
            self._guide.note(evaluations)

    def tell_arrays(self, objectives: Any, constraints: Any) -> None:
        """Hand what is minimised, ``[N, M]``, and violations, ``[N, G]``, to the searcher."""
        known = StaticProblem(self._problem, F=objectives, G=constraints)
        with self._stepping():
            PymooEvaluator().eval(known, self._population)
            self._searcher.tell(infills=self._population)

    @contextmanager
    def _stepping(self) -> Iterator[None]:
        """Run code of pymoo under the search's random numbers, also where it makes a generator without a seed.

        Where there is a guide, all that is drawn is its own, and it measures: nothing may be held meanwhile. Searches
        in other threads, which share pymoo, wait as for the global generators.
        """
        if self._guide is not None:
            yield
            return
        with isolated(_CPU, int(self._rng.integers(2**31))), _seeded(self._rng):
            try:
                yield
            except QExploreError:
                raise
            except Exception as error:
                raise ProblemError(_refusal(self._searcher, self._problem, error)) from error


@contextmanager
def _seeded(rng: np.random.Generator) -> Iterator[None]:
    """Have ``rng`` wherever pymoo's functions make a generator because they were handed none.

    Some of its comparisons are handed none, so that NSGA3 and UNSGA3 went another way in every run.
    """

    def default_rng(seed: Any = None) -> np.random.Generator:
        return rng if seed is None else np.random.default_rng(seed)

    numpy = SimpleNamespace(random=SimpleNamespace(default_rng=default_rng))
    with mock.patch.object(pymoo.util, "np", numpy):
        yield


def require_suitable(algorithm: Algorithm, problem: LayerwiseQuantizationProblem) -> None:
    """Raise where ``algorithm`` cannot search ``problem``; tried out on made-up scores, before anything is measured.

    Raises:
        ProblemError: says why, and what can.
    """
    rng = np.random.default_rng(0)
    trial = PymooProposer(problem, copy.deepcopy(algorithm), 0)
    for _ in range(_TRIED):
        candidates = trial.ask()
        if not len(candidates):
            return
        trial.tell_arrays(
            rng.random((len(candidates), problem.n_obj)), np.zeros((len(candidates), problem.n_ieq_constr))
        )


def _refusal(searcher: Algorithm, problem: LayerwiseQuantizationProblem, error: Exception) -> str:
    name, said = type(searcher).__name__, first_line(error)
    if type(searcher).__module__.startswith("pymoo.algorithms.soo") or "single" in said.lower():
        why = f"it is made for a single objective, and this problem has {problem.n_obj}"
        way = "take one for several, such as NSGA2, SMSEMOA or MOEAD, or qexplore.fit for one point"
    elif "constrain" in said.lower() and problem.n_ieq_constr:
        why = f"it takes no constraints, and this problem has {problem.n_ieq_constr}"
        way = "leave min_accuracy, max_drop and limits out and pick from the front, or take NSGA2"
    elif said == _MEASURES_ITSELF:
        why = "it measures its candidates itself, out of every budget"
        way = "run pymoo.optimize.minimize(problem, algorithm, ...) and take problem.front()"
    elif "termination" in said.lower():
        why = "it has to know its number of generations"
        way = f'give it one, {name}(..., termination=("n_gen", 20))'
    else:
        why = f"it raised {type(error).__name__}: {said}"
        way = "reference directions, if it has any, must have one number an objective; NSGA2 and SMSEMOA need none"
    return f"`algorithm` {name} cannot search this problem: {why}. Instead, {way}"
