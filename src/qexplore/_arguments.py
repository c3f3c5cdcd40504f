"""Checks of arguments: each gives the value in its one form, or raises the caller's error with a whole sentence.

A name is what the sentence begins with, such as ``"`epochs`"``.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import numbers
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from qexplore.errors import QExploreError

Error = type[QExploreError]
Given = ParamSpec("Given")
Answer = TypeVar("Answer")


def is_whole(value: object) -> bool:
    """Whether ``value`` is an int, numpy's included; a bool is none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether ``value`` is a finite real number; a bool is none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def checked_int(
    name: str, value: object, error: Error, *, low: int | None = None, high: int | None = None, hint: str = ""
) -> int:
    """``value`` as an int between ``low`` and ``high``, both included.

    >>> from qexplore.errors import ProblemError
    >>> checked_int("`seed`", -1, ProblemError, low=0)
    Traceback (most recent call last):
    qexplore.errors.ProblemError: `seed` must be an int of at least 0, got -1
    """
    number: int | None = int(value) if is_whole(value) else None  # type: ignore[call-overload]
    if number is None or not _is_within(number, low, high):
        shown = repr(value) if number is None else number
        raise error(f"{name} must be an int{_limits(low, high)}, got {shown}{hint}")
    return number


def checked_number(
    name: str,
    value: object,
    error: Error,
    *,
    above: float | None = None,
    low: float | None = None,
    high: float | None = None,
    hint: str = "",
) -> float:
    """``value`` as a finite float between ``low`` and ``high``, both included, and greater than ``above``.

    >>> from qexplore.errors import WorkflowError
    >>> checked_number("`learning_rate`", float("nan"), WorkflowError, above=0)
    Traceback (most recent call last):
    qexplore.errors.WorkflowError: `learning_rate` must be a positive number, got nan
    """
    fits = is_number(value) and _is_within(float(value), low, high)  # type: ignore[arg-type]
    if not fits or (above is not None and not float(value) > above):  # type: ignore[arg-type]
        kind = "a positive number" if above == 0 else "a number" if above is None else f"a number above {above:g}"
        raise error(f"{name} must be {kind}{_limits(low, high)}, got {value!r}{hint}")
    return float(value)  # type: ignore[arg-type]


def checked_switch(name: str, value: object, error: Error) -> bool:
    """``value``, which is True or False."""
    if not isinstance(value, bool):
        raise error(f"{name} must be True or False, got {value!r}")
    return value


def checked_name(name: str, value: object, known: Iterable[str], error: Error, *, hint: str = "") -> str:
    """``value``, which is one of ``known``.

    >>> from qexplore.errors import ProblemError
    >>> checked_name("`engine`", "fast", ["auto", "direct"], ProblemError)
    Traceback (most recent call last):
    qexplore.errors.ProblemError: `engine` must be one of 'auto', 'direct', got 'fast'
    """
    known = tuple(known)
    if not isinstance(value, str) or value not in known:
        raise error(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}{hint}")
    return value


def checked_rows(name: str, values: Any, length: int, error: Error, *, hint: str = "") -> NDArray[np.float64]:
    """``values`` as finite numbers, shape ``[N, length]``; a single row may do without its first axis.

    >>> from qexplore.errors import ProblemError
    >>> checked_rows("candidates", [4, 4], 3, ProblemError)
    Traceback (most recent call last):
    qexplore.errors.ProblemError: candidates must have shape [N, 3], one number a choice to make, got (2,)
    """
    try:
        rows = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as cause:
        raise error(f"{name} must be numbers of shape [N, {length}], got {values!r}") from cause
    if rows.size and (rows.ndim not in (1, 2) or rows.shape[-1] != length):
        raise error(f"{name} must have shape [N, {length}], one number a choice to make, got {rows.shape}")
    rows = rows.reshape(-1, length)
    unknown = np.argwhere(~np.isfinite(rows))
    if len(unknown):
        row, place = unknown[0].tolist()
        raise error(f"{name} must be finite, got {rows[row, place]} in row {row} at place {place}{hint}")
    return rows


def checked_keywords(
    call: Callable[..., Any], given: Iterable[str], keywords: Any, *, beside: Iterable[str] = ()
) -> None:
    """Raise what Python raises where ``call`` does not take a keyword that was given, with the nearest that it takes.

    Args:
        call: a function that takes ``**given``.
        given: names of these.
        keywords: the ``TypedDict`` of all that they may be; None where ``beside`` names them all.
        beside: names of further ones.

    >>> from typing import TypedDict
    >>> checked_keywords(sorted, ["revers"], TypedDict("Order", {"reverse": bool}, total=False))
    Traceback (most recent call last):
    TypeError: sorted() got an unexpected keyword argument 'revers', did you mean 'reverse'?
    """
    own = getattr(inspect.unwrap(call), "__kwdefaults__", None) or ()
    known = sorted({*getattr(keywords, "__optional_keys__", ()), *beside, *own})
    _require_known(call.__name__, given, known)


def nearest_keyword(call: Callable[Given, Answer]) -> Callable[Given, Answer]:
    """``call``, which names the nearest keyword where one that was given is none of its own.

    >>> @nearest_keyword
    ... def explore(problem, *, max_evaluations=None): ...
    >>> explore(None, max_evaluation=3)
    Traceback (most recent call last):
    TypeError: explore() got an unexpected keyword argument 'max_evaluation', did you mean 'max_evaluations'?
    """
    parameters = inspect.signature(call).parameters
    takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    known = sorted(name for name in parameters if name != "self")
    name = call.__qualname__.removesuffix(".__init__")

    @functools.wraps(call)
    def checked(*args: Given.args, **kwargs: Given.kwargs) -> Answer:
        if not takes_all:
            _require_known(name, kwargs, known)
        return call(*args, **kwargs)

    return checked


def _require_known(owner: str, given: Iterable[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f", did you mean {near[0]!r}?" if near else f": it takes {', '.join(known)}"
            raise TypeError(f"{owner}() got an unexpected keyword argument {name!r}{hint}")


def made_folder(path: str | os.PathLike[str], error: Error) -> Path:
    """The folder of the file ``path``, made where its own folder is there; raises ``error`` where it is not."""
    folder = Path(path).parent
    try:
        folder.mkdir(exist_ok=True)
    except OSError as reason:
        raise error(
            f"'{os.fspath(path)}' cannot be written: its folder '{folder}' is not there and cannot be made "
            f"({reason.strerror}). Make it first, or give another path"
        ) from reason
    return folder


def _is_within(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)


def _limits(low: float | None, high: float | None) -> str:
    shown = [str(limit) if isinstance(limit, int) else f"{limit:g}" for limit in (low, high) if limit is not None]
    if len(shown) == 2:
        return f" in [{shown[0]}, {shown[1]}]"
    if low is not None:
        return f" of at least {shown[0]}"
    return "" if high is None else f" of at most {shown[0]}"
