"""Short digests of data and of code: equal for equal content, in another process too."""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qexplore._fingerprint import DIGITS, tensor_bytes
from qexplore._trees import opened

_PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray, slice, range, np.generic)
_WORDS = (torch.dtype, torch.device, torch.Size, np.dtype)
_CONTAINERS = (list, dict, set, bytearray)
_CHANGING = {
    "append",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "clear",
    "update",
    "add",
    "discard",
    "setdefault",
}
"""What changes a container: one that a function changes is what it notes down, and no part of what it is."""
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class Contents:
    """A digest of all values that it is given, in their order.

    Attributes:
        unread: names of types that are known by their names alone, for what they hold cannot be told.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self.unread: dict[str, None] = {}

    def add(self, value: Any, inside: tuple[int, ...] = ()) -> None:
        """Any nesting of tensors, arrays, numbers and texts; of another object its attributes."""
        if self._has_added(value):
            return
        whole = None if id(value) in inside else opened(value)
        if whole is None or not (whole.parts or isinstance(value, (tuple, list, dict))):
            self.name(value)
            return
        self.note(f"{_kind(value)} {len(whole.parts)}")
        for key, part in zip(whole.keys, whole.parts, strict=True):
            self.note(repr(key))
            self.add(part, (*inside, id(value)))

    def _has_added(self, value: Any) -> bool:
        """Whether ``value`` is one that has no parts, and so is in the digest now."""
        if isinstance(value, Tensor):
            self._add_buffer(value.dtype, tuple(value.shape), tensor_bytes(value))
        elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
            self._add_buffer(value.dtype, value.shape, value.tobytes())
        elif isinstance(value, np.ndarray):
            self.add(value.tolist())
        elif isinstance(value, (*_PLAIN, *_WORDS)):
            self.note(f"{type(value).__name__} {value!r}")
        elif isinstance(value, (set, frozenset)):
            self.note(" ".join(sorted(map(digest_of, value))))
        else:
            return False
        return True

    def name(self, value: Any) -> None:
        """The type of ``value`` alone."""
        self.unread[type(value).__qualname__] = None
        self.note(type(value).__qualname__)

    def note(self, text: str) -> None:
        """A text, of which it is known where it ends."""
        written = text.encode("utf-8", "surrogatepass")
        self._digest.update(b"%d " % len(written) + written)

    def _add_buffer(self, dtype: Any, shape: tuple[int, ...], buffer: Any) -> None:
        self.note(f"{dtype} {shape}")
        self._digest.update(buffer)

    def __str__(self) -> str:
        left = f", known by type alone: {', '.join(self.unread)}" if self.unread else ""
        return f"{self._digest.hexdigest()[:DIGITS]}{left}"


class Code(Contents):
    """A digest of functions: their instructions, constants, defaults, and what they take from around them.

    Functions of torch, numpy, the standard library, installed packages and qexplore go by their names. What a function
    notes down, such as a count of its calls, plays no part.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[int, Any] = {}  # held, or another object might get the id of one

    def add(self, value: Any, inside: tuple[int, ...] = ()) -> None:
        """A function, a class, an object that is called, or a value that one of them uses."""
        if id(value) in self._seen:
            self.note("again")
            return
        if not isinstance(value, (*_PLAIN, *_WORDS, tuple)):  # equal ones may be one object, or several
            self._seen[id(value)] = value
        if isinstance(value, functools.partial):
            self._add_all("partial", value.func, *value.args, *sorted(value.keywords.items()))
        elif isinstance(value, MethodType):
            self._add_all("method", value.__func__, value.__self__)
        elif isinstance(value, FunctionType):
            self._add_function(value)
        elif isinstance(value, type):
            self._add_class(value)
        elif isinstance(value, (BuiltinFunctionType, *_LIBRARY_FUNCTIONS)):
            self.note(_full_name(value))
        elif isinstance(value, (tuple, list, dict)):
            self._add_all(_kind(value), *(value.items() if isinstance(value, dict) else value))
        elif not self._has_added(value):
            self._add_object(value)

    def _add_all(self, kind: str, *values: Any) -> None:
        self.note(f"{kind} {len(values)}")
        for value in values:
            self.add(value)

    def _add_function(self, function: FunctionType) -> None:
        given = [function.__defaults__, sorted((function.__kwdefaults__ or {}).items())]
        captured = [*_captured(function)]
        if is_of_library(function):
            self.note(_full_name(function))
            captured = [pair for pair in captured if pair[0] in function.__code__.co_freevars]
        else:
            self._add_code(function.__code__, function.__doc__)
        self._add_all("given", *given)
        changes = _changes_containers(function.__code__)
        for name, value in captured:
            self.note(name)
            if changes and isinstance(value, _CONTAINERS):
                self.name(value)
            else:
                self.add(value)

    def _add_code(self, code: CodeType, doc: str | None = None) -> None:
        self._digest.update(code.co_code)
        self.note(" ".join([*code.co_names, *code.co_varnames, *code.co_freevars]))
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._add_code(constant)
            elif constant is None or constant != doc:
                self.add(constant)

    def _add_class(self, kind: type) -> None:
        self.note(_full_name(kind) if is_of_library(kind) else kind.__qualname__)
        for one in () if is_of_library(kind) else _own_classes(kind):
            for name, function in sorted(_functions(one)):
                self.note(name)
                self.add(function)

    def _add_object(self, value: Any) -> None:
        """Its class, and attributes that only its constructor sets; of a module, its parameters and buffers."""
        kind = type(value)
        self._add_class(kind)
        if isinstance(value, nn.Module):
            self.note(_ADDRESS.sub("", repr(value)))
            self._add_all("tensors", *(tensor for _, tensor in sorted(value.state_dict().items())))
        elif is_of_library(kind) or not hasattr(value, "__dict__"):
            self.name(value)
        else:
            changing = {name for one in _own_classes(kind) for name in _set_later(one)}
            kept = [(name, held) for name, held in sorted(vars(value).items()) if name not in changing]
            self._add_all("attributes", *kept)


_LIBRARY_FUNCTIONS = (np.ufunc, type(str.join), type(str.__add__))


def digest_of(value: Any) -> str:
    """Short digest of one value; see `Contents`."""
    contents = Contents()
    contents.add(value)
    return str(contents)


def code_digest(*functions: Any) -> str:
    """Short digest of functions or classes, with the Python whose instructions they are; see `Code`."""
    code = Code()
    for function in functions:
        code.add(function)
    return f"{code} (Python {sys.version_info.major}.{sys.version_info.minor})"


def is_of_library(value: Any) -> bool:
    """Whether a function or class is Python's, an installed package's or qexplore's: its version says it all."""
    module = str(getattr(value, "__module__", "") or "")
    root = module.partition(".")[0]
    if root in ("torch", "numpy", "qexplore") or (root in sys.stdlib_module_names and root != "__main__"):
        return True
    file = str(getattr(sys.modules.get(module), "__file__", "") or "")
    return "site-packages" in file or "dist-packages" in file


def _captured(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function takes from around it by name: cells of its closure, and globals that it does not set itself."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not filled yet
            continue
    codes = list(_codes(function.__code__))
    names = dict.fromkeys(name for code in codes for name in code.co_names)
    stored = {one.argval for code in codes for one in dis.get_instructions(code) if one.opname == "STORE_GLOBAL"}
    for name in names:
        value = function.__globals__.get(name)
        if name in function.__globals__ and name not in stored and not inspect.ismodule(value):
            yield name, value


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _changes_containers(code: CodeType) -> bool:
    return any(
        not _CHANGING.isdisjoint(one.co_names) or any(i.opname == "STORE_SUBSCR" for i in dis.get_instructions(one))
        for one in _codes(code)
    )


def _own_classes(kind: type) -> list[type]:
    return [one for one in kind.__mro__ if not is_of_library(one)]


def _functions(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, member in vars(kind).items():
        function = getattr(member, "__func__", getattr(member, "fget", member))
        if isinstance(function, FunctionType) and not is_of_library(function):
            yield name, function


def _set_later(kind: type) -> Iterator[str]:
    """Names of attributes that methods set, the constructor apart: what an object notes down."""
    for name, function in _functions(kind):
        if name not in ("__init__", "__post_init__", "__new__"):
            for code in _codes(function.__code__):
                yield from (str(i.argval) for i in dis.get_instructions(code) if i.opname == "STORE_ATTR")


def _kind(value: Any) -> str:
    return "sequence" if isinstance(value, (list, tuple)) else "mapping" if isinstance(value, dict) else _name(value)


def _name(value: Any) -> str:
    return type(value).__qualname__


def _full_name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
