"""Integer grids with a zero point, and the gradient that passes through rounding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qexplore.quant.lifting import lift_of, lifted


class StraightThrough(torch.autograd.Function):
    """Takes on values that were computed elsewhere; the gradient passes where the input was within the range."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, quantized: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """``quantized``, of the shape of ``x``; ``low`` and ``high`` broadcast."""
        if not ctx.needs_input_grad[0]:
            return quantized
        ctx.save_for_backward((x >= low) & (x <= high))
        # What follows may write into it, such as ReLU(inplace=True), which autograd refuses for a view of an argument.
        return quantized.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """The gradient of ``x``."""
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None


def affine_parameters(num_bits: int, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``(scale, quant_min, quant_max)`` of the ``2^num_bits`` levels from ``low`` to ``high``, zero among them.

    ``scale = (2^num_bits - 1) / (high - low)`` and ``quant_min = -zero_point``, ``zero_point = round(-low * scale)``.

    Args:
        num_bits: at least 1.
        low: at most 0, float32.
        high: at least 0, float32.

    Returns:
        A range of nothing has the scale 0; one below 2^-112 may have a scale that float32 does not hold: infinity.
    """
    levels = float(2**num_bits - 1)
    lift = lift_of(torch.maximum(-low, high))
    low, high = low * lift, high * lift
    scale = torch.where(high > low, torch.full_like(high, levels) / (high - low), torch.zeros_like(high))
    zero_point = torch.round(-low * scale)
    return scale * lift, -zero_point, levels - zero_point


def quantize_affine(x: Tensor, num_bits: int, low: Tensor, high: Tensor) -> Tensor:
    """``clamp(round_half_even(x * scale), quant_min, quant_max) / scale`` with `affine_parameters`; float32.

    A range of nothing gives 0, of infinity too. Gradients pass within the range (straight-through).
    """
    lift = lift_of(torch.maximum(-low, high))
    scale, quant_min, quant_max = affine_parameters(num_bits, low * lift, high * lift)
    alive = scale > 0
    divisor = torch.where(alive, scale, torch.ones_like(scale))
    quantized = (
        torch.clamp((lifted(x.detach(), lift) * divisor).round_(), quant_min * alive, quant_max * alive)
        .div_(divisor)
        .div_(lift)
    )
    result: Tensor = StraightThrough.apply(x, quantized, low, high)
    return result
