"""Integer grids: the bounds, step and values that a width stands for."""

from __future__ import annotations

import numbers
from dataclasses import dataclass

from qexplore.errors import NumBitsError

MAX_NUM_BITS = 16
"""Widest integer width of a quantizer."""

OFF_BITS = 32
"""What a quantizer that is switched off costs: the tensor stays in 32-bit float."""


def min_num_bits(unsigned: bool) -> int:
    """Narrowest width: 1 where there is no sign, else 2, for one signed bit has no levels beside zero."""
    return 1 if unsigned else 2


def check_num_bits(value: object, *, unsigned: bool, owner: str) -> int:
    """``value`` as an int when a quantizer can have that width.

    Raises:
        NumBitsError: ``value`` is no integer (a bool is none), below `min_num_bits` or above `MAX_NUM_BITS`.
    """
    low = min_num_bits(unsigned)
    width = int(value) if isinstance(value, numbers.Integral) and not isinstance(value, bool) else None
    if width is None or not low <= width <= MAX_NUM_BITS:
        hint = ": one signed bit has no levels beside zero" if width == 1 else ""
        shown = repr(value) if width is None else width
        raise NumBitsError(f"`num_bits` of {owner} must be an int in [{low}, {MAX_NUM_BITS}], got {shown}{hint}")
    return width


@dataclass(frozen=True)
class IntegerGrid:
    """The integers that ``num_bits`` can hold, as pytorch-quantization counts them.

    ``quant_max = 2^(num_bits - 1 + unsigned) - 1``; ``quant_min`` is 0 if unsigned, ``-quant_max`` with a narrow range
    and ``-quant_max - 1`` otherwise.
    """

    num_bits: int
    unsigned: bool = False
    narrow_range: bool = False

    def __post_init__(self) -> None:
        check_num_bits(self.num_bits, unsigned=self.unsigned, owner="an integer grid")

    @property
    def quant_max(self) -> int:
        """Largest integer on the grid."""
        return int(2 ** (self.num_bits - 1 + int(self.unsigned))) - 1

    @property
    def quant_min(self) -> int:
        """Smallest integer on the grid."""
        if self.unsigned:
            return 0
        return -self.quant_max if self.narrow_range else -self.quant_max - 1

    @property
    def num_levels(self) -> int:
        """How many values a tensor can take."""
        return self.quant_max - self.quant_min + 1

    def step(self, amax: float) -> float:
        """Distance between two neighbouring values when the range covers ``amax``: ``amax / quant_max``."""
        return amax / self.quant_max
