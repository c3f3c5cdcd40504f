"""SIGTERM, as cluster managers and ``kill`` send it, taken as the end of a search; and Ctrl-C, which is never lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Terminated(KeyboardInterrupt):
    """An interrupt after which there are seconds, not minutes: SIGKILL follows."""


class Termination:
    """What a search does about SIGTERM.

    Attributes:
        received: it has come.
    """

    def __init__(self) -> None:
        self.received = False
        self._is_interrupted = False

    def check(self) -> None:
        """Raise where it has come: Python drops what a signal raises in a finalizer."""
        if self.received:
            raise Terminated

    def check_interrupts(self) -> None:
        """Raise where it or Ctrl-C has come since the block of `interrupting` began."""
        self.check()
        if self._is_interrupted:
            raise KeyboardInterrupt

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Have it raise `Terminated` in the block, in the main thread; elsewhere, or where ignored, nothing is touched.

        A handler of the user's is called first, as it would have been without a search, and stands again afterwards.
        """
        self.check()
        with self._noting_interrupts():
            yield from self._terminating()

    @contextmanager
    def _noting_interrupts(self) -> Iterator[None]:
        """Know of Ctrl-C, whatever becomes of what its handler raises, until the block ends."""
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or not callable(before):
            yield
            return

        def interrupt(number: int, frame: Any) -> None:
            self._is_interrupted = before is signal.default_int_handler  # a user's may go on
            before(number, frame)

        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            self._is_interrupted = False
            signal.signal(signal.SIGINT, before)

    def _terminating(self) -> Iterator[None]:
        before = signal.getsignal(signal.SIGTERM)
        is_main = threading.current_thread() is threading.main_thread()
        if not is_main or before in (None, signal.SIG_IGN):
            yield
            return
        process = os.getpid()

        def terminate(number: int, frame: Any) -> None:
            if os.getpid() != process:  # a loader's worker that was forked: it ends as it would have
                signal.signal(number, before)
                os.kill(os.getpid(), number)
                return
            self.received = True
            if callable(before):
                before(number, frame)
            raise Terminated

        signal.signal(signal.SIGTERM, terminate)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
