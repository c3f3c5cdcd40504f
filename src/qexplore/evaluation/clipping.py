"""What the values of a set lose to the ends of the ranges: clipped, or negative where there is no sign."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qexplore.quant import TensorQuantizer

_TOLERATED = 0.01
"""So much more than in calibration are outliers; beyond it, the data is not like that of calibration."""
_NAMED = 5


@dataclass(frozen=True)
class Clipping:
    """What is cut off at one point, counted on the float network's tensors against the widest of its ranges.

    Attributes:
        name: the point.
        num_values: that passed.
        num_clipped: beyond the range, negative ones apart where the quantizer has no sign.
        num_negative: below 0 where the quantizer has no sign, and clamped to 0.
        in_calibration: share, 0 to 1, of the values of calibration that the same range clips; nan where the range is
            not from a calibration in this session.
    """

    name: str
    num_values: int
    num_clipped: int
    num_negative: int
    in_calibration: float

    @property
    def clipped(self) -> float:
        """Share, 0 to 1, of the values that are beyond the range."""
        return self.num_clipped / self.num_values

    @property
    def negative(self) -> float:
        """Share, 0 to 1, of the values that are clamped to 0."""
        return self.num_negative / self.num_values

    @property
    def excess(self) -> float:
        """By how much `clipped` is more than in calibration; all of it where that is not known."""
        return self.clipped - (0.0 if math.isnan(self.in_calibration) else self.in_calibration)


class ClippingWatch:
    """Listens at points that let tensors through in full precision, and counts; one pass over a tensor that fits."""

    def __init__(self, quantizers: Mapping[str, TensorQuantizer]) -> None:
        self._quantizers = {name: one for name, one in quantizers.items() if one.is_calibrated and not one.disabled}
        self._counts: dict[str, tuple[int, int, int]] = {}

    def __call__(self, name: str, tensors: list[Tensor]) -> None:
        """Count the tensors of one call at the point ``name``."""
        quantizer = self._quantizers.get(name)
        if quantizer is None or torch.compiler.is_compiling():
            return
        for tensor in tensors:
            if tensor.numel():
                before, found = self._counts.get(name, (0, 0, 0)), _counted(tensor, quantizer)
                self._counts[name] = (before[0] + found[0], before[1] + found[1], before[2] + found[2])

    def found(self) -> tuple[Clipping, ...]:
        """The points at which something is cut off."""
        return tuple(
            Clipping(name, *counts, self._quantizers[name].clipped_in_calibration)
            for name, counts in self._counts.items()
            if any(counts[1:])
        )


def _counted(tensor: Tensor, quantizer: TensorQuantizer) -> tuple[int, int, int]:
    """Values, those beyond the range, and negative ones without a sign."""
    low, high = (end.to(tensor.device) for end in quantizer.widest_limits)
    lowest, highest = torch.aminmax(tensor)
    # To compare costs more than to find the ends, and few tensors are cut off on both sides; NaN is on none.
    beyond = torch.stack([~(lowest >= low).all(), ~(highest <= high).all()]).tolist()
    below = int(torch.count_nonzero(tensor < low)) if beyond[0] else 0
    above = int(torch.count_nonzero(tensor > high)) if beyond[1] else 0
    has_sign = quantizer.asymmetric or not quantizer.unsigned
    return tensor.numel(), above + below * has_sign, below * (not has_sign)


def clipping_text(found: Sequence[Clipping]) -> str:
    """What is cut off on the search set, a line each, and the way out where it is more than in calibration."""
    lines = []
    beyond = sorted((one for one in found if one.excess > _TOLERATED), key=lambda one: -one.excess)
    most = max(found, key=lambda one: one.clipped, default=None)
    if beyond:
        named = _listed([f"{one.name} {_share(one.clipped)}{_beside(one)}" for one in beyond])
        lines.append(f"clipped on the search set: {named} of the values: calibrate on data that is like it")
    elif most is not None and most.num_clipped:
        lines.append(f"clipped on the search set: at most {_share(most.clipped)} of the values of a point, {most.name}")
    negative = sorted((one for one in found if one.num_negative), key=lambda one: -one.negative)
    if negative:
        named = _listed([f"{one.name} {_share(one.negative)}" for one in negative])
        lines.append(
            f"negative on the search set, and clamped to 0: {named} of the values: calibrate on data that is like it, "
            "or wrap with unsigned=False"
        )
    return "\n".join(lines)


def _beside(one: Clipping) -> str:
    return "" if math.isnan(one.in_calibration) else f" ({_share(one.in_calibration)} in calibration)"


def _share(value: float) -> str:
    return "<0.01 %" if 0 < value < 1e-4 else f"{100 * value:.3g} %"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more points" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
