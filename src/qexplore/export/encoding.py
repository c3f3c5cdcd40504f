"""How the values of a point are written in ONNX: type, scale, zero point, limits; or why they cannot be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from qexplore._choices import FLOAT_FORMATS, FloatFormat, choice_name
from qexplore.quant import LEAST_PLAIN, TensorQuantizer

TYPES_SINCE = {
    "int8": 18,
    "uint8": 18,
    "float8e4m3fn": 19,
    "float8e5m2": 19,
    "int4": 21,
    "uint4": 21,
    "int16": 21,
    "uint16": 21,
}
"""The types that QuantizeLinear can give, each with the opset from which on it does; those below 18 do not count."""

_FLOAT8 = {"E4M3": "float8e4m3fn", "E5M2": "float8e5m2"}
LARGEST_FLOATS = {_FLOAT8[known.name]: known.largest for known in FLOAT_FORMATS if known.name in _FLOAT8}
_INTEGER_SIZES = (4, 8, 16)


@dataclass(frozen=True)
class Unwritable:
    """Why a point has no form in ONNX that onnxruntime runs."""

    reason: str


@dataclass(frozen=True)
class OpsetTooLow(Unwritable):
    """A point that needs a later opset.

    Attributes:
        opset: the first that has what it needs.
    """

    opset: int


@dataclass(frozen=True, eq=False)
class Encoding:
    """What QuantizeLinear and DequantizeLinear are told of a point.

    Attributes:
        type: of the stored values, a key of `TYPES_SINCE`.
        num_bits: width of the grid within that type.
        scale: distance of two integers, or what 1 stands for in a float type; float32, ``[]``, or in the shape of the
            ranges of a weight.
        factor: what the quantizer multiplies by, one over the scale but for the rounding of float32; in its shape.
        zero_point: the integer that stands for 0.
        limits: least and greatest integer of the grid before the zero point is added; None for a float type.
    """

    type: str
    num_bits: int
    scale: NDArray[np.float32]
    factor: NDArray[np.float32]
    zero_point: int = 0
    limits: tuple[int, int] | None = None

    @property
    def type_limits(self) -> tuple[int, int] | None:
        """Least and greatest integer of the type less the zero point; None for a float type."""
        if self.limits is None:
            return None
        size = int(self.type.removeprefix("u").removeprefix("int"))
        least = 0 if self.type.startswith("u") else -(2 ** (size - 1))
        return least - self.zero_point, least + 2**size - 1 - self.zero_point

    @property
    def is_whole_type(self) -> bool:
        """Whether the type holds the grid and nothing else, so that it does the clipping itself."""
        return self.limits == self.type_limits


def encoding_of(quantizer: TensorQuantizer, opset: int) -> Encoding | Unwritable:
    """The encoding of ``quantizer`` at its present choice, which is on and has a range."""
    if not quantizer.is_plain:
        return Unwritable("its quantizer does more than to quantize: it clips, learns or scales its range")
    amax = _amax(quantizer)
    if bool(((amax > 0) & (amax < LEAST_PLAIN)).any()):
        return Unwritable("a range below 2^-100 has a scale that float32 does not hold")
    choice = quantizer.num_bits
    if isinstance(choice, FloatFormat):
        return _float_encoding(quantizer, choice, opset)
    if quantizer.asymmetric:
        return _asymmetric_encoding(quantizer, choice, opset)
    grid = quantizer.grid
    factor = _factor(grid.quant_max, amax)
    limits = (grid.quant_min, grid.quant_max) if bool((factor > 0).any()) else (0, 0)
    return _integers(choice, quantizer.unsigned, factor, 0, limits, opset)


def _float_encoding(quantizer: TensorQuantizer, fmt: FloatFormat, opset: int) -> Encoding | Unwritable:
    kind = _FLOAT8.get(fmt.name)
    if kind is None:
        return Unwritable(f"onnxruntime has no {choice_name(fmt.code)}")
    if opset < TYPES_SINCE[kind]:
        return OpsetTooLow(f"{fmt.name} needs opset {TYPES_SINCE[kind]}", TYPES_SINCE[kind])
    factor = _factor(fmt.largest, _amax(quantizer))
    if not bool((factor > 0).any()):
        return _integers(8, False, factor, 0, (0, 0), opset)
    return Encoding(kind, 8, *_scale_and_factor(factor))


def _asymmetric_encoding(quantizer: TensorQuantizer, num_bits: int, opset: int) -> Encoding | Unwritable:
    factor, quant_min, quant_max = (parameter.detach().cpu() for parameter in quantizer.affine_parameters)
    limits = (int(quant_min), int(quant_max)) if bool(factor > 0) else (0, 0)
    return _integers(num_bits, True, factor, -limits[0], limits, opset)


def _integers(
    num_bits: int, unsigned: bool, factor: torch.Tensor, zero_point: int, limits: tuple[int, int], opset: int
) -> Encoding | Unwritable:
    """The narrowest type of ``opset`` that holds the grid."""
    kinds = [f"{'u' if unsigned else ''}int{size}" for size in _INTEGER_SIZES if size >= num_bits]
    found = next((kind for kind in kinds if TYPES_SINCE[kind] <= opset), None)
    if found is None:
        return OpsetTooLow(f"{num_bits} bits need opset {TYPES_SINCE[kinds[0]]}", TYPES_SINCE[kinds[0]])
    return Encoding(found, num_bits, *_scale_and_factor(factor), zero_point, limits)


def _amax(quantizer: TensorQuantizer) -> torch.Tensor:
    assert quantizer.amax is not None, "checked before"
    return quantizer.amax.detach().cpu()


def _factor(largest: float, amax: torch.Tensor) -> torch.Tensor:
    """What the quantizer multiplies by, ``float32(largest / amax)``; 0 where the range is nothing."""
    is_dead = amax == 0
    factor = torch.full_like(amax, float(largest)) / torch.where(is_dead, torch.ones_like(amax), amax)
    return torch.where(is_dead, torch.zeros_like(factor), factor)


def _scale_and_factor(factor: torch.Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The float32 next to one over the factor, and the factor; both 1 where it is 0."""
    alive = torch.where(factor > 0, factor, torch.ones_like(factor))
    alive = alive.reshape(()) if alive.numel() == 1 else alive
    return (1.0 / alive.double()).float().numpy(), alive.numpy()
