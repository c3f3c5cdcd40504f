"""How many bytes are alive at each moment of a forward, as a function of the widths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qexplore.tape import Sources

Floats = NDArray[np.float64]
_FLOAT_BITS = 32.0


def source_bits(bits: Floats, sources: Sequence[Sources]) -> Floats:
    """The widest of each source's points, shape ``[N, S]``, from bits by point, shape ``[N, L]``; 32 where none."""
    columns = [bits[:, list(source)].max(axis=1) if source else np.full(len(bits), _FLOAT_BITS) for source in sources]
    return np.stack(columns, axis=1) if columns else np.empty((len(bits), 0))


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of a forward that may be the one with most bytes alive.

    Attributes:
        sources: where the values come from that have other widths in other candidates.
        bytes_per_bit: bytes alive of each source when it has one bit a value, shape ``[T, S]``.
        constant: bytes alive of all other values, in their own dtypes, shape ``[T]``.
    """

    sources: tuple[Sources, ...]
    bytes_per_bit: Floats
    constant: Floats

    @classmethod
    def of(cls, alive: Iterable[Sequence[tuple[Sources, float, float]]]) -> Moments:
        """From the values alive at each moment: where each comes from, its number of elements, and its own bytes."""
        moments = [list(values) for values in alive]
        sources = tuple(sorted({source for values in moments for source, _, _ in values if source}))
        column = {source: place for place, source in enumerate(sources)}
        table = np.zeros((len(moments), len(sources) + 1))
        for row, values in zip(table, moments, strict=True):
            for source, elements, own_bytes in values:
                if source:
                    row[column[source]] += elements / 8
                else:
                    row[-1] += own_bytes
        kept = _undominated(table)
        return cls(sources, kept[:, :-1], kept[:, -1])

    def peak(self, bits: Floats) -> Floats:
        """Most bytes alive at once, shape ``[N]``, from bits by point, shape ``[N, L]``."""
        widths = source_bits(bits, self.sources)
        peak = np.zeros(len(bits))
        for row, constant in zip(self.bytes_per_bit, self.constant, strict=True):  # few; keeps memory at N x S
            np.maximum(peak, widths @ row + constant, out=peak)
        return peak


def _undominated(table: Floats) -> Floats:
    """Rows that no other row reaches or passes in every column: no widths can make another row the peak."""
    rows = np.unique(table, axis=0)
    kept = np.empty((0, table.shape[1]))
    for row in rows[np.argsort(-rows.sum(axis=1), kind="stable")]:
        if not (kept >= row).all(axis=1).any():
            kept = np.vstack([kept, row])
    return kept
