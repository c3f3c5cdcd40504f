"""A study in a few lines of text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qexplore._table import text_table
from qexplore.front import score_text
from qexplore.study.runs import STATES, StudyRun
from qexplore.study.store import Store

_HEADER = ("run", "algorithm", "seed", "budget", *STATES, "seconds", "hypervolume", "state")
_TOLD = ("network", "weights", "ranges", "data", "precision", "device", "torch")


def _bytes(path: Path) -> int:
    """Of the file and of the log beside it, where the newest rows lie while somebody writes."""
    beside = Path(f"{path}-wal")
    return path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)


def summary(store: Store, runs: Sequence[StudyRun]) -> str:
    """The file, what was measured with, a line for each run, and what limits it."""
    told = [f"{name} {store.fingerprint[name]}" for name in _TOLD if name in store.fingerprint]
    lines = [f"Study '{store.path}' ({_bytes(store.path) / 1e6:.1f} MB): {', '.join(told)}"]
    facts = next((run.facts for run in reversed(runs) if run.facts.get("points")), None)
    if facts is not None:
        metric, points = facts["metric"], len(facts["points"])
        direction = "higher" if metric["higher_is_better"] else "lower"
        lines.append(
            f"{points} point{'s' if points > 1 else ''}; {metric['name']} ({direction} is better), float "
            f"{score_text(facts['float_accuracy'])}, {facts['num_samples']:,} samples"
        )
    rows = [_row(run) for run in runs]
    lines.append(text_table(_HEADER, rows, numeric=(0, 2, 4, 5, 6, 7, 8)) if rows else "no run has begun")
    coverage = next((run.coverage for run in reversed(runs) if run.coverage is not None), None)
    lines += [] if coverage is None else [f"{coverage.title}: {coverage.line}"]
    limits = [f"run {run.id}: {note}" for run in runs for note in run.notes or ()]
    return "\n".join([*lines, *limits, *store.notes])


def _row(run: StudyRun) -> tuple[str, ...]:
    counts = (f"{run.num_evaluations[state]:,}" for state in STATES)
    hypervolume = "" if math.isnan(run.hypervolume) else f"{run.hypervolume:.4g}"
    seed = str(run.settings.get("seed", ""))
    return (
        str(run.id),
        run.algorithm,
        seed,
        _limits(run.budget) or "none",
        *counts,
        f"{run.seconds:,.1f}",
        hypervolume,
        run.words,
    )


def _limits(budget: Mapping[str, Any]) -> str:
    names = ("max_evaluations", "max_seconds", "patience")
    return ", ".join(f"{name} {budget[name]}" for name in names if budget.get(name) is not None)
