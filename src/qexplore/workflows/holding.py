"""A quantized network held against the float one, on a few batches: how far its output and each layer are away."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from qexplore.errors import QExploreError
from qexplore.model import arithmetic, floating_tensors
from qexplore.stacks import Converted, Data, LayerStrategy, Settings, StackFile, Step, reasons, with_state

_TIMES = 3.0
"""By how much a layer may pass what rounding to its widths makes of the numbers at hand. A right kernel rounds once
more on its way, and calibration's range is not quite the one of these numbers: each doubles it at most."""

_LEAST = 0.05
"""What is never an alarm of a layer: half of `_OUTPUT`, and five bits of a bell-shaped signal."""

_OUTPUT = 0.1
_ATTEMPTS = 3


@dataclass(frozen=True)
class Alarm:
    """What is farther from float than rounding to its widths explains.

    Attributes:
        layer: its name in the strategy; empty for the network's output.
        error: norm of the difference over the norm of what float gives.
        limit: what rounding explains.
    """

    layer: str
    error: float
    limit: float

    def __str__(self) -> str:
        what = f"'{self.layer}'" if self.layer else "the output"
        return f"{what} is {self.error:.3f} of the float norm away, where rounding explains {self.limit:.3f}"


@dataclass(frozen=True)
class Held:
    """How far a quantized network is away.

    Attributes:
        error: of the output; None where it holds no floating numbers.
        strategy: the rows, with the error of each.
        alarms: what rounding does not explain.
        notes: what was left float for it.
    """

    error: float | None
    strategy: tuple[LayerStrategy, ...]
    alarms: tuple[Alarm, ...]
    notes: tuple[str, ...] = ()


def quantized_and_held(
    home: StackFile,
    network: nn.Module,
    settings: Settings,
    data: Data,
    batches: Sequence[tuple[Any, ...]],
    again: Data | None,
) -> tuple[Settings, Converted, Held]:
    """Quantize ``network`` and hold it; where a layer is off, quantize again with that layer in float.

    Args:
        home: the stack's file.
        network: in float.
        settings: what is wanted.
        data: what the network is shown.
        batches: what it is held on.
        again: what it is shown when it is quantized again, after training; None for the same.

    Returns:
        The settings that were used at last, what the stack made, and how far it is away.
    """
    converted = home.quantize(network, settings, data)
    network = with_state(network, converted.trained)
    held = hold(network, converted, batches)
    notes: tuple[str, ...] = ()
    if again is not None and held.alarms:
        anew = home.quantize(network, settings, again)
        now = hold(network, anew, batches)
        if len(now.alarms) < len(held.alarms):
            converted, held, notes = anew, now, (reasons.SETTLED,)
    for _ in range(_ATTEMPTS):
        off = _to_leave_float(held, settings)
        if not off:
            break
        changed = replace(settings, left_float={**settings.left_float, **off})
        try:
            attempt = home.quantize(network, changed, again or data)
        except QExploreError:  # nothing would be left to quantize, say
            break
        now = hold(network, attempt, batches)
        if off.keys() <= {alarm.layer for alarm in now.alarms}:
            break  # its integers were not what was wrong
        settings, converted, held = changed, attempt, now
    left = (f"'{name}' is left float: {why}" for name, why in settings.left_float.items())
    return settings, converted, replace(held, notes=(*notes, *left))


def _to_leave_float(held: Held, settings: Settings) -> dict[str, str]:
    """Layers in integers that are off, with the reason that their rows will tell."""
    quantized = {row.name for row in held.strategy if row.is_quantized} - {*settings.left_float}
    return {
        alarm.layer: reasons.OFF.format(error=alarm.error, limit=alarm.limit)
        for alarm in held.alarms
        if alarm.layer in quantized
    }


def hold(network: nn.Module, converted: Converted, batches: Iterable[tuple[Any, ...]]) -> Held:
    """Run both networks on ``batches``, and compare outputs and, as far as the stack can, each layer.

    Args:
        network: in float; after training, with the weights that this has left.
        converted: what a stack made of it.
        batches: positional arguments of a call each.
    """
    whole, layers = _Difference(), dict[str, _Difference]()

    def hear(step: Step) -> None:
        layers.setdefault(step.name, _Difference()).add(step.given, step.expected, step.ideal)

    with torch.no_grad(), arithmetic():
        for args in batches:
            expected = network(*args)
            whole.add(converted.model(*args), expected, expected)
            if converted.beside is not None:
                converted.beside(args, hear)
    errors = {name: one.error for name, one in layers.items()}
    strategy = tuple(replace(row, error=errors.get(row.name)) for row in converted.strategy)
    alarms = [Alarm(name, one.error, one.limit) for name, one in layers.items() if one.error > one.limit]
    if whole.error > _OUTPUT:
        alarms.append(Alarm("", whole.error, _OUTPUT))
    return Held(whole.error if whole.count else None, strategy, tuple(alarms))


class _Difference:
    """Sums of squares over tensors, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self._norm = self._away = self._noise = 0.0

    def add(self, given: Any, expected: Any, ideal: Any) -> None:
        """Floating tensors of three trees, in order; where float is not finite nothing is compared."""
        trees = zip(*map(floating_tensors, (given, expected, ideal)), strict=False)
        for one, other, rounded in trees:
            if one.shape != other.shape:
                self._away = math.inf
                continue
            kept = torch.isfinite(other)
            right = other[kept].double()
            self.count += right.numel()
            self._norm += float(right.square().sum())
            self._away += float((one[kept] - right).square().sum())
            self._noise += float((rounded[kept] - right).square().sum())

    @property
    def error(self) -> float:
        """Relative; 0 where nothing differs, infinite where float gives zeros alone, or something is not finite."""
        return _ratio(self._away, self._norm)

    @property
    def limit(self) -> float:
        """What rounding explains."""
        return max(_TIMES * _ratio(self._noise, self._norm), _LEAST)


def _ratio(part: float, whole: float) -> float:
    if part == 0:
        return 0.0
    ratio = math.sqrt(part / whole) if whole else math.inf
    return math.inf if math.isnan(ratio) else ratio
