"""Which module's forward runs, and the calls of torch's functions that it makes itself."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import CodeType
from typing import Any, Protocol

from torch import nn
from torch.overrides import TorchFunctionMode


class Frame(Protocol):
    """One run of a module's forward."""

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What stands in the place of a call of one of torch's functions."""

    def finish(self) -> None:
        """What is called when the forward has come to its end."""


class Frames(Protocol):
    """What knows the points among the calls of a network."""

    def frame(self, module: str) -> Frame | None:
        """A frame for one run of the forward of a module, given its name; None leaves calls in it alone."""

    def hooks_of(self, module: str) -> Iterable[Any]:
        """The points among its calls."""


class _Mode(TorchFunctionMode):
    """Hands the calls of a thread to the innermost frame; those of hooks and of quantizers to none."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[Frame | None] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What torch calls for each of its functions."""
        frame, kwargs = self.frames[-1], kwargs or {}
        return func(*args, **kwargs) if frame is None else frame.call(func, args, kwargs)


class _Thread(threading.local):
    mode: _Mode | None = None


_thread = _Thread()


@contextmanager
def entered(frame: Frame | None) -> Iterator[None]:
    """Hand the calls of a block to ``frame``; None leaves them alone."""
    mode, outer = _thread.mode or _Mode(), _thread.mode
    mode.frames.append(frame)
    _thread.mode = mode
    try:
        with mode if outer is None else nullcontext():
            yield
    finally:
        mode.frames.pop()
        _thread.mode = outer


def aside() -> AbstractContextManager[None]:
    """A block whose calls are not the network's own: of a hook, or of a quantizer."""
    return nullcontext() if _thread.mode is None else entered(None)


def calls_in(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``function``, called in a call that a frame was handed, with its own calls handed to that frame too."""
    with _thread.mode or nullcontext():
        return function(*args, **kwargs)


class Framed:
    """Stands in the place of a module's forward, and hands the calls in it to a frame of its own.

    Args:
        module: whose.
        name: of the module.
        frames: gives the frame of one run; None leaves calls in it alone.
    """

    def __init__(self, module: nn.Module, name: str, frames: Frames | None) -> None:
        self._module = module
        self._own = module.__dict__.get("forward")
        self.name = name
        self.frames = frames

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward."""
        frame = None if self.frames is None else self.frames.frame(self.name)
        if frame is None and _thread.mode is None:
            return self._forward(*args, **kwargs)
        with entered(frame):
            output = self._forward(*args, **kwargs)
        if frame is not None:
            frame.finish()
        return output

    @property
    def _forward(self) -> Callable[..., Any]:
        found: Any = self._own or type(self._module).forward.__get__(self._module)
        return found  # type: ignore[no-any-return]

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._forward)

    @property
    def __code__(self) -> CodeType:  # torch.export names the line that a forward begins at
        code: CodeType = self._forward.__code__
        return code

    def put_on(self) -> None:
        """Stand in the forward's place."""
        self._module.__dict__["forward"] = self

    def take_off(self) -> None:
        """Give the module its forward back."""
        if self._module.__dict__.get("forward") is self:
            self._module.__dict__.pop("forward")
            if self._own is not None:
                self._module.__dict__["forward"] = self._own

    @property
    def is_on(self) -> bool:
        """Whether it stands there, or behind what others have put there since."""
        return "forward" in self._module.__dict__
