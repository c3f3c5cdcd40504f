"""How a search went, from what `explore` returned or from a study."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qexplore.errors import ReportError
from qexplore.front import Front
from qexplore.report._fronts import drawable_front
from qexplore.study import RunProgress, Study

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qexplore.exploration import Exploration, Snapshot
    from qexplore.report._sources import Source
    from qexplore.study import StoredSnapshot


@dataclass(frozen=True)
class SpentRecord:
    """What one kind of work took; `num_passes` over the search set is None where it is on another set, or unknown."""

    what: str
    seconds: float
    num_passes: float | None


@dataclass(frozen=True, eq=False)
class Progress:
    """How a search went: a value a moment, and what all of it was spent on; `seconds` are all it took.

    `run` says which one of a study it is, where there are several.
    """

    seconds_at: tuple[float, ...]
    passes_at: tuple[float, ...]
    hypervolume: tuple[float, ...]
    fronts: tuple[Front, ...]
    reference_point: tuple[float, ...] | None
    spent: tuple[SpentRecord, ...]
    seconds: float
    run: str = ""


def progress_of(owner: str, source: Source) -> Progress:
    """The progress of `source`; of a study, or the path of one, that of its last run.

    ReportError when it is a front alone, or nothing has been noted yet.
    """
    if isinstance(source, (str, os.PathLike)):
        with Study.open(source) as study:
            return progress_of(owner, study)
    if isinstance(source, Front) or not (isinstance(source, Study) or hasattr(source, "history")):
        hint = ", which has no history" if isinstance(source, Front) else ""
        raise ReportError(
            f"{owner}: needs an Exploration or a Study, got a {type(source).__name__}{hint}. Give what explore "
            "returned, or its study."
        )
    if isinstance(source, Study):
        progress, runs = _of_run(source.progress()), source.runs
        if len(runs) > 1:
            progress = replace(progress, run=f"run {runs[-1].id}, the last of {len(runs)}")
    else:
        drawable_front(owner, source)
        progress = _of_exploration(source)
    if not progress.fronts:
        raise ReportError(f"{owner}: there is nothing to draw, the history of this exploration is empty.")
    return progress


def all_progress_of(owner: str, source: Source) -> list[Progress]:
    """The progress of `source`; of a study, or the path of one, that of each run that has noted any.

    ReportError as `progress_of`.
    """
    if isinstance(source, (str, os.PathLike)):
        with Study.open(source) as study:
            return all_progress_of(owner, study)
    if not isinstance(source, Study) or len(source.runs) < 2:
        return [progress_of(owner, source)]
    found = [_of_run(source.progress(run.id)) for run in source.runs]
    return [one for one in found if one.fronts] or [progress_of(owner, source)]


def _of_exploration(source: Exploration) -> Progress:
    searched = source.history[-1].seconds if source.history else 0.0
    rest, verified = max(0.0, source.seconds - searched), float(source.num_verifications)
    spent = [SpentRecord("search", searched, source.num_passes)]
    if source.num_report_passes:  # of which the seconds are not known apart, and the passes go over another set
        spent += [SpentRecord("verification and report set", rest, None), SpentRecord("verification", 0.0, verified)]
    elif verified:
        spent.append(SpentRecord("verification", rest, verified))
    fronts = [one.front for one in source.history]
    return _progress(source.history, fronts, source.reference_point, spent, source.seconds)


def _of_run(run: RunProgress) -> Progress:
    spent = [SpentRecord(one.what, one.seconds, one.num_passes) for one in run.spent]
    rest = run.seconds - sum(one.seconds for one in spent)
    spent += [SpentRecord("all else (the search itself, report set)", rest, None)] if rest > 0 else []
    return _progress(run.snapshots, run.fronts, run.reference_point, spent, run.seconds)


def _progress(
    moments: Sequence[Snapshot | StoredSnapshot],
    fronts: Sequence[Front],
    reference_point: tuple[float, ...] | None,
    spent: Sequence[SpentRecord],
    seconds: float,
) -> Progress:
    return Progress(
        tuple(one.seconds for one in moments),
        tuple(one.num_passes for one in moments),
        tuple(float(one.hypervolume) for one in moments),
        tuple(fronts),
        reference_point,
        tuple(spent),
        seconds,
    )
