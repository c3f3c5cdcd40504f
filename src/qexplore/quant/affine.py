"""Integer grids with a zero point, and the gradient that passes through rounding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qexplore.quant.formats import NOTHING_BELOW


class StraightThrough(torch.autograd.Function):
    """Takes on values that were computed elsewhere; the gradient passes where the input was within the range."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, quantized: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """``quantized``, of the shape of ``x``; ``low`` and ``high`` broadcast."""
        ctx.save_for_backward((x >= low) & (x <= high))
        # What follows may write into it, such as ReLU(inplace=True), which autograd refuses for a view of an argument.
        return quantized.clone() if ctx.needs_input_grad[0] else quantized

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
    """
    levels = float(2**num_bits - 1)
    alive = torch.maximum(-low, high) > NOTHING_BELOW
    scale = torch.where(alive, torch.full_like(high, levels) / (high - low), torch.zeros_like(high))
    zero_point = torch.round(-low * scale)
    return scale, -zero_point, levels - zero_point


def quantize_affine(x: Tensor, num_bits: int, low: Tensor, high: Tensor) -> Tensor:
    """``clamp(round_half_even(x * scale), quant_min, quant_max) / scale`` with `affine_parameters`; float32.

    A range up to 2^-24 gives 0. Gradients pass within the range (straight-through).
    """
    scale, quant_min, quant_max = affine_parameters(num_bits, low, high)
    divisor = torch.where(scale > 0, scale, torch.ones_like(scale))
    quantized = torch.clamp((x.detach() * scale).round_(), quant_min, quant_max).div_(divisor)
    result: Tensor = StraightThrough.apply(x, quantized, low, high)
    return result
