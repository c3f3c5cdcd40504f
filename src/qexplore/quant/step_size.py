"""How gradients pass a quantizer in fine-tuning: to its input, and to its step size where that is learned.

The values are the quantizer's own, bit for bit. The gradients are those of Esser et al., "Learned Step Size
Quantization", 2020 (arXiv 1902.08153), equations 3 and 5, and section 2.2 for their scale.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from qexplore.quant.affine import StraightThrough


class SteppedGradient(torch.autograd.Function):
    """Takes on values that were computed elsewhere, on the grid ``step * k`` with ``k`` from quant_min to quant_max.

    With ``v`` the input and ``q`` its quantized value, the gradient of the input passes between the limits, and that of
    the step is ``(q - v) / step`` within them and ``q / step`` beyond: ``round(v / step) - v / step``, ``quant_min``
    and ``quant_max``. Summed over all values that share the step, times ``factor``.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, quantized: Tensor, low: Tensor, high: Tensor, step: Tensor, factor: float
    ) -> Tensor:
        """``quantized``, of the shape of ``inputs``; the others broadcast."""
        ctx.factor = factor
        ctx.save_for_backward((inputs > low) & (inputs < high), inputs, quantized, step)
        return quantized.clone()  # what follows may write into it, such as ReLU(inplace=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of the input and of the step."""
        inside, inputs, quantized, step = ctx.saved_tensors
        gradient = gradients[0]
        exact = torch.promote_types(inputs.dtype, step.dtype)  # half precision would round or overflow in the sum
        in_steps = torch.where(inside, quantized.to(exact) - inputs, quantized) / step
        of_step = (gradient * in_steps).float().sum_to_size(step.shape) * ctx.factor
        return gradient * inside, None, None, None, of_step, None


class StepSize(nn.Module):
    """The step size of one quantizer while its network is trained: fixed, or a parameter.

    Args:
        step: in the shape of ``amax``; None to learn nothing, which lets gradients pass over the whole range that the
            grid can represent. (pytorch-quantization stops them below ``-amax``, one step above the lowest value: at 2
            bits that leaves out a fourth of the levels.)
        quant_min: smallest integer on the grid, or value of a float format; a number or in the shape of ``step``.
        quant_max: the largest.
        per_sample: whether the first axis of what is quantized counts samples, as in activations.
    """

    step: nn.Parameter | None

    def __init__(
        self, step: Tensor | None, quant_min: Tensor | float, quant_max: Tensor | float, *, per_sample: bool
    ) -> None:
        super().__init__()
        self.step = None if step is None else nn.Parameter(step.detach().clone())
        self.quant_min, self.quant_max = quant_min, quant_max
        self.per_sample = per_sample

    def forward(self, inputs: Tensor, quantized: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """``quantized`` with gradients; ``low`` and ``high`` are the limits of the grid."""
        if self.step is None:
            passed: Tensor = StraightThrough.apply(inputs, quantized.detach(), low, high)
        else:
            passed = SteppedGradient.apply(inputs, quantized.detach(), low, high, self.step, self.factor(inputs))
        return passed

    def factor(self, inputs: Tensor) -> float:
        """``1 / sqrt(N * quant_max)``; N values share a step, counted in one sample where there are several."""
        assert self.step is not None
        sharing = inputs.numel() / self.step.numel()
        if self.per_sample:
            sharing /= inputs.shape[0]
        return 1.0 / math.sqrt(max(sharing, 1.0) * max(float(torch.as_tensor(self.quant_max).max()), 1.0))
