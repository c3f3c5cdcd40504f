"""Calls of functions by their names while a forward runs, whether they are points or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from qexplore.model.calls import Calls, CallsFrame
from qexplore.model.points import call_name


class CallNamer:
    """Knows which call of a function is made now.

    Attributes:
        now: its name; "" between calls, and in modules that are not looked into.
        given: told of each call's name and result.
    """

    def __init__(self) -> None:
        self.now = ""
        self.given: Callable[[str, Any], None] | None = None

    def frame(self, calls: Calls, module: str) -> NamedFrame:
        """A frame for one run of a module's forward."""
        return NamedFrame(self, calls, module)

    @contextmanager
    def within(self, name: str) -> Iterator[None]:
        """Be in this call for a block."""
        before, self.now = self.now, name
        try:
            yield
        finally:
            self.now = before


class NamedFrame(CallsFrame):
    """As every frame of calls, and tells their names."""

    def __init__(self, namer: CallNamer, calls: Calls, module: str) -> None:
        super().__init__(calls, module)
        self._namer = namer

    def _opens(self, attention: str) -> bool:
        return True  # its parts can be points: each is to be seen

    def _make(self, call: str, function: Any, args: Any, kwargs: Any, known_as: Any = None) -> Any:
        name = call_name((self._module, call))
        with self._namer.within(name):
            output = super()._make(call, function, args, kwargs, known_as)
        if self._namer.given is not None:
            self._namer.given(name, output)
        return output
