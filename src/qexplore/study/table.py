"""Evaluations of a study as arrays and as a pandas frame."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qexplore._choices import choice_name, is_float_code
from qexplore._optional import import_optional
from qexplore._table import Tabular, short_table
from qexplore.front import score_text
from qexplore.study.listing import titled, widths_cell
from qexplore.study.records import Columns


@dataclass(frozen=True, eq=False, repr=False)
class EvaluationTable(Columns, Tabular):
    """Evaluations in the order they were written, as read-only arrays; NaN where a number is not known.

    ``print`` shows the first and the last.

    Attributes:
        candidates: codes, shape ``[N, L]``: widths, 0 is off, 403 is E4M3.
        run: ids of the runs that measured them, shape ``[N]``.
        state: ``"complete"``, ``"stopped"`` or ``"failed"``, shape ``[N]``.
        score: shape ``[N]``.
        interval: 95 % interval of the score, shape ``[N, 2]``.
        bound: what the score of a stopped candidate cannot beat, shape ``[N]``.
        divergence: from the float network's outputs, shape ``[N]``.
        num_samples: samples run, shape ``[N]``.
        seconds: time spent, shape ``[N]``.
        at: seconds since the run began, shape ``[N]``.
        point_names: names of the L points.
    """

    point_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                value.flags.writeable = False

    def __str__(self) -> str:
        header = ("run", "state", "score", "bound", "divergence", "samples", "seconds", "at", "num_bits")
        return titled(len(self), "evaluation", short_table(header, len(self), self._cells, numeric=(0, *range(2, 8))))

    def __repr__(self) -> str:
        return str(self)

    def _cells(self, row: int) -> tuple[str, ...]:
        numbers = (self.score[row], self.bound[row], self.divergence[row])
        return (
            str(self.run[row]),
            str(self.state[row]),
            *("-" if np.isnan(number) else score_text(number) for number in numbers),
            f"{self.num_samples[row]:,}",
            f"{self.seconds[row]:.3g}",
            f"{self.at[row]:,.1f}",
            widths_cell(self.candidates[row].tolist()),
        )

    def to_frame(self) -> Any:
        """A pandas DataFrame of N rows: what is known of each, then a column for each point by its name.

        Choices are whole numbers where a point has widths only, and names such as "E4M3" and "off" where it has others.
        A point of the name of another column gets " (point)" behind it. Needs the extra ``frames``.

        Raises:
            MissingPackageError: pandas is not installed.
        """
        pandas = import_optional("pandas", extra="frames", purpose="A frame of evaluations")
        plain = {name: getattr(self, name) for name in ("run", "state", "score", "bound", "divergence")}
        plain |= {"score_low": self.interval[:, 0], "score_high": self.interval[:, 1]}
        plain |= {name: getattr(self, name) for name in ("num_samples", "seconds", "at")}
        points: dict[str, Any] = {}
        for name, codes in zip(self.point_names, self.candidates.T, strict=True):
            points[f"{name} (point)" if name in plain else name] = _choices(codes)
        return pandas.DataFrame(plain | points)


def _choices(codes: NDArray[np.int64]) -> Any:
    if all(code and not is_float_code(code) for code in np.unique(codes).tolist()):
        return codes
    return [choice_name(code) for code in codes.tolist()]
