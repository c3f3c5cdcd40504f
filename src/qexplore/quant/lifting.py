"""Ranges so small that the arithmetic of float32 needs them, and what lies in them, larger by a power of two."""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_OF_UPSTREAM = 2.0**-24
"""pytorch-quantization takes ranges up to this for nothing and gives 0."""
LEAST_PLAIN = 2.0**-100
"""The scale and the step of every width and format are normal numbers of float32 from this range on."""
_LIFT = 2.0**126
"""Lifts the least subnormal number above `LEAST_OF_UPSTREAM`; what overflows by it is beyond the range either way."""


def lift_of(amax: Tensor, least: float = LEAST_PLAIN) -> Tensor:
    """What values and ranges are to be multiplied by, and results divided by: 1, or 2^126 for ranges up to ``least``.

    Multiplying by a power of two rounds nothing. A range of nothing stays.

    Args:
        amax: at least 0, float32.
        least: of the ranges that need no lift.
    """
    is_small = (amax > 0) & (amax <= least)
    return torch.where(is_small, torch.full_like(amax, _LIFT), torch.ones_like(amax))


def lifted(values: Tensor, lift: Tensor) -> Tensor:
    """``values * lift``; where nothing is to be lifted, ``values`` themselves."""
    return values if bool((lift == 1).all()) else values * lift
