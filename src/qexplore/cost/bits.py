"""Bits: a width a point, or a width an element."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qexplore._choices import stored_bits
from qexplore.cost.base import Costs, SeparableCost
from qexplore.errors import ProblemError
from qexplore.model import Candidates, QuantizationPoint


class TotalBits(SeparableCost):
    """Sum of the stored bits over all points, each counted once; one that is off counts the 32 bits of a float."""

    name = "total_bits"
    unit = "bits"

    def parts(self, candidates: Candidates) -> Costs:
        """What each point adds, shape ``[N, L]``."""
        return stored_bits(candidates)


class WeightedBits(SeparableCost):
    """Bits of all values at the points: every weight, and every activation of one sample.

    Raises:
        ProblemError: the number of elements at a point is not known yet.
    """

    name = "weighted_bits"
    unit = "bits"

    def __init__(self, points: Sequence[QuantizationPoint]) -> None:
        self._factors = num_elements(points, self.name)

    def parts(self, candidates: Candidates) -> Costs:
        """What each point adds, shape ``[N, L]``."""
        return stored_bits(candidates) * self._factors


class MeanBits(WeightedBits):
    """Mean bits of a value at the points, weights and activations of one sample alike."""

    name = "mean_bits"

    def __init__(self, points: Sequence[QuantizationPoint]) -> None:
        super().__init__(points)
        self._factors = self._factors / max(self._factors.sum(), 1.0)


def num_elements(points: Sequence[QuantizationPoint], cost: str) -> Costs:
    """Values at each point, shape ``[L]``: of a weight, or what passes there for one sample.

    Raises:
        ProblemError: names the ``cost`` and the first point at which no forward was observed.
    """
    for point in points:
        if point.num_elements is None:
            raise not_observed(cost, f"how many values pass at '{point.name}'")
    return np.array([point.num_elements for point in points], dtype=np.float64)


def not_observed(cost: str, what: str) -> ProblemError:
    """The error of a cost that needs an observed forward where there was none."""
    return ProblemError(
        f"the cost '{cost}' must know {what}, but no forward was observed yet: call model.calibrate(loader) or "
        "model.describe(example_input) first"
    )
