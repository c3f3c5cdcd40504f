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
from qexplore.quant.device_kernel import ROW, device_kernel
from qexplore.quant.kernel import Kernel, fused_kernel
from qexplore.quant.lifting import LEAST_PLAIN
from qexplore.quant.tensor_quantizer import TensorQuantizer


@dataclass(frozen=True, eq=False)
class FixedQuantizer:
    """`TensorQuantizer`'s arithmetic with width and range settled.

    ``clamp(round_half_even(x * scale), low, high) / divisor``, bit for bit what the quantizer gives: in float32 where
    the tensor is of half precision, rounded back as the quantizer does.
    What this arithmetic does not cover (a range per channel, one of nothing or below 2^-100, more stages) goes through
    a copy of the quantizer itself.
    """

    quantizer: TensorQuantizer
    scale: float = math.nan
    divisor: float = math.nan
    low: float = math.nan
    high: float = math.nan
    clamp: tuple[float, float] | None = None
    divides_in_half: bool = False
    _on: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict, repr=False)
    _behind: dict[tuple[float, float], FixedQuantizer] = field(default_factory=dict, repr=False)
    _whole: dict[torch.dtype, FixedQuantizer] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, quantizer: TensorQuantizer, num_bits: int) -> FixedQuantizer:
        """What ``quantizer`` does at ``num_bits``, a width or a format's code, its range as it is now; switched on.

        Raises:
            NumBitsError: no width of this quantizer.
        """
        # Ranges by choice are replaced, never written into: one table will do for the copies of all choices.
        copied = copy.deepcopy(quantizer, {id(table): table for table in quantizer.ranges.buffers()})
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
        in_half = not copied.overflows_half(amax)
        return cls(copied, scale, scale, grid.quant_min, grid.quant_max, divides_in_half=in_half)

    @property
    def is_plain(self) -> bool:
        """Whether the arithmetic is the formula."""
        return not math.isnan(self.scale)

    def behind_clamp(self, low: float, high: float) -> FixedQuantizer:
        """The quantizer of ``x.clamp(low, high)`` as a quantizer of ``x``.

        Multiplying and rounding never change the order of two numbers, so clamping first, and clamping to the rounded
        limits afterwards, give the same.
        """
        if (low, high) not in self._behind:
            self._behind[low, high] = self._made_behind(low, high)
        return self._behind[low, high]

    def _made_behind(self, low: float, high: float) -> FixedQuantizer:
        made = replace(self, clamp=(low, high), _on={}, _behind={}, _whole={})
        if not self.is_plain:
            return made
        lowest, highest = np.rint(np.array([low, high], dtype=np.float32) * np.float32(self.scale)).tolist()
        return replace(made, low=max(self.low, lowest), high=min(self.high, highest))

    def __call__(self, tensor: Tensor, addend: Tensor | None = None, *, in_place: bool = False) -> Tensor:
        """Quantize ``tensor``, or its sum with ``addend``, into new memory, or with ``in_place`` into ``tensor``."""
        if addend is not None and not _alike(tensor, addend):
            return self(tensor + addend, in_place=True)
        if not self._covers(tensor.dtype):
            tensor = tensor if addend is None else tensor + addend
            quantized: Tensor = self.quantizer(tensor if self.clamp is None else tensor.clamp(*self.clamp))
            return quantized.clone() if quantized is tensor else quantized
        if tensor.dtype in _HALVES:
            return self._through_float(tensor if addend is None else tensor + addend)
        kernel = _kernel_for(tensor)
        if kernel is None:
            row, scale, divisor = self._numbers_on(tensor.device)
            fused = fused_on_device(tensor, addend, row, in_place=in_place)
            if fused is not None:
                return fused
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

    def _covers(self, dtype: torch.dtype) -> bool:
        if dtype == torch.float64:  # which an asymmetric quantizer computes in float32
            return self.is_plain and not self.quantizer.asymmetric
        return self.is_plain and (dtype == torch.float32 or dtype in _HALVES)

    def _through_float(self, tensor: Tensor) -> Tensor:
        """In float32, and back; where float16 holds the scale, whole numbers are rounded to it, and divided in it."""
        if tensor.dtype == torch.bfloat16 or not self.divides_in_half:
            return self(tensor.float(), in_place=True).to(tensor.dtype)
        if torch.float16 not in self._whole:
            self._whole[torch.float16] = replace(self, divisor=1.0, _on={}, _behind={}, _whole={})
        whole = self._whole[torch.float16](tensor.float(), in_place=True)
        _, _, divisor = self._numbers_on(tensor.device)
        return whole.half().div_(divisor.half())

    def parameters_on(self, device: torch.device) -> Tensor:
        """``[scale, divisor, low, high, 1]`` in float32, shape ``[5]``, brought to ``device`` once."""
        return self._numbers_on(device)[0]

    def _numbers_on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """`parameters_on`, and 0-dim scale and divisor in it, which are read from there as upstream's are.

        A Python number would be taken in double precision on some paths, and a GPU multiplies by the reciprocal of a
        divisor that does not lie on it.
        """
        if device not in self._on:
            numbers = [self.scale, self.divisor, self.low, self.high, 1.0]
            together = torch.tensor(numbers, dtype=torch.float32, device=device)
            self._on[device] = together, together[0], together[1]
        return self._on[device]


def quantize_stacked(tensor: Tensor, quantizers: Sequence[FixedQuantizer]) -> Tensor:
    """What each of ``k`` quantizers makes of ``tensor``, shape ``[B, ...]``, one after the other: ``[k * B, ...]``."""
    layout = _layout(tensor)
    plain = all(quantizer.is_plain for quantizer in quantizers) and tensor.dtype == torch.float32
    if not plain or layout is None:
        return torch.cat([quantizer(tensor) for quantizer in quantizers])
    shape = len(quantizers) * tensor.shape[0], *tensor.shape[1:]
    target = torch.empty(shape, dtype=tensor.dtype, device=tensor.device, memory_format=layout)
    kernel = _kernel_for(tensor)
    if kernel is None:
        return _stacked_passes(tensor, quantizers, target)
    source, place, count = tensor.data_ptr(), target.data_ptr(), tensor.numel()
    for quantizer in quantizers:
        kernel(source, 0, place, count, quantizer.scale, quantizer.low, quantizer.high, quantizer.divisor)
        place += count * _FLOAT_BYTES
    return target


def _stacked_passes(tensor: Tensor, quantizers: Sequence[FixedQuantizer], target: Tensor) -> Tensor:
    """Each of torch's passes once for all quantizers; what differs between them is data."""
    rows = torch.stack([quantizer.parameters_on(tensor.device) for quantizer in quantizers])
    kernel = device_kernel(tensor.device)
    if kernel is not None:
        kernel(tensor, None, target, rows)
        return target
    scale, divisor, low, high, _ = rows.view(len(quantizers), ROW, *[1] * tensor.dim()).unbind(1)
    together = target.view(len(quantizers), *tensor.shape)
    torch.mul(tensor, scale, out=together).round_()
    torch.clamp(together, low, high, out=together).div_(divisor)
    return target


def fused_on_device(tensor: Tensor, addend: Tensor | None, row: Tensor, *, in_place: bool) -> Tensor | None:
    """What the row's quantizer makes of ``tensor``, float32, or its sum, in one launch; None where that is not had."""
    kernel = None if tensor.is_cpu else device_kernel(tensor.device)
    if (
        kernel is None
        or tensor.dtype != torch.float32
        or tensor.is_neg()
        or _layout(tensor) is None
        or (addend is not None and not _alike(tensor, addend))
    ):
        return None
    target = tensor if in_place else torch.empty_like(tensor)
    kernel(tensor, addend, target, row)
    return target


_FLOAT_BYTES = 4
_HALVES = (torch.float16, torch.bfloat16)


def _kernel_for(tensor: Tensor) -> Kernel | None:
    """The kernel, where it is at hand and takes tensors laid out like this one."""
    if not tensor.is_cpu or tensor.dtype != torch.float32 or tensor.is_neg() or _layout(tensor) is None:
        return None
    return fused_kernel()


def _layout(tensor: Tensor) -> torch.memory_format | None:
    """How ``tensor`` fills its memory, sample after sample; None where it does not."""
    if tensor.is_contiguous():
        return torch.contiguous_format
    is_channels_last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_channels_last else None


def _alike(tensor: Tensor, addend: Tensor) -> bool:
    """Whether two tensors can be added number by number as they lie in memory."""
    same = tensor.dtype == addend.dtype and tensor.shape == addend.shape and tensor.stride() == addend.stride()
    return same and tensor.device == addend.device and not addend.is_neg()


def _is_plain(quantizer: TensorQuantizer) -> bool:
    """One range for the tensor, known in advance, and nothing but the quantize stage."""
    amax = quantizer.amax
    if amax is None or amax.numel() != 1 or not quantizer.is_plain or isinstance(quantizer.num_bits, FloatFormat):
        return False
    if bool(amax < LEAST_PLAIN):
        return False
    # A sign that was asked for refuses negative values; only one that calibration chose clamps them.
    return quantizer.asymmetric or not quantizer.unsigned or quantizer.auto_sign
