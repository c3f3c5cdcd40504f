"""The methods of calibration: a row for each, from what data passed, or from a weight, to a range for every choice."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from qexplore._arguments import is_number
from qexplore._choices import has_range
from qexplore.errors import CalibrationError
from qexplore.quant.divergence import amax_of_least_divergence, ends_of_least_divergence
from qexplore.quant.histogram import Histogram
from qexplore.quant.histogram_error import amax_of_least_error, ends_of_least_error
from qexplore.quant.weight_ranges import amax_of_least_row_error, percentile_of_rows

DEFAULT_PERCENTILE = 99.99

AmaxOf = Callable[[int], float]
EndsOf = Callable[[int], tuple[float, float]]
RowsOf = Callable[[int], Tensor]


@dataclass(frozen=True)
class Calibrator:
    """How a method finds ranges; each function gives one that answers for a choice, so that work is shared.

    Attributes:
        amax: called with ``(histogram, unsigned, narrow_range, **options)``, for a range ``[-amax, amax]``.
        ends: called with ``(histogram, **options)``, for an integer width with a zero point.
        rows: called with the rows of a weight, ``[R, n]``, for an ``amax [R]``; None where it is for activations only.
        options: what the method takes besides, by name, with a function that checks it.
        needs_histogram: it asks for more than the extremes, and may give every width a range of its own.
        is_upstream: pytorch-quantization's own histograms have it too.
    """

    amax: Callable[..., AmaxOf]
    ends: Callable[..., EndsOf]
    rows: Callable[[Tensor], RowsOf] | None = None
    options: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    needs_histogram: bool = True
    is_upstream: bool = False


def _checked_percentile(percentile: Any) -> float:
    if not (is_number(percentile) and 0 < percentile <= 100):
        raise CalibrationError(f"`percentile` must be in (1, 100], got {percentile}")
    if percentile <= 1:
        raise CalibrationError(
            f"`percentile` counts from 0 to 100, got {percentile:g}: did you mean {100 * percentile:.10g}?"
        )
    return float(percentile)


def _percentile(histogram: Histogram, *_: bool, percentile: float = DEFAULT_PERCENTILE) -> AmaxOf:
    magnitude = histogram.magnitude_of(percentile)
    return lambda code: magnitude


def _percentile_ends(histogram: Histogram, percentile: float = DEFAULT_PERCENTILE) -> EndsOf:
    """Half of the rest is left out at either end."""
    tail = (1 - percentile / 100) / 2
    ends = min(histogram.quantile(tail), 0.0), max(histogram.quantile(1 - tail), 0.0)
    return lambda width: ends


def _largest_of_rows(rows: Tensor) -> RowsOf:
    largest = rows.abs().amax(dim=1)
    return lambda code: largest


CALIBRATORS = {
    # The largest magnitude, or of rows theirs.
    "max": Calibrator(
        amax=lambda histogram, *_: lambda code: histogram.amax,
        ends=lambda histogram: lambda width: histogram.ends,
        rows=_largest_of_rows,
        needs_histogram=False,
    ),
    # The magnitude that so many per cent of the values, zeros included, do not exceed.
    "percentile": Calibrator(
        amax=_percentile,
        ends=_percentile_ends,
        rows=lambda rows: percentile_of_rows(rows, DEFAULT_PERCENTILE),
        options={"percentile": _checked_percentile},
        is_upstream=True,
    ),
    # That of the least squared error, the largest among those tried.
    "mse": Calibrator(amax=amax_of_least_error, ends=ends_of_least_error, rows=amax_of_least_row_error),
    # That of the least divergence between the histogram and its quantized version.
    "entropy": Calibrator(
        amax=amax_of_least_divergence,
        ends=lambda histogram: functools.partial(ends_of_least_divergence, histogram),
        is_upstream=True,
    ),
}
"""By name; the first is what is taken where nothing is to be clipped."""

WHOLE_RANGE = next(iter(CALIBRATORS))

WEIGHT_CALIBRATORS = {name: row.rows for name, row in CALIBRATORS.items() if row.rows is not None}

COMPARED = {"activation": ("mse", "percentile", "max"), "weight": ("mse", "max")}
"""Among which "auto" chooses, by kind of point; the first counts where nothing was compared."""


def amax_table(
    histogram: Histogram,
    method: str,
    codes: Sequence[int],
    *,
    unsigned: bool,
    narrow_range: bool = False,
    **options: float,
) -> dict[int, float]:
    """An ``amax`` for every choice; MX formats have none, and are given the largest magnitude.

    Args:
        histogram: of at least one value.
        method: one of `CALIBRATORS`.
        codes: choices, see `qexplore._choices`.
        unsigned: integer grids have no sign.
        narrow_range: integer grids are symmetric about 0.
        options: ``percentile``, 99.99 unless given, for ``"percentile"``; none for the others.

    Raises:
        TypeError: an unknown method, or an option that it does not have.
        CalibrationError: ``percentile`` is not in (1, 100]: 0.9999 is taken for a share.
    """
    calibrator, options = _row(method), check_options(method, options)
    largest = histogram.amax
    if largest == 0:
        return dict.fromkeys(codes, largest)
    amax = calibrator.amax(histogram, unsigned, narrow_range, **options)
    return {code: amax(code) if has_range(code) else largest for code in codes}


def range_table(
    histogram: Histogram, method: str, widths: Sequence[int], **options: float
) -> dict[int, tuple[float, float]]:
    """``(low, high)`` for every integer width of a grid with a zero point; ``low <= 0 <= high``.

    Arguments and errors are those of `amax_table`; ``widths`` are from 1 bit on.
    """
    calibrator, options = _row(method), check_options(method, options)
    low, high = histogram.ends
    if high == low:
        return dict.fromkeys(widths, (low, high))
    ends = calibrator.ends(histogram, **options)
    return {width: ends(width) for width in widths}


@torch.no_grad()
def weight_amax_table(rows: Tensor, method: str, codes: Sequence[int]) -> dict[int, Tensor]:
    """An ``amax`` for every row of a signed weight and every choice.

    With ``"mse"``, MX formats and integers of more than 8 bits are given the largest magnitude.

    Args:
        rows: finite, shape ``[R, n]``.
        method: one of `WEIGHT_CALIBRATORS`.
        codes: choices, see `qexplore._choices`.

    Returns:
        float32 of shape ``[R]``, by code.

    Raises:
        TypeError: an unknown method.
    """
    if method not in WEIGHT_CALIBRATORS:
        raise TypeError(f"unknown calibration method of weights {method!r}")
    amax = WEIGHT_CALIBRATORS[method](rows.detach().float())
    return {code: amax(code) for code in codes}


_OF_WRAPPING = ("asymmetric", "unsigned", "quant_desc", "init_num_bits", "weight_granularity", "quantize_input")


def option_names() -> set[str]:
    """Names of all options that some method has, and of what belongs to wrapping, about which more can be said."""
    return {*_OF_WRAPPING, *(name for row in CALIBRATORS.values() for name in row.options)}


def check_options(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` of a method in their one form; `CALIBRATORS` names a method, any other has no options.

    Raises:
        TypeError: an option that the method does not have.
        CalibrationError: a value that it does not take.
    """
    known = CALIBRATORS[method].options if method in CALIBRATORS else {}
    for name in sorted(set(options) - set(known)):
        having = next((other for other, row in CALIBRATORS.items() if name in row.options), None)
        hint = "" if having is None else f': pass method="{having}" with it'
        if name in _OF_WRAPPING:
            hint = f": it is said when the network is wrapped, QuantizedModel(..., {name}=...)"
        raise TypeError(f"method {method!r} has no option {name!r}{hint}")
    return {name: known[name](value) for name, value in options.items()}


def _row(method: str) -> Calibrator:
    if method not in CALIBRATORS:
        raise TypeError(f"unknown calibration method {method!r}")
    return CALIBRATORS[method]
