"""Several costs as one: a weighted sum, each counted from the cheapest candidate to the dearest."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from qexplore.cost import Cost, marginal_costs
from qexplore.model import Candidates
from qexplore.search.space import SearchSpace

Array = NDArray[np.float64]


class TradeOff:
    """One number for what a candidate costs, under weights that may change: different weights see different fronts.

    A single cost is taken as it is. J. Knowles, "ParEGO", IEEE Transactions on Evolutionary Computation 10, 2006, draws
    new weights for every proposal, as `draw` does.

    Args:
        costs: C of them.
        space: whose cheapest and dearest candidates say what is much.
    """

    def __init__(self, costs: tuple[Cost, ...], space: SearchSpace) -> None:
        self._costs = costs
        self._space = space
        self._weights = np.ones(1)
        self._origin = np.zeros(1)
        if len(costs) > 1:
            ends = np.concatenate([space.narrowest, space.widest])
            low, high = np.sort(np.stack([cost.cost(ends) for cost in costs], axis=1), axis=0)  # wide may be cheap
            self._origin = low
            self._scale = 1.0 / np.where(high > low, high - low, 1.0)
            self._weights = self._scale / len(costs)

    @property
    def weights(self) -> tuple[float, ...]:
        """Those of the costs at present."""
        return tuple(self._weights.tolist())

    def draw(self, rng: np.random.Generator) -> None:
        """Take other weights, all equally likely; one cost keeps its own."""
        if len(self._costs) > 1:
            self._weights = rng.dirichlet(np.ones(len(self._costs))) * self._scale

    def cost(self, candidates: Candidates) -> Array:
        """What ``candidates``, shape ``[N, L]``, cost together, shape ``[N]``."""
        return self.of(np.stack([cost.cost(candidates) for cost in self._costs], axis=1))

    def of(self, costs: Array) -> Array:
        """The same from single costs, shape ``[N, C]``."""
        return np.asarray((costs - self._origin) @ self._weights)

    @functools.cached_property
    def _by_gene(self) -> list[list[Array]]:
        """For each cost what the choices of each gene add, the least 0."""
        return [self._space.by_gene(marginal_costs(cost, self._space.choices)) for cost in self._costs]

    def gene_costs(self) -> list[Array]:
        """What every choice of every gene adds under the present weights, as if costs were sums over points."""
        parts = zip(self._weights.tolist(), self._by_gene, strict=True)
        weighted = [[weight * row for row in rows] for weight, rows in parts]
        return [np.sum(rows, axis=0) for rows in zip(*weighted, strict=True)]
