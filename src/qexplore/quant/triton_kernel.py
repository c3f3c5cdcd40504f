"""The kernel of `device_kernel` in Triton's language: what alone imports triton, and is imported on first use."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


@triton.jit  # type: ignore[untyped-decorator]
def _fake_quantize(source, addend, target, rows, count, ADDS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < count
    row = rows + tl.program_id(1) * 5
    scale, divisor, low, high = tl.load(row), tl.load(row + 1), tl.load(row + 2), tl.load(row + 3)
    is_on = tl.load(row + 4) != 0
    x = tl.load(source + offsets, mask=inside)
    if ADDS:
        x = x + tl.load(addend + offsets, mask=inside)
    scaled = x * scale
    # Half to even: from 2^23 on floats are whole, and below that the sum rounds so. The sign is put back bit by bit.
    size = tl.abs(scaled)
    whole = tl.where(size < 8388608.0, (size + 8388608.0) - 8388608.0, size).to(tl.int32, bitcast=True)
    sign = scaled.to(tl.int32, bitcast=True) & -2147483648
    y = tl.where(is_on, (whole | sign).to(tl.float32, bitcast=True), x)
    y = tl.where(y < low, low, y)  # comparisons with NaN are false: NaN stays
    y = tl.where(y > high, high, y)
    y = tl.math.div_rn(y, tl.zeros_like(y) + divisor)
    tl.store(target + tl.program_id(1).to(tl.int64) * count + offsets, y, mask=inside)


def fake_quantize(source: Tensor, addend: Tensor | None, target: Tensor, rows: Tensor) -> None:
    """As `qexplore.quant.device_kernel.DeviceKernel`, on the device that is the current one."""
    count = source.numel()
    if count == 0:
        return
    grid = (triton.cdiv(count, _BLOCK), rows.numel() // 5)
    # No fusion: a product must round before it is rounded to a whole number.
    options: dict[str, Any] = {"ADDS": addend is not None, "BLOCK": _BLOCK, "enable_fp_fusion": False}
    _fake_quantize[grid](source, source if addend is None else addend, target, rows, count, **options)


def drives(device: torch.device) -> bool:
    """Whether Triton compiles for devices of this kind; one that only pretends to be there has no code."""
    active = triton.runtime.driver.active
    named = getattr(active, "get_active_torch_device", None)
    kind = active.get_current_target().backend if named is None else named().type
    return bool(kind == device.type)
