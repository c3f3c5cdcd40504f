"""A cost that is known without its model: what each choice adds at each point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qexplore._choices import choice_name
from qexplore.cost.base import Choices, Costs, SeparableCost
from qexplore.cost.reach import one_by_one
from qexplore.errors import ProblemError
from qexplore.model import Candidates


class AdditiveTable(SeparableCost):
    """A sum over points whose parts were looked up before, and equal those of the cost they were taken of.

    Args:
        name: of the cost.
        unit: stands beside it.
        constant: added to every candidate.
        parts: for each of L points what each of its choices, as codes, adds.
    """

    def __init__(self, name: str, unit: str, constant: float, parts: Sequence[Mapping[int, float]]) -> None:
        self.name, self.unit, self.constant = name, unit, constant
        self._codes = [np.array(sorted(row), dtype=np.int64) for row in parts]
        self._parts = [np.array([row[code] for code in sorted(row)], dtype=np.float64) for row in parts]

    @classmethod
    def of(cls, cost: SeparableCost, choices: Choices) -> AdditiveTable:
        """That of ``cost`` where points have no other than these ``choices``, codes by point."""
        rows, point_of_row = one_by_one(choices, [row[0] for row in choices])
        added = cost.parts(rows)[np.arange(len(rows)), point_of_row]
        by_point = np.split(added, np.cumsum([len(row) for row in choices])[:-1])
        parts = [dict(zip(codes, row.tolist(), strict=True)) for codes, row in zip(choices, by_point, strict=True)]
        return cls(cost.name, cost.unit, float(cost.constant), parts)

    @classmethod
    def read(cls, name: str, described: Mapping[str, Any]) -> AdditiveTable:
        """From what `described` gave."""
        parts = [{int(code): float(part) for code, part in row.items()} for row in described["parts"]]
        return cls(name, described["unit"], described["constant"], parts)

    @property
    def described(self) -> dict[str, Any]:
        """All but the name in what a JSON file can hold, to the bit."""
        rows = zip(self._codes, self._parts, strict=True)
        parts = [{str(code): part for code, part in zip(*map(np.ndarray.tolist, row), strict=True)} for row in rows]
        return {"unit": self.unit, "constant": self.constant, "parts": parts}

    def parts(self, candidates: Candidates) -> Costs:
        """What each point adds, shape ``[N, L]``.

        Raises:
            ProblemError: a choice that is not in the table.
        """
        if candidates.shape[1:] != (len(self._codes),):
            raise ProblemError(
                f"the cost '{self.name}' is known for {len(self._codes)} points, got candidates of {candidates.shape}"
            )
        parts = np.empty(candidates.shape)
        for point, (codes, values) in enumerate(zip(self._codes, self._parts, strict=True)):
            places = np.searchsorted(codes, candidates[:, point]).clip(max=len(codes) - 1)
            unknown = np.flatnonzero(codes[places] != candidates[:, point])
            if len(unknown):
                raise ProblemError(
                    f"the cost '{self.name}' is known for {', '.join(map(choice_name, codes.tolist()))} at point "
                    f"{point}, got {choice_name(int(candidates[unknown[0], point]))}"
                )
            parts[:, point] = values[places]
        return parts
