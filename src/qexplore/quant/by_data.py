"""A quantizer whose width and range are data on the device: work that was recorded once then serves every width."""

from __future__ import annotations

import torch
from torch import Tensor

from qexplore.quant.fixed import FixedQuantizer, fused_on_device

INFINITY = float("inf")


class QuantizerByData:
    """What a `FixedQuantizer` does, or one that is off, as a row of numbers says that can be written anew.

    Args:
        row: shape ``[5]``, float32, on the device: ``scale, divisor, low, high, on``, as `row_of` gives them.
    """

    def __init__(self, row: Tensor) -> None:
        self._row = row

    def __call__(self, tensor: Tensor, addend: Tensor | None = None, *, in_place: bool = False) -> Tensor:
        """Quantize ``tensor``, or its sum with ``addend``, into new memory, or with ``in_place`` into ``tensor``.

        Raises:
            TypeError: not in float32.
        """
        if tensor.dtype != torch.float32:
            raise TypeError(f"a quantizer takes {tensor.dtype}")
        fused = fused_on_device(tensor, addend, self._row, in_place=in_place)
        if fused is not None:
            return fused
        total = tensor if addend is None else tensor + addend
        scale, divisor, low, high, on = self._row.unbind()
        taken = torch.where(on != 0, (total * scale).round_(), total)
        return torch.clamp(taken, low, high).div_(divisor)


def row_of(quantizer: FixedQuantizer | None, clamp: tuple[float, float] | None) -> list[float] | None:
    """The row of a quantizer, or of one that is off behind an operation that clamps; None where a row cannot say it."""
    if quantizer is None:
        low, high = clamp or (-INFINITY, INFINITY)
        return [1.0, 1.0, low, high, 0.0]
    if not quantizer.is_plain:
        return None
    return [quantizer.scale, quantizer.divisor, quantizer.low, quantizer.high, 1.0]
