"""From a weight to a range for every row and choice, with the real arithmetic of each grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qexplore._choices import FloatFormat, choice_of
from qexplore.quant.calibrators import DEFAULT_PERCENTILE
from qexplore.quant.formats import NOTHING_BELOW, IntegerGrid
from qexplore.quant.small_floats import quantize_float

_WIDEST_SEARCHED = 8
"""Wider integers take the maximum: clipping saves nothing there."""
_COARSE = torch.logspace(-1, 0, 14, dtype=torch.float64).float()[:-1]
_COARSE_OF_FLOATS = torch.logspace(-0.6, 0, 8, dtype=torch.float64).float()[:-1]
_FINE = (0.93, 0.965, 1.035, 1.07)
_CHUNK = 1 << 17
"""Values that are searched at once: few enough to stay in a processor's cache."""


@torch.no_grad()
def weight_amax_table(rows: Tensor, method: str, codes: Sequence[int]) -> dict[int, Tensor]:
    """An ``amax`` for every row of a signed weight and every choice.

    - ``"max"``: the largest magnitude.
    - ``"percentile"``: the least magnitude that 99.99 % of a row's values do not exceed.
    - ``"mse"``: of the least squared error on the row's values, the largest magnitude among those tried.

    MX formats, and with ``"mse"`` integers of more than 8 bits, are given the largest magnitude.

    Args:
        rows: finite, shape ``[R, n]``.
        method: one of the above.
        codes: choices, see `qexplore._choices`.

    Returns:
        float32 of shape ``[R]``, by code.

    Raises:
        TypeError: an unknown method.
    """
    if method not in ("max", "percentile", "mse"):
        raise TypeError(f"unknown calibration method of weights {method!r}")
    rows = rows.detach().float()
    largest = rows.abs().amax(dim=1)
    if method == "max":
        return dict.fromkeys(codes, largest)
    if method == "percentile":
        rank = max(math.ceil(rows.shape[1] * DEFAULT_PERCENTILE / 100), 1)
        return dict.fromkeys(codes, rows.abs().kthvalue(rank, dim=1).values)
    chunks = torch.split(rows, max(_CHUNK // rows.shape[1], 1))
    return {code: torch.cat([_least_error(chunk, code) for chunk in chunks]) for code in codes}


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
    is_better = (found < least) & (amax > NOTHING_BELOW)
    return torch.where(is_better, amax, best), torch.where(is_better, found, least)


def _integer_errors(rows: Tensor, num_bits: int) -> Callable[[Tensor], Tensor]:
    grid = IntegerGrid(num_bits)
    room = torch.empty_like(rows)

    def errors(amax: Tensor) -> Tensor:
        scale = (grid.quant_max / amax.clamp(min=NOTHING_BELOW))[:, None]
        torch.mul(rows, scale, out=room)
        return room.round_().clamp_(grid.quant_min, grid.quant_max).div_(scale).sub_(rows).square_().sum(dim=1)

    return errors


def _float_errors(rows: Tensor, fmt: FloatFormat) -> Callable[[Tensor], Tensor]:
    def errors(amax: Tensor) -> Tensor:
        return quantize_float(rows, fmt, amax[:, None]).sub_(rows).square_().sum(dim=1)

    return errors
