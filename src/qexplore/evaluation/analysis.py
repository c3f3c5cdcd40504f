"""Float against quantized, layer by layer: where the error of a quantized network comes from."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qexplore._choices import FloatFormat, choice_code, choice_name
from qexplore._random import drawn_apart
from qexplore._table import Framed, Rows, csv_table, record_rows, text_table
from qexplore.errors import EvaluationError
from qexplore.front import write_text
from qexplore.metrics import Noise
from qexplore.model import (
    Loader,
    Pass,
    Placement,
    QuantizedModel,
    Unpack,
    WeightPoint,
    alone,
    floating_tensors,
    measuring,
    require_iterable,
    require_wrapped,
    unpacking,
)
from qexplore.quant import TensorQuantizer


@dataclass(frozen=True)
class LayerRecord:
    """What quantization does to the tensor at one point, over all data and all calls.

    An SQNR is ``10 log10(sum x^2 / sum (x - q)^2)`` in dB, ``x`` being the float network's tensor: ``inf`` where
    nothing differs (a quantizer that is off), ``nan`` where there is no signal (``x`` is zero, or never came).

    Attributes:
        name: the point.
        num_bits: the choice as a code: a width in bits, that of a float format, 0 where the quantizer is off.
        unsigned: whether the grid starts at zero.
        amax: the range of the quantizer; the largest one where it has one per channel, or, switched off, per width.
        lowest: least value of ``x``; nan where no tensor came.
        highest: greatest value of ``x``.
        sqnr: ``q`` is ``x`` through this quantizer alone.
        sqnr_accumulated: ``q`` is the tensor behind this quantizer while all points are quantized; ``-inf`` where that
            holds NaN or an infinity.
        clipped: share, 0 to 1, of the values of ``x`` outside ``[quant_min, quant_max] / scale``, the range that the
            width can represent; 0 where the quantizer is off.
        range_used: largest magnitude of ``x`` over ``amax``: above 1 values may be clipped, far below 1 levels lie
            idle.
    """

    name: str
    num_bits: int
    unsigned: bool
    amax: float
    lowest: float
    highest: float
    sqnr: float
    sqnr_accumulated: float
    clipped: float
    range_used: float


@dataclass(frozen=True)
class LayerAnalysis(Framed):
    """What quantization does at every point; ``print`` shows it as a table.

    Attributes:
        points: one record a point, in the order of ``num_bits``.
        output_sqnr: SQNR of the network's output in dB; of several floating tensors ``-10 log10`` of their mean noise
            over signal, for they need not be of one unit. nan where there is none, or where the float network's own
            output is zero or NaN.
        num_batches: how much data was looked at.
    """

    points: tuple[LayerRecord, ...]
    output_sqnr: float
    num_batches: int

    def worst(self, count: int = 5) -> tuple[LayerRecord, ...]:
        """The ``count`` points whose own quantization costs most: lowest `LayerRecord.sqnr` first, nan last."""
        ranked = sorted(self.points, key=lambda point: (math.isnan(point.sqnr), point.sqnr))
        return tuple(ranked[: max(count, 0)])

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """CSV text, one line a point and one column a field, nan as an empty cell; also written to ``path``."""
        text = csv_table(*self._frame_rows())
        if path is not None:
            write_text(path, text)
        return text

    def _frame_rows(self) -> Rows:
        return record_rows(LayerRecord, self.points)

    def __str__(self) -> str:
        header = ("point", "num_bits", "sign", "SQNR", "accumulated", "clipped", "range used", "lowest", "highest")
        table = text_table((*header, "amax"), [_row(point) for point in self.points], numeric=(1, *range(3, 10)))
        batches = "1 batch" if self.num_batches == 1 else f"{self.num_batches} batches"
        points = "1 point" if len(self.points) == 1 else f"{len(self.points)} points"
        return f"{points} on {batches}, SQNR in dB; SQNR of the output {_text(self.output_sqnr, '.1f')}\n{table}"


def _row(point: LayerRecord) -> tuple[str, ...]:
    return (
        point.name,
        choice_name(point.num_bits),
        "unsigned" if point.unsigned else "signed",
        _text(point.sqnr, ".1f"),
        _text(point.sqnr_accumulated, ".1f"),
        "<0.01%" if 0 < point.clipped < 1e-4 else _text(point.clipped, ".2%"),
        _text(point.range_used, ".0%"),
        _text(point.lowest, ".4g"),
        _text(point.highest, ".4g"),
        _text(point.amax, ".4g"),
    )


def _text(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form) if math.isfinite(value) else str(value)


@alone
def analyze(
    model: QuantizedModel,
    loader: Loader,
    num_bits: Any = None,
    *,
    num_batches: int | None = None,
    unpack: Unpack | None = None,
    progress: bool | None = None,
) -> LayerAnalysis:
    """Compare the float network with the quantized one at every point.

    Every batch runs twice, in eval mode and without gradients. Sums are in float64; the float tensors of one batch are
    held at a time. The model comes back as it was, also after an error; negative values that an automatically unsigned
    quantizer clamps are warned of and counted, as in any forward.

    Args:
        model: wrapped and calibrated.
        loader: batches ``x``, ``(x, y, ...)`` or dicts; targets are not looked at.
        num_bits: a choice for each point, in order or by name, or one for all; 0 switches a quantizer off. None takes
            the model's present choices.
        num_batches: stop after so many batches; None takes all.
        unpack: ``unpack(batch) -> (inputs, target)``.
        progress: show a bar on stderr; None shows it on a terminal, and elsewhere a line every half minute.

    Raises:
        CalibrationError: a point has no ``amax``.
        NumBitsError: widths that the points cannot have.
        DataError: the loader is empty, a batch cannot be unpacked, or ``num_batches`` is no positive int.
        EvaluationError: NaN or infinity at a point of the float network, or a network that passes a point another
            number of times, or with other shapes, when it is quantized.
        ModelError: ``model`` is no `QuantizedModel`, or is detached.
    """
    require_wrapped("analyze", model)
    require_iterable("the loader", loader)
    batches = Pass(
        "the loader",
        drawn_apart(loader),
        num_batches=num_batches,
        unpack=unpacking(model, unpack),
        bar="analyzing",
        progress=progress,
    )
    device = Placement.of(model.model).device
    with model.using(_widths(model, num_bits)), measuring(device):
        comparison = _Comparison(model.fake_quantizers)
        for inputs, _ in batches:
            # Both runs begin with the same random numbers, for networks that draw some in eval mode.
            with measuring(device):
                expected = model.listen(inputs, comparison.take)
            with measuring(device):
                output = model.listen(inputs, comparison.compare, quantized=True)
            comparison.finish_batch(floating_tensors(expected), floating_tensors(output))
        comparison.look_at_weights(model.weight_points)
        return LayerAnalysis(comparison.records(), comparison.output.sqnr, batches.num_done)


def _widths(model: QuantizedModel, num_bits: Any) -> Any:
    if num_bits is None:
        return model.num_bits
    is_one = isinstance(num_bits, (str, int, np.integer, FloatFormat))
    return [num_bits] * len(model.points) if is_one and choice_code(num_bits) is not None else num_bits


class _Point:
    """Statistics of one point, and the float tensors of the present batch in the order of calls."""

    def __init__(self, name: str, quantizer: TensorQuantizer) -> None:
        self._name = name
        self._quantizer = quantizer
        self._limits = quantizer.limits if quantizer.is_active else quantizer.whole_range
        self._alone, self._accumulated = Noise(), Noise()
        self._lowest, self._highest = math.inf, -math.inf
        self._num_clipped = self._num_values = 0
        self._waiting: deque[Tensor] = deque()

    def take(self, x: Tensor) -> None:
        """Look at a tensor of the float network and keep it for `compare`."""
        self._waiting.append(x.clone())  # a later module may write into it
        if x.numel() == 0:
            return
        lowest, highest = (float(extreme) for extreme in torch.aminmax(x))
        if not (math.isfinite(lowest) and math.isfinite(highest)):
            raise EvaluationError(
                f"point '{self._name}' must see finite values in the float network, got NaN or an infinity in a tensor "
                f"of shape {tuple(x.shape)}: look at the data and at the float network"
            )
        self._lowest, self._highest = min(self._lowest, lowest), max(self._highest, highest)
        self._num_values += x.numel()
        if self._quantizer.is_active:
            low, high = self._limits
            self._num_clipped += int(((x < low) | (x > high)).sum())
        self._alone.add([x], [self._quantizer(x)])

    def compare(self, quantized: Tensor) -> None:
        """Set a tensor of the quantized network against its float one."""
        if not self._waiting or self._waiting[0].shape != quantized.shape:
            raise self._disagreement(f"one more of shape {tuple(quantized.shape)}")
        self._accumulated.add([self._waiting.popleft()], [quantized])

    def take_alone(self, x: Tensor) -> None:
        """Take a tensor that nothing before this point has changed."""
        self.take(x)
        self.compare(self._quantizer(x))

    def finish_batch(self) -> None:
        """Make sure that every tensor found its partner."""
        if self._waiting:
            raise self._disagreement(f"one of shape {tuple(self._waiting[0].shape)} less")

    def _disagreement(self, difference: str) -> EvaluationError:
        return EvaluationError(
            f"point '{self._name}' must see the same tensors, call by call, with and without quantization, got "
            f"{difference} in the quantized run: the network's way depends on its values. Leave this module out of "
            "the predicate"
        )

    def record(self) -> LayerRecord:
        seen = self._num_values > 0
        amax = float(self._limits[1].max())
        return LayerRecord(
            name=self._name,
            num_bits=self._quantizer.code if self._quantizer.is_active else 0,
            unsigned=self._quantizer.unsigned,
            amax=amax,
            lowest=self._lowest if seen else math.nan,
            highest=self._highest if seen else math.nan,
            sqnr=self._alone.sqnr,
            sqnr_accumulated=self._accumulated.sqnr,
            clipped=self._num_clipped / self._num_values if seen else math.nan,
            range_used=_ratio(max(-self._lowest, self._highest), amax) if seen else math.nan,
        )


def _ratio(magnitude: float, amax: float) -> float:
    if amax == 0:
        return math.nan if magnitude == 0 else math.inf
    return magnitude / amax


class _Comparison:
    """Listens to both runs of every batch."""

    def __init__(self, quantizers: Mapping[str, TensorQuantizer]) -> None:
        self._points = {name: _Point(name, quantizer) for name, quantizer in quantizers.items()}
        self.output = Noise()

    def take(self, name: str, tensors: list[Tensor]) -> None:
        """Listen to the float network."""
        for tensor in tensors:
            self._points[name].take(tensor)

    def compare(self, name: str, tensors: list[Tensor]) -> None:
        """Listen to the quantized network."""
        for tensor in tensors:
            self._points[name].compare(tensor)

    def finish_batch(self, expected: list[Tensor], output: list[Tensor]) -> None:
        """Compare what the network returned in both runs."""
        for point in self._points.values():
            point.finish_batch()
        shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (expected, output)]
        if shapes[0] != shapes[1]:
            raise EvaluationError(
                f"the network's output must have the same tensors with and without quantization, got the shapes "
                f"{shapes[0]} from the float network and {shapes[1]} from the quantized one"
            )
        self.output.add(expected, output)

    def look_at_weights(self, weights: Sequence[WeightPoint]) -> None:
        """Set weights against their quantized selves; nothing before them adds to their error."""
        for weight in weights:
            self._points[weight.name].take_alone(weight.layout.rows(weight.parameter.detach()))

    def records(self) -> tuple[LayerRecord, ...]:
        """One record a point."""
        return tuple(point.record() for point in self._points.values())
