"""The report page, drawn by whoever draws."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qexplore.cli.sources import is_study
from qexplore.errors import ReportError


def write_page(sources: Sequence[Path], path: Path) -> Path:
    """Write the page of studies and fronts, side by side.

    Raises:
        QExploreError: a source that cannot be read, or a page that cannot be drawn.
    """
    draw: Any = getattr(importlib.import_module("qexplore.report"), "report", None)
    if draw is None:
        raise ReportError("this qexplore draws no report pages: install a newer one")
    opened = [_opened(one) for one in sources]
    draw(opened[0] if len(opened) == 1 else opened, path=path)
    return path


def _opened(source: Path) -> Any:
    from qexplore.front import Front
    from qexplore.study import Study

    return Study.open(source) if is_study(source) else Front.load(source)
