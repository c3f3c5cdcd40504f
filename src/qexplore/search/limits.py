"""Upper limits on costs: refused where nothing can keep to them, and told without measuring anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qexplore._arguments import checked_number
from qexplore.cost import Bops, Cost, build_costs, cheapest
from qexplore.errors import ProblemError
from qexplore.model import Candidates, QuantizedModel
from qexplore.search.space import SearchSpace

TOTAL_BITS = "total_bits"


@dataclass(frozen=True, eq=False)
class CostLimits:
    """The most that candidates may cost.

    Attributes:
        costs: what is limited.
        uppers: the most of each, in its unit.
    """

    costs: tuple[Cost, ...]
    uppers: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.costs)

    def excess(self, candidates: Candidates) -> NDArray[np.float64]:
        """By how much each limit is passed, shape ``[N, U]``; at most 0 where it is kept."""
        columns = [cost.cost(candidates) - upper for cost, upper in zip(self.costs, self.uppers, strict=True)]
        return np.stack(columns, axis=1) if columns else np.zeros((len(candidates), 0))

    def are_kept(self, candidates: Candidates) -> NDArray[np.bool_]:
        """Which of ``candidates``, shape ``[N, L]``, keep to all limits."""
        return np.asarray((self.excess(candidates) <= 0).all(axis=1))

    def broken(self, candidates: Candidates) -> NDArray[np.str_]:
        """The names of the limits that each of ``candidates`` breaks, joined by "and"; empty where it keeps all."""
        names = np.array([cost.name for cost in self.costs])
        return np.array([" and ".join(names[row > 0]) for row in self.excess(candidates)], dtype=np.str_)

    @property
    def by_name(self) -> dict[str, float]:
        """The most of each, by the cost's name."""
        return {cost.name: upper for cost, upper in zip(self.costs, self.uppers, strict=True)}

    def require_reachable(self, space: SearchSpace) -> None:
        """Raise when no candidate keeps to a limit, or would if what could not be counted were.

        Raises:
            ProblemError: names the cost, the least that can be reached, and what was not counted.
        """
        for cost, upper in zip(self.costs, self.uppers, strict=True):
            least = float(cost.cost(cheapest(cost, space.choices, tied=space.groups)[None])[0])
            if least > upper:
                amount = f"{least:g} {cost.unit}".rstrip()
                argument = f"max_{cost.name}" if cost.name == TOTAL_BITS else f"the limit of {cost.name}"
                raise ProblemError(
                    f"{argument} ({upper:g}) is below what can be reached: the narrowest candidate has {amount}. "
                    "Raise it, or allow cheaper choices"
                )
            if isinstance(cost, Bops) and least + cost.missing > upper:
                raise ProblemError(
                    f"the limit of {cost.name} ({upper:g}) cannot be held: the narrowest candidate has {least:g}, and "
                    f"what could not be counted takes at least {cost.missing:g} more, for {cost.gap}. Raise it, or "
                    "limit another cost"
                )


def checked_limits(
    limits: Any, max_total_bits: Any, costs: Sequence[Cost], model: QuantizedModel, of_target: Mapping[str, float]
) -> CostLimits:
    """Limits from what the user gave, and those of a target; the tighter one where both limit a cost.

    Raises:
        ProblemError: no mapping from costs to numbers; an unknown cost; both forms of the limit on total bits.
    """
    if limits is not None and not isinstance(limits, Mapping):
        raise ProblemError(f"`limits` must map costs, or their names, to numbers, got {limits!r}")
    given = dict(limits or {})
    if max_total_bits is not None:
        if TOTAL_BITS in given:
            raise ProblemError("give max_total_bits or limits={'total_bits': ...}, not both")
        given[TOTAL_BITS] = max_total_bits
    known = {cost.name: cost for cost in costs}
    uppers: dict[str, float] = {}
    for spec, upper in (*given.items(), *of_target.items()):
        is_known = isinstance(spec, str) and spec in known
        cost = known[spec] if is_known else build_costs([spec], model)[0]
        known.setdefault(cost.name, cost)
        argument = "max_total_bits" if cost.name == TOTAL_BITS else f"the limit of '{cost.name}'"
        uppers[cost.name] = min(checked_number(argument, upper, ProblemError, above=0), uppers.get(cost.name, math.inf))
    return CostLimits(tuple(known[name] for name in uppers), tuple(uppers.values()))
