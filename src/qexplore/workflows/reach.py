"""How far a report set reaches beyond the data that ranges were taken of, told where it costs the output."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from qexplore.model import arithmetic, calls_heard_by, floating_tensors
from qexplore.stacks import error_text

_TIMES = 2.0
"""By how much the error on a report set passes the one on calibration data where that is worth a word."""


def is_far(error: float | None, shown: float | None) -> bool:
    """Whether ``error``, on a report set, is much larger than ``shown``, on the data of ranges."""
    return error is not None and shown is not None and error > _TIMES * shown


def beyond(
    network: nn.Module,
    shown: Iterable[tuple[Any, ...]],
    report: Iterable[tuple[Any, ...]],
    errors: tuple[float | None, float | None],
) -> tuple[str, ...]:
    """A note on the layer of the float ``network`` most of whose values in ``report`` are beyond those of ``shown``.

    Args:
        network: in float, in eval mode.
        shown: positional arguments of calls, of the data that ranges were taken of.
        report: the same of the report set.
        errors: of the output, on the report set and on calibration data.
    """
    leaves = {module: name for name, module in network.named_modules() if not any(module.children())}
    reach = _Reach({module: name or type(module).__name__ for module, name in leaves.items()})
    with torch.no_grad(), arithmetic(), calls_heard_by(leaves, reach.hear):
        for is_report, calls in enumerate((shown, report)):
            reach.counts = bool(is_report)
            for args in calls:
                network(*args)
    name, share = reach.most()
    if not share:
        return ()
    here, there = map(error_text, errors)
    return (
        f"clipped on the report set: up to {100 * share:.2g} % of the values that {name} are beyond what calibration "
        f"data reached; the error of the output is {here} there and {there} on calibration data: calibrate on more, or "
        "on data that is like it",
    )


class _Reach:
    """Ends of what modules read and give; then, with ``counts``, how many values are beyond them."""

    def __init__(self, names: Mapping[nn.Module, str]) -> None:
        self.counts = False
        self._names = names
        self._ends: dict[str, tuple[float, float]] = {}
        self._found: dict[str, tuple[int, int]] = {}

    def hear(self, module: nn.Module, given: Any, kwargs: Any, output: Any) -> None:
        """Take one call."""
        for does, tree in (("reads", (given, kwargs)), ("gives", output)):
            for tensor in floating_tensors(tree):
                if tensor.numel():
                    self._take(f"'{self._names[module]}' {does}", tensor)

    def _take(self, place: str, tensor: torch.Tensor) -> None:
        low, high = self._ends.get(place, (math.inf, -math.inf))
        if self.counts:
            passed, out = self._found.get(place, (0, 0))
            is_out = (tensor < low) | (tensor > high)
            self._found[place] = passed + tensor.numel(), out + int(is_out.sum())
        else:
            least, most = torch.aminmax(tensor)
            self._ends[place] = min(low, float(least)), max(high, float(most))

    def most(self) -> tuple[str, float]:
        """The place with the greatest share beyond, and the share; of places that were never shown none."""
        shares = {place: out / passed for place, (passed, out) in self._found.items() if place in self._ends}
        return max(shares.items(), key=lambda one: one[1], default=("", 0.0))
