"""Upper limits on costs: refused where nothing can keep to them, and told without measuring anything."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qexplore.cost import Cost, build_costs, cheapest
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

    def of(self, name: str) -> float | None:
        """The limit of the cost with this name; None where it has none."""
        return next((upper for cost, upper in zip(self.costs, self.uppers, strict=True) if cost.name == name), None)

    def require_reachable(self, space: SearchSpace) -> None:
        """Raise when no candidate keeps to a limit.

        Raises:
            ProblemError: names the cost and the least that can be reached.
        """
        for cost, upper in zip(self.costs, self.uppers, strict=True):
            least = float(cost.cost(cheapest(cost, space.choices, tied=space.groups)[None])[0])
            if least > upper:
                argument = f"max_{cost.name}" if cost.name == TOTAL_BITS else f"the limit of {cost.name}"
                raise ProblemError(
                    f"{argument} ({upper:g}) is below what can be reached: the narrowest candidate has {least:g} "
                    f"{cost.unit}. Raise it, or allow cheaper choices"
                )


def checked_limits(
    limits: Any, max_total_bits: Any, costs: Sequence[Cost], model: QuantizedModel, of_target: Mapping[str, float]
) -> CostLimits:
    """Limits from what the user gave, and those of a target.

    Raises:
        ProblemError: no mapping from names to numbers; an unknown cost; both forms of the limit on total bits.
    """
    if limits is not None and not isinstance(limits, Mapping):
        raise ProblemError(f"`limits` must map names of costs to numbers, got {limits!r}")
    given = dict(limits or {})
    if max_total_bits is not None:
        if TOTAL_BITS in given:
            raise ProblemError("give max_total_bits or limits={'total_bits': ...}, not both")
        given[TOTAL_BITS] = max_total_bits
    for name, upper in given.items():
        is_number = isinstance(upper, numbers.Real) and not isinstance(upper, bool)
        if not is_number or not 0 < float(upper) < math.inf:
            argument = "max_total_bits" if name == TOTAL_BITS else f"the limit of '{name}'"
            raise ProblemError(f"{argument} must be a positive number, got {upper!r}")
    together = {name: min(upper, given.get(name, math.inf)) for name, upper in of_target.items()} | {
        name: min(float(upper), of_target.get(name, math.inf)) for name, upper in given.items()
    }
    known = {cost.name: cost for cost in costs}
    built = {cost.name: cost for cost in build_costs([name for name in together if name not in known], model)}
    return CostLimits(tuple((known | built)[name] for name in together), tuple(map(float, together.values())))
