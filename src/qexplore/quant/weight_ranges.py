"""From a weight to a range for every row and choice, with the real arithmetic of each grid."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from qexplore._choices import FloatFormat, choice_of
from qexplore.quant.formats import IntegerGrid
from qexplore.quant.small_floats import quantize_float

_WIDEST_SEARCHED = 8
"""Wider integers take the maximum: clipping saves nothing there."""
_COARSE = torch.logspace(-1, 0, 14, dtype=torch.float64).float()[:-1]
_COARSE_OF_FLOATS = torch.logspace(-0.6, 0, 8, dtype=torch.float64).float()[:-1]
_LEAST = 2.0**-24
"""Of ranges that are divided by; rows are brought to magnitudes from 1/2 to 1, or are 0."""
_FINE = (0.93, 0.965, 1.035, 1.07)
_CHUNK = 1 << 17
"""Values that are searched at once: few enough to stay in a processor's cache."""


def percentile_of_rows(rows: Tensor, percentile: float) -> Callable[[int], Tensor]:
    """The least magnitude that ``percentile`` % of each row's values do not exceed; the same for every choice."""
    rank = max(math.ceil(rows.shape[1] * percentile / 100), 1)
    magnitude = rows.abs().kthvalue(rank, dim=1).values
    return lambda code: magnitude


def amax_of_least_row_error(rows: Tensor) -> Callable[[int], Tensor]:
    """The ``amax [R]`` of each row's least squared error, as a function of the choice."""
    # Squares of small or large rows leave float32; a power of two rounds nothing.
    powers = torch.exp2(torch.frexp(rows.abs().amax(dim=1).double()).exponent.double())
    chunks = torch.split((rows / powers[:, None]).float(), max(_CHUNK // rows.shape[1], 1))
    return lambda code: (torch.cat([_least_error(chunk, code) for chunk in chunks]) * powers).float()


def _least_error(rows: Tensor, code: int) -> Tensor:
    largest = rows.abs().amax(dim=1)
    choice = choice_of(code)
    is_searched = not choice.block if isinstance(choice, FloatFormat) else choice <= _WIDEST_SEARCHED
    if not is_searched:
        return largest
    errors = _float_errors(rows, choice) if isinstance(choice, FloatFormat) else _integer_errors(rows, code)
    best, least = largest, errors(largest)
    for factor in _COARSE_OF_FLOATS if isinstance(choice, FloatFormat) else _COARSE:
        best, least = _better(errors, largest * factor, best, least)
    around = best
    for factor in _FINE:
        best, least = _better(errors, torch.minimum(around * factor, largest), best, least)
    return best


def _better(errors: Callable[[Tensor], Tensor], amax: Tensor, best: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    found = errors(amax)
    # A range of nothing would make its row 0.
    is_better = (found < least) & (amax > 0)
    return torch.where(is_better, amax, best), torch.where(is_better, found, least)


def _integer_errors(rows: Tensor, num_bits: int) -> Callable[[Tensor], Tensor]:
    grid = IntegerGrid(num_bits)
    room = torch.empty_like(rows)

    def errors(amax: Tensor) -> Tensor:
        scale = (grid.quant_max / amax.clamp(min=_LEAST))[:, None]
        torch.mul(rows, scale, out=room)
        return room.round_().clamp_(grid.quant_min, grid.quant_max).div_(scale).sub_(rows).square_().sum(dim=1)

    return errors


def _float_errors(rows: Tensor, fmt: FloatFormat) -> Callable[[Tensor], Tensor]:
    def errors(amax: Tensor) -> Tensor:
        return quantize_float(rows, fmt, amax[:, None]).sub_(rows).square_().sum(dim=1)

    return errors
