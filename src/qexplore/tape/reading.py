"""Which numbers operations compute with: each once, however many read it, and whether all do so at a point."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from qexplore.tape.provenance import fills, hands_on, storage_key

Given = Literal["activation", "function"]
"""What gives a tensor: a module, as its output, or a call of a function."""
Region = tuple[int, int]
"""Of a piece of memory: where a tensor begins in it, and how many of its numbers it has."""

_ALONE = re.compile(r"hardswish|prelu|dropout|no_training|rand|bernoulli|normal_|uniform")
_TRAINING = 5
"""The place of an argument of a batch norm: whether it is to look at the batch."""


@dataclass(eq=False)
class Read:
    """Numbers that operations compute with.

    Attributes:
        num_elements: how many.
        is_quantized: whether all that read them read them at a point.
        reader: the module or the call of the first operation that reads them elsewhere, else of the first.
        is_argument: whether it is a module, which was given them.
    """

    num_elements: int
    is_quantized: bool
    reader: str
    is_argument: bool


def computed_with(
    function: Any, name: str, args: Sequence[Any], given: list[Tensor], made: list[Tensor]
) -> list[Tensor]:
    """Those of the floating tensors that an operation is ``given`` that it makes other numbers of, several together.

    Not of one alone, element by element or channel by channel: activation functions, scales and norms of batches are
    part of what makes the tensor, or of what reads it. Nor where it moves them. ``made`` is what comes of it.
    """
    if not given or hands_on(name) or fills(name) or not any(map(torch.is_floating_point, made)):
        return []
    is_one = len({(storage_key(tensor), *region_of(tensor)) for tensor in given}) == 1
    return [] if is_one and _works_alone(function, name, args) else given


def _works_alone(function: Any, name: str, args: Sequence[Any]) -> bool:
    is_pointwise = any(str(tag).endswith(".pointwise") for tag in getattr(function, "tags", ()))
    looks_at_batch = bool(args[_TRAINING]) if len(args) > _TRAINING else True
    return is_pointwise or bool(_ALONE.search(name)) or ("batch_norm" in name and not looks_at_batch)


def region_of(tensor: Tensor) -> Region:
    """Which part of its memory ``tensor`` is."""
    return int(tensor.storage_offset()), tensor.numel()
