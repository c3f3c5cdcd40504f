"""Expected squared error of a grid on a histogram, for many grids at once, and the ranges where it is least."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from qexplore._choices import FloatFormat, choice_of
from qexplore.quant.formats import IntegerGrid
from qexplore.quant.histogram import Histogram
from qexplore.quant.small_floats import float_grid

Floats = npt.NDArray[np.float64]

_NARROWEST = 1e-3
"""Least share of a bin that the outermost values are taken to fill."""
_OCTAVES = 8
"""Ranges are tried from 2^-8 of the largest magnitude on, or from lower where most values are smaller still."""
_TRIED = 3
"""In an octave."""
_OUTLIERS = 0.01
"""Share of the values for which bins need not be equal ones."""
_FINE = 9
_LEAST_GAIN = 0.01
"""A range is cut only if that is expected to save this share of the error: a histogram does not know more."""


class HistogramError:
    """Mean squared quantization error of a histogram's values, taken to lie evenly within their bin.

    With ``F(x)`` the integral of ``(t - Q(t))^2`` from 0 to ``x``, a bin ``[a, b)`` costs ``(F(b) - F(a)) / (b - a)`` a
    value: exact however the grid's step compares with the bin, where taking all values at the bin's middle is wrong
    once steps are as small as bins. Exact zeros cost nothing: they stand on every grid.
    """

    def __init__(self, histogram: Histogram) -> None:
        edges, counts = histogram.bins(histogram.reach(_OUTLIERS))
        if len(counts):
            # Nothing lies beyond the extremes, though their bins may end far from them.
            first, last = _NARROWEST * (edges[1] - edges[0]), _NARROWEST * (edges[-1] - edges[-2])
            lowest = max(edges[0], min(histogram.lowest, edges[1] - first))
            edges[-1] = min(edges[-1], max(histogram.highest, edges[-2] + last))
            edges[0] = min(lowest, edges[-1] - last)
        self._edges = edges
        self._densities = counts / np.diff(edges) / max(histogram.count, 1)
        # Below the mean all values gain by a wider range; the least of signed integers stands for twice the range.
        below = histogram.amax / histogram.mean_magnitude * 4 if len(counts) else 1.0
        octaves = max(_OCTAVES, math.ceil(math.log2(below)))
        self.tried = np.geomspace(2.0**-octaves, 1.0, _TRIED * octaves + 1)

    def of_integers(self, step: Floats, quant_min: Floats | int, quant_max: Floats | int) -> Floats:
        """The error on each grid ``step * {quant_min, ..., quant_max}``; arguments ``[C]``, error ``[C]``."""
        step, low, high = (np.asarray(one, dtype=np.float64)[..., None] for one in (step, quant_min, quant_max))
        level = np.rint(self._edges / step).clip(low, high)
        integral = level * step**3 / 12 + (self._edges - level * step) ** 3 / 3
        return self._from_integral(integral)

    def of_floats(self, fmt: FloatFormat, amax: Floats) -> Floats:
        """The error on a float format's grid, its largest value at each ``amax [C]``; error ``[C]``."""
        grid = float_grid(fmt).double().numpy()
        middles = (grid[1:] + grid[:-1]) / 2
        # F at a middle is F at the one before and two thirds of cubes, one on either side of the value between.
        jumps = ((middles - grid[:-1]) ** 3 - (middles - grid[1:]) ** 3) / 3
        below = np.concatenate([[0.0], np.cumsum(jumps)])
        unit = (amax / fmt.largest)[:, None]
        scaled = np.abs(self._edges) / unit
        place = np.searchsorted(middles, scaled)
        integral = np.sign(self._edges) * (below[place] + (scaled - grid[place]) ** 3 / 3) * unit**3
        return self._from_integral(integral)

    def _from_integral(self, integral: Floats) -> Floats:
        error: Floats = np.diff(integral, axis=-1) @ self._densities
        return error


def amax_of_least_error(histogram: Histogram, unsigned: bool, narrow_range: bool) -> Callable[[int], float]:
    """The ``amax`` of least error, as a function of the choice."""
    error = HistogramError(histogram)

    def find(code: int) -> float:
        choice = choice_of(code)
        if isinstance(choice, FloatFormat):
            return _least_error(lambda amax: error.of_floats(choice, amax), histogram.amax, error.tried)
        grid = IntegerGrid(code, unsigned, narrow_range)
        return _least_error(
            lambda amax: error.of_integers(amax / grid.quant_max, grid.quant_min, grid.quant_max),
            histogram.amax,
            error.tried,
        )

    return find


def _least_error(errors: Callable[[Floats], Floats], largest: float, tried: Floats) -> float:
    """The end with the least error, of the shares ``tried`` of ``largest`` (of either sign) and two finer searches."""
    found = errors(tried * largest)
    of_largest = found[-1]
    for _ in range(2):
        best = int(np.argmin(found))
        around = tried[max(best - 1, 0)], tried[min(best + 1, len(tried) - 1)]
        finer = np.append(np.linspace(*around, _FINE), tried[best])
        finer.sort()
        tried, found = finer, errors(finer * largest)
    best = int(np.argmin(found))
    return float(tried[best] * largest) if found[best] < (1 - _LEAST_GAIN) * of_largest else largest


def ends_of_least_error(histogram: Histogram) -> Callable[[int], tuple[float, float]]:
    """``(low, high)`` of least error, as a function of the width: the ends move together, then in turns."""
    error, (low, high) = HistogramError(histogram), histogram.ends
    return lambda width: _least_affine_error(error, width, low, high)


def _least_affine_error(error: HistogramError, width: int, low: float, high: float) -> tuple[float, float]:
    def errors(lows: Floats, highs: Floats) -> Floats:
        levels = float(2**width - 1)
        step = (highs - lows) / levels
        zero_point = np.rint(-lows / step)
        return error.of_integers(step, -zero_point, levels - zero_point)

    def errors_of_high(tried: Floats) -> Floats:
        return errors(np.full_like(tried, ends[0]), tried)

    def errors_of_low(tried: Floats) -> Floats:
        return errors(tried, np.full_like(tried, ends[1]))

    share = _least_error(lambda shares: errors(shares * low, shares * high), 1.0, error.tried)
    together = ends = share * low, share * high
    for _ in range(2):
        if high > 0:
            ends = ends[0], _least_error(errors_of_high, high, error.tried)
        if low < 0:
            ends = _least_error(errors_of_low, low, error.tried), ends[1]
    candidates = np.array([(low, high), together, ends])
    found = errors(candidates[:, 0], candidates[:, 1])
    best = int(np.argmin(found))
    best = best if found[best] < (1 - _LEAST_GAIN) * found[0] else 0
    return float(candidates[best, 0]), float(candidates[best, 1])
