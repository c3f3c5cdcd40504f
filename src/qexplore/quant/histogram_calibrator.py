"""The calibrator of ``calib_method="histogram"``: pytorch-quantization's interface over our histogram."""

from __future__ import annotations

import torch
from torch import Tensor

from qexplore._choices import choice_code
from qexplore.quant.calibrators import amax_table
from qexplore.quant.histogram import Histogram
from qexplore.quant.upstream import HistogramCalibrator, QuantDescriptor


class OwnHistogramCalibrator(HistogramCalibrator):
    """Upstream's own fixes its bins by its first tensor, keeps their number after `reset`, and counts in float32.

    Args:
        quant_desc: upstream's descriptor: width, sign and range mode of the ranges that `compute_amax` finds.
        unsigned: the quantizer's sign.
    """

    def __init__(self, quant_desc: QuantDescriptor, unsigned: bool) -> None:
        super().__init__(quant_desc.num_bits, quant_desc.axis, unsigned)
        self._narrow_range = bool(quant_desc.narrow_range)
        self.reset()

    def collect(self, x: Tensor) -> None:
        """Count the values of a tensor; `Histogram.collect` says which it refuses."""
        self._histogram.collect(x)

    def reset(self) -> None:
        """Forget everything."""
        self._histogram = Histogram()

    def compute_amax(self, method: str, *, stride: int = 1, start_bin: int = 128, **options: float) -> Tensor | None:
        """The range by ``method``; None before any value. ``stride`` and ``start_bin`` do nothing.

        Raises:
            TypeError: an unknown method or option.
            CalibrationError: an option that does not suit the method.
        """
        if self._histogram.count == 0:
            return None
        code = choice_code(self._num_bits)
        assert code is not None, "the quantizer has checked it"
        found = amax_table(
            self._histogram, method, [code], unsigned=self._unsigned, narrow_range=self._narrow_range, **options
        )
        return torch.tensor(found[code])
