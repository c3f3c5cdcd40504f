"""Vectors of widths as users hand them in."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from qexplore.errors import NumBitsError
from qexplore.quant import TensorQuantizer, check_num_bits

DEFAULT_NUM_BITS = 8


def initial_num_bits(init_num_bits: int, quant_desc: Any) -> int:
    """The width to begin with: the argument's or the descriptor's, whichever is not left at the default.

    Raises:
        NumBitsError: both are set, to different widths.
    """
    described = DEFAULT_NUM_BITS if quant_desc is None else quant_desc.num_bits
    if described in (DEFAULT_NUM_BITS, init_num_bits):
        return init_num_bits
    if init_num_bits != DEFAULT_NUM_BITS:
        raise NumBitsError(
            f"`init_num_bits` ({init_num_bits}) and the width of quant_desc ({described}) contradict each other: "
            "leave one of them alone"
        )
    return int(described)


def checked_num_bits(value: Any, quantizers: Mapping[str, TensorQuantizer]) -> list[int]:
    """``value``, in the order of the quantizers or by their names, as one int for each, 0 where it is to be off.

    Raises:
        NumBitsError: not a vector, the wrong length, or a width that a quantizer cannot have.
    """
    value = value.tolist() if isinstance(value, Tensor) else value
    if isinstance(value, Mapping):
        if set(value) != set(quantizers):
            raise NumBitsError(
                f"`num_bits` by name must name the points {', '.join(quantizers)}, got {', '.join(value)}"
            )
        value = [value[name] for name in quantizers]
    if isinstance(value, (str, bytes)) or not hasattr(value, "__len__"):
        raise NumBitsError(f"`num_bits` must be a vector of {len(quantizers)} widths, got {value!r}")
    if len(value) != len(quantizers):
        raise NumBitsError(
            f"`num_bits` must have one width for each of the {len(quantizers)} points ({', '.join(quantizers)}), "
            f"got {len(value)}"
        )
    return [
        0 if _means_off(width) else check_num_bits(width, unsigned=quantizer.unsigned, owner=f"point '{name}'")
        for (name, quantizer), width in zip(quantizers.items(), value, strict=True)
    ]


def _means_off(width: object) -> bool:
    is_int = isinstance(width, numbers.Integral) and not isinstance(width, bool)
    return width is None or (is_int and width == 0)
