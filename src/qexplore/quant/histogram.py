"""One statistics pass over a stream of tensors."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qexplore.errors import CalibrationError

DEFAULT_NUM_BINS = 4096

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_MANTISSA = 10
"""Bits of the mantissa that tell bins apart: 1024 to an octave, each knows its values to 2^-10 of themselves."""
_LEAST_EXPONENT, _MOST_EXPONENT = -149, 127
"""Of float32's numbers, subnormals included; what lies beyond, in float64, stands in the outermost bins."""
_NUM_BINS = (_MOST_EXPONENT - _LEAST_EXPONENT + 1) << _MANTISSA
_DROPPED = 52 - _MANTISSA
_FIRST = (_LEAST_EXPONENT + 1023) << _MANTISSA
_CHUNK = 1 << 16
"""Values counted at once: few enough to stay in a processor's cache."""


class Histogram:
    """Counts of the values of a tensor stream, in bins that are made of a number's own bits.

    A bin holds the numbers that share sign, exponent and the first 10 bits of the mantissa: those of one octave lie
    evenly, and each is known to 2^-10 of itself. Such bins need no range to be known, so a tensor of zeros that comes
    first, an outlier of any size, the order of the tensors and where they were cut do not matter, and the memory is the
    same for any number of values: 16 KiB for every octave that they fill, 4.4 MiB at most. (High dynamic range
    histograms, G. Tene, hdrhistogram.org, 2012; C. Masson et al., "DDSketch", VLDB 2019, arXiv 1908.10693.) Exact zeros
    are counted apart: no grid rounds them, and they are half of what a ReLU gives.

    `counts`, `edges`, `bin_width` and `magnitudes` show the same counts in equal bins over the range ``(-limit,
    limit)``, as methods want them that look at every level of a grid; ``limit`` is the least power of two above every
    magnitude seen.

    Attributes:
        num_bins: equal bins of the whole range; half of them are negative.
        name: what is counted, as error messages call it.
        num_zeros: exact zeros of either sign.
        lowest: least value seen, exactly; NaN before any.
        highest: greatest value seen, exactly; NaN before any.

    Raises:
        CalibrationError: ``num_bins`` is no power of two from 4 to 4096.
    """

    def __init__(self, num_bins: int = DEFAULT_NUM_BINS, *, name: str = "a tensor") -> None:
        if not 4 <= num_bins <= DEFAULT_NUM_BINS or num_bins & (num_bins - 1):
            raise CalibrationError(
                f"`num_bins` of a histogram must be a power of two from 4 to {DEFAULT_NUM_BINS}, got {num_bins}"
            )
        self.num_bins = num_bins
        self.name = name
        self.num_zeros = 0
        self.lowest = math.nan
        self.highest = math.nan
        # Negative values, then positive ones, each by magnitude. Pages that nothing was counted in take no memory.
        self._table = torch.from_numpy(np.zeros(2 * _NUM_BINS, dtype=np.int64))
        self._held: tuple[Counts, Counts] | None = None

    @property
    def count(self) -> int:
        """Values seen, zeros included."""
        return int(self._filled()[1].sum()) + self.num_zeros

    @property
    def amax(self) -> float:
        """Largest magnitude seen, exactly; NaN before any value."""
        return max(-self.lowest, self.highest)

    @property
    def ends(self) -> tuple[float, float]:
        """Least and greatest value seen, with zero between them."""
        return min(self.lowest, 0.0), max(self.highest, 0.0)

    @property
    def limit(self) -> float:
        """The least power of two above every magnitude seen; 0 before any value."""
        return 0.0 if math.isnan(self.amax) else _power_above(self.amax)

    @property
    def bin_width(self) -> float:
        """Of every equal bin."""
        return 2 * self.limit / self.num_bins

    @property
    def edges(self) -> Floats:
        """Ends of the equal bins, rising, shape ``[num_bins + 1]``; the one in the middle is 0."""
        return self._equal_edges(self.limit)

    @property
    def counts(self) -> Counts:
        """Of values that are not zero, int64, shape ``[num_bins]``; bin ``i`` lies between two neighbouring `edges`."""
        return self.within(self.limit)[1:-1]

    @property
    def magnitudes(self) -> Counts:
        """Counts of equal bins of magnitudes, without zeros, shape ``[num_bins / 2]``."""
        return folded(self.counts)

    def reach(self, share: float) -> float:
        """Where equal bins are to end: a power of two, four times or more what all but ``share`` of the values have.

        So a range beyond it would spend three quarters of its levels on that share. Zeros do not count. It is `limit`
        unless there are outliers.
        """
        lows, highs, counts = self._by_magnitude()
        if not len(counts):
            return self.limit
        return min(self.limit, 4 * _power_above(_quantile(lows, highs, counts, (1 - share) * counts.sum())))

    def within(self, limit: float) -> Counts:
        """Counts in equal bins over ``(-limit, limit)``, a power of two, and before and behind them of what is beyond.

        Shape ``[num_bins + 2]``. Bins made of bits lie whole in these.
        """
        half, (places, counts) = self.num_bins // 2, self._filled()
        binned = np.zeros(self.num_bins + 2, dtype=np.int64)
        steps = np.minimum(np.floor(_edge(places % _NUM_BINS) / (limit or 1.0) * half), half).astype(np.int64)
        np.add.at(binned, np.where(places < _NUM_BINS, half - steps, half + 1 + steps), counts)
        return binned

    def bins(self, limit: float) -> tuple[Floats, Counts]:
        """Edges ``[B + 1]``, rising, and counts ``[B]``: equal bins up to ``limit``, and beyond it those of the bits.

        The first and the last hold a value, zeros apart; there is none without a value that is not zero.
        """
        inside = self.within(limit)[1:-1]
        lows, highs, counts = self._by_value()
        is_beyond = np.minimum(np.abs(lows), np.abs(highs)) >= limit
        lows, highs, counts = lows[is_beyond], highs[is_beyond], counts[is_beyond]
        edges = np.unique(np.concatenate([self._equal_edges(limit), lows, highs]))
        filled = np.zeros(len(edges) - 1, dtype=np.int64)
        filled[np.searchsorted(edges, lows)] = counts
        first = int(np.searchsorted(edges, -limit))
        filled[first : first + self.num_bins] = inside
        held = np.flatnonzero(filled)
        first, last = (int(held[0]), int(held[-1])) if len(held) else (0, -1)
        return edges[first : last + 2], filled[first : last + 1]

    def magnitude_of(self, percentile: float) -> float:
        """The magnitude that ``percentile`` % of the values, zeros included, do not exceed, to 2^-10 of itself."""
        if percentile == 100:
            return self.amax
        edges_and_counts = self._with_zeros(*self._by_magnitude(), 0)
        return min(_quantile(*edges_and_counts, percentile / 100 * self.count), self.amax)

    def quantile(self, share: float) -> float:
        """The value that ``share`` of the values, zeros included, do not exceed, to 2^-10 of itself."""
        if share == 1:
            return self.highest
        lows, highs, counts = self._by_value()
        edges_and_counts = self._with_zeros(lows, highs, counts, int(np.searchsorted(lows, 0.0)))
        return float(np.clip(_quantile(*edges_and_counts, share * self.count), self.lowest, self.highest))

    def share_beyond(self, low: float, high: float) -> float:
        """The share of the values, zeros included, that lie in bins beyond ``low`` or ``high``; 0 without a value."""
        lows, highs, counts = self._by_value()
        return float(counts[(lows >= high) | (highs <= low)].sum()) / max(self.count, 1)

    @property
    def mean_magnitude(self) -> float:
        """Of the values that are not zero, to 2^-10 of itself; NaN without one."""
        lows, highs, counts = self._by_magnitude()
        return float((lows + highs) / 2 @ (counts / counts.sum())) if len(counts) else math.nan

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
        lowest, highest = torch.stack(torch.aminmax(values)).tolist()
        if not (math.isfinite(lowest) and math.isfinite(highest)):
            raise CalibrationError(
                f"values of {self.name} must be finite to be calibrated on, got {lowest} to {highest}: look for the "
                "batch that brings them"
            )
        is_first = math.isnan(self.lowest)
        self.lowest = lowest if is_first else min(self.lowest, lowest)
        self.highest = highest if is_first else max(self.highest, highest)
        num_zeros = values.numel() - int(torch.count_nonzero(values))
        self._table = self._table.to(values.device)
        for chunk in torch.split(values, _CHUNK):
            self._count(chunk.double())
        self._table[_NUM_BINS] -= num_zeros  # where their bits put them
        self.num_zeros += num_zeros
        self._held = None

    def _count(self, values: Tensor) -> None:
        is_negative = values < 0
        # Every bin has its lower edge, so that of magnitudes which are negative has the upper one.
        bits = values.abs().view(torch.int64).sub_(is_negative.long()).bitwise_right_shift_(_DROPPED)
        places = bits.sub_(_FIRST).clamp_(0, _NUM_BINS - 1).add_(~is_negative * _NUM_BINS)
        self._table.scatter_add_(0, places, torch.ones((), dtype=torch.int64, device=values.device).expand_as(places))

    def _filled(self) -> tuple[Counts, Counts]:
        """Places of the table that hold a value, and their counts."""
        if self._held is None:
            table = self._table.cpu().numpy()
            places = np.flatnonzero(table)
            self._held = places, table[places]
        return self._held

    def _by_value(self) -> tuple[Floats, Floats, Counts]:
        """Lower and upper edges of the bins that hold a value, rising, and their counts."""
        places, counts = self._filled()
        num_negative = int(np.searchsorted(places, _NUM_BINS))
        negative, positive = places[:num_negative][::-1], places[num_negative:] - _NUM_BINS
        lows = np.concatenate([-_edge(negative + 1), _edge(positive)])
        highs = np.concatenate([-_edge(negative), _edge(positive + 1)])
        return lows, highs, np.concatenate([counts[:num_negative][::-1], counts[num_negative:]])

    def _by_magnitude(self) -> tuple[Floats, Floats, Counts]:
        """As `_by_value`, of magnitudes."""
        places, counts = self._filled()
        both, which = np.unique(places % _NUM_BINS, return_inverse=True)
        summed = np.zeros(len(both), dtype=np.int64)
        np.add.at(summed, which, counts)
        return _edge(both), _edge(both + 1), summed

    def _with_zeros(self, lows: Floats, highs: Floats, counts: Counts, place: int) -> tuple[Floats, Floats, Counts]:
        """Zeros as a bin without width, if there are any."""
        if self.num_zeros == 0:
            return lows, highs, counts
        return np.insert(lows, place, 0.0), np.insert(highs, place, 0.0), np.insert(counts, place, self.num_zeros)

    def _equal_edges(self, limit: float) -> Floats:
        places = np.arange(-self.num_bins // 2, self.num_bins // 2 + 1)
        return places.astype(np.float64) * (2 * limit / self.num_bins)


def folded(counts: Counts) -> Counts:
    """Counts of magnitudes from those of values, in bins that mirror each other about zero."""
    half = len(counts) // 2
    return counts[half:] + counts[:half][::-1]


def _edge(places: Counts) -> Floats:
    """Where the bins of magnitudes at these places begin."""
    return ((places + _FIRST) << _DROPPED).view(np.float64)


def _power_above(magnitude: float) -> float:
    """The least power of two above a magnitude, and above the least number."""
    least = _LEAST_EXPONENT + 1
    return math.ldexp(1.0, max(math.frexp(magnitude)[1], least) if magnitude > 0 else least)


def _quantile(lows: Floats, highs: Floats, counts: Counts, wanted: float) -> float:
    """Up to where ``wanted`` of the values lie, which are taken to lie evenly in their bins."""
    sums = np.cumsum(counts)
    place = min(int(np.searchsorted(sums, wanted)), len(sums) - 1)
    share = min(max((wanted - float(sums[place] - counts[place])) / float(counts[place]), 0.0), 1.0)
    return float(lows[place] + share * (highs[place] - lows[place]))
