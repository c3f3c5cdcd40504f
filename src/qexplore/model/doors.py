"""What stands in the place of modules' forwards for a while: leads elsewhere, or counts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

Forward = Callable[..., Any]

Door = Callable[[nn.Module, Forward, Any, dict[str, Any]], Any]
"""Called in a forward's place: with the module, its forward, and the positional and keyword arguments."""


class Doors:
    """Stand in the place of the forwards of ``modules``, for a block at a time; hooks run as ever."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._held = [(module, module.__dict__.get("forward"), _Through(module)) for module in modules]

    @contextmanager
    def lead_to(self, door: Door) -> Iterator[None]:
        """Have ``door`` called for every forward."""
        try:
            for module, _, through in self._held:
                through.door = door
                module.__dict__["forward"] = through
            yield
        finally:
            for module, own, _ in self._held:
                module.__dict__.pop("forward", None)
                if own is not None:
                    module.__dict__["forward"] = own


class _Through:
    """What is called as a module's forward."""

    def __init__(self, module: nn.Module) -> None:
        functools.update_wrapper(self, module.forward)  # first, for it brings the other's attributes
        self._module = module
        self._forward = module.forward
        self.door: Door | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        assert self.door is not None
        return self.door(self._module, self._forward, args, kwargs)


class Counted:
    """A module's forward that counts how often it is called."""

    def __init__(self, module: nn.Module) -> None:
        functools.update_wrapper(self, module.forward)  # first, for it brings the other's attributes
        self._module = module
        self._own = module.__dict__.get("forward")
        self._forward = module.forward
        self.num_calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Counted, and passed on."""
        self.num_calls += 1
        return self._forward(*args, **kwargs)

    def restore(self) -> None:
        """Give the module its forward back."""
        self._module.__dict__.pop("forward", None)
        if self._own is not None:
            self._module.__dict__["forward"] = self._own
