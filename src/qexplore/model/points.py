"""What a quantization point is, and the two names that no module gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

PointKind = Literal["input", "activation", "weight"]

NumBits = NDArray[np.int64]
"""Choices by point as codes (see `qexplore._choices`), shape ``[L]``: widths, 0 where a quantizer is off."""

Candidate = tuple[int, ...]
"""One such vector, to look things up by."""

Candidates = NDArray[np.int64]
"""Vectors of choices as codes, shape ``[N, L]``."""


@dataclass(frozen=True)
class QuantizationPoint:
    """A place where a tensor is fake-quantized.

    Attributes:
        name: ``"input"``; the qualified name of the module whose output is quantized; or that of a weight.
        kind: the network's input, a module's output, or a weight.
        index: place in the vector ``num_bits``.
        module_type: class name of the module, ``""`` for the input.
        shape: of the first quantized tensor in the first forward that passes here, batch included; None before one. Of
            a weight its own.
        num_calls: how often that forward passes here; None before an observed forward, and of a weight.
        num_elements: values that pass here for one sample, over all tensors and calls, in the mean over all data seen;
            None before an observed forward. Of a weight the number of its values.
        num_scales: how many scales are stored with a weight; 1 for others.
        module: qualified name of the module, ``""`` for the input.
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
