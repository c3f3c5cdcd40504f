"""What a quantization point is, and the two names that no module gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from qexplore._functions import is_operand

PointKind = Literal["input", "argument", "activation", "function", "weight"]

NumBits = NDArray[np.int64]
"""Choices by point as codes (see `qexplore._choices`), shape ``[L]``: widths, 0 where a quantizer is off."""

Candidate = tuple[int, ...]
"""One such vector, to look things up by."""

Candidates = NDArray[np.int64]
"""Vectors of choices as codes, shape ``[N, L]``."""


Site = tuple[str, str]
"""Qualified name of a module, and the argument that it reads or the call that it makes; "" for all its arguments."""


@dataclass(frozen=True)
class FoundPoint:
    """A point that data decide: on what modules read, or on the result of a call of a function.

    Attributes:
        name: of the point.
        kind: ``"argument"`` or ``"function"``.
        sites: where its tensor is met: several arguments that are one tensor, one call, or operands of several.
        operands: of an argument those of calls that are the same tensor.
    """

    name: str
    kind: PointKind
    sites: tuple[Site, ...]
    operands: tuple[Site, ...] = ()

    @property
    def calls(self) -> tuple[Site, ...]:
        """Where calls meet it."""
        return self.sites if self.kind == "function" else self.operands

    @property
    def read_by(self) -> frozenset[str | Site]:
        """Modules by name, and calls, that get its tensor quantized; empty of a call's result."""
        calls = ((module, call.rpartition(".")[0]) for module, call in self.calls if is_operand(call))
        return frozenset([*self._modules, *calls])

    @property
    def readers(self) -> tuple[str, ...]:
        """What reads it, each once: modules by name, operands of calls; none of a call's result."""
        return (*self._modules, *(call_name(site) for site in self.calls if is_operand(site[1])))

    @property
    def _modules(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(module for module, _ in self.sites)) if self.kind == "argument" else ()


@dataclass(frozen=True)
class FoundLeft:
    """An argument or a call that was asked for and has no point of its own.

    Attributes:
        kind: ``"argument"`` or ``"function"``.
        site: where it is.
        reason: why it stays float; "" where it does not.
        point: the point that its tensor is at already; "" for none.
    """

    kind: PointKind
    site: Site
    reason: str = ""
    point: str = ""


class Found(NamedTuple):
    """What data decide about points.

    Attributes:
        points: on inputs of modules, and on calls.
        left: what has none of its own.
        calls: those that are met at points, in the order in which each module makes its own; empty for that of
            ``points``.
    """

    points: tuple[FoundPoint, ...] = ()
    left: tuple[FoundLeft, ...] = ()
    calls: tuple[Site, ...] = ()

    @property
    def calls_in_order(self) -> tuple[Site, ...]:
        """``calls``; of files that do not tell, in the order of the points."""
        return self.calls or tuple(site for point in self.points for site in point.calls)


@dataclass(frozen=True)
class QuantizationPoint:
    """A place where a tensor is fake-quantized.

    Attributes:
        name: ``"input"``; the qualified name of the module whose output is quantized; that of a weight; of what modules
            read the first one's with ``".input"``; of a call the module's that makes it and the function's, as in
            ``"layer1.0.add"``, ``"layer1.0.add_1"``.
        kind: the network's input, what modules read (an argument), a module's output, a call's result, or a weight.
        index: place in the vector ``num_bits``.
        module_type: class name of the module, of a call the function's name, ``""`` for the input.
        shape: of the first quantized tensor in the first forward that passes here, batch included; None before one. Of
            a weight its own.
        num_calls: how often that forward passes here; None before an observed forward, and of a weight.
        num_elements: values that pass here for one sample, over all tensors and calls, in the mean over all data seen;
            None before an observed forward. Of a weight the number of its values.
        num_scales: how many scales are stored with a weight; 1 for others.
        module: qualified name of the module, ``""`` for the input; of a call the one that makes it.
        readers: of a tensor that is quantized where it is read: the modules that read it, by qualified names, and the
            operands of calls that it is, such as ``"layer1.0.add.input_1"``.
    """

    name: str
    kind: PointKind
    index: int
    module_type: str = ""
    shape: tuple[int, ...] | None = None
    num_calls: int | None = None
    num_elements: float | None = None
    num_scales: int = 1
    module: str = ""
    readers: tuple[str, ...] = ()


def in_call_order(points: Sequence[QuantizationPoint], called: Iterable[str], network: nn.Module) -> tuple[int, ...]:
    """Indices of ``points``: activations as ``called``, each weight before the first of those whose module comes later.

    Later, or with it, in the order in which the modules of ``network`` were registered.
    """
    registered = {name: place for place, (name, _) in enumerate(network.named_modules(remove_duplicate=False))}
    index = {point.name: point.index for point in points}
    waiting = [point for point in points if point.kind == "weight"]
    order = []
    for name in called:
        place = registered.get(points[index[name]].module, -1) if points[index[name]].module else -1
        before = [point for point in waiting if registered[point.module] <= place]
        waiting = [point for point in waiting if registered[point.module] > place]
        order += [*(point.index for point in before), index[name]]
    return *order, *(point.index for point in waiting)


def call_name(site: Site) -> str:
    """The name of a call: its module's, and its own."""
    return ".".join(filter(None, site))


def free_name(wanted: str, taken: Iterable[str]) -> str:
    """``wanted``, in parentheses when a module bears that name."""
    return f"({wanted})" if wanted in set(taken) else wanted
