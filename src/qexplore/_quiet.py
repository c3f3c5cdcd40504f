"""Keeps from a user's terminal and log what torch, its exporters and onnxruntime say about themselves.

What is silenced is the whole process's, and several threads may want it at once: see `Held`.
"""

from __future__ import annotations

import io
import logging
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import Any


class Held:
    """Settings of the process that are ours while anyone is inside: the first enters ``block``, the last leaves it.

    Were each to bring back what it found, one that began in another's block would bring back that block's.
    """

    def __init__(self, block: Callable[[], AbstractContextManager[None]]) -> None:
        self._block = block
        self._lock = threading.RLock()
        self._count = 0
        self._entered = ExitStack()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Run a block inside."""
        with self._lock:
            if not self._count:
                self._entered.enter_context(self._block())
            self._count += 1
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1
                if not self._count:
                    self._entered.close()


Row = tuple[str, Any, type[Warning], Any, int]
"""As in ``warnings.filters``: action, pattern of the message, category, pattern of the module, line."""


@contextmanager
def filtered(*rows: Row) -> Iterator[None]:
    """Put ``rows`` before the filters of warnings for a block, and take them out again.

    `warnings.catch_warnings` brings back the filters of its beginning, which in another thread's block are that
    thread's; and it lets all that was warned of once be warned of again.
    """
    filters: list[Any] = warnings.filters  # type: ignore[assignment]
    filters[:0] = rows
    try:
        yield
    finally:
        # Another list inside of a `warnings.catch_warnings` that began or ended meanwhile.
        everywhere: tuple[Any, ...] = (filters,) if filters is warnings.filters else (filters, warnings.filters)
        for found in everywhere:
            for row in rows:
                if row in found:
                    found.remove(row)


def _ignored(message: str | None = None, category: type[Warning] = Warning, module: str | None = None) -> Row:
    patterns = [None if one is None else re.compile(one, flags) for one, flags in ((message, re.I), (module, 0))]
    return "ignore", patterns[0], category, patterns[1], 0


_OF_TORCH = (
    _ignored(module=r"torch(\.|$)"),
    # These name the caller's line, which is in this package.
    _ignored(r"torch\.ao\.quantization is deprecated"),
    _ignored(r".*torch\.jit\.\w+. is deprecated"),
    _ignored(r".*TorchScript type system doesn't support", UserWarning),
    _ignored(r"torch\.quantize_per_tensor, .* quantized tensor creation functions"),
)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what torch warns of in its own code: the deprecation of torch.ao, of quantized dtypes, of TorchScript.

    A user asked for the stack by name, and what a newer torch lacks is said when it is missed. Warnings of a user's
    own code pass.
    """
    with filtered(*_OF_TORCH):
        yield


@contextmanager
def silenced() -> Iterator[None]:
    """Silence all of it: warnings, log records and what is printed, by whichever thread.

    For exporters, and engines that are fed with what was recorded before: what goes wrong there is raised, and none of
    what they say on the way is about the user's own code.
    """
    with _MUTE.held(), filtered(_ignored()):
        yield


@contextmanager
def _mute() -> Iterator[None]:
    before, nowhere = logging.root.manager.disable, io.StringIO()
    try:
        logging.disable(logging.CRITICAL)
        with redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield
    finally:
        logging.disable(before)


_MUTE = Held(_mute)
