"""Going on with an exploration from its study alone."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from qexplore._arguments import nearest_keyword
from qexplore.distributed import RayWorkers
from qexplore.errors import StudyError
from qexplore.exploration.arguments import checked_initial
from qexplore.exploration.records import Exploration
from qexplore.exploration.run import explore
from qexplore.exploration.state import Callback
from qexplore.exploration.studying import settings_of
from qexplore.model import Loader, Unpack
from qexplore.search import LayerwiseQuantizationProblem, SearchSettings
from qexplore.study import RunRecord, Store


@nearest_keyword
def resume(
    study: str | os.PathLike[str],
    problem: LayerwiseQuantizationProblem,
    *,
    run: int | None = None,
    max_evaluations: int | None = None,
    max_seconds: float | None = None,
    patience: int | None = None,
    algorithm: Any = None,
    report_loader: Loader | None = None,
    unpack: Unpack | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    share: bool = False,
    workers: RayWorkers | None = None,
) -> Exploration:
    """Go on with the last run of a study, as it was asked for: the result is that of a run that was never stopped.

    Args:
        study: path of the file.
        problem: posed as it was then: weights, ranges, data, metric, choices, limits and costs decide what is measured,
            and are compared.
        run: the id of another run than the last one; ``qx.Study.open(path)`` lists them.
        max_evaluations: another budget, as for `explore`; so are the next two. None of the three takes that of the run.
        max_seconds: likewise.
        patience: likewise.
        algorithm: the object of pymoo that the run searched with, which a file cannot hold; else not to be given.
        report_loader: as for `explore`; a study does not hold it.
        unpack: for ``report_loader``.
        callbacks: as for `explore`; they see the snapshots of the run from its beginning.
        progress: as for `explore`.
        share: let other processes write to the study at the same time.
        workers: as for `explore`; the run may have had others, or none.

    Raises:
        StudyError: there is no study, no such run, or it was measured or asked for otherwise; names what differs.
    """
    if not isinstance(study, (str, os.PathLike)) or not isinstance(problem, LayerwiseQuantizationProblem):
        raise StudyError(
            f"`resume` must be given the path of the study, then the problem, resume(study, problem), got "
            f"{type(study).__name__}, then {type(problem).__name__}"
        )
    with Store.open(study, writes=False) as store:
        record = _asked_for(store, run)
    given = dict(record.settings)
    if given["goal"]["name"] != "WholeFront":
        raise StudyError(f"run {record.id} of study '{store.path}' looked for one point: call fit(..., study=) again")
    limits = {"max_evaluations": max_evaluations, "max_seconds": max_seconds, "patience": patience}
    is_given = any(limit is not None for limit in limits.values())
    budget = {**record.budget, **limits} if is_given else dict(record.budget)
    settings: dict[str, Any] = {field.name: given.get(field.name) for field in fields(SearchSettings)}
    settings["algorithm"] = _algorithm(record, settings["algorithm"], algorithm)
    initial = checked_initial(given["initial"], problem, SearchSettings(**settings))
    _require_same_questions(store, record, settings_of(problem, SearchSettings(**settings), initial, None))
    return explore(
        problem,
        **budget,
        **settings,
        initial=initial,
        report_loader=report_loader,
        unpack=unpack,
        callbacks=callbacks,
        progress=progress,
        study=study,
        share=share,
        workers=workers,
    )


def _asked_for(store: Store, run: int | None) -> RunRecord:
    runs = {record.id: record for record in store.runs()}
    if not runs or run is not None and run not in list(runs):
        known = (
            f"has the runs {', '.join(map(str, runs))}" if runs else "has no run yet: begin one with explore(study=)"
        )
        raise StudyError(f"`run` must be one of study '{store.path}', got {run}: it {known}")
    return runs[max(runs) if run is None else run]


def _require_same_questions(store: Store, record: RunRecord, now: Mapping[str, Any]) -> None:
    """What is asked of the candidates has to be what the run asked, or it would be another run."""
    asked = json.loads(json.dumps(now))
    wrong = [name for name, then in record.settings.items() if asked.get(name) != then]
    if wrong:
        told = "; ".join(f"{name} {record.settings[name]!r} then, {asked.get(name)!r} now" for name in wrong)
        raise StudyError(
            f"`problem` must be posed as for run {record.id} of study '{store.path}', got {told}. Pose it so, or begin "
            "another run on the same file, explore(..., study=), which makes use of what was measured"
        )


def _algorithm(record: RunRecord, stored: Any, given: Any) -> Any:
    """The name of the algorithm, or its object, which only the caller has."""
    if not isinstance(stored, Mapping):
        if given is not None and given != stored:
            raise StudyError(f"`algorithm` must be that of run {record.id}, {stored!r}, or be left out, got {given!r}")
        return stored
    if given is None:
        raise StudyError(
            f"run {record.id} searched with an object of pymoo, {stored['name']}, which no file holds: give it again, "
            "resume(..., algorithm=...)"
        )
    return given
