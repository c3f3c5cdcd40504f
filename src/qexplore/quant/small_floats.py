"""Small float grids: every value of a format, tensors rounded onto it per tensor, and in blocks of 32 (OCP MX)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from qexplore._choices import MX_BLOCK, FloatFormat
from qexplore.quant.affine import StraightThrough
from qexplore.quant.lifting import lift_of, lifted

_EXPONENT_BITS = 0x7F800000
_MANTISSA_LENGTH = 23
_SIGN = 128
"""The sign bit of an encoded value."""
_FLOAT32_BIAS = 127
_LEAST_SCALE_EXPONENT = -127
_LEAST_SCALE_BITS = 0x00400000
"""2^-127 in float32, a subnormal."""


def float_grid(fmt: FloatFormat) -> Tensor:
    """All finite values of a format that are not negative, rising; float32, shape ``[127]`` for E4M3."""
    mantissas = torch.arange(2**fmt.mantissa, dtype=torch.float64)
    exponents = torch.arange(1, 2**fmt.exponent, dtype=torch.float64)[:, None]
    normals = (1 + mantissas / 2**fmt.mantissa) * 2.0 ** (exponents - fmt.bias)
    values = torch.cat([mantissas * fmt.smallest_subnormal, normals.flatten()])
    return values[values <= fmt.largest].float()


def quantize_float(x: Tensor, fmt: FloatFormat, amax: Tensor) -> Tensor:
    """Fake-quantize on a float grid whose largest value stands for ``amax``.

    ``x * (largest / amax)``, rounded half to even onto the grid (subnormals too), saturating, and divided back; in
    float32. NaN stays NaN. Gradients pass where ``|x| <= amax``.

    Args:
        x: any shape; half and bfloat16 come back as they were.
        fmt: per tensor or not, only its grid is looked at.
        amax: broadcasts against ``x``; where it is 0, the result is 0.

    Returns:
        Shape and dtype of ``x``.
    """
    values = x.float()
    limit = amax.detach().to(device=x.device, dtype=torch.float32)
    lift = lift_of(limit)
    scale, divisor = _scale(fmt, limit * lift)
    quantized = _round_onto_grid(lifted(values.detach(), lift) * scale, fmt).div_(divisor).div_(lift)
    result: Tensor = StraightThrough.apply(values, quantized, -limit, limit)
    return result.to(x.dtype)


def encode_floats(x: Tensor, fmt: FloatFormat, amax: Tensor) -> Tensor:
    """One byte a value: the sign in the highest bit, below it the place in `float_grid` of what `quantize_float` gives.

    Args:
        x: any shape, finite; float32.
        fmt: of at most 8 bits, per tensor.
        amax: broadcasts against ``x``.

    Returns:
        uint8, shape of ``x``.
    """
    lift = lift_of(amax.detach().float())
    scaled = _round_onto_grid(lifted(x.detach().float(), lift) * _scale(fmt, amax * lift)[0], fmt)
    places = torch.searchsorted(float_grid(fmt).to(x.device), scaled.abs())
    return (places + _SIGN * torch.signbit(scaled)).to(torch.uint8)


def decode_floats(codes: Tensor, fmt: FloatFormat, amax: Tensor) -> Tensor:
    """What `encode_floats` encoded, bit for bit as `quantize_float` gives it; float32."""
    grid = float_grid(fmt).to(codes.device)
    grid = torch.cat([grid, grid.new_zeros(_SIGN - len(grid))])
    lift = lift_of(amax.detach().float())
    return torch.cat([grid, -grid])[codes.int()] / _scale(fmt, amax * lift)[1] / lift


def _scale(fmt: FloatFormat, amax: Tensor) -> tuple[Tensor, Tensor]:
    """What values are multiplied by, and divided by afterwards; a range of nothing divides by infinity."""
    limit = amax.detach().float()
    alive = limit > 0
    # A Python number divided by a tensor would be multiplied by the reciprocal, which rounds twice.
    scale = torch.full_like(limit, fmt.largest) / torch.where(alive, limit, torch.ones_like(limit))
    # Dividing by infinity gives 0 without hiding a NaN.
    return scale, torch.where(alive, scale, torch.full_like(scale, torch.inf))


def quantize_mx(x: Tensor, fmt: FloatFormat, axis: int | None = None) -> Tensor:
    """Fake-quantize in blocks of 32 that share a power of two (OCP Microscaling Formats v1.0, section 6.3).

    The shared scale is ``2^(floor(log2(max|block|)) - emax)`` with ``emax`` the exponent of the format's largest value,
    clamped to E8M0's range, 2^-127 to 2^127; the elements are rounded half to even and saturate. A shorter last block
    stands alone. NaN stays NaN and has no say in the scale; infinities saturate, their block scaled for the largest
    float32. Gradients pass everywhere.

    Args:
        x: any shape; half and bfloat16 come back as they were.
        fmt: of the elements.
        axis: along which blocks lie; None takes axis 1, the channels, of a tensor with four or more dimensions, and
            the last one otherwise.

    Returns:
        Shape and dtype of ``x``.
    """
    if x.numel() == 0:
        return x
    if x.dim() == 0:
        return quantize_mx(x.reshape(1), fmt).reshape(())
    axis = (1 if x.dim() >= 4 else -1) if axis is None else axis
    values = x.float()
    quantized = _quantize_blocks(values.detach(), fmt, axis % x.dim())
    anywhere = torch.full((), torch.inf, device=x.device)
    result: Tensor = StraightThrough.apply(values, quantized, -anywhere, anywhere)
    return result.to(x.dtype)


def _quantize_blocks(values: Tensor, fmt: FloatFormat, axis: int) -> Tensor:
    """Blocks along ``axis``, which counts from the front."""
    length = values.shape[axis]
    block = min(MX_BLOCK, length)
    missing = -length % block
    if missing:
        values = functional.pad(values, [0, 0] * (values.dim() - 1 - axis) + [0, missing])
    blocks = torch.unflatten(values, axis, (-1, block))
    largest = torch.nan_to_num(blocks.abs(), nan=0.0).amax(axis + 1, keepdim=True)
    scale = _block_scale(largest, fmt)
    quantized = _round_onto_grid(blocks / scale, fmt).mul_(scale).flatten(axis, axis + 1)
    return quantized.narrow(axis, 0, length) if missing else quantized


def _block_scale(largest: Tensor, fmt: FloatFormat) -> Tensor:
    """The shared powers of two; 2^-127, the least, where a block is zero. All emax exceed 0: 2^127 is out of reach."""
    exponent_field = largest.contiguous().view(torch.int32) >> _MANTISSA_LENGTH
    field = exponent_field - _exponent_of(fmt.largest)
    least = field <= _LEAST_SCALE_EXPONENT + _FLOAT32_BIAS
    bits = torch.where(least, torch.full_like(field, _LEAST_SCALE_BITS), field << _MANTISSA_LENGTH)
    return bits.view(torch.float32)


def _exponent_of(value: float) -> int:
    """``floor(log2(value))``, exactly."""
    mantissa_and_exponent = torch.frexp(torch.tensor(value, dtype=torch.float64))
    return int(mantissa_and_exponent.exponent) - 1


def _round_onto_grid(values: Tensor, fmt: FloatFormat) -> Tensor:
    """Half to even, saturating. ``values`` is float32 and overwritten; every step but the rounding is exact."""
    values = values.clamp_(-fmt.largest, fmt.largest)
    powers = (values.view(torch.int32) & _EXPONENT_BITS).view(torch.float32)  # the power of two at or below |value|
    step = powers.clamp_(min=2.0 ** (1 - fmt.bias)).mul_(2.0**-fmt.mantissa)
    return values.div_(step).round_().mul_(step)
