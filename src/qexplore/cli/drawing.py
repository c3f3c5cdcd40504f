"""The report page, which torch and the plots are loaded for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def write_page(sources: Sequence[Path], path: Path) -> Path:
    """Write the page of studies and fronts, side by side.

    Raises:
        QExploreError: a source that cannot be read, or a page that cannot be drawn.
    """
    from qexplore.report import report

    report(sources[0] if len(sources) == 1 else list(sources), path=path)
    return path
