"""Where a quantizer keeps its ranges: one for all widths, or one for each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from qexplore._choices import MAX_NUM_BITS, has_range
from qexplore.errors import CalibrationError
from qexplore.quant.ranges import RangeTable
from qexplore.quant.upstream import UpstreamQuantizer


class RangedQuantizer(UpstreamQuantizer):
    """Upstream's quantizer with ranges that are checked, stay float32, and may depend on the width.

    Args:
        quant_desc: upstream's descriptor.
        disabled: let tensors through unchanged.
        name: how error messages call this quantizer.
        stages: upstream's ``if_quant``, ``if_clip`` and ``if_calib``.

    Attributes:
        clipped_in_calibration: share, 0 to 1, of the values of calibration that are beyond the range at every integer
            width; nan for a range that is from elsewhere.

    Raises:
        CalibrationError: an ``amax`` in ``quant_desc`` that is negative or not finite.
    """

    def __init__(self, quant_desc: Any, disabled: bool, name: str, **stages: bool) -> None:
        super().__init__(quant_desc, disabled, **stages)
        self.name = name
        self.ranges = RangeTable()
        self.clipped_in_calibration = math.nan
        self._code = self._num_bits
        self.has_fixed_amax = quant_desc.amax is not None
        if self.has_fixed_amax:
            self.set_amax(quant_desc.amax)  # checks the range

    @property
    def amax(self) -> Tensor | None:
        """Largest magnitude the range covers, float32, a scalar or one value per channel; None before calibration.

        That of the present width where every width has its own; setting it gives one to all.
        """
        row = self.ranges.row(self._code)
        if row is None:
            return self._buffers.get("_amax")
        low, high = row
        return high if low is None else torch.maximum(-low, high)

    @amax.setter
    def amax(self, value: float | Tensor) -> None:
        self.set_amax(value)

    @property
    def device(self) -> torch.device:
        """Where the quantizer lies, and ranges that it is given go; before it has one, where it was moved with `to`."""
        amax = self._buffers.get("_amax")
        return self.ranges.codes.device if amax is None else amax.device

    @property
    def is_calibrated(self) -> bool:
        """Whether the range is known without looking at the tensor at hand."""
        return self.amax is not None

    @property
    def range(self) -> tuple[Tensor, Tensor]:
        """``(low, high)`` of the present width; known after calibration."""
        row, amax = self.ranges.row(self._code), self.amax
        assert amax is not None, "the range is known after calibration"
        return (-amax, amax) if row is None or row[0] is None else (row[0], row[1])

    @property
    def whole_range(self) -> tuple[Tensor, Tensor]:
        """``(low, high)`` that covers the ranges of all widths; known after calibration."""
        amax = self._buffers["_amax"]
        assert amax is not None, "the range is known after calibration"
        return -amax, amax

    @property
    def widest_range(self) -> tuple[Tensor, Tensor]:
        """As `whole_range`, of integer widths alone where these have ranges of their own: formats may reach farther."""
        rows = [self.ranges.row(code) for code in self.ranges.known if code <= MAX_NUM_BITS]
        if not rows:
            return self.whole_range
        low, high = zip(*((-high if low is None else low, high) for low, high in filter(None, rows)), strict=True)
        return torch.stack(low).amin(dim=0), torch.stack(high).amax(dim=0)

    def set_amax_table(self, high: Mapping[int, Any], low: Mapping[int, Any] | None = None) -> None:
        """Give every choice its range, by code; ``amax`` at other choices is the largest of them, MX formats apart.

        Args:
            high: upper ends, which are the ``amax`` where ``low`` is None.
            low: lower ends, for asymmetric quantizers.

        Raises:
            CalibrationError: a range that `set_amax` refuses.
        """

        def placed(values: Mapping[int, Any]) -> dict[int, Tensor]:
            return {code: torch.as_tensor(end, dtype=torch.float32, device=self.device) for code, end in values.items()}

        ends, others = placed(high), None if low is None else placed(low)
        magnitudes = {code: end if others is None else torch.stack([end, -others[code]]) for code, end in ends.items()}
        if not all(bool((torch.isfinite(one) & (one >= 0)).all()) for one in magnitudes.values()):
            raise CalibrationError(f"`amax` of point '{self.name}' must be finite and not negative at every width")
        if others is not None:
            magnitudes = {code: pair.amax(dim=0) for code, pair in magnitudes.items()}
        # The rows of MX formats say how large values are, not what a range covers: that may be nothing.
        ranged = [one for code, one in magnitudes.items() if has_range(code)] or list(magnitudes.values())
        self.set_amax(torch.stack(ranged).amax(dim=0))
        self.ranges.fill(ends, others)

    def own_range(self) -> None:
        """Give the present choice a range of its own, for the time being the one that it has."""
        known, (low, high) = self.ranges.known, self.range
        if self._code not in known:
            lows = dict(zip(known, self.ranges.low, strict=True)) | {self._code: low} if len(self.ranges.low) else None
            self.ranges.fill(dict(zip(known, self.ranges.high, strict=True)) | {self._code: high}, lows)

    def set_own_range(self, low: Tensor, high: Tensor) -> None:
        """Set the ends of the present choice's own range, in place; ``low`` only counts for asymmetric quantizers."""
        place = self.ranges.known.index(self._code)
        self.ranges.high[place].copy_(high)
        if len(self.ranges.low):
            self.ranges.low[place].copy_(low)

    @property
    def range_tensors(self) -> tuple[Tensor, ...]:
        """Everything that holds a range, to be changed in place; the last axes are those of `amax`."""
        single = self._buffers.get("_amax")
        tables = (self.ranges.high, self.ranges.low) if len(self.ranges) else ()
        return (*([] if single is None else [single]), *(table for table in tables if len(table)))

    def set_amax(self, value: Any) -> None:
        """Set the range and give ``_amax`` its shape, in place where the shape stays.

        Raises:
            CalibrationError: not a number, or not a tensor of finite, non-negative numbers with at least one in it.
        """
        try:
            amax = torch.as_tensor(value, dtype=torch.float32).detach()
        except (TypeError, ValueError, RuntimeError) as error:
            raise CalibrationError(f"`amax` of point '{self.name}' must be a number, got {value!r}") from error
        if amax.numel() == 0 or not bool((torch.isfinite(amax) & (amax >= 0)).all()):
            raise CalibrationError(f"`amax` of point '{self.name}' must be finite and not negative, got {value!r}")
        self.ranges.clear()
        self.clipped_in_calibration = math.nan
        present = self._buffers.get("_amax")
        if present is not None and present.shape == amax.shape:
            with torch.no_grad():
                present.copy_(amax)
        else:
            # What was found on a device stays there; numbers go where the quantizer lies.
            device = self.device if present is not None or amax.is_cpu else amax.device
            self.register_buffer("_amax", amax.clone().to(device))
        if self._learn_amax:
            self.init_learn_amax()

    def lie_on(self, device: torch.device) -> None:
        """Move there, unless all of it lies there already."""
        if any(tensor.device != device for tensor in (*self.parameters(), *self.buffers())):
            self.to(device)

    def _get_amax(self, inputs: Tensor) -> Tensor:
        """On the device of ``inputs``: their network may have been moved without its quantizers."""
        if self.ranges.row(self._code) is None:
            return super()._get_amax(inputs).to(inputs.device)
        assert self.amax is not None
        amax = self.amax.to(inputs.device)
        return amax if self._scale_amax is None else amax * self._scale_amax

    def _apply(self, fn: Any, recurse: bool = True) -> RangedQuantizer:
        before = self._buffers.get("_amax")
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        after = self._buffers.get("_amax")
        if before is not None and after is not None and after.dtype != torch.float32:
            self._buffers["_amax"] = before.to(after.device)  # a model cast to half must not round its ranges
        return self

    def _make_room_for_amax(self, saved: Tensor) -> None:
        present = self._buffers.get("_amax")
        if present is None or present.shape != saved.shape:
            self.register_buffer("_amax", torch.full_like(saved, math.nan, dtype=torch.float32, device=self.device))
