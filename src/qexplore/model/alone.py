"""What sets a model's state, such as its widths, is one thread's at a time: others wait."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class OneThread:
    """A lock that a thread may take again while it has it. A copy, a pickled one too, is free."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[OneThread], tuple[()]]:
        return OneThread, ()


def alone(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """``function`` with its first argument, a wrapped network called ``model``, for itself while it runs."""

    @functools.wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with _lock_of(args[0] if args else kwargs.get("model")):
            return function(*args, **kwargs)

    return run


def _lock_of(model: Any) -> AbstractContextManager[None]:
    lock = getattr(model, "lock", None)
    return lock if isinstance(lock, OneThread) else nullcontext()
