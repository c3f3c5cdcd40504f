"""What every point of a model must be for TensorRT, and a copy of the model that is so.

TensorRT has int8 for activations and weights, float8 E4M3 for both, and int4 for weights of matrix products in blocks;
all signed and without a zero point. `qexplore.export.checker` holds the rules.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from qexplore._choices import FloatFormat, choice_name
from qexplore._table import Tabular, text_table
from qexplore.errors import ExportError
from qexplore.export.tensorrt_numbers import INT4_BLOCKS
from qexplore.model import CONVOLUTIONS, TRANSPOSED, QuantizedModel, WeightPoint, require_wrapped
from qexplore.quant import TensorQuantizer

Network = TypeVar("Network", bound=nn.Module)

Stored = Literal["int8", "int4", "float8e4m3fn", "float"]

Change = Literal["none", "stored", "same", "widened", "coarser", "float"]
"""What becomes of a point: nothing; the same values in a wider type; the same grid, or one that holds it, under another
name; finer steps; wider steps, or fewer small values; float, for TensorRT has nothing for it."""

_E4M3 = FloatFormat(4, 3)
_WIDEST = 8
_HIGHEST, _LOWEST = 127, 128
_PRODUCTS = (nn.Linear, nn.MultiheadAttention)
_QUANTIZED = (*CONVOLUTIONS, *TRANSPOSED, *_PRODUCTS)
_SAME = 1e-3


@dataclass(frozen=True)
class TensorRTPoint:
    """What one point is in a file for TensorRT.

    Attributes:
        name: of the point.
        kind: input, activation or weight.
        before: its choice in the model, such as ``"3"`` or ``"E5M2"``.
        stored: its type in the file.
        change: what becomes of its values.
        note: the change as a sentence; empty where there is none.
    """

    name: str
    kind: str
    before: str
    stored: Stored
    change: Change
    note: str = ""


@dataclass(frozen=True)
class TensorRTPlan(Tabular):
    """What the points of a model are in a file for TensorRT, in the order of the model's points."""

    points: tuple[TensorRTPoint, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence for every point that is not in the file as it is in the model."""
        return tuple(point.note for point in self.points if point.note)

    @property
    def widened(self) -> tuple[str, ...]:
        """Names of the points with more levels, or a wider type, than they have in the model."""
        return tuple(point.name for point in self.points if point.change in ("widened", "stored"))

    def stored(self, name: str) -> Stored:
        """The type of a point in the file."""
        return next(point.stored for point in self.points if point.name == name)

    def __str__(self) -> str:
        rows = [(point.name, point.kind, point.before, point.stored, point.change) for point in self.points]
        table = text_table(("point", "kind", "in the model", "in the file", "change"), rows)
        return "\n".join([table, "", *self.notes]) if self.notes else table


def in_tensorrt_form(model: QuantizedModel) -> tuple[QuantizedModel, TensorRTPlan]:
    """A copy of ``model`` that computes what TensorRT will, and what was changed for that.

    The copy is what a file for TensorRT is written from and compared with; ``model`` stays as it is. A range is kept
    whole: nothing that the model can represent is cut off.

    Args:
        model: calibrated, at the widths to be exported.

    Raises:
        CalibrationError: a point has no range.
        ModelError: the quantizers are no longer on the network.
        ExportError: the network cannot be copied.
    """
    require_wrapped("in_tensorrt_form", model)
    copied = copy_of(model)
    weights = {point.name: point for point in copied.weight_points}
    points = []
    for point in copied.points:
        quantizer = copied.fake_quantizers[point.name]
        form = _form(quantizer, weights.get(point.name))
        before = choice_name(quantizer.code) if quantizer.is_active else "off"
        note = f"point '{point.name}': {form.text}" if form.text else ""
        points.append(TensorRTPoint(point.name, point.kind, before, form.stored, form.change, note))
        form.give_to(quantizer)
    return copied, TensorRTPlan(tuple(points))


def copy_of(network: Network) -> Network:
    """A deep copy.

    Raises:
        ExportError: there can be none.
    """
    try:
        return copy.deepcopy(network)
    except Exception as error:
        raise ExportError(f"the network must be one that can be copied: {type(error).__name__}: {error}") from error


@dataclass(frozen=True, eq=False)
class _Form:
    """What a quantizer must be: a code (0 for off, None for as it is) and a range."""

    stored: Stored
    change: Change = "none"
    text: str = ""
    code: int | None = None
    amax: Tensor | None = None

    def give_to(self, quantizer: TensorQuantizer) -> None:
        if self.code == 0:
            quantizer.switched_off = True
        elif self.code is not None:
            quantizer.unsigned = quantizer.asymmetric = quantizer.narrow_range = False
            quantizer.num_bits = self.code
            assert self.amax is not None
            quantizer.amax = self.amax


def _form(quantizer: TensorQuantizer, weight: WeightPoint | None) -> _Form:
    if not quantizer.is_active or not quantizer.is_plain:
        return _Form("float")
    choice = quantizer.num_bits
    if weight is not None and not all(isinstance(module, _QUANTIZED) for module, _ in weight.holders):
        text = f"left in float: TensorRT quantizes weights of convolutions and matrix products, no {weight.module_type}"
        return _Form("float", "float", text, code=0)
    if isinstance(choice, int) and choice > _WIDEST:
        return _Form("float", "float", f"{choice} bits left in float: TensorRT has no integers above 8 bits", code=0)
    if isinstance(choice, FloatFormat):
        return _float_form(quantizer, choice, weight)
    return _activation_form(quantizer, choice) if weight is None else _weight_form(quantizer, choice, weight)


def _activation_form(quantizer: TensorQuantizer, num_bits: int) -> _Form:
    low, high = (end.detach() for end in quantizer.limits)
    grid = quantizer.grid
    is_symmetric = not (quantizer.unsigned or quantizer.asymmetric or quantizer.narrow_range)
    if is_symmetric and num_bits == _WIDEST and high.numel() == 1:
        return _Form("int8")
    amax = _covering(low.min(), high.max())
    step = float(((high - low) / (grid.num_levels - 1)).min())
    change, words = _compared(float(amax) / _HIGHEST, step)
    kind = " without a sign" if quantizer.unsigned else " with a zero point" if quantizer.asymmetric else ""
    scales = f", one scale for {high.numel()}" if high.numel() > 1 else ""
    return _Form("int8", change, f"{num_bits} bits{kind} {words}{scales}", _WIDEST, amax)


def _covering(low: Tensor, high: Tensor) -> Tensor:
    """The ``amax`` under which int8 reaches from ``low`` to ``high``.

    The steps of a signed grid of n bits are then whole ones, 2^(8 - n), of int8.
    """
    return torch.maximum(high, low * (-_HIGHEST / _LOWEST))


def _compared(step: float, before: float) -> tuple[Change, str]:
    ratio = step / before if before > 0 else 1.0
    if abs(ratio - 1) < _SAME:
        return "same", "become int8 on the same grid"
    if ratio < 1:
        return "widened", "widened to int8, the range kept"
    return "coarser", f"become signed int8 around zero, with steps {ratio:.1f} times as wide"


def _float_form(quantizer: TensorQuantizer, choice: FloatFormat, weight: WeightPoint | None) -> _Form:
    amax = _amax(quantizer)
    given = amax.max() if weight is None else _allowed_scales(amax, weight)
    scales = "" if torch.equal(given.expand_as(amax), amax) else _scales_text(weight)
    if choice == _E4M3 and not scales:
        return _Form("float8e4m3fn")
    if choice == _E4M3:
        return _Form("float8e4m3fn", "coarser", f"E4M3 with {scales}", _E4M3.code, given)
    holds = choice.exponent <= _E4M3.exponent and choice.mantissa <= _E4M3.mantissa and not choice.block
    lost = ["one scale for all its blocks"] if choice.block else []
    lost += ["fewer small values"] if choice.exponent > _E4M3.exponent else []
    lost += ["a mantissa bit less"] if choice.mantissa > _E4M3.mantissa else []
    lost += [scales] if scales else []
    reason = f" with {', '.join(lost)}" if lost else ""
    text = f"{choice.name} becomes E4M3, the one small float that TensorRT has for it{reason}"
    return _Form("float8e4m3fn", "widened" if holds and not lost else "coarser", text, _E4M3.code, given)


def _weight_form(quantizer: TensorQuantizer, num_bits: int, weight: WeightPoint) -> _Form:
    amax = _amax(quantizer)
    if _fits_int4(weight, num_bits):
        return _Form("int4")
    given = _allowed_scales(amax, weight)
    if not torch.equal(given, amax):
        grid = quantizer.grid
        widened = _covering(given * (grid.quant_min / grid.quant_max), given)
        ratio = float(((widened / _HIGHEST) / (amax / grid.quant_max).clamp(min=torch.finfo().tiny)).max())
        change, words = _compared(ratio, 1.0)
        return _Form("int8", change, f"{num_bits} bits {words}, {_scales_text(weight)}", _WIDEST, widened)
    if num_bits == _WIDEST:
        return _Form("int8")
    blocks = " or ".join(map(str, INT4_BLOCKS))
    hint = f": TensorRT has int4 for matrix products in blocks of {blocks}" if num_bits <= 4 else ""
    return _Form("int8", "stored", f"{num_bits} bits stored as int8, with the same values{hint}")


def _amax(quantizer: TensorQuantizer) -> Tensor:
    assert quantizer.amax is not None, "the model is calibrated"
    return quantizer.amax.detach()


def _fits_int4(weight: WeightPoint, num_bits: int) -> bool:
    """Whether the blocks of a weight are TensorRT's: whole ones of 64 or 128; and two values share a byte."""
    shape = weight.parameter.shape
    size = weight.layout.granularity
    is_product = all(isinstance(module, _PRODUCTS) for module, _ in weight.holders)
    return num_bits <= 4 and is_product and size in INT4_BLOCKS and shape[1] % int(size) == 0 and shape[0] % 2 == 0


def _allowed_scales(amax: Tensor, weight: WeightPoint) -> Tensor:
    """``amax`` in its own shape, the largest for all that must share a scale.

    That is a channel's blocks, and all of a transposed convolution, whose kernels take no scale per output channel.
    """
    if any(isinstance(module, TRANSPOSED) for module, _ in weight.holders):
        return amax.max().expand_as(amax).clone()
    is_blocked = weight.layout.granularity not in ("tensor", "channel") and amax.dim() > 1
    return amax.amax(dim=-2, keepdim=True).expand_as(amax).clone() if is_blocked else amax


def _scales_text(weight: WeightPoint | None) -> str:
    if weight is None or any(isinstance(module, TRANSPOSED) for module, _ in weight.holders):
        return "one scale for all channels"
    return f"one scale for all of a channel's blocks of {weight.layout.granularity}"
