"""What counts as progress: the whole front, or one point of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Goal(Protocol):
    """Looks at costs and gains (scores, the higher the better) so that the hypervolume measures what is wanted."""

    def view(self, costs: Array, gains: Array) -> tuple[Array, Array]:
        """``costs [N]`` and ``gains [N, ...]`` as they count."""
        ...

    def reference(self, gain: float, cost: float) -> tuple[float, float]:
        """The reference point that goes with it, given that of the whole front."""
        ...


@dataclass(frozen=True)
class WholeFront:
    """Every trade-off counts."""

    def view(self, costs: Array, gains: Array) -> tuple[Array, Array]:
        """Both as they are."""
        return costs, gains

    def reference(self, gain: float, cost: float) -> tuple[float, float]:
        """As it is."""
        return gain, cost


@dataclass(frozen=True)
class Cheapest:
    """The lowest cost at which the gain reaches ``least``; more gain counts nothing."""

    least: float

    def view(self, costs: Array, gains: Array) -> tuple[Array, Array]:
        """Gain 1 where it is enough, else -1."""
        return costs, np.where(gains >= self.least, 1.0, -1.0)

    def reference(self, gain: float, cost: float) -> tuple[float, float]:
        """No gain."""
        return 0.0, cost


@dataclass(frozen=True)
class MostAccurate:
    """The greatest gain at no more than ``most`` cost; lower costs count nothing.

    Infinite where another cost is limited than the one that is looked at: the search proposes nothing beyond a limit.
    """

    most: float

    def view(self, costs: Array, gains: Array) -> tuple[Array, Array]:
        """Cost 0 within the limit, else beyond the reference."""
        return np.where(costs <= self.most, 0.0, 2.0), gains

    def reference(self, gain: float, cost: float) -> tuple[float, float]:
        """One unit of cost."""
        return gain, 1.0
