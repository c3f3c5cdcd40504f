"""The one way to warn: at the line of the user's that led here."""

from __future__ import annotations

import os
import sys
import sysconfig
import warnings
from types import FrameType


class UncalibratedWarning(RuntimeWarning):
    """A model runs with points that have no range, so that these take the largest magnitude of whatever passes."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost line that is neither qexplore's, nor an installed package's, nor Python's own.

    Where there is none, as in a thread of our own, at the caller's.
    """
    level, frame = 2, sys._getframe(1)
    while frame is not None and not _is_users(frame):
        level, frame = level + 1, frame.f_back  # type: ignore[assignment]
    warnings.warn(message, category, stacklevel=2 if frame is None else level)


def _is_users(frame: FrameType) -> bool:
    path = frame.f_code.co_filename
    return not (path.startswith(_OTHERS) or any(f"{os.sep}{name}{os.sep}" in path for name in _INSTALLED))


_INSTALLED = ("site-packages", "dist-packages")
_OTHERS = (
    "<frozen",
    *(f"{path}{os.sep}" for path in (os.path.dirname(__file__), *map(sysconfig.get_path, ("stdlib", "platstdlib")))),
)
