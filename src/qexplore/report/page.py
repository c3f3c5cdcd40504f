"""The page of a report: one HTML file that works offline."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qexplore._arguments import made_folder, nearest_keyword
from qexplore.errors import ReportError
from qexplore.evaluation import LayerAnalysis
from qexplore.front import write_text
from qexplore.report._page_html import page_html
from qexplore.report._page_sources import page_record
from qexplore.search import SensitivityTable

if TYPE_CHECKING:
    from qexplore.report._page_sources import Source

_SUFFIXES = (".html", ".htm")


@nearest_keyword
def report(
    source: Source | Sequence[Source],
    path: str | os.PathLike[str] = "report.html",
    *,
    labels: Sequence[str] | None = None,
    title: str | None = None,
    sensitivity: SensitivityTable | None = None,
    analysis: LayerAnalysis | None = None,
) -> Path:
    """Write a page to look at a front, to pick a point of it, and to see how it was found.

    One HTML file that needs nothing else, makes no request and can be sent to others. Needs the extra ``report``.

    Args:
        source: what `explore` returned, a `Study`, a `Front`, or the path of a study or of a front's file (``.json``);
            or several of these, which are laid side by side, as are the runs of a study. A study may be under way.
        path: of the page; its folder is made, and a page that is there is replaced.
        labels: names of the sources on the page; None takes algorithm and seed, or the name of the file.
        title: of the page; None takes the metric and the first cost.
        sensitivity: what `sensitivity` measured, shown beside the widths of each point; None takes what a study's
            searches have measured of it.
        analysis: what `analyze` measured.

    Returns:
        The path of the page.

    Raises:
        ReportError: there is no source, `labels` are not one for each, or the suffix is none of HTML.
        StudyFileError, FrontFileError: a file holds no study or front, is damaged, or is not there.
        MissingPackageError: plotly is not installed.
    """
    target = _checked_path(path)
    record = page_record(source, labels=labels, title=title, sensitivity=sensitivity, analysis=analysis)
    made_folder(target, ReportError)
    write_text(target, page_html(record))
    return target


def _checked_path(path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    if target.suffix.lower() not in _SUFFIXES:
        raise ReportError(
            f"report: the suffix of a page must be .html, got {target.suffix!r} in {str(target)!r}. Rename the file, "
            f"for example to {target.with_suffix('.html').name!r}."
        )
    return target
