"""The runs of a study as the page shows them, running and interrupted ones too.

Shape letters: N candidates, L quantization points, C costs.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qexplore.cost import AdditiveTable
from qexplore.errors import StudyError
from qexplore.front import Front, front_notes
from qexplore.report._page_front import Measured, Parts
from qexplore.report._page_record import ApplyRecord, Facts, RunPage
from qexplore.report._page_runs import (
    Known,
    apply_lines,
    failure_records,
    progress_record,
    run_page,
    seconds_text,
)
from qexplore.report._wording import amount_text
from qexplore.search import SensitivityTable
from qexplore.study import Study, StudyRun

Codes = NDArray[np.int64]


def study_runs(study: Study, label: str | None, given: Known) -> Iterator[RunPage]:
    """A page for each run that says what it explores; what is ``given`` goes before what the study knows."""
    told = [run for run in study.runs if run.facts.get("points")]
    sensitivity = given.sensitivity or _sensitivities(study, told)
    name = label or study.path.stem
    for run in told:
        front = study.front(run.id)
        known = _known(study, run, front)
        title = name if len(told) == 1 else f"{name}, run {run.id}: {run.algorithm}, seed {run.settings.get('seed')}"
        yield run_page(title, front, front.uniform, replace(known, sensitivity=sensitivity, analysis=given.analysis))


def _sensitivities(study: Study, runs: list[StudyRun]) -> SensitivityTable | None:
    try:
        return study.sensitivities() if runs else None
    except StudyError:  # the searches measured nothing of that kind
        return None


def _known(study: Study, run: StudyRun, front: Front) -> Known:
    history = [one for one in study.history(run.id) if math.isfinite(one.hypervolume)]
    rows = [(one.num_passes, one.seconds, one.hypervolume) for one in history]
    unknown = (math.nan,) * (1 + len(front.cost_names))
    known = Known(
        state=run.state,
        notices=_notices(run, front),
        summary=_summary(run, front, rows[-1][0] if rows else 0.0),
        measured=_measured(study, run, front),
        parts=_parts(run),
        progress=progress_record(front, rows, unknown),
        failures=failure_records([one.evaluation for one in study.failures(run.id)]),
        facts=_facts(study, run),
    )
    # The front of a run under way has other points tomorrow: what is applied is what the page holds.
    return replace(known, apply=_apply(study, run.id, front)) if run.state == "ended" else known


def _apply(study: Study, run: int, front: Front) -> ApplyRecord:
    """Names the run, also where there is one: another may come, and the front of both has other points."""
    path = str(study.path)
    return apply_lines(f"qx.Study.open({path!r}).front({run})", f"{shlex.quote(path)} --run {run}", front)


def _summary(run: StudyRun, front: Front, num_passes: float) -> Facts:
    counts = ", ".join(f"{count:,} {state}" for state, count in run.num_evaluations.items() if count)
    return (
        ("algorithm", f"{run.algorithm}, seed {run.settings.get('seed')}"),
        ("candidates", counts or "none"),
        ("passes", f"{num_passes:,.0f}"),
        ("time", seconds_text(run.seconds)),
        ("state", run.words),
        ("hypervolume, by score alone", "none" if math.isnan(run.hypervolume) else amount_text(run.hypervolume)),
        ("judge", front.judge or "none"),
    )


def _notices(run: StudyRun, front: Front) -> tuple[str, ...]:
    """As the exploration ended with them; before, or where it wrote none down, what the study tells by itself."""
    if run.state == "ended" and run.notes is not None:
        return run.notes
    failed = run.num_evaluations.get("failed", 0)
    told = [f"{failed:,} candidates failed: see below."] if failed else []
    return (*told, *(run.notes or ()), *front_notes(front))


def _measured(study: Study, run: StudyRun, front: Front) -> Measured | None:
    """What the run measured whole, beside the front and the uniform candidates; None where costs are not known."""
    table = study.evaluations(run.id, state="complete")
    shown = {tuple(row) for one in (front, front.uniform) if one is not None for row in one.num_bits.tolist()}
    rows = [place for place, row in enumerate(table.candidates.tolist()) if tuple(row) not in shown]
    costs = [_costs(study, run, name, table.candidates[rows]) for name in front.cost_names]
    known = [column for column in costs if column is not None]
    if not rows or len(known) < len(costs):
        return None
    return Measured(table.candidates[rows], table.score[rows], np.stack(known, axis=1))


def _costs(study: Study, run: StudyRun, name: str, candidates: Codes) -> NDArray[np.float64] | None:
    """Of ``candidates``, [N, L]: as written down, or looked up; None where one is not known."""
    tables, roles = run.facts.get("cost tables", {}), run.facts.get("measured costs", {})
    if name in tables:
        return AdditiveTable.read(name, tables[name]).cost(candidates)
    if name not in roles:
        return None
    written = study.evaluations(role=roles[name])
    known = dict(zip(map(tuple, written.candidates.tolist()), written.score.tolist(), strict=True))
    found = [known.get(tuple(row)) for row in candidates.tolist()]
    return None if None in found else np.array(found, dtype=np.float64)


def _parts(run: StudyRun) -> Parts:
    tables: Mapping[str, Any] = run.facts.get("cost tables", {})
    return {
        name: tuple({int(code): float(part) for code, part in row.items()} for row in table["parts"])
        for name, table in tables.items()
    }


def _facts(study: Study, run: StudyRun) -> tuple[tuple[str, Facts], ...]:
    written = (("file", str(study.path)), ("run", str(run.id)), ("written by", f"qexplore {run.facts.get('qexplore')}"))
    return (
        ("Search", _pairs({**run.settings, **_names_alone(run.settings)})),
        ("Budget", _pairs(run.budget)),
        ("Study", written),
        ("Measured under", tuple(study.fingerprint.items())),
    )


def _names_alone(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Costs are told from one another by digests, and a goal by its fields; a reader knows them by name."""
    costs = {name: list(settings.get(name) or ()) for name in ("costs", "limited")}
    return {**costs, "goal": (settings.get("goal") or {}).get("name")}


def _pairs(values: Mapping[str, Any]) -> Facts:
    """What is set, as texts."""
    return tuple(
        (name.replace("_", " "), _text(value)) for name, value in values.items() if value not in (None, {}, [])
    )


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(_text, value)) if isinstance(value, (list, tuple)) else str(value)
