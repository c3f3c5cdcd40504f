"""Vectors of widths as users hand them in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from qexplore.errors import NumBitsError
from qexplore.quant import TensorQuantizer, check_choice

DEFAULT_NUM_BITS = 8


def checked_num_bits(value: Any, quantizers: Mapping[str, TensorQuantizer]) -> list[int]:
    """``value``, in the order of the quantizers or by their names, as one code for each, 0 where it is to be off.

    A point of a front stands for its vector.

    Raises:
        NumBitsError: not a vector, the wrong length, or a width that a quantizer cannot have.
    """
    value = getattr(value, "num_bits", value)  # of a point of a front
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
        check_choice(choice, unsigned=quantizer.min_num_bits == 1, owner=f"point '{name}'")
        for (name, quantizer), choice in zip(quantizers.items(), value, strict=True)
    ]
