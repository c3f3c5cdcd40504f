"""From a histogram to a range for every choice: by the maximum, a percentile, the squared error or the divergence."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from qexplore._choices import FloatFormat, choice_of
from qexplore.errors import CalibrationError
from qexplore.quant.divergence import divergences
from qexplore.quant.formats import NOTHING_BELOW, IntegerGrid
from qexplore.quant.histogram import Histogram
from qexplore.quant.histogram_error import HistogramError
from qexplore.quant.small_floats import float_grid

Floats = npt.NDArray[np.float64]

DEFAULT_PERCENTILE = 99.99

_LEAST = 2.0**-8
"""Least share of the largest magnitude that a range is tried at."""
_COARSE = np.geomspace(_LEAST, 1.0, 25)
_FINE = 9
_LEAST_GAIN = 0.01
"""A range is cut only if that is expected to save this share of the error: a histogram does not know more."""
_LEAST_ENTROPY_SHARE = 1 / 16
"""pytorch-quantization starts at bin 128 of 2048."""
_ENTROPY_CANDIDATES = 256
_ENTROPY_EFFORT = 1 << 18
"""Ranges tried times levels; up to 8 bits that lets every bin be an end, as in pytorch-quantization."""


def amax_table(
    histogram: Histogram,
    method: str,
    codes: Sequence[int],
    *,
    unsigned: bool,
    narrow_range: bool = False,
    **options: float,
) -> dict[int, float]:
    """An ``amax`` for every choice.

    - ``"max"``: the largest magnitude.
    - ``"percentile"``: the magnitude that ``percentile`` % of the values, zeros included, do not exceed.
    - ``"mse"``: of the least expected squared error (`HistogramError`), the largest magnitude among those tried.
    - ``"entropy"``: of the least divergence between the histogram and its quantized version (`divergences`), with as
      many levels as the choice has on one side, as TensorRT and pytorch-quantization count them. At most one level's
      share of the values is left out.

    MX formats have no ``amax``; they are given the largest magnitude.

    Args:
        histogram: of at least one value.
        method: one of the above.
        codes: choices, see `qexplore._choices`.
        unsigned: integer grids have no sign.
        narrow_range: integer grids are symmetric about 0.
        options: ``percentile``, 99.99 unless given, for ``"percentile"``; none for the others.

    Raises:
        TypeError: an unknown method, or an option that it does not have.
        CalibrationError: ``percentile`` is not in (1, 100]: 0.9999 is taken for a share.
    """
    percentile = _checked(method, options)
    largest = histogram.amax
    if largest <= NOTHING_BELOW or method == "max":
        return dict.fromkeys(codes, largest)
    if method == "percentile":
        magnitude = _percentile(histogram, percentile)
        return {code: largest if _is_mx(code) else magnitude for code in codes}
    find = _mse_finder if method == "mse" else _entropy_finder
    found = find(histogram, unsigned, narrow_range)
    return {code: largest if _is_mx(code) else found(code) for code in codes}


def range_table(
    histogram: Histogram, method: str, widths: Sequence[int], **options: float
) -> dict[int, tuple[float, float]]:
    """``(low, high)`` for every integer width of a grid with a zero point; ``low <= 0 <= high``.

    As `amax_table`, with both ends free: ``"percentile"`` leaves half of the rest out at either end, ``"mse"`` moves
    the ends together and then in turns, ``"entropy"`` together.

    Args:
        histogram: of at least one value.
        method: "max", "percentile", "mse" or "entropy".
        widths: in bits, from 1 on.
        options: as `amax_table`'s.

    Raises:
        TypeError: an unknown method, or an option that it does not have.
        CalibrationError: ``percentile`` is not in (1, 100]: 0.9999 is taken for a share.
    """
    percentile = _checked(method, options)
    low, high = min(histogram.lowest, 0.0), max(histogram.highest, 0.0)
    if high - low <= NOTHING_BELOW or method == "max":
        return dict.fromkeys(widths, (low, high))
    if method == "percentile":
        tail = (1 - percentile / 100) / 2
        ends = min(_quantile(histogram, tail), 0.0), max(_quantile(histogram, 1 - tail), 0.0)
        return dict.fromkeys(widths, ends)
    if method == "mse":
        error = HistogramError(histogram)
        return {width: _least_affine_error(error, width, low, high) for width in widths}
    return {width: _least_affine_divergence(histogram, width, low, high) for width in widths}


def _checked(method: str, options: dict[str, float]) -> float:
    """The percentile."""
    if method not in ("max", "percentile", "mse", "entropy"):
        raise TypeError(f"unknown calibration method {method!r}")
    unknown = set(options) - ({"percentile"} if method == "percentile" else set())
    if unknown:
        raise TypeError(f"method {method!r} has no option {', '.join(sorted(unknown))}")
    percentile = float(options.get("percentile", DEFAULT_PERCENTILE))
    if 0 < percentile <= 1:
        raise CalibrationError(
            f"`percentile` counts from 0 to 100, got {percentile:g}: did you mean {100 * percentile:.10g}?"
        )
    if not 0 < percentile <= 100:
        raise CalibrationError(f"`percentile` must be in (1, 100], got {percentile}")
    return percentile


def _is_mx(code: int) -> bool:
    choice = choice_of(code)
    return isinstance(choice, FloatFormat) and choice.block > 0


# Percentiles.


def _magnitude_counts(histogram: Histogram) -> npt.NDArray[np.int64]:
    """Counts of bins of magnitudes, without zeros, shape ``[num_bins / 2]``."""
    half = histogram.num_bins // 2
    return histogram.counts[half:] + histogram.counts[:half][::-1]


def _percentile(histogram: Histogram, percentile: float) -> float:
    counts = _magnitude_counts(histogram)
    place = _place(counts, percentile / 100 * histogram.count - histogram.num_zeros)
    return min(place * histogram.bin_width, histogram.amax)


def _quantile(histogram: Histogram, share: float) -> float:
    half = histogram.num_bins // 2
    negative, wanted = int(histogram.counts[:half].sum()), share * histogram.count
    if negative < wanted <= negative + histogram.num_zeros:
        return 0.0
    place = _place(histogram.counts, wanted if wanted <= negative else wanted - histogram.num_zeros)
    return float(np.clip((place - half) * histogram.bin_width, histogram.lowest, histogram.highest))


def _place(counts: npt.NDArray[np.int64], wanted: float) -> float:
    """Where, in bins, ``wanted`` of the values lie to the left."""
    return float(np.interp(wanted, *_rising(np.concatenate([[0], np.cumsum(counts)]))))


def _rising(sums: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Sums without repetitions, with their places: the first of equal ones, and for 0 the last."""
    kept = np.append(True, np.diff(sums) > 0)
    places = np.flatnonzero(kept)
    places[0] = np.searchsorted(sums, 0, side="right") - 1 if sums[-1] > 0 else 0
    return sums[kept], places


# Least error.


def _mse_finder(histogram: Histogram, unsigned: bool, narrow_range: bool) -> Callable[[int], float]:
    """The ``amax`` of least error, as a function of the choice."""
    error = HistogramError(histogram)

    def find(code: int) -> float:
        choice = choice_of(code)
        if isinstance(choice, FloatFormat):
            return _least_error(lambda amax: error.of_floats(choice, amax), histogram.amax)
        grid = IntegerGrid(code, unsigned, narrow_range)
        return _least_error(
            lambda amax: error.of_integers(amax / grid.quant_max, grid.quant_min, grid.quant_max), histogram.amax
        )

    return find


def _least_error(errors: Callable[[Floats], Floats], largest: float) -> float:
    """The end up to ``largest`` (of either sign) with the least error: a coarse search, and two finer ones around."""
    tried, found = _COARSE, errors(_COARSE * largest)
    of_largest = found[-1]
    for _ in range(2):
        best = int(np.argmin(found))
        around = tried[max(best - 1, 0)], tried[min(best + 1, len(tried) - 1)]
        finer = np.append(np.linspace(*around, _FINE), tried[best])
        finer.sort()
        tried, found = finer, errors(finer * largest)
    best = int(np.argmin(found))
    return float(tried[best] * largest) if found[best] < (1 - _LEAST_GAIN) * of_largest else largest


def _least_affine_error(error: HistogramError, width: int, low: float, high: float) -> tuple[float, float]:
    def errors(lows: Floats, highs: Floats) -> Floats:
        levels = float(2**width - 1)
        step = np.maximum(highs - lows, NOTHING_BELOW) / levels
        zero_point = np.rint(-lows / step)
        return error.of_integers(step, -zero_point, levels - zero_point)

    def errors_of_high(tried: Floats) -> Floats:
        return errors(np.full_like(tried, ends[0]), tried)

    def errors_of_low(tried: Floats) -> Floats:
        return errors(tried, np.full_like(tried, ends[1]))

    share = _least_error(lambda shares: errors(shares * low, shares * high), 1.0)
    together = ends = share * low, share * high
    for _ in range(2):
        if high > 0:
            ends = ends[0], _least_error(errors_of_high, high)
        if low < 0:
            ends = _least_error(errors_of_low, low), ends[1]
    candidates = np.array([(low, high), together, ends])
    found = errors(candidates[:, 0], candidates[:, 1])
    best = int(np.argmin(found))
    best = best if found[best] < (1 - _LEAST_GAIN) * found[0] else 0
    return float(candidates[best, 0]), float(candidates[best, 1])


# Least divergence.


def _levels(code: int, unsigned: bool) -> Floats:
    """Where the levels of a choice begin on the side of positive numbers, and end, in shares of the range."""
    choice = choice_of(code)
    if isinstance(choice, FloatFormat):
        grid = float_grid(choice).double().numpy()
        return np.concatenate([[0.0], (grid[1:] + grid[:-1]) / 2, [choice.largest]]) / choice.largest
    count = 2 ** (code - 1 + int(unsigned))
    borders: Floats = np.arange(count + 1) / count
    return borders


def _entropy_finder(histogram: Histogram, unsigned: bool, narrow_range: bool) -> Callable[[int], float]:
    """The ``amax`` of least divergence, as a function of the choice; a narrow range has as many levels on a side."""
    counts = _magnitude_counts(histogram)
    return lambda code: _least_divergence(histogram, counts, _levels(code, unsigned))


def _least_divergence(histogram: Histogram, counts: npt.NDArray[np.int64], borders: Floats) -> float:
    used = int(np.flatnonzero(counts)[-1]) + 1
    start = max(len(borders) - 1, int(used * _LEAST_ENTROPY_SHARE), 1)
    if start >= used:
        return histogram.amax
    # Magnitudes near 0 are as many as their neighbours, as TensorRT has it.
    smoothed = counts[:used].astype(np.float64)
    smoothed[0] = smoothed[1]
    num_candidates = min(max(_ENTROPY_EFFORT // (len(borders) - 1), _ENTROPY_CANDIDATES), used - start + 1)
    stop = np.unique(np.linspace(start, used, num_candidates).round().astype(np.int64))
    found = divergences(smoothed, np.zeros_like(stop), stop, borders)
    best = stop[len(found) - 1 - int(np.argmin(found[::-1]))]
    return min(float(best) * histogram.bin_width, histogram.amax)


def _least_affine_divergence(histogram: Histogram, width: int, low: float, high: float) -> tuple[float, float]:
    counts, half, unit = histogram.counts.astype(np.float64), histogram.num_bins // 2, histogram.bin_width
    num_levels = 2**width
    shares = np.linspace(_LEAST_ENTROPY_SHARE, 1.0, _ENTROPY_CANDIDATES)
    first = half + np.floor(shares * low / unit).astype(np.int64)
    stop = np.minimum(half + np.floor(shares * high / unit).astype(np.int64) + 1, len(counts))
    possible = (stop - first >= num_levels) & (stop - first > 1)
    if not possible.any():
        return low, high
    first, stop, shares = first[possible], stop[possible], shares[possible]
    found = divergences(counts, first, stop, np.arange(num_levels + 1) / num_levels)
    share = shares[len(found) - 1 - int(np.argmin(found[::-1]))]
    return float(share * low), float(share * high)
