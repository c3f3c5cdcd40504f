"""Integer grids: the bounds, step and values that a width stands for; and which choices a quantizer can have."""

from __future__ import annotations

from dataclasses import dataclass

from qexplore._arguments import checked_int, is_whole
from qexplore._choices import FLOAT_CODES, FLOAT_FORMATS, MAX_NUM_BITS, choice_code, is_float_code
from qexplore.errors import NumBitsError


def min_num_bits(unsigned: bool) -> int:
    """Narrowest width: 1 where there is no sign, else 2, for one signed bit has no levels beside zero."""
    return 1 if unsigned else 2


def known_widths(unsigned: bool) -> range:
    """Every integer width that a quantizer can have, from the narrowest on."""
    return range(min_num_bits(unsigned), MAX_NUM_BITS + 1)


def known_codes(unsigned: bool) -> tuple[int, ...]:
    """Codes of every choice that a quantizer can have: the widths, then the float formats."""
    return (*known_widths(unsigned), *FLOAT_CODES)


def check_num_bits(value: object, *, unsigned: bool, owner: str) -> int:
    """``value`` as an int when a quantizer can have that width.

    Raises:
        NumBitsError: ``value`` is no integer (a bool is none), below `min_num_bits` or above `MAX_NUM_BITS`.
    """
    low = min_num_bits(unsigned)
    hint = ": one signed bit has no levels beside zero" if is_whole(value) and value == 1 else ""
    return checked_int(f"`num_bits` of {owner}", value, NumBitsError, low=low, high=MAX_NUM_BITS, hint=hint)


def check_choice(value: object, *, unsigned: bool, owner: str) -> int:
    """The code of ``value``, a width or a float format in any form, when a quantizer can have it; 0 for off.

    Raises:
        NumBitsError: no such format, or a width that `check_num_bits` refuses.
    """
    code = choice_code(value)
    if code == 0 or (code is not None and is_float_code(code)):
        return code
    if code is None and (isinstance(value, (tuple, list)) or (isinstance(value, str) and value[:1].isalpha())):
        names = ", ".join(known.name for known in FLOAT_FORMATS)
        raise NumBitsError(
            f"`num_bits` of {owner} must be an int in [{min_num_bits(unsigned)}, {MAX_NUM_BITS}] or a float format "
            f"({names}, or (exponent, mantissa) of one), got {value!r}"
        )
    return check_num_bits(value, unsigned=unsigned, owner=owner)


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
