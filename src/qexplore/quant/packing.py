"""Weights as integers of 2 to 8 bits, stored without gaps: two of 4 bits to a byte."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from qexplore._arguments import checked_int
from qexplore.errors import NumBitsError
from qexplore.quant.calibrators import weight_amax_table
from qexplore.quant.formats import IntegerGrid

PACKED_WIDTHS = range(2, 9)
"""Widths that can be packed."""


def check_packed_width(num_bits: object) -> int:
    """``num_bits`` where integers of that width can be packed.

    Raises:
        NumBitsError: it is no integer from 2 to 8.
    """
    low, high = PACKED_WIDTHS[0], PACKED_WIDTHS[-1]
    return checked_int("`num_bits` of packed weights", num_bits, NumBitsError, low=low, high=high)


def num_packed_bytes(count: int, num_bits: int) -> int:
    """Bytes that ``count`` integers take: ``ceil(count * num_bits / 8)``."""
    return -(-count * num_bits // 8)


def pack(integers: Tensor, num_bits: int) -> Tensor:
    """Signed integers as a row of bits, the first in the lowest bits of the first byte; the tail is padded with zeros.

    Args:
        integers: any shape and integer type, within ``[-2^(num_bits - 1), 2^(num_bits - 1) - 1]``.
        num_bits: 2 to 8.

    Returns:
        uint8 of shape ``[num_packed_bytes(integers.numel(), num_bits)]``.

    Raises:
        NumBitsError: an unknown width, or an integer that it does not hold.
    """
    grid = IntegerGrid(check_packed_width(num_bits))
    if integers.numel() and not (grid.quant_min <= int(integers.min()) and int(integers.max()) <= grid.quant_max):
        raise NumBitsError(
            f"integers packed in {num_bits} bits must lie in [{grid.quant_min}, {grid.quant_max}], got "
            f"{int(integers.min())} to {int(integers.max())}"
        )
    per_block, block_bytes, dtype = _block(num_bits)
    flat = integers.flatten().to(dtype) & (2**num_bits - 1)
    blocks = _padded(flat, per_block).view(-1, per_block)
    words = (blocks << _shifts(per_block, num_bits, blocks)).sum(dim=1, keepdim=True, dtype=dtype)
    stored = (words >> _shifts(block_bytes, 8, words)) & 255
    return stored.flatten()[: num_packed_bytes(integers.numel(), num_bits)].to(torch.uint8)


def unpack(packed: Tensor, num_bits: int, shape: Sequence[int]) -> Tensor:
    """The integers that `pack` was given, int8 of ``shape``."""
    per_block, block_bytes, dtype = _block(num_bits)
    blocks = _padded(packed.to(dtype), block_bytes).view(-1, block_bytes)
    words = (blocks << _shifts(block_bytes, 8, blocks)).sum(dim=1, keepdim=True, dtype=dtype)
    unsigned = (words >> _shifts(per_block, num_bits, words)) & (2**num_bits - 1)
    sign = 2 ** (num_bits - 1)
    integers: Tensor = ((unsigned ^ sign) - sign).flatten()[: math.prod(shape)]
    return integers.to(torch.int8).view(*shape)


def quantize_weight(
    weight: Tensor, num_bits: int, group_size: int | None = None, method: str = "mse"
) -> tuple[Tensor, Tensor]:
    """A weight as signed integers, zero at 0, with one scale per output channel or per group of its inputs.

    Args:
        weight: finite, shape ``[out, in]``.
        num_bits: 2 to 8.
        group_size: how many neighbouring inputs share a scale, the last group what is left; None for all of them.
        method: ``"mse"`` for the range of the least squared error, ``"max"`` for the largest magnitude.

    Returns:
        ``(integers, scales)``, int8 ``[out, in]`` and float32 ``[out, groups]``; a weight is about integer x scale. A
        range of nothing has the scale 0 and integers 0.

    Raises:
        NumBitsError: an unknown width, or ``group_size`` is no positive integer.
    """
    grid = IntegerGrid(check_packed_width(num_bits))
    columns = int(weight.shape[1])
    size = check_group_size(group_size) or columns
    groups = torch.split(weight.detach().float(), size, dim=1)
    amax = [weight_amax_table(group, method, [num_bits])[num_bits] for group in groups]
    scales = torch.stack(amax, dim=1) / grid.quant_max
    spread = spread_scales(scales, columns, group_size)
    steps = weight.detach().float() / torch.where(spread > 0, spread, torch.ones_like(spread))
    integers = steps.round_().clamp_(grid.quant_min, grid.quant_max)
    return torch.where(spread > 0, integers, torch.zeros_like(integers)).to(torch.int8), scales


def check_group_size(group_size: object) -> int | None:
    """``group_size`` where it is None or a positive integer.

    Raises:
        NumBitsError: it is neither.
    """
    if group_size is None:
        return None
    return checked_int(
        "`group_size` of packed weights", group_size, NumBitsError, low=1, hint=": None for all inputs of a channel"
    )


def spread_scales(scales: Tensor, columns: int, group_size: int | None) -> Tensor:
    """``scales`` ``[out, groups]`` as one for every weight, or as one column that broadcasts."""
    return scales if group_size is None else scales.repeat_interleave(group_size, dim=1)[:, :columns]


def _block(num_bits: int) -> tuple[int, int, torch.dtype]:
    """The least number of integers that fill whole bytes, those bytes, and an integer type that holds them all."""
    bits = math.lcm(num_bits, 8)
    return bits // num_bits, bits // 8, torch.int32 if bits < 32 else torch.int64


def _shifts(count: int, num_bits: int, like: Tensor) -> Tensor:
    return torch.arange(count, dtype=like.dtype, device=like.device) * num_bits


def _padded(flat: Tensor, multiple: int) -> Tensor:
    return torch.nn.functional.pad(flat, (0, -len(flat) % multiple))
