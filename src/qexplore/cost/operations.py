"""Multiply-accumulates: what each operation multiplies, the report of them, and what they cost at given widths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qexplore._choices import OFF_BITS, stored_bits
from qexplore._table import Tabular, text_table
from qexplore.cost.moments import source_bits
from qexplore.model import Candidates
from qexplore.tape import Operation, Sources


@dataclass(frozen=True)
class Operations(Tabular):
    """Multiply-accumulates of one forward, or the mean of several; ``print`` shows them by module.

    Attributes:
        operations: what was counted, in the order of the forward.
        not_counted: operations without a formula that do more than move data, and how often each ran.
        missing: those among them that may multiply tensors, each with the numbers that it gave in all its runs: as many
            multiply-accumulates are missing at least.
    """

    operations: tuple[Operation, ...]
    not_counted: tuple[tuple[str, int], ...]
    missing: tuple[tuple[str, float], ...] = ()

    @property
    def total(self) -> float:
        """All multiply-accumulates that were counted."""
        return sum(operation.macs for operation in self.operations)

    @property
    def by_module(self) -> dict[str, float]:
        """Multiply-accumulates by the module in whose forward they run, all its calls together."""
        macs: dict[str, float] = {}
        for operation in self.operations:
            macs[operation.module] = macs.get(operation.module, 0) + operation.macs
        return macs

    @property
    def num_missing(self) -> float:
        """Multiply-accumulates that are missing from `total` at the least."""
        return sum(least for _, least in self.missing)

    @property
    def gap(self) -> str:
        """A sentence on what is missing from `total`, and how much of it at the least; nothing where nothing is."""
        if not self.missing:
            return ""
        runs = dict(self.not_counted)
        listed = ", ".join(f"{name} x {runs[name]}" for name, _ in self.missing)
        share = self.num_missing / (self.total + self.num_missing)
        return (
            f"there is no formula for {listed}: at least {_shown(self.num_missing)} of "
            f"{_shown(self.total + self.num_missing)} MACs are missing ({share:.2g} of all)"
        )

    def __str__(self) -> str:
        rows: dict[tuple[str, str], list[float]] = {}
        for operation in self.operations:
            rows.setdefault((operation.module, operation.name), []).append(operation.macs)
        cells = [
            (module or "(network)", name, str(len(macs)), _shown(sum(macs))) for (module, name), macs in rows.items()
        ]
        table = text_table(
            ("module", "operation", "runs", "MACs"), [*cells, ("total", "", "", _shown(self.total))], numeric=(2, 3)
        )
        left_out = ", ".join(f"{name} x {runs}" for name, runs in self.not_counted)
        return "\n".join([table, f"not counted: {left_out or 'nothing'}", *([self.gap] if self.missing else [])])


def _shown(macs: float) -> str:
    return f"{macs:,}" if macs == round(macs) else f"{macs:,.1f}"


class Bops:
    """Bit operations of one sample: MACs x bits of the one operand x bits of the other, over all operations.

    An operand that comes from no point has 32 bits. The scale of an MX block is no part of the products, so its share
    of a value's stored bits does not count here.

    Args:
        operations: of one sample.
        idle: names of weights that no operation on data reads.

    Attributes:
        gap: a sentence on operations that could not be counted and on idle weights; empty where there are none.
        missing: what these take at the least, whatever the candidate: their results are at no point.
    """

    name = "bops"
    unit = "bit operations"

    def __init__(self, operations: Operations, idle: Sequence[str] = ()) -> None:
        macs: dict[tuple[Sources, Sources], float] = {}
        for operation in operations.operations:
            macs[operation.operands] = macs.get(operation.operands, 0) + operation.macs
        self._sources = sorted({source for operands in macs for source in operands})
        place = {source: index for index, source in enumerate(self._sources)}
        self._left = np.array([place[left] for left, _ in macs], dtype=np.int64)
        self._right = np.array([place[right] for _, right in macs], dtype=np.int64)
        self._macs = np.array(list(macs.values()), dtype=np.float64)
        no_call = f"no data meets {', '.join(idle)}, whose bits cost nothing here" if idle else ""
        self.gap = "; ".join(filter(None, [operations.gap, no_call]))
        self.missing = float(operations.num_missing * OFF_BITS**2)

    def cost(self, candidates: Candidates) -> NDArray[np.float64]:
        """Costs, shape ``[N]``, of ``candidates``, codes of shape ``[N, L]``."""
        bits = source_bits(np.floor(stored_bits(candidates)), self._sources)
        return np.asarray((bits[:, self._left] * bits[:, self._right]) @ self._macs, dtype=np.float64)
