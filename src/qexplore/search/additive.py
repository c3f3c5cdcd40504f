"""The whole front of an additive model: the least summed sensitivity for every total cost, by dynamic programming."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qexplore._arguments import is_number, is_whole
from qexplore._choices import stored_bits
from qexplore._table import Framed, Rows, text_table
from qexplore.errors import ProblemError
from qexplore.front import choices_cells, cost_text
from qexplore.model import Candidates
from qexplore.search.sensitivity import SensitivityTable

_RESOLUTION = 4096
"""Costs that are no whole numbers, or many, are rounded up to so many steps from the cheapest to the dearest total."""

_SHOWN = 20
_CHOICES_WIDTH = 70


@dataclass(frozen=True, eq=False)
class AdditiveFront(Framed):
    """The non-dominated candidates of an additive model, by rising cost; ``print`` shows them.

    Predictions, not measurements: they say which candidates are worth measuring.

    Attributes:
        num_bits: codes, shape ``[K, L]``.
        cost: summed cost, shape ``[K]``.
        sensitivity: summed sensitivity, shape ``[K]``, falling.
        step: what costs were rounded up to, 0 where none were; a total may then be up to L steps dearer than need be.
    """

    num_bits: Candidates
    cost: NDArray[np.float64]
    sensitivity: NDArray[np.float64]
    step: float

    def __len__(self) -> int:
        return len(self.cost)

    def within(self, max_cost: float) -> tuple[int, ...] | None:
        """The choices of least summed sensitivity at no more than ``max_cost``; None where nothing is that cheap.

        Raises:
            ProblemError: ``max_cost`` is no number.
        """
        if not is_number(max_cost) and max_cost != math.inf:
            raise ProblemError(f"`max_cost` must be a number, in the unit of the front's costs, got {max_cost!r}")
        place = int(np.searchsorted(self.cost, max_cost, side="right")) - 1
        return tuple(self.num_bits[place].tolist()) if place >= 0 else None

    def _frame_rows(self) -> Rows:
        places = range(self.num_bits.shape[1])
        rows = zip(self.cost.tolist(), self.sensitivity.tolist(), self.num_bits.tolist(), strict=True)
        return ["cost", "sensitivity", *(f"num_bits {place}" for place in places)], (
            (*row[:2], *row[2]) for row in rows
        )

    def __str__(self) -> str:
        """About 20 rows of many, the first and the last among them."""
        shown = np.unique(np.linspace(0, len(self) - 1, min(len(self), _SHOWN)).round().astype(np.int64))
        choices = choices_cells(self.num_bits[shown].tolist(), _CHOICES_WIDTH)
        rows = [
            (str(row), cost_text(self.cost[row]), f"{self.sensitivity[row]:.4g}", cell)
            for row, cell in zip(shown.tolist(), choices, strict=True)
        ]
        count = "1 candidate" if len(self) == 1 else f"{len(self)} candidates"
        part = f", {len(shown)} of them shown" if len(shown) < len(self) else ""
        table = text_table(("#", "cost", "sensitivity", "num_bits"), rows, numeric=range(3))
        return f"Additive front of {count}, predicted and not measured{part}\n{table}"


def additive_front(
    table: SensitivityTable, costs: Sequence[Sequence[float]] | None = None, *, resolution: int = _RESOLUTION
) -> AdditiveFront:
    """Candidates of least summed sensitivity for every total cost, the whole front at once.

    Exact where costs are whole numbers whose totals lie at most ``resolution``, or 4096, apart. Others are rounded up
    to ``resolution`` steps between the cheapest and the dearest total, so that no candidate costs more than it seems;
    the costs that are returned are the exact ones.

    Args:
        table: sensitivities; a width whose sensitivity is not finite is never chosen.
        costs: of every choice at every point, in the order of the table; None takes stored bits (total bits).
        resolution: steps for costs that are no whole numbers, or lie further apart.

    Raises:
        ProblemError: ``table`` is none; costs of another shape than the table, negative or not finite; no finite
            sensitivity at a point.

    Source: dynamic programming over points and totals, as for the multiple-choice knapsack problem (Kellerer, Pferschy,
    Pisinger, "Knapsack Problems", 2004, section 11.5).
    """
    if not isinstance(table, SensitivityTable):
        raise ProblemError(
            f"`table` must be a SensitivityTable, got {type(table).__name__}: measure one with sensitivity(problem)"
        )
    exact = _checked_costs(table, costs)
    whole, step = _whole_costs(exact, resolution)
    values = (np.asarray(row, dtype=np.float64) for row in table.values)
    places, least = _solve([np.where(np.isfinite(row), row, np.inf) for row in values], whole)
    columns = range(len(exact))
    num_bits = np.stack([np.array(table.num_bits[point])[places[:, point]] for point in columns], axis=1)
    cost = sum((exact[point][places[:, point]] for point in columns), start=np.zeros(len(places)))
    order = np.argsort(cost, kind="stable")
    keep = order[least[order] < np.minimum.accumulate(np.concatenate([[np.inf], least[order][:-1]]))]
    return AdditiveFront(num_bits[keep].astype(np.int64), cost[keep], least[keep], step)


def _solve(
    values: list[NDArray[np.float64]], costs: list[NDArray[np.int64]]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Choices of each point for every total at which the sum falls, and the sums."""
    offsets = [row.min() for row in costs]  # every total contains them, so they need no place in the tables
    costs = [row - offset for row, offset in zip(costs, offsets, strict=True)]
    dearest = [int(row.max()) for row in costs]
    best = np.full(1 + sum(dearest), np.inf)
    best[0] = 0.0
    taken: list[NDArray[np.int64]] = []
    reach = 0  # largest total that the points so far can have
    for value, cost, most in zip(values, costs, dearest, strict=True):
        before, reach = reach, reach + most
        # sums[w, t]: the best of the points before with what is left of total t once choice w is paid for
        sums = np.full((len(value), reach + 1), np.inf)
        for choice, (worth, price) in enumerate(zip(value.tolist(), cost.tolist(), strict=True)):
            with np.errstate(over="ignore"):  # a sum beyond all numbers is as good as one of infinite sensitivity
                np.add(best[: before + 1], worth, out=sums[choice, price : price + before + 1])
        choices = sums.argmin(axis=0)
        taken.append(choices)
        best[: reach + 1] = sums[choices, np.arange(reach + 1)]
    falls = np.flatnonzero(best < np.minimum.accumulate(np.concatenate([[np.inf], best[:-1]])))
    left = falls.copy()
    columns = []
    for choices, cost in zip(taken[::-1], costs[::-1], strict=True):
        column = choices[left]
        columns.append(column)
        left = left - cost[column]
    return np.stack(columns[::-1], axis=1), best[falls]


def _checked_costs(table: SensitivityTable, costs: Any) -> list[NDArray[np.float64]]:
    rows = [stored_bits(np.array(row)) for row in table.num_bits] if costs is None else costs
    try:
        checked = [np.array(row, dtype=np.float64) for row in rows]
    except (TypeError, ValueError) as error:
        raise ProblemError(f"`costs` must hold one number for every width of every point, got {costs!r}") from error
    shapes, wanted = [row.shape for row in checked], [(len(row),) for row in table.values]
    if shapes != wanted:
        raise ProblemError(f"`costs` must have the shape of the sensitivity table, {wanted}, got {shapes}")
    for name, row, values in zip(table.point_names, checked, table.values, strict=True):
        if not all(0 <= cost < math.inf for cost in row.tolist()):
            raise ProblemError(f"`costs` must be finite and not negative, got {row.tolist()} at '{name}'")
        if not any(map(math.isfinite, values)):
            raise ProblemError(f"the sensitivity of '{name}' is not finite at any width: leave it out, or widen it")
    return checked


def _whole_costs(exact: list[NDArray[np.float64]], resolution: int) -> tuple[list[NDArray[np.int64]], float]:
    if not is_whole(resolution) or resolution < 1:
        raise ProblemError(f"`resolution` must be a positive int, got {resolution!r}")
    spread = sum(float(row.max() - row.min()) for row in exact)
    if all((row == np.rint(row)).all() for row in exact) and spread <= max(resolution, _RESOLUTION):
        return [np.rint(row).astype(np.int64) for row in exact], 0.0
    if spread == 0:  # nothing to choose by: every choice of a point costs the same
        return [np.zeros(len(row), dtype=np.int64) for row in exact], 0.0
    step = spread / resolution
    return [np.ceil((row - row.min()) / step - 1e-9).astype(np.int64) for row in exact], step
