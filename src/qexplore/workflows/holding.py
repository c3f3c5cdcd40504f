"""A quantized network held against the float one, on a few batches: how far its output and each layer are away."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from qexplore.model import floating_tensors
from qexplore.stacks import Converted, LayerStrategy, Step

_TIMES = 3.0
_LEAST = 0.05
_OUTPUT = 0.1


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
        what = f"'{self.layer}' gives" if self.layer else "the output is"
        return f"{what} {self.error:.2f} of the float norm away, where rounding explains {self.limit:.2f}"


@dataclass(frozen=True)
class Held:
    """How far a quantized network is away.

    Attributes:
        error: of the output; None where it holds no floating numbers.
        strategy: the rows, with the error of each.
        alarms: what rounding does not explain.
    """

    error: float | None
    strategy: tuple[LayerStrategy, ...]
    alarms: tuple[Alarm, ...]


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

    with torch.no_grad():
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
