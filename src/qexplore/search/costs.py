"""What is kept small beside the score, checked against the choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qexplore.cost import BoundTable, CheckedCost, Cost, build_costs
from qexplore.errors import ProblemError
from qexplore.model import QuantizedModel
from qexplore.search.space import SearchSpace


def checked_costs(costs: Any, model: QuantizedModel, space: SearchSpace) -> tuple[Cost, ...]:
    """The costs that were asked for.

    Raises:
        ProblemError: none, an unknown one, or one that does not know a choice of ``space``.
    """
    specs = (costs,) if isinstance(costs, str) or not isinstance(costs, Sequence) else tuple(costs)
    if not specs:
        raise ProblemError("`costs` must hold at least one cost, got none")
    built = build_costs(specs, model)
    require_known(built, space)
    return built


def require_known(costs: Sequence[Cost], space: SearchSpace) -> None:
    """Raise `ProblemError` when a cost does not know a choice of ``space``, or cannot be computed."""
    for cost in costs:
        if isinstance(cost, BoundTable | CheckedCost):
            cost.check(space.choices)
        cost.cost(np.concatenate([space.narrowest, space.widest]))  # a user's own may fail; better now than later
