"""One statistics pass over a stream of tensors."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qexplore.errors import CalibrationError

DEFAULT_NUM_BINS = 4096

_LEAST_EXPONENT = -100
"""The range is never narrower than 2^-100, lest the bins' scale leave float32."""


class Histogram:
    """Counts of the values of a tensor stream, in equal bins over a range ``(-limit, limit)`` about zero.

    ``limit`` is the least power of two above every magnitude seen. When it grows, bins merge pairwise, and since every
    edge is a power of two's multiple, the counts are those of one pass over everything: the order of the tensors and
    where they were cut do not matter. Exact zeros are counted apart: no grid rounds them, and they are half of what a
    ReLU gives.

    Attributes:
        num_bins: of the whole range; half of them are negative.
        name: what is counted, as error messages call it.
        counts: of values that are not zero, int64, shape ``[num_bins]``; bin ``i`` is ``[edges[i], edges[i + 1])``.
        num_zeros: exact zeros of either sign.
        lowest: least value seen, exactly; NaN before any.
        highest: greatest value seen, exactly; NaN before any.
        limit: end of the range; 0 before any value.

    Raises:
        CalibrationError: ``num_bins`` is no power of two, or below 4.
    """

    def __init__(self, num_bins: int = DEFAULT_NUM_BINS, *, name: str = "a tensor") -> None:
        if num_bins < 4 or num_bins & (num_bins - 1):
            raise CalibrationError(f"`num_bins` of a histogram must be a power of two from 4 on, got {num_bins}")
        self.num_bins = num_bins
        self.name = name
        self.counts: npt.NDArray[np.int64] = np.zeros(num_bins, dtype=np.int64)
        self.num_zeros = 0
        self.lowest = math.nan
        self.highest = math.nan
        self.limit = 0.0

    @property
    def count(self) -> int:
        """Values seen, zeros included."""
        return int(self.counts.sum()) + self.num_zeros

    @property
    def amax(self) -> float:
        """Largest magnitude seen, exactly; NaN before any value."""
        return max(-self.lowest, self.highest)

    @property
    def ends(self) -> tuple[float, float]:
        """Least and greatest value seen, with zero between them."""
        return min(self.lowest, 0.0), max(self.highest, 0.0)

    @property
    def bin_width(self) -> float:
        """Of every bin."""
        return 2 * self.limit / self.num_bins

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """Ends of the bins, rising, shape ``[num_bins + 1]``; the one in the middle is 0."""
        places = np.arange(-self.num_bins // 2, self.num_bins // 2 + 1)
        return places.astype(np.float64) * self.bin_width

    @property
    def magnitudes(self) -> npt.NDArray[np.int64]:
        """Counts of bins of magnitudes, without zeros, shape ``[num_bins / 2]``."""
        half = self.num_bins // 2
        return self.counts[half:] + self.counts[:half][::-1]

    def magnitude_of(self, percentile: float) -> float:
        """The magnitude that ``percentile`` % of the values, zeros included, do not exceed."""
        place = _place(self.magnitudes, percentile / 100 * self.count - self.num_zeros)
        return min(place * self.bin_width, self.amax)

    def quantile(self, share: float) -> float:
        """The value that ``share`` of the values, zeros included, do not exceed."""
        half = self.num_bins // 2
        negative, wanted = int(self.counts[:half].sum()), share * self.count
        if negative < wanted <= negative + self.num_zeros:
            return 0.0
        place = _place(self.counts, wanted if wanted <= negative else wanted - self.num_zeros)
        return float(np.clip((place - half) * self.bin_width, self.lowest, self.highest))

    def collect(self, tensor: Tensor) -> None:
        """Count the values of a tensor.

        Args:
            tensor: any shape, float dtype and device; an empty one counts nothing.

        Raises:
            CalibrationError: NaN or infinity among the values.
        """
        if tensor.numel() == 0:
            return
        values = tensor.detach().flatten()
        values = values if values.dtype == torch.float64 else values.float()
        lowest, highest = torch.stack(torch.aminmax(values)).tolist()
        if not (math.isfinite(lowest) and math.isfinite(highest)):
            raise CalibrationError(
                f"values of {self.name} must be finite to be calibrated on, got {lowest} to {highest}: look for the "
                "batch that brings them"
            )
        self._note_range(lowest, highest)
        num_zeros = values.numel() - int(torch.count_nonzero(values))
        self.counts += self._count(values)
        self.counts[self.num_bins // 2] -= num_zeros
        self.num_zeros += num_zeros

    def _note_range(self, lowest: float, highest: float) -> None:
        is_first = self.limit == 0
        self.lowest = lowest if is_first else min(self.lowest, lowest)
        self.highest = highest if is_first else max(self.highest, highest)
        needed = math.ldexp(1.0, max(math.frexp(self.amax)[1], _LEAST_EXPONENT))
        while 0 < self.limit < needed:
            self._double()
        self.limit = max(self.limit, needed)

    def _double(self) -> None:
        """Twice the range in as many bins."""
        quarter = self.num_bins // 4
        self.counts = np.pad(self.counts.reshape(-1, 2).sum(axis=1), quarter)
        self.limit *= 2

    def _count(self, values: Tensor) -> npt.NDArray[np.int64]:
        """Exact: scaling by a power of two loses nothing, and rounds nothing across an edge."""
        half = self.num_bins // 2
        places = (values * (half / self.limit)).floor_().add_(half).to(torch.int32)
        counts: npt.NDArray[np.int64] = torch.bincount(places, minlength=self.num_bins).cpu().numpy()
        return counts


def _place(counts: npt.NDArray[np.int64], wanted: float) -> float:
    """Where, in bins, ``wanted`` of the values lie to the left."""
    return float(np.interp(wanted, *_rising(np.concatenate([[0], np.cumsum(counts)]))))


def _rising(sums: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Sums without repetitions, with their places: the first of equal ones, and for 0 the last."""
    kept = np.append(True, np.diff(sums) > 0)
    places = np.flatnonzero(kept)
    places[0] = np.searchsorted(sums, 0, side="right") - 1 if sums[-1] > 0 else 0
    return sums[kept], places
