"""What pickle finds by name: it writes of a function or a class no more than where it stands."""

from __future__ import annotations

import functools
import sys
from types import FunctionType
from typing import Any

from qexplore.errors import QExploreError

_TAKE_ALL = {"dill", "cloudpickle", "copy"}
"""Modules that pickle, or copy, a function itself where it has no name."""


def require_a_name(owner: str, value: Any, error: type[QExploreError]) -> None:
    """Raise, while an object is pickled, where it holds a function or a class that pickle will not find.

    Args:
        owner: begins the sentence.
        value: a function or a class; other objects are taken as they are.
        error: what is raised.
    """
    while isinstance(value, functools.partial):
        value = value.func
    if not isinstance(value, (FunctionType, type)) or _found(value) or _writes_itself(value) or _is_taken_whole():
        return
    kind = "class" if isinstance(value, type) else "function"
    raise error(
        f"{owner} cannot be pickled with the {kind} {value.__qualname__}, which no module holds under that name: "
        "define it at the top of a module, with `def` instead of a lambda, or pickle with dill or cloudpickle"
    )


def _found(value: Any) -> bool:
    place: Any = sys.modules.get(value.__module__)
    for name in value.__qualname__.split("."):
        place = getattr(place, name, None)
    return place is value


def _writes_itself(value: Any) -> bool:
    """Whether objects of the class say themselves what is pickled, as those of ``torch.fx.GraphModule`` do."""
    return isinstance(value, type) and "__reduce__" in {name for kind in value.__mro__[:-1] for name in vars(kind)}


def _is_taken_whole() -> bool:
    frame: Any = sys._getframe()
    while frame is not None:
        if not _TAKE_ALL.isdisjoint(str(frame.f_globals.get("__name__")).split(".")):
            return True
        frame = frame.f_back
    return False
