"""The one door to the progress-bar library."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


class Progress:
    """A progress bar on stderr; shows nothing when ``shown`` is False, or None and stderr is no terminal."""

    def __init__(self, total: int | None, *, description: str, unit: str, shown: bool | None) -> None:
        # A process without a console has no stderr at all.
        hidden = sys.stderr is None or not (sys.stderr.isatty() if shown is None else shown)
        self._bar: Any = tqdm(total=total, desc=description, unit=unit, disable=hidden, dynamic_ncols=True, leave=False)

    def advance(self, steps: float = 1, **figures: object) -> None:
        """Move on by ``steps`` and show ``figures`` beside the bar."""
        if figures:
            self._bar.set_postfix(figures, refresh=False)
        self._bar.update(steps)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bar.close()
