"""A look-up table of what a choice costs at a point, measured elsewhere: latency, energy."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qexplore._choices import choice_code, choice_name
from qexplore._table import Tabular, text_table
from qexplore.cost.base import Choices, Costs, SeparableCost
from qexplore.errors import ProblemError
from qexplore.model import Candidates

_COLUMNS = ("point", "num_bits", "cost")


class CostTable(Tabular):
    """Costs by point and choice, summed over points; ``print`` shows them.

    Args:
        costs: ``{(point, choice): cost}``; a choice is a width, a format or its name, 0 or "off".
        name: stands on axes, in files and in messages.
        unit: stands beside it, such as "ms".

    Raises:
        ProblemError: nothing in it, a choice that is none, a cost that is negative or not finite, or the same point and
            choice twice.
    """

    def __init__(self, costs: Mapping[tuple[str, Any], float], *, name: str = "table", unit: str = "") -> None:
        self.name, self.unit = name, unit
        self.costs = _checked(name, ((f"row {key!r}", *key, cost) for key, cost in costs.items()))

    def __str__(self) -> str:
        codes = sorted({code for _, code in self.costs})
        header = ["point", *map(choice_name, codes)]
        rows = [
            [point, *(f"{self.costs[point, code]:.6g}" if (point, code) in self.costs else "-" for code in codes)]
            for point in dict.fromkeys(point for point, _ in self.costs)
        ]
        unit = f" ({self.unit})" if self.unit else ""
        return f"{self.name}{unit} by point and choice\n{text_table(header, rows, numeric=range(1, len(header)))}"

    @classmethod
    def from_csv(cls, path: str | Path, *, name: str | None = None, unit: str = "") -> CostTable:
        """The table in a CSV file with the columns ``point``, ``num_bits`` and ``cost``; others are passed over.

        Args:
            path: of the file; choices stand in it as "8", "E4M3" or "off".
            name: of the cost; None takes the file's name without its ending.
            unit: of the cost, such as "ms".

        Raises:
            ProblemError: a file that cannot be read, a column that is missing, or what the class itself refuses.
        """
        path = Path(path)
        name = path.stem if name is None else name
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
                if missing:
                    raise ProblemError(
                        f"the cost table {path} must have the columns {', '.join(_COLUMNS)}, got "
                        f"{', '.join(reader.fieldnames or ()) or 'none'}"
                    )
                rows = [(f"line {reader.line_num}", row["point"], row["num_bits"], row["cost"]) for row in reader]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ProblemError(f"the cost table {path} cannot be read: {error}") from error
        return cls(_checked(name, rows), name=name, unit=unit)

    def bound_to(self, point_names: Sequence[str]) -> BoundTable:
        """The cost of vectors whose points are ``point_names``.

        Raises:
            ProblemError: rows for points that are not among them.
        """
        unknown = list(dict.fromkeys(point for point, _ in self.costs if point not in point_names))
        if unknown:
            raise ProblemError(
                f"the cost table '{self.name}' has rows for points that the model lacks: {_listed(unknown)}. Its "
                f"points are {_listed(point_names)}"
            )
        return BoundTable(self, point_names)


class BoundTable(SeparableCost):
    """A `CostTable` for the points of one model."""

    def __init__(self, table: CostTable, point_names: Sequence[str]) -> None:
        self.name, self.unit = table.name, table.unit
        self._point_names = tuple(point_names)
        place = {point: index for index, point in enumerate(point_names)}
        self._by_point: list[dict[int, float]] = [{} for _ in point_names]
        for (point, code), cost in table.costs.items():
            self._by_point[place[point]][code] = cost

    def parts(self, candidates: Candidates) -> Costs:
        """What each point adds, shape ``[N, L]``.

        Raises:
            ProblemError: a candidate takes a choice that has no row.
        """
        parts = np.full(candidates.shape, math.nan)
        for column, known in enumerate(self._by_point):
            for code, cost in known.items():
                parts[candidates[:, column] == code, column] = cost
        if np.isnan(parts).any():
            self.check(tuple(tuple(np.unique(column).tolist()) for column in candidates.T))
        return parts

    def check(self, choices: Choices) -> None:
        """Refuse choices, codes by point, that the table has no rows for.

        Raises:
            ProblemError: lists what is missing.
        """
        missing = [
            f"({name}, {choice_name(code)})"
            for name, known, row in zip(self._point_names, self._by_point, choices, strict=True)
            for code in row
            if code not in known
        ]
        if missing:
            raise ProblemError(
                f"the cost table '{self.name}' must have a row for every choice that a point may take, but these are "
                f"missing: {_listed(missing)}. Add rows, or narrow the choices"
            )


def _checked(name: str, rows: Iterable[tuple[str, Any, Any, Any]]) -> dict[tuple[str, int], float]:
    costs: dict[tuple[str, int], float] = {}
    for where, point, choice, value in rows:
        code = _code(choice)
        if code is None:
            raise ProblemError(
                f"`num_bits` in {where} of the cost table '{name}' must be a width, a float format or \"off\", got "
                f"{choice!r}"
            )
        cost = _number(value)
        if not 0 <= cost < math.inf:
            raise ProblemError(
                f"costs must be finite and not negative, got {value!r} for ({point}, {choice_name(code)}) in {where} "
                f"of the cost table '{name}'"
            )
        if (point, code) in costs:
            raise ProblemError(
                f"the cost table '{name}' must have one row for each point and choice, got a second one for ({point}, "
                f"{choice_name(code)}) in {where}"
            )
        costs[point, code] = cost
    if not costs:
        raise ProblemError(f"the cost table '{name}' must have rows, got none")
    return costs


def _code(choice: Any) -> int | None:
    """Of a choice in any form, or of its name in a file."""
    text = choice.strip() if isinstance(choice, str) else choice
    if isinstance(text, str) and text.isdigit():
        text = int(text)
    code = choice_code(text)
    return None if code is None or code < 0 else code


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _listed(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
