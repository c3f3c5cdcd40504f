"""A quantized network held against the float one, on a few batches: how far its output and each layer are away."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from qexplore._choices import FloatFormat
from qexplore._sizes import path_name
from qexplore._trees import cloned, map_tensors
from qexplore.errors import QExploreError, StackError
from qexplore.model import arithmetic, floating_tensors
from qexplore.stacks import Converted, Data, LayerStrategy, Settings, StackFile, Step, reasons, with_state

_TIMES = 3.0
"""By how much a layer may pass what rounding to its widths makes of the numbers at hand. A right kernel rounds once
more on its way, and calibration's range is not quite the one of these numbers: each doubles it at most."""

_LEAST = 0.05
"""What is never an alarm of a layer: half of `_OUTPUT`, and five bits of a bell-shaped signal."""

_OUTPUT = 0.1
"""How far the output may be away: a tenth, which several layers at their noise give together."""

_WIDE = 7

_DUST = 1e-5
"""Of the largest magnitude that was read: float32's own rounding, a hundred times."""

_NUDGES = 100.0
"""By how much rounding inside of a network may pass what the last bit of its inputs makes of the output."""

_LEAST_STEP = torch.finfo(torch.float32).eps
"""Of torch's observers: an output of nothing but smaller numbers, such as that of a shut gate, is 0 in integers."""

_ATTEMPTS, _OF_ITS_KIND = 8, 6
"""How often what is off is left float; the first of these times the cause alone."""

_HALVINGS = 4
"""How often what gives half of the noise is left float, where the output is off and no layer is."""

_STOPS = 8
"""Layers that a stack may stop at, one after the other."""


@dataclass(frozen=True)
class Alarm:
    """What is farther from float than rounding to its widths explains.

    Attributes:
        layer: its name in the strategy; empty for the network's output.
        error: norm of the difference over the norm of what float gives.
        limit: what rounding explains.
        output: which output of several: the keys or places that lead to it; empty for one alone, and for layers.
    """

    layer: str
    error: float
    limit: float
    output: str = ""

    def __str__(self) -> str:
        output = f"the output '{self.output}'" if self.output else "the output"
        what = f"'{self.layer}'" if self.layer else output
        return f"{what} is {self.error:.3f} of the float norm away, where rounding explains {self.limit:.3f}"


@dataclass(frozen=True)
class Held:
    """How far a quantized network is away.

    Attributes:
        error: of the output, the largest of several; None where it holds no floating numbers.
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

    A layer that was off because of those before it alone is integers in the end.

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
    settings, converted = _quantized(home, network, settings, data)
    network = with_state(network, converted.trained)
    held = hold(network, converted, batches)
    notes: tuple[str, ...] = ()
    if again is not None and held.alarms:
        with suppress(QExploreError):  # what was trained is there already
            anew = home.quantize(network, settings, again)
            now = hold(network, anew, batches)
            if len(now.alarms) < len(held.alarms):
                converted, held, notes = anew, now, (reasons.SETTLED,)
    cleared = set[str]()  # whose integers were not what was wrong
    for turn in range(_ATTEMPTS):
        off = _to_leave_float(held, settings, turn, cleared)
        if not off:
            break
        changed = replace(settings, left_float={**settings.left_float, **off})
        try:
            attempt = home.quantize(network, changed, again or data)
        except QExploreError:  # nothing would be left to quantize, say
            cleared |= off.keys()
            continue
        now = hold(network, attempt, batches)
        if off.keys() <= {alarm.layer for alarm in now.alarms}:
            cleared |= off.keys()
        else:
            settings, converted, held = changed, attempt, now
    if held.alarms and not settings.has_own_ranges and not any(alarm.layer for alarm in held.alarms):
        quieter = _with_less_noise(home, network, settings, again or data, batches, held)
        settings, converted, held = quieter or (settings, converted, held)
    notes += () if held.error is not None else (reasons.NO_FLOATS,)
    notes += tuple(f"'{name}' is left float: {why}" for name, why in settings.left_float.items())
    said = {*converted.notes}  # by stacks that tell it themselves
    return settings, converted, replace(held, notes=tuple(note for note in notes if note not in said))


def _quantized(home: StackFile, network: nn.Module, settings: Settings, data: Data) -> tuple[Settings, Converted]:
    """What the stack gives, with a layer in float wherever it stops at one; the settings then say so.

    Raises:
        StackError: what it stopped at first, where it gives nothing without that layer either.
    """
    names = {name for name, _ in network.named_modules() if name}
    first: StackError | None = None
    for _ in range(_STOPS):
        try:
            converted = home.quantize(network, settings, data)
            if first is None or any(row.is_quantized for row in converted.strategy):
                return settings, converted
            break
        except StackError as error:
            first = first or error
            if error.layer not in names - {*settings.left_float}:
                break
            why = reasons.STOPPED.format(error=str(error).rstrip("."))
            settings = replace(settings, left_float={**settings.left_float, error.layer: why})
    assert first is not None
    raise first


def _to_leave_float(held: Held, settings: Settings, turn: int, cleared: Set[str]) -> dict[str, str]:
    """Layers in integers that are off, with the reason that their rows will tell; none where ranges are the user's.

    What reads wrong numbers may be off for these alone, as its range was taken from right ones. So at first it is only
    the one that is called first, then all of its kind, as a wrong kernel is wrong wherever it is called, at last all.
    """
    if settings.has_own_ranges:
        return {}
    alarms = {alarm.layer: alarm for alarm in held.alarms}
    known = {*settings.left_float, *cleared}
    off = [row for row in held.strategy if row.is_quantized and row.name in alarms and row.name not in known]
    if turn < _OF_ITS_KIND:
        off = [row for row in off if row is off[0] or (turn and row.type == off[0].type)]
    return {row.name: reasons.OFF.format(error=alarms[row.name].error, limit=alarms[row.name].limit) for row in off}


def _with_less_noise(
    home: StackFile,
    network: nn.Module,
    settings: Settings,
    data: Data,
    batches: Sequence[tuple[Any, ...]],
    held: Held,
) -> tuple[Settings, Converted, Held] | None:
    """The network without the layers that round most, where outputs are off and none of them is; None if they stay so.

    Where signals cancel, such as in a difference, the noise of what they are made of may be most of what is left.
    """
    alarm = held.alarms[0]  # the farthest of several outputs
    for _ in range(_HALVINGS):
        noisy = [row for row in held.strategy if row.error and row.name not in settings.left_float]
        off = {row.name: reasons.NOISE.format(error=alarm.error, limit=alarm.limit) for row in _noisiest(noisy)}
        settings = replace(settings, left_float={**settings.left_float, **off})
        try:
            converted = home.quantize(network, settings, data)
        except QExploreError:  # nothing would be left to quantize, say
            return None
        held = hold(network, converted, batches)
        if not any(row.is_quantized for row in held.strategy):
            return None
        if not held.alarms:
            return settings, converted, held
    return None


def _noisiest(noisy: Iterable[LayerStrategy]) -> Iterator[LayerStrategy]:
    """The rows that give half of the noise, which adds up in squares; what has few bits was asked for.

    Those in float are among them: what they give may be rounded for others, and what they read was.
    """
    rows = sorted((row for row in noisy if not _is_narrow(row)), key=lambda row: -(row.error or 0.0))
    squares = [(row.error or 0.0) ** 2 for row in rows]
    return (row for place, row in enumerate(rows) if 2 * sum(squares[:place]) < sum(squares))


def hold(network: nn.Module, converted: Converted, batches: Iterable[tuple[Any, ...]]) -> Held:
    """Run both networks on ``batches``, and compare outputs and, as far as the stack can, each layer.

    Args:
        network: in float; after training, with the weights that this has left.
        converted: what a stack made of it.
        batches: positional arguments of a call each.
    """
    whole, layers, names = _Differences(), dict[str, _Differences](), list[str]()

    def hear(step: Step) -> None:
        layers.setdefault(step.name, _Differences()).add(step.given, step.expected, step.ideal, step.read)

    with torch.no_grad(), arithmetic():
        for args in batches:
            expected = network(*cloned(args))
            names = _names(expected)
            nudged = [*_nudged(network, args)]
            whole.add(converted.model(*cloned(args)), expected, expected, args, nudged)
            if converted.beside is not None:
                converted.beside(args, hear)
    strategy = tuple(
        replace(row, error=layers[row.name].error if row.name in layers else None) for row in converted.strategy
    )
    alarms = [Alarm(name, worst.error, worst.limit) for name, one in layers.items() for worst in one.off(_LEAST)[:1]]
    narrow = [layers[row.name].limit for row in strategy if _is_narrow(row) and row.name in layers]
    most = max([_OUTPUT, *narrow])
    alarms += [Alarm("", one.error, most, _at(names, one.place)) for one in whole.off(most)]
    return Held(whole.error, strategy, tuple(alarms))


def _nudged(network: nn.Module, args: Any) -> Iterator[Any]:
    """What ``network`` gives for ``args`` with every other number a last bit of float32 nearer to zero, then farther.

    Whole numbers that a forward cuts off, as of coded columns, are others nearer to zero; bounds are left farther off.
    """
    for sign in (-1, 1):

        def nudge(one: Tensor, last: float = sign * torch.finfo(torch.float32).eps) -> Tensor:
            if not one.is_floating_point():
                return one.clone()
            is_moved = torch.arange(one.numel(), device=one.device).reshape(one.shape) % 2
            return one * (1 + is_moved * last).to(one.dtype)

        with suppress(Exception):  # of whatever is not allowed there
            yield network(*map_tensors(nudge, args))


def _is_narrow(row: LayerStrategy) -> bool:
    """Whether weights have less than the seven bits that kernels leave them: their noise reaches the output."""
    width = None if row.weights is None else row.weights.num_bits
    return width is not None and (isinstance(width, FloatFormat) or width < _WIDE)


def _names(tree: Any) -> list[str]:
    """What leads to each floating tensor of an output; empty for an output that is one tensor."""
    found = [path_name(path) for path, leaf in pytree.tree_flatten_with_path(tree)[0] if floating_tensors(leaf)]
    return found if len(found) == len(floating_tensors(tree)) else []


def _at(names: list[str], place: int) -> str:
    return names[place] if place < len(names) else str(place)


class _Differences:
    """Of the floating tensors in trees, each by its place."""

    def __init__(self) -> None:
        self._each: dict[int, _Difference] = {}

    def add(self, given: Any, expected: Any, ideal: Any, read: Any, nudged: Sequence[Any] | None = None) -> None:
        """Floating tensors of three trees, in order, what was read for them, and each ``expected`` of nudged inputs."""
        trees = zip(*map(floating_tensors, (given, expected, ideal)), strict=False)
        unsure = None if nudged is None else [dict(enumerate(floating_tensors(one))) for one in nudged]
        tensors = (torch.nan_to_num(one, 0.0, 0.0, 0.0) for one in floating_tensors(read) if one.numel())
        amax = max((float(one.abs().amax()) for one in tensors), default=0.0)
        for place, (one, other, rounded) in enumerate(trees):
            others = None if unsure is None else [each[place] for each in unsure if place in each]
            self._each.setdefault(place, _Difference(place)).add(one, other, rounded, amax, others)

    @property
    def error(self) -> float | None:
        """The largest; None where there is nothing to compare."""
        return max((one.error for one in self._each.values() if one.count), default=None)

    @property
    def limit(self) -> float:
        """The largest."""
        return max((one.limit for one in self._each.values()), default=0.0)

    def off(self, least: float) -> list[_Difference]:
        """Those that are farther away than rounding explains, the farthest first."""
        found = [one for one in self._each.values() if one.error > max(one.limit, least)]
        return sorted(found, key=lambda one: -one.error)


class _Difference:
    """Sums of squares of one tensor over batches, in float64."""

    def __init__(self, place: int) -> None:
        self.place, self.count = place, 0
        self._norm = self._away = self._noise = self._dust = self._read = 0.0

    def add(self, given: Tensor, expected: Tensor, ideal: Tensor, amax: float, nudged: Sequence[Tensor] | None) -> None:
        """Where float is not finite nothing is compared; ``amax`` is the largest magnitude that was read.

        A layer's dust is what rounding what it reads may leave, a network's what nudged inputs make of its output, in
        the direction that makes less: an image of 0 to 255 says nothing of probabilities.
        """
        if given.shape != expected.shape:
            self._away, self.count = math.inf, self.count + 1
            return
        kept = torch.isfinite(expected)
        right = expected[kept].double()
        self.count += right.numel()
        self._norm += float(right.square().sum())
        self._away += float((given[kept] - right).square().sum())
        self._noise += float((ideal[kept] - right).square().sum())
        self._read += right.numel() * amax**2
        if nudged is None:
            self._dust += right.numel() * (_DUST * amax) ** 2
        else:
            moved = [float((one[kept] - right).square().sum()) for one in nudged if one.shape == expected.shape]
            self._dust += min(filter(math.isfinite, moved), default=0.0) * _NUDGES**2
            self._dust += right.numel() * _LEAST_STEP**2

    @property
    def error(self) -> float:
        """Relative; 0 for what float32 rounds away, infinite where something is not finite."""
        if self._away <= self._dust:
            return 0.0
        # Where float gives nothing but its own rounding, the scale is that of what was read.
        return _ratio(self._away, self._norm if self._norm > self._dust else self._read)

    @property
    def limit(self) -> float:
        """What rounding explains."""
        return max(_TIMES * _ratio(self._noise, self._norm), _LEAST)


def _ratio(part: float, whole: float) -> float:
    if part == 0:
        return 0.0
    ratio = math.sqrt(part / whole) if whole else math.inf
    return math.inf if math.isnan(ratio) else ratio
