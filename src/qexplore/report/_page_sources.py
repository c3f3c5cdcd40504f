"""What a report is asked to show: explorations, studies, fronts and files of them, one or several."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qexplore._version import __version__
from qexplore.errors import ReportError
from qexplore.evaluation import LayerAnalysis
from qexplore.front import Front, front_notes
from qexplore.report._alike import Compared, unlike_lines
from qexplore.report._page_record import PageRecord, RunPage
from qexplore.report._page_runs import Known, apply_lines, exploration_known, run_page
from qexplore.report._page_studies import study_runs
from qexplore.report._wording import cost_words
from qexplore.search import SensitivityTable
from qexplore.study import Study

if TYPE_CHECKING:
    from qexplore.exploration import Exploration

    Source = Exploration | Study | Front | str | os.PathLike[str]

_OWNER = "report"
_NO_FILE = re.compile(r"[^\w.-]+", re.ASCII)
_NOTHING = (
    "There is no run in this study yet that says what it explores. Explore with study=, and write the page again."
)


def page_record(
    source: Source | Sequence[Source],
    *,
    labels: Sequence[str] | None = None,
    title: str | None = None,
    sensitivity: SensitivityTable | None = None,
    analysis: LayerAnalysis | None = None,
) -> PageRecord:
    """The record of a page; see `report`."""
    sources = _listed(source)
    runs = [
        run
        for one, label in zip(sources, _checked_labels(labels, len(sources)), strict=True)
        for run in _runs(one, label, sensitivity, analysis)
    ]
    named = tuple(_with_own_names(runs))
    nothing = "" if named else _NOTHING
    return PageRecord(title or _title(named), f"qexplore {__version__}", named, nothing, _unlike(named))


def _listed(source: Any) -> list[Any]:
    is_one = isinstance(source, (str, os.PathLike, Front, Study)) or hasattr(source, "front")
    sources = [source] if is_one or not isinstance(source, Sequence) else list(source)
    if not sources:
        raise ReportError(f"{_OWNER}: there must be something to show, got {source!r}. Give what explore returned.")
    return sources


def _checked_labels(labels: Sequence[str] | None, count: int) -> Sequence[str | None]:
    if labels is None:
        return [None] * count
    if isinstance(labels, str) or len(labels) != count or not all(isinstance(one, str) for one in labels):
        raise ReportError(f"{_OWNER}: labels must be a name for each of the {count} sources, got {labels!r}.")
    return labels


def _runs(
    source: Any, label: str | None, sensitivity: SensitivityTable | None, analysis: LayerAnalysis | None
) -> Iterator[RunPage]:
    given = Known(sensitivity=sensitivity, analysis=analysis)
    if isinstance(source, (str, os.PathLike)):
        yield from _of_file(Path(source), label, given)
    elif isinstance(source, Study):
        yield from study_runs(source, label, given)
    elif isinstance(source, Front):
        yield run_page(label or "front", source, source.uniform, replace(given, notices=front_notes(source)))
    elif isinstance(getattr(source, "front", None), Front):
        name = label or f"{source.algorithm}, seed {source.seed}"
        yield run_page(name, source.front, source.uniform, exploration_known(source, sensitivity, analysis))
    else:
        raise ReportError(
            f"{_OWNER}: shows an Exploration, a Study, a Front, or the path of a file of one, got "
            f"{type(source).__name__}."
        )


def _of_file(path: Path, label: str | None, known: Known) -> Iterator[RunPage]:
    if path.suffix.lower() != ".json":
        with Study.open(path) as study:
            yield from study_runs(study, label, known)
        return
    front, shown = Front.load(path), str(path)
    apply = apply_lines(f"qx.Front.load({shown!r})", shlex.quote(shown), front)
    known = replace(known, apply=apply, notices=front_notes(front))
    yield run_page(label or path.stem, front, front.uniform, known)


def _with_own_names(runs: Sequence[RunPage]) -> Iterator[RunPage]:
    """Runs of one name get numbers, and so do the files that are downloaded of them."""
    taken: dict[str, int] = {}
    files: dict[str, int] = {}
    for run in runs:
        name = _numbered(run.name, taken, " ({})")
        file = _numbered(_NO_FILE.sub("-", name).strip("-.") or "run", files, "-{}")
        yield replace(run, name=name, file=file)


def _numbered(name: str, taken: dict[str, int], form: str) -> str:
    """``name``, with a number where it is taken; files of names that differ in capital letters alone may be one."""
    told = name
    while told.casefold() in taken:
        taken[name.casefold()] += 1
        told = name + form.format(taken[name.casefold()])
    taken[told.casefold()] = 1
    return told


def _unlike(runs: Sequence[RunPage]) -> tuple[str, ...]:
    """Of those that stand in one picture with the first: of its metric and cost."""
    shown = [run for run in runs if run.num_front and _axes(run) == _axes(runs[0])]
    if len(shown) < 2:
        return ()
    fronts = [(run.name, Front.from_json(run.front)) for run in shown]
    return unlike_lines([Compared(name, front, front.uniform) for name, front in fronts], runs[0].costs[0].name)


def _axes(run: RunPage) -> tuple[object, ...]:
    return run.scores[0].name, run.scores[0].higher_is_better, run.costs[0].name


def _title(runs: Sequence[RunPage]) -> str:
    if not runs or not runs[0].scores:
        return "qexplore"
    return f"{runs[0].scores[0].name} against {cost_words(runs[0].costs[0].name)}"
