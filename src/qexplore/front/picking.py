"""Which row of a front is picked, from plain arrays: `gain` [K], where larger is better, and `costs` [K, C]."""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np
import numpy.typing as npt

from qexplore.errors import FrontError

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

# Rounding leaves about 1e-16 between distances that are equal, and on points that lie exactly on a line.
_DIGITS = 12


def nondominated(minimised: FloatArray) -> npt.NDArray[np.bool_]:
    """Which rows of [K, M] objectives, all to be minimised, no other row beats; of equal rows the first."""
    return np.asarray(moocore.is_nondominated(np.ascontiguousarray(minimised)), dtype=bool)


def num_dominated(minimised: FloatArray, others: FloatArray) -> int:
    """How many rows of ``minimised``, [K, M], some row of ``others``, [J, M], beats."""
    beside = (np.vstack([others, row]) for row in minimised)
    return sum(not moocore.is_nondominated(rows, keep_weakly=True)[-1] for rows in beside)


def row_of(key: str, keys: Sequence[str]) -> int:
    """The place of ``key``; FrontError where it has none."""
    if key not in keys:
        raise FrontError(
            f"Front.find: no point of this front has the key {key!r}. The front is another than the one that the key "
            "was taken from, such as before its search went on. Pick anew, by knee(), cheapest() or most_accurate(), "
            "or set that point by its widths: model.num_bits = {...}, as a report's page shows them."
        )
    return keys.index(key)


def cheapest_row(gain: FloatArray, costs: FloatArray, column: int, names: IntArray) -> int:
    """The one of `names` [K] with the least cost in `column`; of equals the most accurate, then the least of all."""
    return int(names[np.lexsort((*costs.T[::-1], -gain, costs[:, column]))[0]])


def most_accurate_row(gain: FloatArray, costs: FloatArray, names: IntArray) -> int:
    """The one of `names` [K] with the best gain; of equals the cheapest, by the costs in order."""
    return int(names[np.lexsort((*costs.T[::-1], -gain))[0]])


def knee_row(gain: FloatArray, costs: FloatArray) -> int:
    """The row of the knee, see `Front.knee`; at least one row."""
    varied = costs[:, np.ptp(costs, axis=0) > 0]
    if varied.shape[1] < 2:
        return _knee_of_one_cost(gain, varied[:, 0] if varied.size else costs[:, 0])
    return _nearest_to_ideal(np.column_stack([-gain, varied]), costs[:, 0])


def _knee_of_one_cost(gain: FloatArray, cost: FloatArray) -> int:
    first, last = int(np.lexsort((-gain, cost))[0]), int(np.lexsort((cost, -gain))[0])
    spread, gained = cost[last] - cost[first], gain[last] - gain[first]
    if spread <= 0 or gained <= 0:
        return last
    beyond = ((gain - gain[first]) / gained - (cost - cost[first]) / spread).round(_DIGITS)
    rows = np.flatnonzero(beyond == beyond.max())
    return int(rows[cost[rows].argmin()]) if beyond.max() > 0 else last


def _nearest_to_ideal(minimised: FloatArray, first_cost: FloatArray) -> int:
    spread = np.ptp(minimised, axis=0)
    scaled = (minimised - minimised.min(axis=0)) / np.where(spread > 0, spread, 1.0)
    distance = np.linalg.norm(scaled, axis=1).round(_DIGITS)
    return int(np.lexsort((first_cost, distance))[0])
