"""The floating inputs of a network one by one: their names, and those among them that are no numbers to quantize."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from qexplore._trees import map_tensors, opened, tensors_of
from qexplore.errors import CalibrationError, SelectionError
from qexplore.model.inputs import as_arguments

INPUT = "input"
"""The point of a network's one floating input, or of all; those of several are named after it."""

_MASKED = -1e4
"""What an additive mask holds beside 0 is this or less: it is to vanish in a softmax."""


@dataclass(frozen=True)
class ArgumentNames:
    """How ``forward`` calls its arguments.

    Attributes:
        positional: those that may be given by position.
        others: of keywords alone.
        rest: of ``*args``; None where there is none.
        is_open: whether ``forward`` takes ``**kwargs``, and so any name.
    """

    positional: tuple[str, ...]
    others: tuple[str, ...] = ()
    rest: str | None = None
    is_open: bool = False

    @classmethod
    def of(cls, network: nn.Module) -> ArgumentNames:
        """Those of ``network``."""
        kinds: dict[Any, list[str]] = {}
        for name, parameter in inspect.signature(network.forward).parameters.items():
            kinds.setdefault(parameter.kind, []).append(name)
        kind = inspect.Parameter
        positional = kinds.get(kind.POSITIONAL_ONLY, []) + kinds.get(kind.POSITIONAL_OR_KEYWORD, [])
        rest = kinds.get(kind.VAR_POSITIONAL)
        others = tuple(kinds.get(kind.KEYWORD_ONLY, ()))
        return cls(tuple(positional), others, rest[0] if rest else None, kind.VAR_KEYWORD in kinds)

    def at(self, position: int) -> str:
        """The name of the argument at ``position``; of one among ``*args`` with its place, such as "args.0"."""
        if position < len(self.positional):
            return self.positional[position]
        return f"{self.rest}.{position - len(self.positional)}"

    def first(self, dotted: str) -> int:
        """Where the argument that the name of an input begins with stands among all."""
        head = dotted.partition(".")[0]
        return self.all.index(head) if head in self.all else len(self.all)

    @property
    def all(self) -> tuple[str, ...]:
        """All names, in the order in which ``forward`` lists them."""
        return (*self.positional, *((self.rest,) if self.rest else ()), *self.others)

    def has(self, dotted: str) -> bool:
        """Whether the name of an input begins with the name of an argument."""
        return self.is_open or dotted.partition(".")[0] in self.all


def floating_inputs(names: ArgumentNames, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, list[Tensor]]:
    """The floating tensors among arguments by name: "x"; in a mapping, tuple or object "batch.x" or "state.0".

    A list holds alike tensors, in any number, and goes by one name.
    """
    given = [(names.at(place), value) for place, value in enumerate(args)] + list(kwargs.items())
    found: dict[str, list[Tensor]] = {}
    for name, value in given:
        _find(name, value, found)
    return dict(sorted(found.items(), key=lambda item: names.first(item[0])))


def unasked_text(network: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> str:
    """A sentence on floating inputs of ``network`` of which nothing was said; empty where there are none but masks."""
    found = floating_inputs(ArgumentNames.of(network), args, kwargs)
    listed = ", ".join(name for name, tensors in found.items() if not all(map(is_mask, tensors)))
    return f"no point of its own has what the network is given, {listed}: quantize_input=True puts one on it" * bool(
        listed
    )


def _find(name: str, value: Any, found: dict[str, list[Tensor]]) -> None:
    if isinstance(value, (Tensor, list)):
        floating = [tensor for tensor in tensors_of(value) if tensor.is_floating_point()]
        if floating:
            found.setdefault(name, []).extend(floating)
        return
    whole = opened(value)
    if whole is not None:
        for key, part in zip(whole.keys, whole.parts, strict=True):
            _find(f"{name}.{key}", part, found)


def with_input(
    names: ArgumentNames, wanted: str, args: Sequence[Any], kwargs: dict[str, Any], change: Callable[[Tensor], Tensor]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments with ``change`` of every floating tensor that goes by the name ``wanted``."""
    changed = tuple(changed_in(names.at(place), value, wanted, change) for place, value in enumerate(args))
    return changed, {name: changed_in(name, value, wanted, change) for name, value in kwargs.items()}


def changed_in(name: str, value: Any, wanted: str, change: Callable[[Tensor], Tensor]) -> Any:
    """``value``, which goes by ``name``, with ``change`` of what goes by the name ``wanted`` in it."""
    if name == wanted:
        return map_tensors(lambda tensor: change(tensor) if tensor.is_floating_point() else tensor, value)
    whole = opened(value) if wanted.startswith(f"{name}.") else None
    if whole is None:
        return value
    pairs = zip(whole.keys, whole.parts, strict=True)
    return whole.with_parts([changed_in(f"{name}.{key}", part, wanted, change) for key, part in pairs])


def is_mask(tensor: Tensor) -> bool:
    """Whether ``tensor`` is an additive mask: 0 where it lets through, -inf or a very negative number elsewhere."""
    if tensor.numel() == 0 or not bool((tensor <= _MASKED).any()):
        return False
    return bool(((tensor == 0) | (tensor <= _MASKED)).all())


@dataclass
class InputSurvey:
    """Which floating inputs the batches bring, and what is known of each.

    Args:
        names: of the forward's arguments.
        wanted: the names that are to be quantized, asked for one by one; None for all that are no masks.
    """

    names: ArgumentNames
    wanted: tuple[str, ...] | None
    _seen: dict[str, None] = field(default_factory=dict)
    _masks: set[str] = field(default_factory=set)
    _filled: set[str] = field(default_factory=set)

    def meet(self, inputs: Any) -> None:
        """Look at one batch's inputs.

        Raises:
            SelectionError: `wanted` names an input that is not there.
            CalibrationError: what looked like a mask in one batch does not in another.
        """
        args, kwargs = as_arguments(inputs)
        found = floating_inputs(self.names, args, kwargs)
        self._seen |= dict.fromkeys(found)
        for name, tensors in found.items():
            filled = [tensor for tensor in tensors if bool((tensor != 0).any())]
            self._masks |= {name for tensor in filled if is_mask(tensor)}
            self._filled |= {name for tensor in filled if not is_mask(tensor)}
        for name in self._masks & self._filled if self.wanted is None else ():
            raise CalibrationError(
                f"the input '{name}' must be an additive mask in all tensors or in none, got one of 0 and "
                f"{_MASKED:g} or less alone and one with other values: name the inputs to be quantized, "
                "quantize_input=[...]"
            )
        for name in found:
            if name not in self.left_float(to_the_end=False):
                self._require_no_infinity(name, found)
        lacking = [name for name in self.wanted or () if not any(map(_within(name), self._seen))]
        if lacking:
            raise SelectionError(
                f"`quantize_input` must name floating inputs, got {lacking[0]!r}: there are "
                f"{', '.join(self._ordered()) or 'none'}"
            )

    def _require_no_infinity(self, name: str, found: dict[str, list[Tensor]]) -> None:
        if not any(bool(torch.isinf(tensor).any()) for tensor in found[name]):
            return
        point = INPUT if len(self._seen) == 1 and self.wanted is None else f"{INPUT}.{name}"
        others = [other for other in self._ordered() if other != name]
        raise CalibrationError(
            f"point '{point}' must see finite values to be calibrated, got an infinity in the argument '{name}': clamp "
            f"it, or leave it float, with quantize_input={others or False!r} where the model is wrapped"
        )

    def _ordered(self) -> list[str]:
        return sorted(self._seen, key=self.names.first)

    def left_float(self, *, to_the_end: bool) -> dict[str, str]:
        """The inputs without a point, each with the reason; ``to_the_end`` says that no batch will come any more."""
        if self.wanted is not None:
            return {
                name: "not named in quantize_input"
                for name in self._ordered()
                if not any(_within(one)(name) for one in self.wanted)
            }
        left = dict.fromkeys(sorted(self._masks), "an additive mask: 0 and very negative")
        if to_the_end and len(self._seen) > 1:
            # What is zero so far may be a mask that never hid anything.
            left |= {name: "0 in all batches" for name in self._ordered() if name not in self._filled | self._masks}
        return left

    def points(self, *, to_the_end: bool = False) -> tuple[str, ...]:
        """Names of the inputs that have a point, in the order of the arguments; `INPUT` alone for the only input."""
        left = self.left_float(to_the_end=to_the_end)
        kept = tuple(name for name in self._ordered() if name not in left)
        is_only = len(self._seen) == 1 and self.wanted is None
        return (INPUT,) * len(kept) if is_only else tuple(f"{INPUT}.{name}" for name in kept)

    @property
    def first(self) -> str | None:
        """The point of the input that was met first."""
        return next((f"{INPUT}.{name}" for name in self._seen), None)


def _within(outer: str) -> Callable[[str], bool]:
    return lambda name: name == outer or name.startswith(f"{outer}.")


def checked_selection(quantize_input: Any, network: nn.Module) -> tuple[str, ...] | None:
    """The names that ``quantize_input`` asks for one by one; None where it is True, False or None.

    Raises:
        SelectionError: no bool and no names, or a name that no argument of the forward has.
    """
    if quantize_input is None or isinstance(quantize_input, bool):
        return None
    several = () if isinstance(quantize_input, str) or not isinstance(quantize_input, Iterable) else quantize_input
    asked = tuple(several) or (quantize_input,)
    if not all(isinstance(name, str) for name in asked):
        raise SelectionError(
            f"`quantize_input` must be True, False or names of the forward's arguments, got {quantize_input!r}"
        )
    names = ArgumentNames.of(network)
    for name in asked:
        if not names.has(name):
            raise SelectionError(
                f"`quantize_input` must hold names of the forward's arguments, got {name!r}: there are "
                f"{', '.join(names.all)}"
            )
    return tuple(sorted(dict.fromkeys(asked), key=names.first))


def bare_name(point: str) -> str:
    """The name of an input's point without the parentheses that keep it apart from a module's."""
    return point.removeprefix("(").removesuffix(")")


def is_input_name(name: str) -> bool:
    """Whether a point of this name may be an input's."""
    return bare_name(name) == INPUT or bare_name(name).startswith(f"{INPUT}.")


def unlike(inputs: dict[str, list[Tensor]]) -> str | None:
    """What tells that ``inputs``, which share a range, should not; None where their magnitudes are near enough."""
    sizes = {name: [_magnitude(tensor) for tensor in tensors] for name, tensors in inputs.items()}
    if not _are_near((max(each) for each in sizes.values()), _NEAR):
        listed = ", ".join(f"'{name}' up to {max(each):.4g}" for name, each in sizes.items())
        return (
            f"inputs of different magnitudes ({listed}): calibrate the model anew, which gives each a point of its own"
        )
    for name, each in sizes.items():
        if not _are_near(each, _NEAR_IN_A_LIST):
            listed = ", ".join(f"{size:.4g}" for size in each)
            return (
                f"the tensors of the list '{name}', whose magnitudes differ ({listed}): give them in a tuple or a dict "
                "for a point each"
            )
    return None


def _magnitude(tensor: Tensor) -> float:
    return float(tensor.detach().abs().amax()) if tensor.numel() else 0.0


def _are_near(values: Iterable[float], most: float) -> bool:
    positive = [value for value in values if value > 0]
    return not positive or max(positive) <= most * min(positive)


_NEAR = 16.0
"""A range so many times too wide costs four bits."""
_NEAR_IN_A_LIST = 1000.0
"""Images of a list may be dark and bright."""
