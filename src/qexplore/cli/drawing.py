"""The report page, drawn by whoever draws."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qexplore.errors import ReportError


def write_page(sources: Sequence[Path], path: Path) -> Path:
    """Write the page of studies and fronts, side by side.

    Raises:
        QExploreError: a source that cannot be read, or a page that cannot be drawn.
    """
    draw: Any = getattr(importlib.import_module("qexplore.report"), "report", None)
    if draw is None:
        raise ReportError("this qexplore draws no report pages: install a newer one")
    draw(sources[0] if len(sources) == 1 else list(sources), path=path)
    return path
