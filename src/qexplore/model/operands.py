"""What calls of functions are given: the tensors by name, those that are written into, and which calls read now."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from qexplore._functions import operand_name
from qexplore._trees import tensors_of
from qexplore.model.points import Site

LAYERS = ("linear", "bilinear", *(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)))
"""Functions whose parameters are weights and biases, which are no operands to choose here."""

SUMS = ("add", "sub", "mul", "cat", "stack")
"""Functions whose constants, as biases, are no operands to choose."""


def operands_of(args: Any, kwargs: Any) -> dict[str, Tensor]:
    """The tensors that a call is given, each once, by the names of its operands."""
    distinct = {id(tensor): tensor for tensor in tensors_of((args, kwargs)) if isinstance(tensor, Tensor)}
    return {operand_name(place): tensor for place, tensor in enumerate(distinct.values())}


def written_by(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The tensor that a call is asked to write its result into."""
    name = str(getattr(function, "__name__", ""))
    is_method = name.endswith("_") and not name.endswith("__")
    is_operator = name.startswith("__i") and name not in ("__invert__", "__index__", "__int__")
    if isinstance(kwargs.get("out"), Tensor):
        return kwargs["out"]  # type: ignore[no-any-return]
    is_written = is_method or is_operator or kwargs.get("inplace") is True
    return args[0] if is_written and args and isinstance(args[0], Tensor) else None


class _Reading(threading.local):
    def __init__(self) -> None:
        self.calls: list[Site] = []


_reading = _Reading()


@contextmanager
def reading(call: Site) -> Iterator[None]:
    """A block in which ``call`` computes with operands that are at points."""
    _reading.calls.append(call)
    try:
        yield
    finally:
        _reading.calls.pop()


def calls_reading() -> tuple[Site, ...]:
    """The calls that do so now, in this thread."""
    return tuple(_reading.calls)
