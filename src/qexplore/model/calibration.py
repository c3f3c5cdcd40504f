"""What calibration collects at the points while data passes in full precision, and the ranges that come of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qexplore._choices import FLOAT_CODES
from qexplore._table import Framed, Rows, record_rows, text_table
from qexplore._warnings import warn
from qexplore.errors import CalibrationError
from qexplore.model.left_float import LeftFloat, left_float_text
from qexplore.model.methods import AUTOMATIC, Methods, of_method
from qexplore.quant import (
    CALIBRATORS,
    Histogram,
    TensorQuantizer,
    amax_table,
    known_widths,
    option_names,
    range_table,
)

FIXED = "fixed"

Ranges = tuple[dict[int, Any], dict[int, Any] | None]
"""Upper ends by choice, and lower ends where they are not symmetric; the one key 0 stands for all choices."""


@dataclass(frozen=True)
class PointRange:
    """What calibration saw at one point, and what it made of it.

    Attributes:
        name: the point.
        amax: the range that the quantizer got, at its present choice (the largest one where it is per channel).
        lowest: least value seen.
        highest: greatest value seen.
        unsigned: whether the quantizer now has no sign.
        asymmetric: whether its integer widths have a zero point.
        dead: the range is zero, so the output is zero at every width.
        method: that found the range; ``"max"`` of a tensor that is not clipped, being the network's output; `FIXED`
            where the descriptor holds it.
    """

    name: str
    amax: float
    lowest: float
    highest: float
    unsigned: bool
    dead: bool
    asymmetric: bool = False
    method: str = ""

    @property
    def remark(self) -> str:
        """What a range of nothing means here."""
        if not self.dead:
            return ""
        return "dead: always zero" if self.lowest == self.highest == 0 else "range 0: made zero"

    @classmethod
    def of(cls, name: str, quantizer: TensorQuantizer, lowest: float, highest: float, method: str) -> PointRange:
        """What a calibrated ``quantizer`` has now."""
        assert quantizer.amax is not None
        amax, dead = float(quantizer.amax.max()), quantizer.is_dead
        by = FIXED if quantizer.has_fixed_amax else method
        return cls(name, amax, lowest, highest, quantizer.unsigned, dead, quantizer.asymmetric, by)


@dataclass(frozen=True)
class CalibrationReport(Framed):
    """The ranges of all points, in their order, and what was left float; ``print`` shows them as a table.

    Attributes:
        ranges: a row for each point.
        num_batches: that passed; 0 where weights alone were calibrated.
        method: asked for activations; of several how many points each has, as the rows say of each.
        weight_method: likewise for weights; None where there are none.
        left_float: inputs that are at no point.
    """

    ranges: tuple[PointRange, ...]
    num_batches: int
    method: str
    weight_method: str | None = None
    left_float: tuple[LeftFloat, ...] = ()

    @property
    def dead_points(self) -> tuple[str, ...]:
        """Names of the points that are zero whatever their width."""
        return tuple(point.name for point in self.ranges if point.dead)

    def _frame_rows(self) -> Rows:
        return record_rows(PointRange, self.ranges)

    def __str__(self) -> str:
        rows = [
            (
                point.name,
                f"{point.amax:.6g}",
                f"{point.lowest:.6g}",
                f"{point.highest:.6g}",
                "asymmetric" if point.asymmetric else "unsigned" if point.unsigned else "signed",
                point.method,
                point.remark,
            )
            for point in self.ranges
        ]
        table = text_table(("point", "amax", "lowest", "highest", "sign", "method", ""), rows, numeric=(1, 2, 3))
        batches = "1 batch" if self.num_batches == 1 else f"{self.num_batches} batches"
        parts = [f"Calibrated on {batches}, method {self.method}"] if self.num_batches else []
        parts += [] if self.weight_method is None else [f"weights by {self.weight_method}"]
        has_own = any(gives_each_width_its_own(point.method) for point in self.ranges)
        parts += ["amax of the present choices"] if has_own else []
        left = left_float_text(self.left_float)
        return "\n".join([", ".join(parts), table, *([left] if left else [])])


class RangeCollector:
    """Listens at all points: the extremes of every one, and what the method needs besides.

    Args:
        quantizers: by point name.
        method: one of `CALIBRATORS`, or `AUTOMATIC`, so that `ranges` can be asked for several; where the descriptor
            asks for a histogram, one that pytorch-quantization's own have; None takes the first that fits. Or a mapping
            from selectors to such: which points are meant is known when all data has passed, so all are counted.
        options: of the methods.
        is_for_histograms: the descriptor asks for a histogram at every point, those too that data is yet to find.

    Attributes:
        is_for_histograms: as given.
        methods: as asked for.
        options: those that the methods have, checked.

    Raises:
        CalibrationError: an unknown method, one that a quantizer cannot have, or an option that does not suit it.
    """

    def __init__(
        self,
        quantizers: Mapping[str, TensorQuantizer],
        method: Any,
        options: dict[str, Any],
        *,
        is_for_histograms: bool = False,
    ) -> None:
        self._quantizers: Mapping[str, TensorQuantizer] = {}
        self.is_for_histograms = is_for_histograms
        of_upstream = [name for name, row in CALIBRATORS.items() if row.is_upstream]
        known = of_upstream if self.is_for_histograms else [*CALIBRATORS, AUTOMATIC]
        self.methods = Methods.checked("method", method, known, known[0])
        self.options = self.methods.checked_options(_without_upstreams(options) if self.is_for_histograms else options)
        self.lowest: dict[str, float] = {}
        self.highest: dict[str, float] = {}
        self._histograms: dict[str, Histogram] = {}
        self.follow(quantizers)

    def follow(self, quantizers: Mapping[str, TensorQuantizer]) -> dict[str, str]:
        """Go on with these, and say which have another name now, by the old one.

        They keep what was collected for them; what went is forgotten.
        """
        before = {quantizer: name for name, quantizer in self._quantizers.items()}
        names = {name: before.get(quantizer, "") for name, quantizer in quantizers.items()}
        self.lowest = {name: self.lowest.get(old, math.inf) for name, old in names.items()}
        self.highest = {name: self.highest.get(old, -math.inf) for name, old in names.items()}
        self._histograms = {name: self._histograms[old] for name, old in names.items() if old in self._histograms}
        self._quantizers = dict(quantizers)
        for name in [name for name, old in names.items() if not old]:
            self._begin(name)
        for name, histogram in self._histograms.items():
            histogram.name = f"point '{name}'"
        return {old: name for name, old in names.items() if old and old != name}

    def _begin(self, name: str) -> None:
        quantizer = self._quantizers[name]
        quantizer.calibrator.reset()
        counted = [method for method in self.methods.names if gives_each_width_its_own(method)]
        if not counted:
            return
        if quantizer.axis is not None:
            raise CalibrationError(
                f"point '{name}' has a range per channel (`axis` of its descriptor), which only method \"max\" can "
                f"find, got '{counted[0]}'"
            )
        self._histograms[name] = Histogram()

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
        if name in self._histograms:
            self._histograms[name].collect(tensor)
        else:
            self._feed(name, tensor)
        self.lowest[name] = min(self.lowest[name], lowest)
        self.highest[name] = max(self.highest[name], highest)

    def _feed(self, name: str, tensor: Tensor) -> None:
        try:
            self._quantizers[name].collect(tensor)
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
        return {name for name, lowest in self.lowest.items() if lowest != math.inf}

    def ranges(self, name: str, method: str) -> Ranges:
        """The ranges of one point by ``method``, with those of the options that it has.

        The point's quantizer is left as it is.

        Raises:
            CalibrationError: a range is not finite.
        """
        quantizer = self._quantizers[name]
        unsigned = self.lowest[name] >= 0 if quantizer.auto_sign else quantizer.unsigned
        asymmetric = quantizer.wants_zero_point(self.lowest[name], self.highest[name])
        widths = known_widths(unsigned or asymmetric)
        if name not in self._histograms:
            return self._extremes(name, widths, asymmetric)
        histogram, options = self._histograms[name], of_method(method, self.options)
        if asymmetric:
            return self._with_formats(name, range_table(histogram, method, widths, **options))
        narrow = bool(quantizer.narrow_range)
        codes = (*widths, *FLOAT_CODES)
        return amax_table(histogram, method, codes, unsigned=unsigned, narrow_range=narrow, **options), None

    def _extremes(self, name: str, widths: range, asymmetric: bool) -> Ranges:
        """The range that upstream's calibrator has found; with a zero point that of the extremes."""
        amax = torch.as_tensor(self._quantizers[name].calibrator.compute_amax())
        if not bool(torch.isfinite(amax).all()):
            raise CalibrationError(f"calibration by {self.methods.default} gave point '{name}' the range {amax}")
        if not asymmetric:
            return {0: amax}, None
        ends = min(self.lowest[name], 0.0), max(self.highest[name], 0.0)
        return self._with_formats(name, dict.fromkeys(widths, ends))

    def _with_formats(self, name: str, ends: dict[int, tuple[float, float]]) -> Ranges:
        """``(low, high)`` by width, and the largest magnitude for float formats, which have no zero point."""
        largest = max(-self.lowest[name], self.highest[name], 0.0)
        ends = ends | dict.fromkeys(FLOAT_CODES, (-largest, largest))
        return {code: high for code, (_, high) in ends.items()}, {code: low for code, (low, _) in ends.items()}

    def load(self, computed: Mapping[str, Ranges]) -> None:
        """Give the quantizers their sign and the ranges that `ranges` found."""
        for name, (high, low) in computed.items():
            quantizer = self._quantizers[name]
            quantizer.decide_sign(self.lowest[name])
            quantizer.decide_zero_point(self.lowest[name], self.highest[name])
            if not quantizer.has_fixed_amax:
                set_ranges(quantizer, high, low)
            quantizer.calibrator.reset()

    def note_clipped(self) -> None:
        """Tell every quantizer what share of the values that passed its range leaves out."""
        for name in self.names:
            quantizer = self._quantizers[name]
            low, high = (float(end) for end in (quantizer.widest_limits[0].amin(), quantizer.widest_limits[1].amax()))
            if name in self._histograms:
                quantizer.clipped_in_calibration = self._histograms[name].share_beyond(low, high)
            elif low <= self.lowest[name] and self.highest[name] <= high:
                quantizer.clipped_in_calibration = 0.0

    def rows(self, methods: Mapping[str, str]) -> tuple[PointRange, ...]:
        """What the quantizers have now, by these ``methods``."""
        passed = [name for name in self._quantizers if name in self.names]
        return tuple(
            PointRange.of(name, self._quantizers[name], self.lowest[name], self.highest[name], methods[name])
            for name in passed
        )


def set_ranges(quantizer: TensorQuantizer, high: Mapping[int, Any], low: Mapping[int, Any] | None) -> None:
    """Give ``quantizer`` one range, or one for every choice."""
    if set(high) == {0}:
        quantizer.set_amax(high[0])
    else:
        quantizer.set_amax_table(high, low)


_UPSTREAMS_OPTIONS = ("stride", "start_bin")


def known_options() -> set[str]:
    """Keywords of calibration beside its own, for some method or descriptor at least."""
    return {*option_names(), *_UPSTREAMS_OPTIONS}


def _without_upstreams(options: dict[str, Any]) -> dict[str, Any]:
    """What pytorch-quantization's histograms took besides is let go, and said so."""
    for name in _UPSTREAMS_OPTIONS:
        if name in options:
            warn(
                f"`{name}` tuned the search of pytorch-quantization's own histograms, which are no longer used: it "
                "does nothing and can be left out",
                DeprecationWarning,
            )
    return {name: value for name, value in options.items() if name not in _UPSTREAMS_OPTIONS}


def gives_each_width_its_own(method: str) -> bool:
    """Whether ranges by ``method`` may differ between choices."""
    return method == AUTOMATIC or (method in CALIBRATORS and CALIBRATORS[method].needs_histogram)
