"""Whether something can be downloaded, and where downloads go."""

from __future__ import annotations

import os
import socket
from pathlib import Path

_SECONDS = 3


def is_reachable(host: str) -> bool:
    """Whether ``host`` answers within three seconds."""
    try:
        with socket.create_connection((host, 443), timeout=_SECONDS):
            return True
    except OSError:
        return False


def in_words(path: Path) -> str:
    """``path`` as one would type it."""
    return f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)


def cache_folder() -> Path:
    """Where downloads go: ``$XDG_CACHE_HOME/qexplore``, or ``~/.cache/qexplore``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qexplore"
