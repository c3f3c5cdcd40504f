"""What calibration collects at the points while data passes in full precision, and the ranges that come of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qexplore._table import text_table
from qexplore.errors import CalibrationError, DataError
from qexplore.quant import TensorQuantizer

DEAD_AMAX = 2.0**-24
"""A range no larger than this makes every output zero; pytorch-quantization treats it as no range."""

_HISTOGRAM_METHODS = ("percentile", "entropy")


@dataclass(frozen=True)
class PointRange:
    """What calibration saw at one point, and what it made of it.

    Attributes:
        name: the point.
        amax: the range that the quantizer got (the largest one where ``amax`` is per channel).
        lowest: least value seen.
        highest: greatest value seen.
        unsigned: whether the quantizer now has no sign.
        dead: the range is zero, so the output is zero at every width.
    """

    name: str
    amax: float
    lowest: float
    highest: float
    unsigned: bool
    dead: bool


@dataclass(frozen=True)
class CalibrationReport:
    """The ranges of all points, in their order; ``print`` shows them as a table."""

    ranges: tuple[PointRange, ...]
    num_batches: int
    method: str

    @property
    def dead_points(self) -> tuple[str, ...]:
        """Names of the points that are zero whatever their width."""
        return tuple(point.name for point in self.ranges if point.dead)

    def __str__(self) -> str:
        rows = [
            (
                point.name,
                f"{point.amax:.6g}",
                f"{point.lowest:.6g}",
                f"{point.highest:.6g}",
                "unsigned" if point.unsigned else "signed",
                "dead: always zero" if point.dead else "",
            )
            for point in self.ranges
        ]
        table = text_table(("point", "amax", "lowest", "highest", "sign", ""), rows, numeric=(1, 2, 3))
        batches = "1 batch" if self.num_batches == 1 else f"{self.num_batches} batches"
        return f"Calibrated on {batches}, method {self.method}\n{table}"


class RangeCollector:
    """Listens at all points: feeds each quantizer's own calibrator and keeps the extremes.

    Args:
        quantizers: by point name.
        method: ``"max"``, or where the descriptor asks for histograms ``"percentile"`` or ``"entropy"``; None takes
            the first that fits.

    Raises:
        CalibrationError: a method that the quantizers' calibrators cannot give.
    """

    def __init__(self, quantizers: Mapping[str, TensorQuantizer], method: str | None) -> None:
        self._quantizers = quantizers
        self.method = _checked_method(quantizers, method)
        self._lowest = dict.fromkeys(quantizers, math.inf)
        self._highest = dict.fromkeys(quantizers, -math.inf)
        for quantizer in quantizers.values():
            quantizer.calibrator.reset()

    def __call__(self, name: str, tensors: list[Tensor]) -> None:
        """Collect the tensors of one call at the point ``name``.

        Raises:
            CalibrationError: one of them holds NaN or an infinity.
        """
        for tensor in tensors:
            if tensor.numel() > 0:
                self._collect(name, tensor)

    def _collect(self, name: str, tensor: Tensor) -> None:
        lowest, highest = (float(extreme) for extreme in torch.aminmax(tensor))
        if not (math.isfinite(lowest) and math.isfinite(highest)):
            what = "NaN" if math.isnan(lowest) or math.isnan(highest) else "an infinity"
            raise CalibrationError(
                f"point '{name}' must see finite values to be calibrated, got {what} in a tensor of shape "
                f"{tuple(tensor.shape)}: look at the data and at the float network, or leave this point out"
            )
        self._feed(name, tensor)
        self._lowest[name] = min(self._lowest[name], lowest)
        self._highest[name] = max(self._highest[name], highest)

    def _feed(self, name: str, tensor: Tensor) -> None:
        try:
            self._quantizers[name].calibrator.collect(tensor)
        except RuntimeError as error:
            if "amax shape changed" not in str(error):
                raise
            raise CalibrationError(
                f"point '{name}' must give tensors of one shape along the `axis` of its quantizer, got the shape "
                f"{tuple(tensor.shape)} after others: calibrate it per tensor, or leave it out"
            ) from error

    @property
    def names(self) -> set[str]:
        """Points that a tensor has passed."""
        return {name for name, lowest in self._lowest.items() if lowest != math.inf}

    def compute(self, options: dict[str, Any]) -> dict[str, Tensor]:
        """The range of every point that a tensor has passed; the quantizers are left as they are.

        Raises:
            CalibrationError: ``options`` do not suit the method, or a range is not finite.
        """
        arguments = () if self.method == "max" else (self.method,)
        computed = {}
        for name in (name for name in self._quantizers if name in self.names):
            try:
                amax = self._quantizers[name].calibrator.compute_amax(*arguments, **options)
            except (TypeError, ValueError) as error:
                raise CalibrationError(f"calibration by {self.method} with {options} failed: {error}") from error
            computed[name] = torch.as_tensor(amax)
            if not bool(torch.isfinite(computed[name]).all()):
                raise CalibrationError(f"calibration by {self.method} gave point '{name}' the range {amax}")
        return computed

    def load(self, computed: dict[str, Tensor], num_batches: int) -> CalibrationReport:
        """Give the quantizers their sign and the ranges that `compute` found."""
        for name, amax in computed.items():
            quantizer = self._quantizers[name]
            quantizer.decide_sign(self._lowest[name])
            if not quantizer.has_fixed_amax:
                quantizer.set_amax(amax)
            quantizer.calibrator.reset()
        ranges = tuple(self._range(name, self._quantizers[name]) for name in computed)
        return CalibrationReport(ranges, num_batches, self.method)

    def _range(self, name: str, quantizer: TensorQuantizer) -> PointRange:
        assert quantizer.amax is not None
        amax = float(quantizer.amax.max())
        return PointRange(
            name, amax, self._lowest[name], self._highest[name], quantizer.unsigned, dead=amax <= DEAD_AMAX
        )


def _checked_method(quantizers: Mapping[str, TensorQuantizer], method: str | None) -> str:
    histograms = all(quantizer.collects_histogram for quantizer in quantizers.values())
    known = _HISTOGRAM_METHODS if histograms else ("max",)
    if method is None or method in known:
        return method or known[0]
    hint = "" if histograms else '; others need quant_desc=QuantDescriptor(calib_method="histogram")'
    raise CalibrationError(f"`method` must be one of {', '.join(known)}, got {method!r}{hint}")


def check_num_batches(num_batches: object) -> None:
    """Raise unless ``num_batches`` says how many batches to take.

    Raises:
        DataError: it is neither None nor a positive int.
    """
    is_int = isinstance(num_batches, int) and not isinstance(num_batches, bool)
    if num_batches is not None and not (is_int and num_batches >= 1):  # type: ignore[operator]
        raise DataError(f"`num_batches` must be a positive int or None, got {num_batches!r}")


def length(loader: Any, limit: int | None) -> int | None:
    """How many batches there will be, where the loader tells."""
    try:
        return len(loader) if limit is None else min(limit, len(loader))
    except TypeError:
        return limit
