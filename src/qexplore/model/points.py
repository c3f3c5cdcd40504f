"""What a quantization point is, and the two names that no module gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

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
        sites: where its tensor is met: several arguments that are one tensor, or one call.
    """

    name: str
    kind: PointKind
    sites: tuple[Site, ...]

    @property
    def readers(self) -> tuple[str, ...]:
        """Of an argument the modules that read it, each once."""
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
        readers: of an argument all modules that read it, by qualified names.
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


def free_name(wanted: str, taken: Iterable[str]) -> str:
    """``wanted``, in parentheses when a module bears that name."""
    return f"({wanted})" if wanted in set(taken) else wanted
