"""How sure the scores of several evaluations are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qexplore.evaluation import Evaluation


def intervals_of(evaluations: Sequence[Evaluation]) -> NDArray[np.float64] | None:
    """Shape ``[N, 2]``, NaN where one is unknown; None where all are, as for metrics of a whole set."""
    if not any(evaluation.interval for evaluation in evaluations):
        return None
    return np.array([evaluation.interval or (math.nan, math.nan) for evaluation in evaluations])
