"""SIGTERM, which Ray takes to end the process at once, left to whoever had it."""

from __future__ import annotations

import signal
import threading
from typing import Any


class Sigterm:
    """What SIGTERM does here, noted before Ray is asked to start: a search ends by it as it does without workers."""

    def __init__(self) -> None:
        is_main = threading.current_thread() is threading.main_thread()
        self._before = signal.getsignal(signal.SIGTERM) if is_main else None

    def take_from_ray(self) -> None:
        """Put back what stood; what the system does where that was Ray's already, of a program that has started it."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if _is_of_ray(self._before) else self._before)

    def give_back(self) -> None:
        """Put back what stood, whosever it was."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)


def _is_of_ray(handler: Any) -> bool:
    return (getattr(handler, "__module__", None) or "").partition(".")[0] == "ray"
