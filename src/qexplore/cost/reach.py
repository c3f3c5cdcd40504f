"""What choices can cost: what each adds at its point, and the cheapest candidate that can be found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from qexplore.cost.base import Choices, Cost, SeparableCost
from qexplore.model import Candidates, NumBits


def marginal_costs(cost: Cost, choices: Choices) -> list[NDArray[np.float64]]:
    """What each choice of each point costs more than the cheapest there, all other points at their first choice.

    Exact for a cost that is a sum over points; for others an estimate, good enough to propose candidates by.

    Args:
        cost: any.
        choices: codes by point, the narrowest first.

    Returns:
        Per point an array in the order of its choices, the least 0.
    """
    rows, point_of_row = one_by_one(choices, [row[0] for row in choices])
    costs = cost.cost(rows)
    by_point = [costs[point_of_row == point] for point in range(len(choices))]
    return [each - each.min() for each in by_point]


def cheapest(cost: Cost, choices: Choices, *, tied: Iterable[Sequence[int]] = ()) -> NumBits:
    """The cheapest candidate that can be found, shape ``[L]``.

    Exact for a cost that is a sum over points. For others the best of: every point at its first choice, every point at
    its own cheapest, and the uniform candidates; exact where a wider choice never costs less.

    Args:
        cost: any.
        choices: codes by point, the narrowest first.
        tied: groups of points that take the same choice; a group's points have the same choices.
    """
    groups = _all_groups(len(choices), tied)
    parts = _parts(cost, choices)
    separate = np.array([row[0] for row in choices], dtype=np.int64)
    for group in groups:
        place = int(np.argmin(sum(parts[point] for point in group)))
        for point in group:
            separate[point] = choices[point][place]
    if isinstance(cost, SeparableCost):
        return separate
    candidates: Candidates = np.vstack([separate, [row[0] for row in choices], *_uniform(choices)])
    best: NumBits = candidates[int(np.argmin(cost.cost(candidates)))]
    return best


def _parts(cost: Cost, choices: Choices) -> list[NDArray[np.float64]]:
    if not isinstance(cost, SeparableCost):
        return marginal_costs(cost, choices)
    rows, point_of_row = one_by_one(choices, [row[0] for row in choices])
    parts = cost.parts(rows)
    return [parts[point_of_row == point, point] for point in range(len(choices))]


def one_by_one(choices: Choices, others: Sequence[int]) -> tuple[Candidates, NDArray[np.int64]]:
    """Every choice of every point in a candidate of its own, ``others`` elsewhere; and the point that each varies."""
    point_of_row = np.repeat(np.arange(len(choices)), [len(row) for row in choices])
    rows = np.tile(np.array(others, dtype=np.int64), (len(point_of_row), 1))
    rows[np.arange(len(rows)), point_of_row] = [code for row in choices for code in row]
    return rows, point_of_row


def _uniform(choices: Choices) -> list[list[int]]:
    codes = dict.fromkeys(code for row in choices for code in row)
    return [[code if code in row else row[0] for row in choices] for code in codes]


def _all_groups(num_points: int, tied: Iterable[Sequence[int]]) -> list[list[int]]:
    groups = [list(group) for group in tied]
    grouped = {point for group in groups for point in group}
    return [*groups, *([point] for point in range(num_points) if point not in grouped)]
