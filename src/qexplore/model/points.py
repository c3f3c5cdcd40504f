"""What a quantization point is, and the two names that no module gives."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

PointKind = Literal["input", "activation"]

NumBits = NDArray[np.int64]
"""Widths by point, shape ``[L]``; 0 where a quantizer is off."""

Candidates = NDArray[np.int64]
"""Vectors of widths, shape ``[N, L]``."""


@dataclass(frozen=True)
class QuantizationPoint:
    """A place where a tensor is fake-quantized.

    Attributes:
        name: ``"input"``, or the qualified name of the module whose output is quantized.
        kind: the network's input, or a module's output.
        index: place in the vector ``num_bits``.
        module_type: class name of the module, ``""`` for the input.
        shape: shape of the first quantized tensor of one observed forward, batch included; None before one.
        num_calls: how often one forward passes here; None before an observed forward.
    """

    name: str
    kind: PointKind
    index: int
    module_type: str = ""
    shape: tuple[int, ...] | None = None
    num_calls: int | None = None


def free_name(wanted: str, taken: Iterable[str]) -> str:
    """``wanted``, in parentheses when a module bears that name."""
    return f"({wanted})" if wanted in set(taken) else wanted
