"""The cost protocol, costs that are sums over points, and costs that users bring."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from qexplore._pickling import require_a_name
from qexplore.errors import ProblemError
from qexplore.model import Candidates

Costs = NDArray[np.float64]
Choices = tuple[tuple[int, ...], ...]
"""Codes that may stand at each point, the narrowest first."""


@runtime_checkable
class Cost(Protocol):
    """A number to keep small that depends on the choices alone."""

    name: str
    unit: str

    def cost(self, candidates: Candidates) -> Costs:
        """Costs, shape ``[N]``, of ``candidates``, codes of shape ``[N, L]``."""
        ...


class SeparableCost(ABC):
    """A sum over points: each adds what its own choice costs, whatever stands at the others."""

    name: str
    unit: str
    constant: float = 0.0

    @abstractmethod
    def parts(self, candidates: Candidates) -> Costs:
        """What each point adds, shape ``[N, L]``."""

    def cost(self, candidates: Candidates) -> Costs:
        """Costs, shape ``[N]``, of ``candidates``, codes of shape ``[N, L]``."""
        # numpy adds up in the order in which numbers lie: equal candidates must cost the same to the last bit.
        parts = np.ascontiguousarray(self.parts(candidates))
        return np.asarray(self.constant + parts.sum(axis=1), dtype=np.float64)


class CheckedCost:
    """A user's own cost, asked with a copy of the candidates and taken at its word only when that can be.

    Args:
        function: ``f(candidates [N, L]) -> [N]``.
        name: stands on axes, in files and in messages.
        unit: stands beside it.
        check: called with the choices of a search before it begins, to refuse those that have no cost.
    """

    def __init__(
        self,
        function: Callable[[Candidates], Any],
        name: str,
        unit: str = "",
        check: Callable[[Choices], None] | None = None,
    ) -> None:
        self.name, self.unit = name, unit
        self._function = function
        self._check = check

    def __getstate__(self) -> dict[str, Any]:
        require_a_name(f"the cost '{self.name}'", self._function, ProblemError)
        return self.__dict__.copy()

    def cost(self, candidates: Candidates) -> Costs:
        """Costs, shape ``[N]``, of ``candidates``, codes of shape ``[N, L]``.

        Raises:
            ProblemError: the function raises, or does not give one finite number a candidate.
        """
        try:
            costs = np.array(self._function(candidates.copy()), dtype=np.float64)
        except ProblemError:
            raise
        except Exception as error:
            raise ProblemError(f"the cost '{self.name}' raised {type(error).__name__}: {error}") from error
        if costs.shape != (len(candidates),):
            raise ProblemError(
                f"the cost '{self.name}' must give one number for each of {len(candidates)} candidates, shape "
                f"({len(candidates)},), got shape {costs.shape}"
            )
        if not np.isfinite(costs).all():
            place = int(np.flatnonzero(~np.isfinite(costs))[0])
            raise ProblemError(
                f"the cost '{self.name}' must be finite, got {costs[place]} for the candidate "
                f"{tuple(candidates[place].tolist())}"
            )
        return costs

    def check(self, choices: Choices) -> None:
        """Let the cost refuse choices, where it can."""
        if self._check is not None:
            self._check(choices)
