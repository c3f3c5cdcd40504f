"""From the operators of an exported graph to ONNX nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qexplore._optional import import_optional
from qexplore.export.encoding import LARGEST_FLOATS, Encoding
from qexplore.export.weights import StoredWeight, as_array

_OUTPUT_TYPE_SINCE = 21
"""From this opset on QuantizeLinear can be told its type without a zero point."""


def translations(
    activations: Mapping[str, Encoding], weights: Mapping[str, StoredWeight], *, opset: int, guarded: bool
) -> dict[Any, Callable[..., Any]]:
    """What builds the nodes of each operator, as ``torch.onnx.export`` takes it.

    Args:
        activations: encodings of the points that are written, by name.
        weights: the same for weights.
        opset: of the file.
        guarded: keep onnxruntime from replacing what stands behind a DequantizeLinear; see `Writer.quantize`.
    """
    writer = Writer(activations, weights, opset, guarded)

    # Torch writes attributes onto these functions, which methods do not take.
    def quantize(x: Any, point: str) -> Any:
        return writer.quantize(x, point)

    def read(weight: Any, point: str) -> Any:
        return writer.read(weight, point)

    return {
        torch.ops.qexplore.fake_quantize.default: quantize,
        torch.ops.qexplore.stored_weight.default: read,
    }


class Writer:
    """Builds the nodes of points; a weight that several modules share is written once.

    The guard is a Clip that changes nothing. Behind a bare DequantizeLinear onnxruntime puts kernels of its own, which
    give other numbers than the model's: they round biases, and weights that are float here, to integers, multiply
    by 4-bit weights in another way, and overflow on processors without 8-bit dot products.
    """

    def __init__(
        self, activations: Mapping[str, Encoding], weights: Mapping[str, StoredWeight], opset: int, guarded: bool
    ) -> None:
        scripts = import_optional("onnxscript", extra="onnx", purpose="writing an ONNX file")
        self._ir: Any = import_optional("onnx_ir", extra="onnx", purpose="writing an ONNX file")
        self._op: Any = scripts.values.Opset("", opset)
        self._activations = activations
        self._weights = weights
        self._opset = opset
        self._guarded = guarded
        self._read: dict[str, Any] = {}
        self._constants: dict[str, Any] = {}

    def quantize(self, x: Any, point: str) -> Any:
        """Mul, Clip, QuantizeLinear, DequantizeLinear, guard; the Clip where the type holds more than the grid.

        QuantizeLinear divides by the scale, where the quantizer multiplies by its factor: a number in the middle
        between two steps, which images are full of, then goes the other way, whatever float32 the scale is. So the
        multiplication is a node of its own, and QuantizeLinear has the scale 1.
        """
        encoding = self._activations[point]
        scale = self._float(encoding.scale, f"{point}.scale")
        if not self._guarded:
            return self._pair(self._within(x, encoding, encoding.scale, point), scale, scale, encoding, point)
        x = self._op.Mul(x, self._float(encoding.factor, f"{point}.factor"))
        one = np.ones((), np.float32)
        x = self._within(x, encoding, one, point)
        return self._guard(self._pair(x, self._float(one, "one"), scale, encoding, point), encoding, point)

    def _within(self, x: Any, encoding: Encoding, step: NDArray[np.float32], point: str) -> Any:
        if encoding.is_whole_type:
            return x
        return self._op.Clip(x, *self._limits(encoding.limits, step, f"{point}.limit"))

    def _pair(self, x: Any, divisor: Any, scale: Any, encoding: Encoding, point: str) -> Any:
        op = self._op
        if self._guarded and encoding.zero_point == 0 and self._opset >= _OUTPUT_TYPE_SINCE:
            dtype = int(getattr(self._ir.DataType, encoding.type.upper()))
            return op.DequantizeLinear(op.QuantizeLinear(x, divisor, output_dtype=dtype), scale)
        zero = self._constant(np.asarray(encoding.zero_point, np.float32), encoding.type, f"{point}.zero_point")
        # Max keeps a Clip away: before a zero point of 4 or 16 bits onnxruntime 1.32 stops at one, and before one of 8
        # bits it drops a Clip whose range is within 1e-7 of the type's.
        x = op.Max(x, x) if self._guarded else x
        return op.DequantizeLinear(op.QuantizeLinear(x, divisor, zero), scale, zero)

    def read(self, weight: Any, point: str) -> Any:
        """DequantizeLinear of what is stored, guard, and what brings rows into the shape of the weight."""
        if point not in self._read:
            self._read[point] = self._dequantized(point, self._weights[point])
        return self._read[point]

    def _dequantized(self, point: str, stored: StoredWeight) -> Any:
        op = self._op
        values = self._constant(stored.values, stored.encoding.type, f"{point}.quantized")
        scale = self._float(stored.scale, f"{point}.scale")
        if stored.axis is None:
            weight = op.DequantizeLinear(values, scale)
        elif stored.block_size:
            weight = op.DequantizeLinear(values, scale, axis=stored.axis, block_size=stored.block_size)
        else:
            weight = op.DequantizeLinear(values, scale, axis=stored.axis)
        weight = self._guard(weight, stored.encoding, point)
        if stored.unfolded is None:
            return weight
        weight = op.Reshape(weight, self._shape(stored.unfolded))
        if stored.unfolded == stored.shape:
            return weight
        order = [0, 2, 1, *range(3, len(stored.unfolded))]
        return op.Reshape(op.Transpose(weight, perm=order), self._shape(stored.shape))

    def _guard(self, dequantized: Any, encoding: Encoding, point: str) -> Any:
        if not self._guarded:
            return dequantized
        step = encoding.scale.max()
        return self._op.Clip(dequantized, *self._limits(_beyond(encoding), step, f"{point}.guard"))

    def _limits(self, limits: tuple[float, float] | None, step: Any, name: str) -> tuple[Any, Any]:
        assert limits is not None
        low, high = (np.float32(limit) * step for limit in limits)
        return self._float(low, f"{name}.low"), self._float(high, f"{name}.high")

    def _float(self, values: NDArray[np.float32], name: str) -> Any:
        return self._named(self._ir.tensor(np.asarray(values, np.float32)), name)

    def _constant(self, values: NDArray[np.float32], kind: str, name: str) -> Any:
        dtype = getattr(self._ir.DataType, kind.upper())
        return self._named(self._ir.Tensor(as_array(values, kind), dtype=dtype), name)

    def _named(self, tensor: Any, name: str) -> Any:
        """A constant under this name; the same one for a point that is called again."""
        if name not in self._constants:
            self._constants[name] = self._op.Constant(value=tensor)
            self._constants[name].name = name
        return self._constants[name]

    def _shape(self, shape: tuple[int, ...]) -> Any:
        return self._op.Constant(value=self._ir.tensor(np.asarray(shape, np.int64)))


def _beyond(encoding: Encoding) -> tuple[float, float]:
    """Limits that no value of the type reaches."""
    if encoding.limits is None:
        return -2 * LARGEST_FLOATS[encoding.type], 2 * LARGEST_FLOATS[encoding.type]
    least, greatest = encoding.type_limits or encoding.limits
    return least - 1, greatest + 1
