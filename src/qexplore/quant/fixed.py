"""What a quantizer does at one width, as a function that no longer changes: for evaluating many widths at once."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from qexplore._choices import FloatFormat, choice_of
from qexplore.quant.kernel import Kernel, fused_kernel
from qexplore.quant.lifting import LEAST_PLAIN
from qexplore.quant.tensor_quantizer import TensorQuantizer


@dataclass(frozen=True, eq=False)
class FixedQuantizer:
    """`TensorQuantizer`'s arithmetic with width and range settled.

    ``clamp(round_half_even(x * scale), low, high) / divisor``, bit for bit what the quantizer gives.
    What this arithmetic does not cover (a range per channel, one of nothing or below 2^-100, half precision, more
    stages) goes through a copy of the quantizer itself.
    """

    quantizer: TensorQuantizer
    scale: float = math.nan
    divisor: float = math.nan
    low: float = math.nan
    high: float = math.nan
    clamp: tuple[float, float] | None = None
    _scalars: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, quantizer: TensorQuantizer, num_bits: int) -> FixedQuantizer:
        """What ``quantizer`` does at ``num_bits``, a width or a format's code, its range as it is now; switched on.

        Raises:
            NumBitsError: no width of this quantizer.
        """
        copied = copy.deepcopy(quantizer)
        copied.enable()  # the quantizer may be off just now
        copied.num_bits = choice_of(num_bits)
        if not _is_plain(copied):
            return cls(copied)
        if copied.asymmetric:
            scale, low, high = (float(parameter) for parameter in copied.affine_parameters)
            return cls(copied, scale, scale, low, high)
        grid = copied.grid
        amax = copied.amax
        assert amax is not None
        scale = float(torch.tensor(float(grid.quant_max)) / amax.detach().cpu().reshape(()))
        return cls(copied, scale, scale, grid.quant_min, grid.quant_max)

    @property
    def is_plain(self) -> bool:
        """Whether the arithmetic is the formula."""
        return not math.isnan(self.scale)

    def behind_clamp(self, low: float, high: float) -> FixedQuantizer:
        """The quantizer of ``x.clamp(low, high)`` as a quantizer of ``x``.

        Multiplying and rounding never change the order of two numbers, so clamping first, and clamping to the rounded
        limits afterwards, give the same.
        """
        if not self.is_plain:
            return replace(self, clamp=(low, high))
        lowest, highest = np.rint(np.array([low, high], dtype=np.float32) * np.float32(self.scale)).tolist()
        return replace(self, low=max(self.low, lowest), high=min(self.high, highest), clamp=(low, high))

    def __call__(self, tensor: Tensor, addend: Tensor | None = None, *, in_place: bool = False) -> Tensor:
        """Quantize ``tensor``, or its sum with ``addend``, into new memory, or with ``in_place`` into ``tensor``."""
        if addend is not None and not _alike(tensor, addend):
            return self(tensor + addend, in_place=True)
        if not self.is_plain or tensor.dtype != torch.float32:
            tensor = tensor if addend is None else tensor + addend
            quantized: Tensor = self.quantizer(tensor if self.clamp is None else tensor.clamp(*self.clamp))
            return quantized.clone() if quantized is tensor else quantized
        kernel = _kernel_for(tensor)
        if kernel is None:
            scale, divisor = self._scalars_on(tensor.device)
            total = tensor if addend is None else tensor + addend
            scaled = total.mul_(scale) if in_place or addend is not None else total * scale
            return scaled.round_().clamp_(self.low, self.high).div_(divisor)
        target = tensor if in_place else torch.empty_like(tensor)
        other = 0 if addend is None else addend.data_ptr()
        kernel(
            tensor.data_ptr(),
            other,
            target.data_ptr(),
            tensor.numel(),
            self.scale,
            self.low,
            self.high,
            self.divisor,
        )
        return target

    def _scalars_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Scale and divisor as 0-dim tensors on ``device``, as upstream has them.

        A Python number would be taken in double precision on some paths, and a GPU multiplies by the reciprocal of a
        divisor that does not lie on it.
        """
        if device not in self._scalars:
            self._scalars[device] = (
                torch.tensor(self.scale, device=device),
                torch.tensor(self.divisor, device=device),
            )
        return self._scalars[device]


def quantize_stacked(tensor: Tensor, quantizers: Sequence[FixedQuantizer]) -> Tensor:
    """What each of ``k`` quantizers makes of ``tensor``, shape ``[B, ...]``, one after the other: ``[k * B, ...]``."""
    kernel = _kernel_for(tensor)
    plain = all(quantizer.is_plain for quantizer in quantizers) and tensor.dtype == torch.float32
    if kernel is None or not plain or not tensor.is_contiguous():
        return torch.cat([quantizer(tensor) for quantizer in quantizers])
    target = tensor.new_empty((len(quantizers) * tensor.shape[0], *tensor.shape[1:]))
    source, place, count = tensor.data_ptr(), target.data_ptr(), tensor.numel()
    for quantizer in quantizers:
        kernel(source, 0, place, count, quantizer.scale, quantizer.low, quantizer.high, quantizer.divisor)
        place += count * _FLOAT_BYTES
    return target


_FLOAT_BYTES = 4


def _kernel_for(tensor: Tensor) -> Kernel | None:
    """The kernel, where it is at hand and takes tensors laid out like this one."""
    is_plain = tensor.is_cpu and not tensor.is_neg() and (tensor.is_contiguous() or _is_channels_last(tensor))
    if not is_plain:
        return None
    return fused_kernel()


def _alike(tensor: Tensor, addend: Tensor) -> bool:
    """Whether two tensors can be added number by number as they lie in memory."""
    same = tensor.dtype == addend.dtype and tensor.shape == addend.shape and tensor.stride() == addend.stride()
    return same and tensor.device == addend.device and not addend.is_neg()


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)


def _is_plain(quantizer: TensorQuantizer) -> bool:
    """One range for the tensor, known in advance, and nothing but the quantize stage."""
    amax = quantizer.amax
    if amax is None or amax.numel() != 1 or not quantizer.is_plain or isinstance(quantizer.num_bits, FloatFormat):
        return False
    if bool(amax < LEAST_PLAIN):
        return False
    # A sign that was asked for refuses negative values; only one that calibration chose clamps them.
    return quantizer.asymmetric or not quantizer.unsigned or quantizer.auto_sign
