"""How a search is run: its algorithm by name, its seed, and when it stops candidates early."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pymoo.core.algorithm import Algorithm

from qexplore._arguments import checked_int, checked_name, checked_switch
from qexplore.errors import ProblemError

GUIDED = ("nsga2", "sms-emoa", "nsga3")
"""pymoo's algorithms with qexplore's first population and offspring: uniform choices and the user's candidates first,
then what a model of everything measured so far finds most promising."""

PLAIN = ("nsga2-plain", "random")
"""Baselines that begin at random and know nothing but scores."""

ALGORITHMS = (*GUIDED, "greedy", *PLAIN)
"""``"greedy"`` goes down from the widest candidate, a bit at a time where the sensitivity table says it costs least."""


JUDGES = ("divergence", "accuracy")
"""Which of two candidates stands where the search set cannot tell them apart: the one whose outputs are nearer to the
float network's, or the one that happens to score better there."""


@dataclass(frozen=True)
class SearchSettings:
    """What a search is run with; the arguments of `qexplore.explore` of the same names.

    Attributes:
        seed: of all that is drawn.
        algorithm: one of `ALGORITHMS`, or an algorithm object of pymoo for several objectives.
        population_size: of the algorithms that have a population, and of what others propose at once.
        racing: stop candidates that are proved not to matter.
        screening: look at a part of a large search set first; part of ``racing``.
        low_fidelity: rank candidates by how far a few of their outputs are from the float network's.
        generation_size: candidates that a generation of the guided algorithms has at least; None is a quarter of
            ``population_size``.
        judge: what decides between candidates that the search set cannot tell apart; one of `JUDGES`.

    Raises:
        ProblemError: names the argument.
    """

    seed: int
    algorithm: Any = "nsga2"
    population_size: int = 40
    racing: bool = True
    screening: bool = True
    low_fidelity: bool = True
    judge: str = "divergence"
    generation_size: int | None = None

    def __post_init__(self) -> None:
        for name, low in (("seed", 0), ("population_size", 2), ("generation_size", 1)):
            value = getattr(self, name)
            if name != "generation_size" or value is not None:  # numpy's ints become ints, which a study can hold
                object.__setattr__(self, name, checked_int(f"`{name}`", value, ProblemError, low=low))
        is_named = isinstance(self.algorithm, str)
        if self.algorithm not in ALGORITHMS if is_named else not isinstance(self.algorithm, Algorithm):
            known = ", ".join(map(repr, ALGORITHMS))
            raise ProblemError(
                f"`algorithm` must be one of {known} or an algorithm object of pymoo, got {self.algorithm!r}"
            )
        checked_name("`judge`", self.judge, JUDGES, ProblemError)
        for name in ("racing", "screening", "low_fidelity"):
            checked_switch(f"`{name}`", getattr(self, name), ProblemError)

    @property
    def is_guided(self) -> bool:
        """Whether a model of everything measured so far says what comes next."""
        return isinstance(self.algorithm, str) and self.algorithm in GUIDED

    @property
    def is_plain(self) -> bool:
        """Whether the algorithm begins with candidates of its own and needs every score."""
        return not isinstance(self.algorithm, str) or self.algorithm in PLAIN

    @property
    def algorithm_name(self) -> str:
        """As given, or the type of an algorithm object."""
        return self.algorithm if isinstance(self.algorithm, str) else type(self.algorithm).__name__
