"""Quantized weights as integers, or codes of a float type, with the scales that give them back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qexplore._optional import import_optional
from qexplore.export.encoding import Encoding, OpsetTooLow, Unwritable, encoding_of
from qexplore.model import WeightPoint
from qexplore.quant import TensorQuantizer

_BLOCKS_SINCE = 21


@dataclass(frozen=True, eq=False)
class StoredWeight:
    """A weight as it lies in the file.

    Attributes:
        encoding: type, scale and limits.
        values: what is stored, as whole numbers (or a float format's values) in float32; in the shape of the weight, or
            as rows of one output channel each.
        scale: ``[]``, ``[channels]``, or ``[channels, blocks]``.
        axis: along which the scales lie, and blocks; None for one scale.
        block_size: values that share a scale along ``axis``; 0 for all.
        unfolded: the shape that rows are brought into; where it is not that of the weight, its axes 1 and 2 are then
            swapped and axes 0 and 1 joined. None where `values` has the shape of the weight.
        shape: of the weight.
    """

    encoding: Encoding
    values: NDArray[np.float32]
    scale: NDArray[np.float32]
    axis: int | None
    block_size: int
    unfolded: tuple[int, ...] | None
    shape: tuple[int, ...]


def stored_weight(point: WeightPoint, quantizer: TensorQuantizer, opset: int) -> StoredWeight | Unwritable:
    """How ``point``'s weight is written at the present choice of its ``quantizer``."""
    encoding = encoding_of(quantizer, opset)
    if isinstance(encoding, Unwritable):
        return encoding
    layout, weight = point.layout, point.parameter.detach()
    rows = layout.rows(weight)
    stored = _whole_numbers(quantizer(rows).cpu(), encoding)
    shape = tuple(weight.shape)
    if layout.granularity == "tensor":
        values = layout.restore(stored, weight).numpy()
        return StoredWeight(encoding, values, encoding.scale.reshape(()), None, 0, None, shape)
    channels = rows.shape[0]
    if layout.granularity == "channel":
        scale = np.ascontiguousarray(np.broadcast_to(encoding.scale.reshape(-1), (channels,)))
        if layout.groups == 1:
            values = layout.restore(stored, weight).numpy()
            return StoredWeight(encoding, values, scale, layout.axis, 0, None, shape)
        return StoredWeight(encoding, stored.numpy(), scale, 0, 0, _unfolded(point, shape), shape)
    if opset < _BLOCKS_SINCE:
        return OpsetTooLow(f"scales of groups need opset {_BLOCKS_SINCE}", _BLOCKS_SINCE)
    count = weight.numel() // channels
    values = stored.flatten(1)[:, :count].contiguous().numpy()
    scale = np.ascontiguousarray(np.broadcast_to(encoding.scale, (*rows.shape[:2], 1)).reshape(rows.shape[:2]))
    block = int(layout.granularity)
    same = shape == values.shape and layout.axis == 0
    return StoredWeight(encoding, values, scale, 1, block, None if same else _unfolded(point, shape), shape)


def _whole_numbers(quantized: Tensor, encoding: Encoding) -> Tensor:
    """What of the type stands for the quantizer's output; exact: a step is far wider than the rounding of a float."""
    divided = quantized.double() / torch.as_tensor(encoding.scale, dtype=torch.float64)
    return divided.float() if encoding.limits is None else divided.round().float()


def _unfolded(point: WeightPoint, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the rows once groups of channels, and channels within them, have axes of their own."""
    layout = point.layout
    if layout.axis == 0:
        return shape
    return layout.groups, shape[1], shape[0] // layout.groups, *shape[2:]


def as_array(values: NDArray[np.float32], kind: str) -> NDArray[Any]:
    """``values`` in numpy's form of an ONNX type."""
    small = import_optional("ml_dtypes", extra="onnx", purpose="writing an ONNX file")
    names = {"float8e4m3fn": "float8_e4m3fn", "float8e5m2": "float8_e5m2"}
    plain = {"int8", "uint8", "int16", "uint16"}
    return values.astype(np.dtype(kind) if kind in plain else getattr(small, names.get(kind, kind)))
