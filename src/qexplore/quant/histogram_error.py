"""Expected squared error of a grid on a histogram, for many grids at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qexplore._choices import FloatFormat
from qexplore.quant.histogram import Histogram
from qexplore.quant.small_floats import float_grid

Floats = npt.NDArray[np.float64]

_NARROWEST = 1e-3
"""Least share of a bin that the outermost values are taken to fill."""


class HistogramError:
    """Mean squared quantization error of a histogram's values, taken to lie evenly within their bin.

    With ``F(x)`` the integral of ``(t - Q(t))^2`` from 0 to ``x``, a bin ``[a, b)`` costs ``(F(b) - F(a)) / (b - a)`` a
    value: exact however the grid's step compares with the bin, where taking all values at the bin's middle is wrong
    once steps are as small as bins. Exact zeros cost nothing: they stand on every grid.
    """

    def __init__(self, histogram: Histogram) -> None:
        filled = np.flatnonzero(histogram.counts)
        first, last = (int(filled[0]), int(filled[-1])) if len(filled) else (0, 0)
        edges = histogram.edges[first : last + 2].copy()
        if len(filled):
            # Nothing lies beyond the extremes, though their bins may end far from them.
            least = _NARROWEST * histogram.bin_width
            lowest = max(edges[0], min(histogram.lowest, edges[1] - least))
            edges[-1] = min(edges[-1], max(histogram.highest, edges[-2] + least))
            edges[0] = min(lowest, edges[-1] - least)
        self._edges = edges
        self._densities = histogram.counts[first : last + 1] / np.diff(edges) / max(histogram.count, 1)

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
