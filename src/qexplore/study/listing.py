"""What a study answers as rows, short where it is printed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qexplore._table import Tabular, short_table
from qexplore.front import choices_cells
from qexplore.study.records import Stored, StoredSnapshot

_ROOM = 40
_LONGEST_REASON = 80


class History(tuple[StoredSnapshot, ...], Tabular):
    """Snapshots of runs, a tuple; ``print`` shows the first and the last."""

    __slots__ = ()

    def __str__(self) -> str:
        header = ("run", "evaluations", "passes", "seconds", "hypervolume", "generation", "points")
        rows = short_table(header, len(self), lambda place: _moment(self[place]), numeric=range(len(header)))
        return titled(len(self), "snapshot", rows)

    def __repr__(self) -> str:
        return str(self)


class Failures(tuple[Stored, ...], Tabular):
    """Evaluations that failed, a tuple; ``print`` shows the first and the last with their reasons."""

    __slots__ = ()

    def __str__(self) -> str:
        rows = short_table(("run", "role", "num_bits", "reason"), len(self), lambda place: _failure(self[place]))
        return titled(len(self), "failure", rows)

    def __repr__(self) -> str:
        return str(self)


def titled(count: int, what: str, table: str) -> str:
    """``table`` under how many of what it holds; "no failures" where there are none."""
    return f"{count:,} {what}{'' if count == 1 else 's'}\n{table}" if count else f"no {what}s"


def widths_cell(candidate: Sequence[int]) -> str:
    """The choices of a candidate, shortened where there are many points."""
    return choices_cells([list(candidate)], _ROOM)[0]


def _moment(one: StoredSnapshot) -> tuple[str, ...]:
    return (
        str(one.run),
        f"{one.num_evaluations:,}",
        f"{one.num_passes:,.1f}",
        f"{one.seconds:,.1f}",
        "-" if math.isnan(one.hypervolume) else f"{one.hypervolume:.4g}",
        str(one.generation),
        str(len(one.candidates)),
    )


def _failure(one: Stored) -> tuple[str, ...]:
    reason = one.evaluation.reason
    short = reason if len(reason) <= _LONGEST_REASON else f"{reason[: _LONGEST_REASON - 1]}…"
    return str(one.run), one.role, widths_cell(one.evaluation.candidate), short
