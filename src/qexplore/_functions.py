"""Names of torch's functions: an operator, a method and what works in place are the function that they stand for."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

_SAME = {
    **{"multiply": "mul", "subtract": "sub", "concat": "cat", "concatenate": "cat", "clip": "clamp"},
    **dict.fromkeys(["truediv", "true_divide", "divide"], "div"),
    **{"absolute": "abs", "negative": "neg", "arctan": "atan", "arctanh": "atanh"},
}
_OPERATORS = ("add", "sub", "mul", "div", "truediv", "floordiv", "matmul", "pow", "mod", "and", "or", "xor")
_SAME |= {f"{side}{name}": _SAME.get(name, name) for name in _OPERATORS for side in "ri"}
_PRODUCTS = ("matmul", "mm", "bmm", "baddbmm")
"""Products of activations: who asks for one by its function means all; which of them code calls is a matter of axes."""
_OPERAND = "input"
_SILENT = ("get", "set", "delete")
"""Reading and writing an attribute."""


@dataclass(frozen=True)
class Operand:
    """What a call of a function is given, as predicates are asked about it.

    Attributes:
        of: the function that is called.
    """

    of: Any

    @property
    def __name__(self) -> str:
        return f"operand of {function_name(self.of)}"


def operand_name(place: int) -> str:
    """The name of a call's operand: "input" for the first tensor, "input_1" for the second."""
    return f"{_OPERAND}_{place}" if place else _OPERAND


def is_operand(call: str) -> bool:
    """Whether the name of a point on a call is an operand's, as in "add_1.input"."""
    return re.search(rf"\.{_OPERAND}(_\d+)?$", call) is not None


def function_name(function: Any) -> str:
    """What a function of torch is called: "add" for ``torch.add``, ``Tensor.add_``, ``+`` and ``+=``; "" for none."""
    given = str(getattr(function, "__name__", ""))
    bare = given.strip("_")
    return "" if given.startswith("__") and bare in _SILENT else _SAME.get(bare, bare)


def is_same(function: Any, asked: Any) -> bool:
    """Whether a call of ``function`` is one of what was ``asked`` for."""
    names = function_name(function), function_name(asked)
    return names[0] == names[1] or set(names) <= set(_PRODUCTS)


def is_of_torch(function: Any) -> bool:
    """Whether torch tells of calls of ``function``: its own, methods of tensors, and Python's operators."""
    if not callable(function) or isinstance(function, (type, torch.nn.Module)) or not function_name(function):
        return False
    home = getattr(function, "__module__", None) or getattr(getattr(function, "__objclass__", None), "__module__", "")
    return str(home).partition(".")[0] in ("torch", "_operator", "operator")


def function_called(call: str) -> Any:
    """The function of a call by its own name, such as "add_1"; of "add_1.input" that operand's."""
    if is_operand(call):
        return Operand(function_called(call.rpartition(".")[0]))
    return _public(re.sub(r"_\d+$", "", call.rpartition(".")[2]), None)


def public_function(function: Any) -> Callable[..., Any]:
    """``torch.add`` for all that goes by that name: what predicates are asked about."""
    return _public(function_name(function), function)


def _public(name: str, function: Any) -> Callable[..., Any]:
    found = next((getattr(home, name) for home in (torch, F, torch.Tensor) if hasattr(home, name)), function)
    return found  # type: ignore[no-any-return]
