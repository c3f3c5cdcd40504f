"""Fake quantization in one launch on an accelerator, by Triton, which torch brings for some of them.

What a quantizer does is data there: a row ``[scale, divisor, low, high, on]`` in the device's memory, so that work that
was recorded once serves every width. `device_kernel` gives None where Triton cannot be had; then torch's passes run.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qexplore.quant.kernel import SWITCH, agrees_with_torch

ROW = 5
"""Numbers in a row: ``scale, divisor, low, high``, and 1 for a quantizer that is on.

One that is off clamps to ``[low, high]`` and has the divisor 1.
"""

DeviceKernel = Callable[[Tensor, Tensor | None, Tensor, Tensor], None]
"""``kernel(source, addend, target, rows)`` on float32 tensors of one device that fill their memory in the same order.

``rows`` holds ``k`` rows; ``target`` takes what each of them makes of ``source``, or of its sum with ``addend``, one
after the other, and may be ``source`` itself for one row.
"""


@functools.cache
def device_kernel(device: torch.device) -> DeviceKernel | None:
    """The kernel for ``device``; None without Triton, or when its results are not torch's bit for bit."""
    if os.environ.get(SWITCH) == "0" or device.type == "cpu":
        return None
    try:
        from qexplore.quant.triton_kernel import drives  # takes a while, and no CPU needs it

        return checked_kernel(device) if drives(device) else None
    except Exception:  # no Triton, no driver, no compiler, or whatever else goes wrong there
        return None


def checked_kernel(device: torch.device) -> DeviceKernel | None:
    """The kernel, if its results on ``device`` are torch's bit for bit.

    Raises:
        Exception: whatever Triton raises where it cannot be used.
    """
    from qexplore.quant.triton_kernel import fake_quantize  # as above

    module = torch.get_device_module(device)

    def kernel(source: Tensor, addend: Tensor | None, target: Tensor, rows: Tensor) -> None:
        if device.index is None or module.current_device() == device.index:
            fake_quantize(source, addend, target, rows)
        else:
            with module.device(device):
                fake_quantize(source, addend, target, rows)

    def run(x: Tensor, addend: Tensor | None, numbers: Sequence[float]) -> Tensor:
        return _two(kernel, x, addend, [*numbers, 1.0])[0]

    is_right = agrees_with_torch(run, device) and _leaves_alone(kernel, device)
    return kernel if is_right else None


def _two(kernel: DeviceKernel, x: Tensor, addend: Tensor | None, row: list[float]) -> Tensor:
    """What the quantizer of ``row`` and one that is off make of ``x``, or of the sum."""
    rows = torch.tensor([row, [1.0, 1.0, -1.0, float("inf"), 0.0]], device=x.device)
    target = x.new_empty(2, len(x))
    kernel(x, addend, target, rows)
    return target


def _leaves_alone(kernel: DeviceKernel, device: torch.device) -> bool:
    """Whether a quantizer that is off only clamps."""
    x = torch.tensor([0.3, -0.5, 2.5, -7.0, 1e-42, float("inf"), -float("inf")], device=device)
    return torch.equal(_two(kernel, x, None, [1.0] * ROW)[1], x.clamp(min=-1.0))
