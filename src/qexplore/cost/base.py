"""The cost protocol, and the plain sum of widths."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qexplore.model import Candidates
from qexplore.quant import OFF_BITS


class Cost(Protocol):
    """A number to keep small that depends on the widths alone."""

    name: str
    unit: str

    def cost(self, candidates: Candidates) -> NDArray[np.float64]:
        """Costs, shape ``[N]``, of ``candidates``, shape ``[N, L]``."""
        ...


class TotalBits:
    """Sum of the widths over all points; a quantizer that is off counts the 32 bits of a float."""

    name = "total_bits"
    unit = "bits"

    def cost(self, candidates: Candidates) -> NDArray[np.float64]:
        """Costs, shape ``[N]``, of ``candidates``, shape ``[N, L]``."""
        stored = np.where(candidates == 0, OFF_BITS, candidates)
        return np.asarray(stored.sum(axis=1), dtype=np.float64)
