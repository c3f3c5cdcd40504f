"""Kullback-Leibler divergence between a histogram and what quantization leaves of it; ranges where it is least."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from qexplore._choices import FloatFormat, choice_of
from qexplore.quant.histogram import Histogram, folded
from qexplore.quant.small_floats import float_grid

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

_LEAST_SHARE = 1 / 16
"""pytorch-quantization starts at bin 128 of 2048."""
_CANDIDATES = 256
_OUTLIERS = 0.01
"""Share of the values that may lie beyond the bins, where a level's share is not less."""
_EFFORT = 1 << 18
"""Ranges tried times levels; up to 8 bits that lets every bin be an end, as in pytorch-quantization."""


def divergences(counts: Floats, first: Places, stop: Places, borders: Floats) -> Floats:
    """The divergence for each of ``C`` ranges of bins, as TensorRT's entropy calibration defines it.

    The reference is the histogram within the range, with what lies outside added to its end bins; the quantized one
    gives every level's count, without the outsiders, in equal parts to those of its bins that are not empty (S. Migacz,
    "8-bit Inference with TensorRT", GTC 2017; pytorch-quantization's ``calib/histogram.py``).

    A range that leaves out more than one level's share of the values, ``1 / N`` of them, is not considered. Of tensors
    with few distinct values, such as images of 17 grey levels, a range of one filled bin would be the best: with all
    outsiders in that bin, reference and quantized histogram are equal. On bell-shaped data the least divergence leaves
    out a fifth of such a share at most, so that nothing changes there.

    Args:
        counts: of the bins, shape ``[B]``.
        first: first bin of each range, shape ``[C]``.
        stop: bin behind the last of each range.
        borders: where levels begin and the last one ends, rising from 0 to 1, in shares of a range, shape ``[N + 1]``.

    Returns:
        In nats, shape ``[C]``; infinite where an end bin that takes outsiders was empty, or too many are left out.
    """
    total = counts.sum()
    sums, filled, products = (np.concatenate([[0.0], np.cumsum(one)]) for one in (counts, counts > 0, _x_log_x(counts)))
    edges = first[:, None] + np.ceil(borders * (stop - first)[:, None] - 1e-9).astype(np.int64)
    per_level = np.diff(sums[edges], axis=1)
    shared = per_level / np.maximum(np.diff(filled[edges], axis=1), 1.0)
    below, above = sums[first], total - sums[stop]
    inside = total - below - above
    reference = products[stop] - products[first]
    quantized = (per_level * _log(shared)).sum(axis=1)
    with np.errstate(divide="ignore"):
        for outsiders, end in ((below, first), (above, stop - 1)):
            level = (edges[:, 1:] <= end[:, None]).sum(axis=1).clip(max=shared.shape[1] - 1)
            own = np.where(counts[end] > 0, np.take_along_axis(shared, level[:, None], axis=1)[:, 0], 0.0)
            reference += _x_log_x(counts[end] + outsiders) - _x_log_x(counts[end])
            quantized += np.where(outsiders > 0, outsiders * np.log(own, where=outsiders > 0, out=own * 0), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        result = (reference - quantized) / total - np.log(total) + np.log(inside)
    num_levels = len(borders) - 1
    return np.where((inside > 0) & ((below + above) * num_levels <= total), result, np.inf)


def _log(x: Floats) -> Floats:
    """With 0 for 0."""
    return np.log(np.where(x > 0, x, 1.0))


def _x_log_x(x: Floats) -> Floats:
    return x * _log(x)


def _levels(code: int, unsigned: bool) -> Floats:
    """Where the levels of a choice begin on the side of positive numbers, and end, in shares of the range."""
    choice = choice_of(code)
    if isinstance(choice, FloatFormat):
        grid = float_grid(choice).double().numpy()
        return np.concatenate([[0.0], (grid[1:] + grid[:-1]) / 2, [choice.largest]]) / choice.largest
    count = 2 ** (code - 1 + int(unsigned))
    borders: Floats = np.arange(count + 1) / count
    return borders


def amax_of_least_divergence(histogram: Histogram, unsigned: bool, narrow_range: bool) -> Callable[[int], float]:
    """The ``amax`` of least divergence, as a function of the choice; a narrow range has as many levels on a side."""
    return lambda code: _least_divergence(histogram, _levels(code, unsigned))


def _reach(histogram: Histogram, num_levels: int) -> float:
    """Where the bins of ranges end: no range that leaves out more than a level's share is considered."""
    return histogram.reach(min(1 / num_levels, _OUTLIERS))


def _least_divergence(histogram: Histogram, borders: Floats) -> float:
    limit = _reach(histogram, len(borders) - 1)
    # The last one holds what is beyond the limit, and no range ends behind it.
    counts, unit = folded(histogram.within(limit)), 2 * limit / histogram.num_bins
    used = int(np.flatnonzero(counts[:-1])[-1]) + 1
    start = max(len(borders) - 1, int(used * _LEAST_SHARE), 1)
    if start >= used:
        return min(used * unit, histogram.amax)
    # Magnitudes near 0 are as many as their neighbours, as TensorRT has it.
    smoothed = np.append(counts[:used], counts[used:].sum()).astype(np.float64)
    smoothed[0] = smoothed[1]
    num_candidates = min(max(_EFFORT // (len(borders) - 1), _CANDIDATES), used - start + 1)
    stop = np.unique(np.linspace(start, used, num_candidates).round().astype(np.int64))
    found = divergences(smoothed, np.zeros_like(stop), stop, borders)
    best = stop[len(found) - 1 - int(np.argmin(found[::-1]))]
    return min(float(best) * unit, histogram.amax)


def ends_of_least_divergence(histogram: Histogram, width: int) -> tuple[float, float]:
    """``(low, high)`` of least divergence: the ends move together."""
    num_levels = 2**width
    limit = _reach(histogram, num_levels)
    counts = histogram.within(limit).astype(np.float64)
    half, unit = len(counts) // 2, 2 * limit / histogram.num_bins
    held = np.flatnonzero(counts[1:-1]) + 1
    low = max(histogram.ends[0], min(float(held[0] - half) * unit, 0.0))
    high = min(histogram.ends[1], max(float(held[-1] - half + 1) * unit, 0.0))
    shares = np.linspace(_LEAST_SHARE, 1.0, _CANDIDATES)
    first = np.maximum(half + np.floor(shares * low / unit).astype(np.int64), 1)
    stop = np.minimum(half + np.floor(shares * high / unit).astype(np.int64) + 1, len(counts) - 1)
    possible = (stop - first >= num_levels) & (stop - first > 1)
    if not possible.any():
        return low, high
    first, stop, shares = first[possible], stop[possible], shares[possible]
    found = divergences(counts, first, stop, np.arange(num_levels + 1) / num_levels)
    share = shares[len(found) - 1 - int(np.argmin(found[::-1]))]
    return float(share * low), float(share * high)
