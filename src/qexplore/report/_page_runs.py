"""A run as the page shows it, made of what `explore` returned, or of a front alone."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qexplore._table import visible
from qexplore.evaluation import LayerAnalysis, clipping_text
from qexplore.front import Front, choice_words, choices_cells, cost_text, score_text
from qexplore.report._canvas import short_names
from qexplore.report._page_front import (
    Measured,
    Parts,
    candidates_record,
    choice_records,
    cost_columns,
    coverage_facts,
    front_facts,
    number,
    row_fields,
    saving_lines,
    score_columns,
)
from qexplore.report._page_record import (
    AnalysisGrid,
    ApplyRecord,
    Facts,
    FailureRecord,
    ProgressRecord,
    RunPage,
    SensitivityGrid,
)
from qexplore.report._wording import amount_text, cost_words
from qexplore.report.layers import layer_analysis_record, sensitivity_record

if TYPE_CHECKING:
    from qexplore.evaluation import Evaluation
    from qexplore.exploration import Exploration
    from qexplore.search import SensitivityTable

_MOST_FAILURES = 200


def apply_lines(python: str, source: str, front: Front) -> ApplyRecord:
    """By key: the run goes on, or the file is written anew, and then another point has the place of this one."""
    return ApplyRecord(
        python=f"{python}.find('{{key}}').apply_to(model)",
        command=f"qexplore pick {source} --point {{key}} --output widths.json",
        keys=tuple(point.key for point in front),
    )


_DOWNLOADED = ApplyRecord(
    python='qx.Front.load("{file}")[{index}].apply_to(model)',
    command="qexplore pick {file} --index {index} --output widths.json",
)
_NUMBER = re.compile(r"[0-9]+")


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of a run beside its front; all of it may be missing."""

    state: str = ""
    notices: tuple[str, ...] = ()
    summary: Facts = ()
    measured: Measured | None = None
    parts: Parts | None = None
    progress: ProgressRecord | None = None
    sensitivity: SensitivityTable | None = None
    analysis: LayerAnalysis | None = None
    failures: tuple[FailureRecord, ...] = ()
    facts: tuple[tuple[str, Facts], ...] = ()
    apply: ApplyRecord = _DOWNLOADED


def run_page(name: str, front: Front, uniform: Front | None, known: Known) -> RunPage:
    """The page of a run with this front."""
    measured = known.measured or Measured.none(front)
    claim, savings = saving_lines(front, uniform)
    is_reported = front.is_reported and uniform is not None and uniform.is_reported
    codes = [front.num_bits, measured.num_bits, *([] if uniform is None else [uniform.num_bits])]
    sensitivity = None if known.sensitivity is None else sensitivity_grid(known.sensitivity, front.point_names)
    return RunPage(
        name=name,
        state=known.state,
        notices=(*known.notices, *(() if len(front) else (_why_empty(front),))),
        summary=known.summary,
        scores=score_columns(front, uniform, measured),
        shown=int(is_reported),
        costs=cost_columns(front, uniform, measured, {**_bits_by_point(front, codes), **(known.parts or {})}),
        candidates=candidates_record(front, uniform, measured),
        num_front=len(front),
        knee=front.knee().index if len(front) else None,
        verified=front.verified,
        claim=claim,
        savings=savings,
        point_names=front.point_names,
        short_names=tuple(short_names(front.point_names)),
        choices=choice_records(*codes, [] if sensitivity is None else sensitivity.codes),
        progress=known.progress,
        sensitivity=sensitivity,
        analysis=None if known.analysis is None else analysis_grid(known.analysis),
        failures=known.failures,
        facts=(("Front", front_facts(front)), *known.facts, *coverage_facts(front.coverage)),
        apply=known.apply,
        front=front.to_json(),
        by_row=row_fields(front),
    )


def _why_empty(front: Front) -> str:
    return front.empty_because or str(front).splitlines()[-1]


def _bits_by_point(front: Front, codes: Sequence[Any]) -> dict[str, tuple[Mapping[int, float], ...]]:
    """Total bits are told by the codes alone: each choice adds what it stores."""
    bits = {one.code: one.bits for one in choice_records(*codes)}
    return {"total_bits": (bits,) * len(front.point_names)}


def exploration_known(
    exploration: Exploration, sensitivity: SensitivityTable | None, analysis: LayerAnalysis | None
) -> Known:
    """What an exploration knows beside its front."""
    return Known(
        state="interrupted" if exploration.stopped_by in ("interrupt", "SIGTERM") else "ended",
        notices=exploration.notes,
        summary=_summary(exploration),
        progress=_progress(exploration),
        sensitivity=sensitivity,
        analysis=analysis,
        failures=failure_records(exploration.failures),
        facts=_facts(exploration),
    )


def _summary(one: Exploration) -> Facts:
    return (
        ("algorithm", f"{one.algorithm}, seed {one.seed}"),
        ("candidates", f"{one.num_evaluations:,}"),
        ("passes", f"{one.num_passes:,.0f}"),
        ("time", seconds_text(one.seconds)),
        ("ended by", one.stopped_by),
        ("hypervolume", amount_text(one.hypervolume) if one.history else "none"),
    )


def seconds_text(seconds: float) -> str:
    """A duration as people read it."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _facts(one: Exploration) -> tuple[tuple[str, Facts], ...]:
    moved = () if one.num_moved is None else (("moved by verification", f"{one.num_moved:,} samples at most"),)
    search = (
        ("algorithm", one.algorithm),
        ("seed", str(one.seed)),
        ("candidates measured", f"{one.num_evaluations:,}"),
        ("passes over the search set", f"{one.num_passes:,.1f}"),
        ("passes over the report set", str(one.num_report_passes)),
        ("points verified", str(one.num_verifications)),
        ("time, verification included", seconds_text(one.seconds)),
        ("ended by", one.stopped_by),
        ("judge", one.judge or "none"),
        ("left out", one.left_out or "nothing"),
    )
    measuring = (
        ("engine", one.engine),
        ("early stop", one.early_stop),
        ("samples of the search set", f"{one.num_samples:,}"),
        *moved,
        ("clipping", clipping_text(one.clipping) or "none"),
    )
    study = ((("Study", (("file", one.study),)),)) if one.study else ()
    return ("Search", search), ("Measuring", measuring), *study


def _progress(one: Exploration) -> ProgressRecord | None:
    history = [snapshot for snapshot in one.history if math.isfinite(snapshot.hypervolume)]
    return progress_record(
        one.front,
        [(snapshot.num_passes, snapshot.seconds, snapshot.hypervolume) for snapshot in history],
        one.reference_point,
    )


def progress_record(
    front: Front, rows: Sequence[tuple[float, float, float]], reference: Sequence[float]
) -> ProgressRecord | None:
    """Of rows of passes, seconds and hypervolume; None without any."""
    if not rows:
        return None
    passes, seconds, hypervolume = zip(*rows, strict=True)
    values = [
        score_text(reference[0]),
        *(
            f"{cost_words(name)} {cost_text(value)}"
            for name, value in zip(front.cost_names, reference[1:], strict=True)
        ),
    ]
    known = all(map(math.isfinite, reference))
    return ProgressRecord(
        passes=tuple(passes),
        seconds=tuple(seconds),
        hypervolume=tuple(hypervolume),
        units=" x ".join([front.metric_name, *map(cost_words, front.cost_names)]),
        reference=f"{front.metric_name} {', '.join(values)}" if known else "",
    )


def failure_records(failures: Sequence[Evaluation]) -> tuple[FailureRecord, ...]:
    """The first failures, and a last row that counts those left out, by the kind of their reasons."""
    told = [
        FailureRecord(choices_cells([list(one.candidate)], 60)[0], visible(one.reason))
        for one in failures[:_MOST_FAILURES]
    ]
    rest = Counter(_NUMBER.sub("…", one.reason) for one in failures[_MOST_FAILURES:])
    told += [FailureRecord(f"{count:,} more", visible(reason)) for reason, count in rest.most_common(10)]
    return tuple(told)


def sensitivity_grid(table: SensitivityTable, point_names: Sequence[str]) -> SensitivityGrid | None:
    """Of the record that the picture draws, in the order of the points; None where it has other points."""
    record = sensitivity_record(table)
    rows = dict(zip(record.point_names, record.values, strict=True))
    if set(rows) != set(point_names):
        return None
    cells = [rows[name] for name in point_names]
    return SensitivityGrid(
        what=f"{record.metric_name} in {record.unit}" if record.unit else record.metric_name,
        codes=record.num_bits,
        values=tuple(tuple(None if value is None else number(value) for value in row) for row in cells),
        texts=tuple(tuple("cannot be" if value is None else f"{value:.3g}" for value in row) for row in cells),
    )


def analysis_grid(analysis: LayerAnalysis) -> AnalysisGrid:
    """Of the record that the picture draws; what is infinite or unknown is left out."""
    record = layer_analysis_record(analysis)
    return AnalysisGrid(
        point_names=record.point_names,
        labels=tuple(
            f"{name}, {choice_words(code)}" for name, code in zip(record.point_names, record.num_bits, strict=True)
        ),
        sqnr=tuple(map(number, record.sqnr)),
        sqnr_accumulated=tuple(map(number, record.sqnr_accumulated)),
        clipped=tuple(map(number, record.clipped)),
        range_used=tuple(map(number, record.range_used)),
        output_sqnr=number(record.output_sqnr),
    )
