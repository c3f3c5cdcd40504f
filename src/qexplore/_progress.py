"""How long work is shown: the one door to the progress-bar library."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from tqdm import tqdm

RHYTHM = 30.0
"""Seconds between two lines, where there is no terminal; work that takes less is not told of."""


class Progress:
    """A progress bar on stderr, or where that is no terminal a line every half minute.

    A bar in a file would be one long line, so it is drawn there only when asked for. A process without a console, which
    has no stderr at all, is shown nothing.

    Args:
        total: steps of the whole; None where they are not known.
        description: what is done.
        unit: of a step.
        shown: True for a bar wherever stderr leads, False for nothing; None for a bar on a terminal, elsewhere lines.
    """

    def __init__(self, total: float | None, *, description: str, unit: str, shown: bool | None) -> None:
        is_there = sys.stderr is not None
        on_terminal = is_there and sys.stderr.isatty()
        has_bar = is_there and (on_terminal if shown is None else shown)
        self._bar: Any = tqdm(
            total=total, desc=description, unit=unit, disable=not has_bar, dynamic_ncols=True, leave=False
        )
        self._tells = is_there and shown is None and not on_terminal
        self._total, self._description, self._unit = total, description, unit
        self._lock = threading.Lock()
        self._done = 0.0
        self._figures: dict[str, object] = {}
        self._start = self._told_at = time.monotonic()

    def advance(self, steps: float = 1, **figures: object) -> None:
        """Move on by ``steps``, which may be a part of one, and show ``figures`` beside it; from any thread."""
        with self._lock:
            before, self._done = self._done, self._done + steps
            self._figures |= figures
            if figures:
                self._bar.set_postfix(figures, refresh=False)
            self._bar.update(round(self._done) - round(before))
            if self._tells and time.monotonic() - self._told_at >= RHYTHM:
                self._tell()

    def _tell(self) -> None:
        self._told_at = time.monotonic()
        beside = "".join(f", {name}={value}" for name, value in self._figures.items())
        seconds = self._told_at - self._start
        of, units = ("", self._done) if self._total is None else (f" of {self._total:.0f}", self._total)
        noun = _counted(self._unit, round(units))
        line = f"{self._description}: {self._done:.0f}{of} {noun} after {seconds:.0f} s{beside}\n"
        sys.stderr.write(line)
        sys.stderr.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bar.close()


def _counted(noun: str, count: int) -> str:
    """``noun`` as it goes with ``count``."""
    if count == 1:
        return noun
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")
