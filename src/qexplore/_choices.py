"""What may stand at a quantization point: an integer width, a small float format, or nothing ("off").

Vectors of choices are integer arrays. A choice's code there is the width itself for an integer, 0 for "off", and for a
float format ``100 * exponent + mantissa``, plus 1000 where it comes in blocks: E4M3 is 403, MXE2M1 is 1201.
"""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qexplore.errors import NumBitsError

MAX_NUM_BITS = 16
"""Widest integer width of a quantizer."""

OFF_BITS = 32
"""What a quantizer that is switched off costs: the tensor stays in 32-bit float."""

MX_BLOCK = 32
"""Values that share a scale in an MX format."""

_MX_SCALE_BITS = 8
_MX_CODE = 1000
_EXPONENT_CODE = 100


@dataclass(frozen=True)
class FloatFormat:
    """A small float format: a sign, ``exponent`` and ``mantissa`` bits.

    Per tensor, with the largest value mapped to ``amax``; or, with ``block=32``, an MX format: every 32 values share a
    power of two (OCP Microscaling Formats v1.0), and there is no ``amax``.

    Raises:
        NumBitsError: a format that is not one of `FLOAT_FORMATS`.
    """

    exponent: int
    mantissa: int
    block: int = 0

    def __post_init__(self) -> None:
        if (self.exponent, self.mantissa) not in _KNOWN or self.block not in (0, MX_BLOCK):
            known = ", ".join(map(str, _KNOWN))
            raise NumBitsError(
                f"a float format must have (exponent, mantissa) among {known}, and block 0 or {MX_BLOCK}, got "
                f"{(self.exponent, self.mantissa)} and block {self.block!r}"
            )

    @property
    def code(self) -> int:
        """How it stands in an array of choices."""
        return _MX_CODE * bool(self.block) + _EXPONENT_CODE * self.exponent + self.mantissa

    @property
    def name(self) -> str:
        """Such as E4M3, or MXE4M3 in blocks."""
        return f"{'MX' if self.block else ''}E{self.exponent}M{self.mantissa}"

    @property
    def stored_bits(self) -> float:
        """Bits a value takes, the share of its block's scale included."""
        return 1 + self.exponent + self.mantissa + (_MX_SCALE_BITS / self.block if self.block else 0.0)

    @property
    def bias(self) -> int:
        """Of the exponent."""
        return int(2 ** (self.exponent - 1)) - 1

    @property
    def largest(self) -> float:
        """Largest finite value; E4M3 and E5M2 give some codes to NaN and infinity, E3M4 too."""
        return _KNOWN[self.exponent, self.mantissa]

    @property
    def smallest_subnormal(self) -> float:
        """Least positive value."""
        return float(2.0 ** (1 - self.bias - self.mantissa))

    def __str__(self) -> str:
        return self.name


_KNOWN = {(4, 3): 448.0, (5, 2): 57344.0, (3, 4): 15.5, (3, 2): 28.0, (2, 3): 7.5, (2, 1): 6.0}

FLOAT_FORMATS = tuple(FloatFormat(*bits, block) for block in (0, MX_BLOCK) for bits in _KNOWN)
"""All that are known, per tensor first."""

FLOAT_CODES = tuple(known.code for known in FLOAT_FORMATS)
"""Their codes."""

_BY_CODE = {known.code: known for known in FLOAT_FORMATS}
_BY_NAME = {known.name: known for known in FLOAT_FORMATS}

Choice = int | FloatFormat
"""A width, 0 for off, or a float format."""


def choice_of(code: int) -> Choice:
    """The choice that ``code`` stands for."""
    return _BY_CODE.get(int(code), int(code))


def choice_code(value: Any) -> int | None:
    """The code of a choice in any form: an int, None or "off", a `FloatFormat`, its name, or ``(exponent, mantissa)``.

    None where ``value`` has none of these forms. Whether a quantizer can have an integer width is not looked at.
    """
    if value is None or (isinstance(value, str) and value.lower() in ("off", "none")):
        return 0
    if isinstance(value, FloatFormat):
        return value.code
    if isinstance(value, str):
        known = _BY_NAME.get(value.upper())
        return None if known is None else known.code
    if isinstance(value, (tuple, list)) and len(value) in (2, 3) and all(map(_is_int, value)):
        wanted = (*value, 0)[:3]
        known = next((one for one in FLOAT_FORMATS if (one.exponent, one.mantissa, one.block) == wanted), None)
        return None if known is None else known.code
    return int(value) if _is_int(value) else None


def choice_name(code: int) -> str:
    """How a choice is shown: "8", "E4M3", "off"."""
    return str(choice_of(code)) if code else "off"


def is_float_code(code: int) -> bool:
    """Whether ``code`` stands for a float format."""
    return int(code) in _BY_CODE


def has_range(code: int) -> bool:
    """Whether a choice maps an ``amax`` onto its grid: integers and formats per tensor; not off, nor MX formats."""
    choice = choice_of(code)
    return not choice.block if isinstance(choice, FloatFormat) else choice > 0


def stored_bits(codes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Bits that a value takes under each choice, in the shape of ``codes``: 32 where it is off.

    Raises:
        NumBitsError: a code that stands for no choice.
    """
    bits = _STORED_BITS[np.clip(codes, -1, len(_STORED_BITS) - 1)]  # the last place is unknown, and so is -1
    if np.isnan(bits).any():
        code = np.asarray(codes)[np.isnan(bits)].flat[0]
        raise NumBitsError(f"a choice must be 0 (off), a width up to {MAX_NUM_BITS} or a float format, got {code}")
    return np.asarray(bits)


def _stored_bits_by_code() -> npt.NDArray[np.float64]:
    """NaN where a code stands for nothing, as at the end."""
    known = {one.code: one.stored_bits for one in FLOAT_FORMATS}
    known |= {width: float(width or OFF_BITS) for width in range(MAX_NUM_BITS + 1)}
    bits = np.full(max(known) + 2, np.nan)
    bits[list(known)] = list(known.values())
    return bits


_STORED_BITS = _stored_bits_by_code()


def _is_int(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
